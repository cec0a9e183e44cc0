"""The commands of the pages work as they stand, but for their size (tests/docs/commands.py).

Pages whose commands build on each other are run from top to bottom: the tutorial as it stands, and
another modality.
"""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs.hooks import blocks, shell_commands
from tests.docs.commands import ROOT, TINY, commands_to_run
from tests.docs.conftest import SEGMENTER, run_all
from xraytune.base.files import read_json
from xraytune.base.seeding import numpy_generator

pytestmark = pytest.mark.slow

ON_GPUS, ON_A_LAPTOP, *OTHERS = commands_to_run()
PARAMETERS = [
    pytest.param(
        [one for one in commands if SEGMENTER not in one], id=f"{page}:{block.lines[0] + 1}"
    )
    for page, block, commands in OTHERS
]


def test_the_commands_of_readme_run(main_job: Path) -> None:
    assert ON_GPUS[1].text.startswith("xraytune search --space gan_ratio.yaml --data chest_xray")
    assert "xraytune train studies/other-hospital-cpu -o model" in ON_A_LAPTOP[1].text
    for study in ("gan-ratio", "other-hospital-cpu"):
        assert (main_job / "studies" / study / "confirm" / "verdict.json").is_file()
    assert (main_job / "best.yaml").is_file()
    assert (main_job / "model" / "bundle.json").is_file()


@pytest.mark.nightly
@pytest.mark.parametrize("commands", PARAMETERS)
def test_commands_run(commands: list[tuple[str, ...]], main_job: Path, world: Path) -> None:
    """A study that no earlier command of the block searches is a copy of README's."""
    for words in commands:
        for study in (world / word for word in words if word.startswith("studies/")):
            if not study.exists():
                finished = shutil.ignore_patterns(*("confirm",) if words[0] == "confirm" else ())
                own = main_job / "studies" / study.name
                source = own if own.is_dir() else main_job / "studies" / "other-hospital-cpu"
                shutil.copytree(source, study, ignore=finished)
        run_all([[word.replace("/shared/", f"{world}/shared/") for word in words]], world)


def run_page(name: str, folder: Path, *options: str) -> dict[str, str]:
    """Run the commands of a page in their order, and return what each printed.

    Args: name: A page of docs/. Its YAML blocks are written to `NAME.yaml`, with the name of the
        space. folder: The current folder of the commands. options: Added to each `search`.
    """
    printed: dict[str, str] = {}
    for block in blocks((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")):
        if block.language == "yaml":
            study = block.text.partition("\n")[0].removeprefix("name: ")
            (folder / f"{study}.yaml").write_text(block.text, encoding="utf-8")
        for words in shell_commands(block.text) if block.language == "bash" else ():
            if words[0] == "xraytune":
                command = [*words[1:], *(options if words[1] == "search" else ())]
                (printed[" ".join(words)],) = run_all([command], folder)
    return printed


@pytest.mark.nightly
def test_the_tutorial_shows_what_its_commands_print(tmp_path: Path) -> None:
    """But for numbers, which can differ between machines, and the best trials and verdict that follow from them."""

    def shape(line: str) -> str:
        return re.sub(r"[\d.,]+", "#", " ".join(line.split()))

    printed = run_page("tutorial", tmp_path)

    page = blocks((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    shown = [
        (" ".join(shell_commands(before.text)[-1]), block.text)
        for before, block in itertools.pairwise(page)
        if block.language == "text"
    ]
    assert len(shown) >= 6
    for line, output in shown:
        now = {shape(one) for one in printed[line].splitlines()}
        lines = [one for one in map(shape, output.splitlines()) if one]
        assert lines[0] in now, line
        assert len([one for one in lines if one in now]) >= len(lines) / 2, line


@pytest.mark.nightly
def test_another_modality_is_searched_confirmed_and_trained(tmp_path: Path) -> None:
    """Dark or bright discs on noise, in two classes of other names, with the space of docs/data.md."""
    rng = numpy_generator(1, "ultrasound")
    y, x = np.mgrid[-1:1:48j, -1:1:40j]
    for number in range(120):
        name, side = ("benign", "malignant")[number % 2], "test" if number >= 90 else "train"
        disc = (x**2 + y**2 < rng.uniform(0.1, 0.4)) * (60 if name == "malignant" else -60)
        folder = tmp_path / "ultrasound" / side / name
        folder.mkdir(parents=True, exist_ok=True)
        for image in (1, 2):
            pixels = np.clip(rng.normal(110, 25, x.shape) + disc, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"p{number:03d}_{image}.png")

    page = blocks((ROOT / "docs" / "data.md").read_text(encoding="utf-8"))
    (space,) = (block.text for block in page if block.text.startswith("name: ultrasound"))
    (tmp_path / "ultrasound.yaml").write_text(space, encoding="utf-8")
    commands = (
        ["data", "inspect", "ultrasound", "--classes", "auto", "--group-regex", "p([0-9]+)_"],
        [
            "search",
            "--space",
            "ultrasound.yaml",
            *(word for one in TINY for word in ("--set", one)),
        ],
        ["confirm", "studies/ultrasound", "--yes"],
        ["train", "studies/ultrasound", "-o", "model"],
        ["predict", "model", "ultrasound/test", "-o", "predictions.csv"],
    )

    inspection, *_ = run_all(commands, tmp_path)

    assert "malignant" in inspection
    assert read_json(tmp_path / "model" / "bundle.json")["positive"] == "malignant"
    assert read_json(tmp_path / "studies" / "ultrasound" / "confirm" / "verdict.json")["verdict"]
    predictions = (tmp_path / "predictions.csv").read_text(encoding="utf-8")
    assert predictions.startswith("file,probability_benign,probability_malignant")


@pytest.mark.nightly
def test_the_quick_demo_runs(tmp_path: Path) -> None:
    """All steps, from phantoms to a verdict, its report, and the evaluation of a model."""
    (printed,) = run_all([["demo", "--quick"]], tmp_path)
    quick = tmp_path / "demo" / "quick"
    study = quick / "studies" / "other-hospital-demo"

    assert "sensitivity (PNEUMONIA)" in printed
    assert read_json(study / "confirm" / "verdict.json")["verdict"]
    assert printed.rstrip().endswith("report.html")
    assert (study / "report.html").is_file()
    assert (quick / "model" / "bundle.json").is_file()
