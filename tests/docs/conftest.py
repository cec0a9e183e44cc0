"""The folder in which the commands of the pages are run: README's main job, on small phantoms, and what other pages name."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests.docs.commands import ROOT, commands_to_run
from tests.docs.nih import nih
from tests.in_process import InProcess, command
from xraytune.confirm import study as confirm_study
from xraytune.data.phantom import draw_phantoms
from xraytune.model import train as final_training
from xraytune.search import run as search_run

LINKS = {
    **dict.fromkeys(("chest_xray", "shared/chest_xray"), "chest_xray"),
    **dict.fromkeys(("chest_xray_400/val", "hospital_b", "new_images", "new_xrays"), "others/test"),
    **dict.fromkeys(("cache", "shared/cache"), "cache"),
    **{"chest_xray_400/train": "others/train", "jsrt": "pairs", "hospital_c": "pairs/test"},
    **{name: name for name in ("CXR8", "best.yaml", "generated", "hospital")},
    **{"SPACE.yaml": "search_spaces/gan_ratio_cpu.yaml"},
}
"""What the pages name, and where it is in the folder of `main_job`."""
SEGMENTER = "search_spaces/lung_segmenter_cpu.yaml"


@pytest.fixture(scope="session")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, and all that README's commands write. Treat it as read-only, but for its `cache`."""
    folder = tmp_path_factory.mktemp("main_job")
    draw_phantoms(folder / "chest_xray", patients=80, seed=1, image_size_px=32)
    (folder / "search_spaces").symlink_to(ROOT / "search_spaces")
    for _, _, commands in itertools.islice(commands_to_run(), 2):
        run_all(commands, folder)
    return folder


@pytest.fixture(scope="session")
def segmenter(main_job: Path) -> Path:
    """The segmenter of docs/segmentation.md, and the images that other pages name, beside the main job."""
    folder = main_job
    draw_phantoms(folder / "others", patients=80, seed=2, image_size_px=32)
    draw_phantoms(folder / "pairs", patients=60, seed=1, image_size_px=32, pairs=True)
    for number, file in enumerate(sorted((folder / "others" / "train").rglob("*.jpeg"))):
        (folder / "generated" / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / "generated" / file.parent.name / f"image_{number}.jpeg")
    hospital = Path(shutil.copytree(folder / "others" / "test", folder / "hospital" / "test"))
    rows = (
        f"{file.name},{number},{'FM'[number % 2]}"
        for number, file in enumerate(sorted(hospital.rglob("*.jpeg")))
    )
    (hospital / "patients.csv").write_text(
        "\n".join(["file,patient,sex", *rows]) + "\n", encoding="utf-8"
    )
    nih(folder / "CXR8")
    shutil.copy(ROOT / "search_spaces" / "data" / "nih_chestxray14.yaml", folder / "CXR8")
    (words,) = (
        one
        for _, _, commands in commands_to_run()
        for one in commands
        if "lung_segmenter_cpu" in " ".join(one)
    )
    (main_job / "jsrt").symlink_to("pairs")
    run_all([words], main_job)
    return main_job / "segmenter"


@pytest.fixture
def world(main_job: Path, segmenter: Path, tmp_path: Path) -> Path:
    """A folder with all that the commands of the pages name, but for studies."""
    folder = tmp_path / "world"
    for name, target in LINKS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(main_job / target)
    for name in ("search_spaces", "examples", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(main_job / "model", folder / "model")
    shutil.copytree(segmenter, folder / "segmenter")
    return folder


def run_all(commands: Iterable[Sequence[str]], folder: Path) -> list[str]:
    """Run commands in a folder, with trials in this process instead of Ray's, and return what they print.

    Each must succeed, and replaces what it writes.
    """
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for module in (search_run, confirm_study):
            patch.setattr(module, "Runner", InProcess)
        patch.setattr(final_training, "cpu_count", lambda: 1)  # the other cores are for other tests
        for words in commands:
            for path in _outputs(words):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                path.unlink(missing_ok=True)
            done = command(*words)
            assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}"
            printed.append(done.output)
    return printed


def _outputs(words: Sequence[str]) -> list[Path]:
    """What a command writes, and therefore refuses to find."""
    after = [Path(path) for option, path in itertools.pairwise(words) if option in ("-o", "--out")]
    return [Path(words[2])] if tuple(words[:2]) == ("data", "phantom") else after
