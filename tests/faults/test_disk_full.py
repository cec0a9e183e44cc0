"""A full disk, wherever it comes: said with the place and what to do; nothing is lost, and with room again it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.small_disk import SmallDisk, small_disk
from tests.in_process import one_thread
from tests.study.studies import CPU, direct, ended, epoch, two_images, write_space
from tests.trial.conftest import Bench, make_bench
from tests.trial.test_batches import frozen
from xraytune.base.errors import MachineError
from xraytune.base.files import read_jsonl
from xraytune.base.records import EpochRecord
from xraytune.data.prepare import PIXELS_STAGE, RunContext, prepare
from xraytune.space.settings import GanSettings
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.start import create_study
from xraytune.study.status import status
from xraytune.study.trial import Trial
from xraytune.trial.run import run_trial

pytestmark = pytest.mark.slow

GAN = {"image_size": 32, "steps": 4, "width": 4, "z_dim": 8, "batch_size": 8}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture(autouse=True)
def pinned() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"))


@contextmanager
def told_full(where: Path) -> Iterator[None]:
    """The refusal names a file below `where` and says what to do."""
    with pytest.raises(MachineError, match="the disk is full") as refusal:
        yield
    (problem,) = refusal.value.problems
    assert str(problem.where).startswith(str(where)), problem.where
    assert "run the same command again" in problem.fix


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("pages_left", [0, 1, 6, 12])
def test_decoding_on_a_full_disk(bench: Bench, disk: SmallDisk, pages_left: int) -> None:
    cache = disk.path / "cache"
    disk.fill(pages_left=pages_left)

    with told_full(cache):
        prepare(bench.settings, cache)
    left = hidden(cache)
    disk.free()
    prepared, _ = prepare(bench.settings, cache)

    assert left == []
    assert prepared == bench.prepared
    pixels = (root / prepared.pixels / "pixels.npy" for root in (cache, bench.cache))
    assert len({file.read_bytes() for file in pixels}) == 1


@pytest.mark.nightly
def test_trial_survives_disk_full_at_any_point(
    bench: Bench, disk: SmallDisk, tmp_path: Path
) -> None:
    """GAN, pool, comparison, features, checkpoints: wherever it stops, it is said, and in the end the value is the same."""
    experiment = frozen(
        bench, tmp_path, source="gan", gan=GanSettings.model_validate(GAN), classical=1
    )
    shutil.copytree(bench.cache, tmp_path / "cache")

    def run(root: Path) -> tuple[float, float | None]:
        result = run_trial(
            experiment,
            RunContext(prepared=bench.prepared, cache=root / "cache", compute=CPU),
            trial_dir=root / "trial",
            on_epoch=list[EpochRecord]().append,
        )
        assert result is not None
        return result.value, result.val_b_score

    straight = run(tmp_path)
    shutil.copytree(bench.cache / PIXELS_STAGE, disk.path / "cache" / PIXELS_STAGE)
    refusals: list[MachineError] = []
    again = None
    while again is None and len(refusals) < 100:
        disk.fill(pages_left=12 * len(refusals))
        try:
            again = run(disk.path)
        except MachineError as error:
            refusals.append(error)
            assert hidden(disk.path) == []

    assert again == straight
    assert all("the disk is full" in str(refusal) for refusal in refusals)
    where = {
        Path(str(refusal.problems[0].where)).relative_to(disk.path).parts[1] for refusal in refusals
    }
    assert where >= {"gan-5.work", "gan-5", "pool-1", "features-6"}


@pytest.mark.parametrize("pages_left", range(4))
def test_study_creation_is_atomic(disk: SmallDisk, pages_left: int) -> None:
    folder = StudyFolder(disk.path / "studies" / "small")
    space = write_space(disk.path)
    disk.fill(pages_left=pages_left)

    with told_full(disk.path):
        create_study(folder, space, two_images(), CPU)
    left = list(folder.path.parent.iterdir()) if folder.path.parent.exists() else []
    disk.free()
    create_study(folder, space, two_images(), CPU)

    assert left == []
    assert status(folder.path).trials == ()


@pytest.fixture
def study(disk: SmallDisk) -> StudyFolder:
    folder = StudyFolder(disk.path / "studies" / "small")
    create_study(folder, write_space(disk.path), two_images(), CPU)
    return folder


def test_search_on_full_disk_stays_readable_and_resumes(
    study: StudyFolder, disk: SmallDisk
) -> None:
    """Whichever write fails, the end of a trial is recorded once, and an unfinished trial resumes."""
    told = 0
    for pages_left in (0, 0, 1, 2, 3, 0, 1, 0):
        loop = direct(study, "budget.trials=60")
        disk.fill(pages_left=pages_left)
        try:
            while isinstance(suggestion := loop.next_trial(), Trial):
                for number in range(1, 3):
                    if not loop.on_result(
                        suggestion.number, epoch(number, 0.5 + suggestion.number / 100)
                    ):
                        break
                else:
                    loop.on_result(
                        suggestion.number, ended(0.5 + suggestion.number / 100, epochs=2)
                    )
        except MachineError as error:
            told += "the disk is full" in str(error)
        seen = status(study.path).trials
        disk.free()

        assert [trial.number for trial in seen] == list(range(len(seen)))
        assert all(
            row["number"] == number
            for number, row in enumerate(read_jsonl(study.rows_path)[: len(seen) - 1])
        )
    loop = direct(study, "budget.trials=60")
    rows = read_jsonl(study.rows_path)

    assert told == 8
    assert [row["number"] for row in rows] == sorted({row["number"] for row in rows})
    assert isinstance(loop.next_trial(), Trial)


def test_journal_on_full_disk_keeps_only_complete_lines(
    study: StudyFolder, disk: SmallDisk
) -> None:
    """Optuna writes half a line; a further append to that would make the journal unreadable for good."""
    space = write_space(disk.path)
    journal = Journal(study.journal_path, space, writable=True)
    journal.ask(())
    disk.fill()

    reported = 0

    def report_until_full() -> None:
        nonlocal reported
        while True:
            journal.report(0, reported + 1, 0.5)
            reported += 1

    with pytest.raises(MachineError, match=r"optuna\.journal: the disk is full"):
        report_until_full()
    seen = status(study.path).trials[0].values
    content = study.journal_path.read_bytes()
    disk.free()
    journal.report(0, reported + 1, 0.5)  # the same process continues
    again = Journal(study.journal_path, space, writable=True)

    assert content.endswith(b"\n")
    assert len(seen) == reported > 0
    assert len(again.reported(0)) == reported + 1
    assert isinstance(direct(study).next_trial(), Trial)
