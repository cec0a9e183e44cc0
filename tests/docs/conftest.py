"""The tutorial, run once as it stands on its page: the commands of all other pages find its images, study and model."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from docs.hooks import blocks, shell_commands
from tests.in_process import InProcess, command
from xraytune.confirm import training as confirm_training
from xraytune.data.phantom import draw_phantoms
from xraytune.search import run as search_run

ROOT = Path(__file__).resolve().parents[2]
IMAGE_FOLDERS = ("xrays", "chest_xray", "others", "shared/chest_xray")
TEST_FOLDERS = ("hospital_b", "new_xrays", "new_images")
STUDIES = ("gan-ratio", "gan-ratio-cpu", "gan-segmentation-cpu")


@dataclass(frozen=True)
class Tutorial:
    """Where the tutorial was run, and what its commands printed."""

    folder: Path
    printed: dict[str, str]


def run_page(name: str, folder: Path, *options: str) -> dict[str, str]:
    """Run the commands of a page in their order, with trials in this process instead of Ray's; return what each printed.

    Args:
        name: A page of docs/. Its YAML blocks are written to `NAME.yaml`, with the name of the space.
        folder: The current folder of the commands.
        options: Added to each `search`.
    """
    printed: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for module in (search_run, confirm_training):
            patch.setattr(module, "Runner", InProcess)
        for block in blocks((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")):
            if block.language == "yaml":
                study = block.text.partition("\n")[0].removeprefix("name: ")
                Path(f"{study}.yaml").write_text(block.text, encoding="utf-8")
            for words in shell_commands(block.text) if block.language == "bash" else ():
                if words[0] == "xraytune":
                    done = command(*words[1:], *(options if words[1] == "search" else ()))
                    assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}"
                    printed[" ".join(words)] = done.output
    return printed


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    """Treat it as read-only."""
    folder = tmp_path_factory.mktemp("tutorial")
    return Tutorial(folder, run_page("tutorial", folder))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms with masks."""
    folder = tmp_path_factory.mktemp("pairs") / "pairs"
    draw_phantoms(folder, patients=20, seed=1, image_size_px=32, pairs=True)
    return folder


@pytest.fixture
def world(tutorial: Tutorial, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with all that the commands of the pages name."""
    folder = tmp_path / "world"
    shutil.copytree(tutorial.folder, folder, ignore=shutil.ignore_patterns("xrays", "cache", "studies"))
    for name in ("search_spaces", "examples", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "shared").mkdir()
    for name in IMAGE_FOLDERS:
        (folder / name).symlink_to(tutorial.folder / "xrays")
    for name in ("cache", "shared/cache"):
        shutil.copytree(tutorial.folder / "cache", folder / name)
    for name in STUDIES:
        shutil.copytree(tutorial.folder / "studies" / "tutorial", folder / "studies" / name)
    for name in TEST_FOLDERS:
        (folder / name).symlink_to(tutorial.folder / "xrays" / "test")
    (folder / "jsrt").symlink_to(pairs)
    monkeypatch.chdir(folder)
    return folder
