"""Every code block of README and docs/ works as it stands; which are only parsed, and why, is listed here.

- Shell: each command of xraytune exists, with its options, and its space file is valid with its overrides. All commands but
  those of `ONLY_PARSED` are run, on the images, study and model of the tutorial.
- YAML is a valid space or another known file, JSON is valid, and Python is run by the tests that `PYTHON` names.
- Other blocks show output. They are listed in `OUTPUT`, or have `text` after their fence.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.main import get_command

from benchmarks.__main__ import NAMES as BENCHMARKS
from docs.hooks import PROGRAMS, Block, blocks, shell_commands
from tests.docs.conftest import ROOT, Tutorial, run_page
from tests.in_process import command
from xraytune.cli.main import build_app
from xraytune.config.load import load_space
from xraytune.config.settings import Settings
from xraytune.files import read_json
from xraytune.seeding import numpy_generator

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
BLOCKS = [(page.relative_to(ROOT).as_posix(), block) for page in PAGES for block in blocks(page.read_text("utf-8"))]

INLINE = re.compile(r"(?<!`)`(xraytune [a-z-][^`]*)`(?!`)")

RUN_AS_A_WHOLE = {
    "docs/tutorial.md": "the fixture `tutorial`",
    "docs/modality.md": "test_another_modality_is_searched_confirmed_and_trained",
}
"""Pages whose commands build on each other, and what runs them in their order."""
PYTHON = {"docs/python.md": "tests/test_python_api.py", "docs/serving.md": "tests/export/test_serving.py"}
"""Pages with Python, and the tests that run it."""
ONLY_PARSED = {
    r"xraytune (demo|forecast|search|confirm|train|generator train)\b": "takes minutes on real X-rays; the tutorial, "
    "tests/end_to_end, tests/confirm and tests/pipeline run it on phantoms",
    r"xraytune audit": "takes minutes on real X-rays: tests/audit",
    r"xraytune generator sample": "needs a trained generator: tests/pipeline/test_generator_folder.py",
    r"xraytune export studies/gan-quality": "a search for the generator: tests/end_to_end/test_generator_search.py",
    r"xraytune data phantom .*--patients 300": "takes half a minute; the tutorial draws fewer and smaller ones",
    r"xraytune space import": "needs a sweep file: tests/config/test_sweep.py",
    r"xraytune doctor": "depends on this machine: tests/export/test_doctor.py",
    r"xraytune report .*--serve": "ends with Ctrl-C: tests/report/test_browser.py",
    r"xraytune data inspect CXR8/": "needs NIH's images and table: tests/cli/test_label_tables.py",
    r"xraytune data inspect chest_xray --segmenter": "needs a segmenter: tests/pipeline/test_view.py",
    r"xraytune evaluate model .*--by sex": "needs a table with this column: tests/export/test_evaluate.py",
    r"xraytune evaluate model --data hospital -o": "needs a segmenter: tests/export/test_segmentation.py",
    r"xraytune predict model new_images -o predictions$": "needs a segmenter: tests/export/test_segmentation.py",
    r"xraytune evaluate model\S* --data (jsrt|chest_xray_400)": "needs the model of another search",
    r"xraytune evaluate model_": "needs the model of another search",
    r"xraytune evaluate model --data chest_xray/test$": "of examples/README.md: tests/examples/test_with_ray.py",
}
"""Commands that are not run, and why."""
OTHER_SPACES = {"examples/README.md": "tests/examples, with the examples installed"}
"""Pages with overrides that are only valid with other packages, and the tests that check them."""
OTHER_YAML = {"services": "docker compose", "apiVersion": "Kubernetes", "scrape_configs": "Prometheus", "method": "W&B"}
"""Top-level keys of YAML files that are not space files."""
OUTPUT = {
    "docs/architecture.md": ("image folder ->", "xraytune/\n"),
    "docs/confirm.md": ("Generator quality:",),
    "docs/data.md": ("DIR/images/",),
    "docs/forecast.md": ("gan-ratio-cpu: 6 to 8 min",),
    "docs/generators.md": ("quality: farther",),
    "docs/report.md": ("ASHA stopped", "warning: no trial"),
    "docs/segmentation.md": ("jsrt/train/",),
    "docs/transform.md": ("copies/NORMAL/",),
}
"""The first words of the indented blocks that are neither commands nor YAML."""
RUNNERS = {"docker", "podman", "ray", "srun", "time"}
"""Programs that run the command after them."""
TINY = (
    *("backbone=small_cnn", "weights=none", "trainable=all", "data.image_size=32", "budget.trials=5"),
    *("budget.max_epochs=2", "budget.steps_per_epoch=2", "scheduler.grace=1", "gan.image_size=32", "gan.width=4"),
    *("gan.steps=4", "quality.allow_memorised=true", "confirm.finalists=1", "confirm.gan_seeds=2"),
    *("confirm.classifier_seeds=1", "confirm.controls={matched: [duplicate], tuned: [real_only]}"),
)


def all_of(language: str) -> list[Any]:
    """The blocks of a language, by page and line."""
    return [
        pytest.param(page, block, id=f"{page}:{block.lines[0] + 1}")
        for page, block in BLOCKS
        if block.language == language
    ]


def parse(words: Sequence[str]) -> Any:
    """Parse a command of xraytune and return its context, whose `params` are the values of its options."""
    current, name, rest = get_command(build_app()), "xraytune", list(words)
    while hasattr(current, "commands"):
        assert rest, f"{name}: a command is missing"
        name = rest.pop(0)
        assert name in current.commands, f"no such command: {name}"
        current = current.commands[name]
    return current.make_context(name, rest)


def of_xraytune(words: list[str]) -> list[str] | None:
    """The words after `xraytune`, if that is what the command runs."""
    if words[0] == "xraytune":
        return words[1:]
    if words[0] in RUNNERS and "xraytune" in words and words[1] != "build" and "--entrypoint" not in words:
        return words[words.index("xraytune") + 1 :]
    return None


def outputs(words: list[str]) -> list[Path]:
    """What a command writes, and therefore refuses to find."""
    after = [Path(path) for option, path in itertools.pairwise(words) if option in ("-o", "--out")]
    return [Path(words[3])] if words[1:3] == ["data", "phantom"] and words[3][0] != "-" else after


def is_run(page: str, words: list[str]) -> bool:
    line = " ".join(words)
    return words[0] == "xraytune" and page not in RUN_AS_A_WHOLE and not any(re.match(one, line) for one in ONLY_PARSED)


@pytest.mark.parametrize(("page", "block"), all_of("bash"))
def test_every_command_exists_with_its_options(page: str, block: Block) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in shell_commands(block.text):
        assert Path(words[0]).name in PROGRAMS
        if words[0] == "make":
            assert words[1] in targets
            (chosen,) = [word.removeprefix("ONLY=") for word in words if word.startswith("ONLY=")] or [""]
            assert chosen in {"", "name", *BENCHMARKS} or (ROOT / chosen).is_file()
        if (arguments := of_xraytune(words)) is not None:
            given = parse(arguments).params
            file = ROOT / str(given.get("space") or given.get("config") or given.get("file"))
            if file.is_file() and page not in OTHER_SPACES:
                load_space(file, given.get("overrides") or ())


@pytest.mark.parametrize(
    "line",
    sorted({" ".join(line.split()) for page in PAGES for line in INLINE.findall(page.read_text(encoding="utf-8"))}),
)
def test_every_command_within_a_sentence_has_its_options(line: str) -> None:
    ((_, *words),) = shell_commands(line)[:1]
    current = get_command(build_app())
    while hasattr(current, "commands") and words and words[0] in current.commands:
        current = current.commands[words.pop(0)]
    known = {"--help", *(name for param in current.params for name in (*param.opts, *param.secondary_opts))}

    assert not hasattr(current, "commands") or all(word.startswith("-") for word in words), line
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "block"),
    [
        one
        for one in all_of("bash")
        if any(is_run(one.values[0], words) for words in shell_commands(one.values[1].text))
    ],
)
def test_commands_run(page: str, block: Block, world: Path) -> None:
    for words in shell_commands(block.text):
        if is_run(page, words):
            for path in outputs(words):
                if path.is_symlink() or path.is_file():
                    path.unlink()
            done = command(*(word.replace("/shared/", f"{world}/shared/") for word in words[1:]))
            assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}"


def test_every_reason_not_to_run_a_command_has_one() -> None:
    commands = [words for _, block in BLOCKS if block.language == "bash" for words in shell_commands(block.text)]
    lines = [f"xraytune {' '.join(arguments)}" for words in commands if (arguments := of_xraytune(words))]

    assert [one for one in ONLY_PARSED if not any(re.match(one, line) for line in lines)] == []


@pytest.mark.parametrize(("page", "block"), [*all_of("yaml"), *all_of("json")])
def test_yaml_is_a_valid_space_or_another_known_file(page: str, block: Block, tmp_path: Path) -> None:
    content = json.loads(block.text) if block.language == "json" else next(yaml.safe_load_all(block.text))
    if block.language == "json" or OTHER_YAML.keys() & content.keys():
        return
    assert content.keys() <= {*Settings.model_fields, "parameters", "points_to_evaluate"}, page
    file = tmp_path / "space.yaml"
    file.write_text(block.text if "name" in content else f"name: page\n{block.text}", encoding="utf-8")
    has_path = "path" in content.get("data", {})

    assert load_space(file, data=None if has_path else Path("chest_xray")).settings.name


def test_a_test_runs_each_page_with_python() -> None:
    assert {page for page, block in BLOCKS if block.language == "python"} == PYTHON.keys()
    for page, test in PYTHON.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_other_blocks_are_known_output() -> None:
    def unknown() -> Iterator[str]:
        after_python: set[str] = set()  # such as docs/python.md, which shows values
        for page, block in BLOCKS:
            after_python |= {page} if block.language == "python" else set()
            if not block.language and page not in after_python and not block.text.startswith(OUTPUT.get(page, ())):
                yield f"{page}:{block.lines[0] + 1}"

    assert list(unknown()) == [], "neither a command nor YAML: fence it, with its language (or text) after the fence"
    assert {block.language for _, block in BLOCKS} <= {"bash", "yaml", "json", "python", "text", ""}


@pytest.mark.slow
def test_the_tutorial_shows_what_its_commands_print(tutorial: Tutorial) -> None:
    """But for numbers, which can differ between machines, and the verdict that follows from them."""

    def shape(line: str) -> str:
        return re.sub(r"[\d.,]+", "#", " ".join(line.split()))

    page = [block for name, block in BLOCKS if name == "docs/tutorial.md"]
    shown = [
        (" ".join(shell_commands(before.text)[-1]), block.text)
        for before, block in itertools.pairwise(page)
        if block.language == "text"
    ]
    assert len(shown) >= 6
    for line, output in shown:
        printed = {shape(one) for one in tutorial.printed[line].splitlines()}
        lines = [one for one in map(shape, output.splitlines()) if one]
        assert lines[0] in printed, line
        assert len([one for one in lines if one in printed]) > len(lines) / 2, line


@pytest.mark.slow
def test_another_modality_is_searched_confirmed_and_trained(tmp_path: Path) -> None:
    """docs/modality.md on generated images: dark or bright discs on noise, in two classes of other names."""
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

    printed = run_page("modality", tmp_path, *(word for one in TINY for word in ("--set", one)))

    inspection = next(output for line, output in printed.items() if "inspect" in line)
    assert "malignant" in inspection
    assert read_json(tmp_path / "model" / "bundle.json")["positive"] == "malignant"
    assert read_json(tmp_path / "studies" / "ultrasound" / "confirm" / "verdict.json")["verdict"]
    predictions = (tmp_path / "predictions.csv").read_text(encoding="utf-8")
    assert predictions.startswith("file,probability_benign,probability_malignant")
