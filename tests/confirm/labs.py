"""Studies of phantoms that are searched and confirmed in this process, without Ray."""

import io
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

from tests.in_process import confirm_in_process, search_in_process
from tests.pair_files import write_patients
from xraytune.base.files import read_jsonl
from xraytune.cli.results import print_confirmation
from xraytune.confirm.arms import Plan, read_plan
from xraytune.confirm.record import Confirmation
from xraytune.confirm.run import confirm
from xraytune.confirm.sealed import SealedTest, choose_test
from xraytune.data.index import read_labelled
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import SplitData
from xraytune.space.load import load_space
from xraytune.space.settings import Settings
from xraytune.study.access_log import TEST_ACCESS_FILE
from xraytune.study.folder import StudyFolder


class Stopped(Exception):
    """Raised to interrupt a confirmation."""


def leave_sealed() -> None:
    """A `before_test` that says no."""
    raise Stopped


def stop_while_scoring(what: str, *_: int) -> None:
    """A `Progress` that interrupts the scoring of test images."""
    if what.startswith("scoring test"):
        raise Stopped


@dataclass(frozen=True, slots=True)
class Lab:
    """X-rays, a space, and a study of them that has ended; `test` may have test images."""

    path: Path
    name: str = "small"

    @property
    def xrays(self) -> Path:
        return self.path / "xrays"

    @property
    def study(self) -> Path:
        return self.path / "studies" / self.name

    @property
    def folder(self) -> Path:
        return self.study / "confirm"

    @property
    def test(self) -> Path:
        return self.path / "test"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def settings(self) -> Settings:
        return load_space(self.path / "space.yaml").settings

    @property
    def log(self) -> list[dict[str, Any]]:
        """The test-set access log of the study."""
        return read_jsonl(self.study / TEST_ACCESS_FILE, is_chained=True)

    @property
    def searched(self) -> SplitData:
        """The images of the search, with their sides."""
        return StudyFolder(self.study).prepared()

    @property
    def confirmed(self) -> SplitData:
        """The images of the confirmation, with their sides."""
        return StudyFolder(self.folder).prepared()

    @property
    def plan(self) -> Plan:
        plan = read_plan(self.folder)
        assert plan
        return plan

    def search(self, *overrides: str) -> "Lab":
        """Search the space with some overrides, and return the lab with this study."""
        folder = search_in_process(load_space(self.path / "space.yaml", overrides), self.path)
        return Lab(self.path, folder.path.name)

    def confirm(self, *folders: Path, **options: Any) -> Confirmation:
        """Confirm the study on the images of folders, or else on those of its own test folder."""
        own = [self.test] if self.test.exists() else []
        return confirm(self.study, test=folders or own, **options)

    def choose(
        self, settings: Settings | None = None, prepared: SplitData | None = None, **about: Any
    ) -> SealedTest:
        settings = settings or self.settings
        prepared = prepared or self.searched
        about = {"replicates": settings.confirm.replicates, **about}
        return choose_test(settings, prepared, **about)

    def copy(self, folder: Path) -> "Lab":
        return Lab(copytree(self.path, folder / "lab"), self.name)


def changed(settings: Settings, *, confirm: dict[str, Any] | None = None, **data: Any) -> Settings:
    """Settings with other values in `confirm` and `data`."""
    return settings.model_copy(
        update={
            "confirm": settings.confirm.model_copy(update=confirm or {}),
            "data": settings.data.model_copy(update=data),
        }
    )


def sides_of(prepared: SplitData) -> dict[str, set[str]]:
    """The patients of each side."""
    patients = defaultdict[str, set[str]](set)
    for image in prepared.images:
        patients[image.side].add(image.patient)
    return dict(patients)


def times_of(root: Path, pattern: str) -> dict[Path, int]:
    """When each file was written."""
    return {path: path.stat().st_mtime_ns for path in root.rglob(pattern)}


def search_space(root: Path, space: str, **where: Any) -> Path:
    """Search a space with these images, and return the study."""
    file = root / "space.yaml"
    file.write_text(space)
    return search_in_process(load_space(file, **where), root).path


def show_confirmed(study: Path, **options: Any) -> str:
    """Confirm a study, and return what the command prints."""
    with confirm_in_process():
        return shown_of(confirm(study, **options))


def shown_of(confirmation: Confirmation) -> str:
    """What the command prints of a confirmation."""
    shown = io.StringIO()
    with redirect_stdout(shown):
        print_confirmation(confirmation)
    return shown.getvalue()


def draw_hospital(folder: Path, seed: int, **options: Any) -> Path:
    """Draw 48 patients of a hospital in class folders, whose IDs are its own."""
    drawn = folder.with_name(f"{folder.name} drawn")
    paint_phantoms(drawn, patients=60, seed=seed, image_size_px=32, **options)
    (drawn / "train").rename(folder)
    rmtree(drawn)
    images = read_labelled(folder, ("NORMAL", "PNEUMONIA")).images
    patients = {}
    for image in images:
        named = Path(image.file).with_name(f"{folder.name}-{Path(image.file).name}")
        (folder / image.file).rename(folder / named)
        patients[named] = f"{folder.name} {image.patient}"
    write_patients(folder, patients)
    return folder
