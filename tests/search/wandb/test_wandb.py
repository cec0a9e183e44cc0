"""The W&B run of a trial, offline."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.search.wandb.offline_runs import read_run, run_files
from xraytune.base.records import EpochRecord
from xraytune.search.wandb import TrackedRun, WandbRun
from xraytune.space.settings import ObjectiveName, WandbSettings


def epoch(number: int, val_score: float, best: float) -> EpochRecord:
    return EpochRecord(
        epoch=number,
        steps=8 * number,
        train_loss=0.5,
        val_loss=0.4,
        val_score=val_score,
        best_val_score=best,
        lr=1e-3,
        seconds=2.0,
    )


EPOCHS = (epoch(1, 0.7, 0.7), epoch(2, 0.9, 0.9), epoch(3, 0.8, 0.9))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # wandb's own
class TestRun:
    def test_trial_creates_one_run_with_curves_and_status(self, trial: TrackedRun) -> None:
        run = WandbRun(WandbSettings(mode="offline"), trial)
        for record in EPOCHS:
            run.log(record)
        run.finish("complete", {"val_b_score": 0.85, "threshold": 0.4})

        (file,) = run_files(trial.folder)
        written = read_run(file)
        assert file.parent.name.startswith("offline-run-")
        assert (written.id, written.name) == (trial.run_id, "small #7 gan r=1 (20 steps)")
        assert written.group == "small 3f9a1c"
        expected = {"source": "gan", "gan.steps": 20, "lr": 1e-3, "arm": "gan", "study": "small", "trial": 7}
        assert written.config.items() >= expected.items()
        assert written.epochs == [1, 2, 3]
        assert [row["_step"] for row in written.rows] == [1, 2, 3]
        names = ("steps", "train_loss", "val_loss", "val_auroc", "best_val_auroc", "lr", "seconds")
        assert {name: written.rows[1][name] for name in names} == {
            "steps": 16,
            "train_loss": 0.5,
            "val_loss": 0.4,
            "val_auroc": 0.9,
            "best_val_auroc": 0.9,
            "lr": 1e-3,
            "seconds": 2.0,
        }
        ended = {"value": 0.9, "best_epoch": 2, "val_b_auroc": 0.85, "threshold": 0.4, "status": "complete"}
        assert written.summary.items() >= ended.items()
        assert written.exit_code == 0

    def test_the_picture_of_the_generator_comes_before_the_first_epoch(self, trial: TrackedRun, tmp_path: Path) -> None:
        Image.new("L", (12, 8), 99).save(tmp_path / "gan.png")
        run = WandbRun(WandbSettings(mode="offline"), trial)
        run.log_samples(tmp_path / "gan.png")
        for record in EPOCHS:
            run.log(record)
        run.finish("complete")

        (file,) = run_files(trial.folder)
        first, *others = read_run(file).rows
        assert (first["_step"], first["epoch"]) == (0, 0)
        (picture,) = file.parent.rglob("*.png")
        assert first["samples.path"].endswith(picture.name)
        assert not any("samples.path" in row for row in others)
        with Image.open(picture) as shown:
            assert shown.size == (12, 8)

    def test_resumed_trial_continues_its_run(self, trial: TrackedRun) -> None:
        """Each start writes a separate file; both have the same id, so they are one run."""
        before = WandbRun(WandbSettings(mode="offline"), trial)
        before.log(EPOCHS[0])
        before.finish("unfinished")
        after = WandbRun(WandbSettings(mode="offline"), trial)
        for record in EPOCHS:
            after.log(record)
        after.finish("complete")

        first, second = (
            read_run(file) for file in sorted(run_files(trial.folder), key=lambda file: file.stat().st_mtime)
        )
        assert first.id == second.id
        assert (first.summary["status"], second.summary["status"]) == ("unfinished", "complete")
        assert second.epochs == [1, 2, 3]

    def test_a_failed_trial_is_a_failed_run_without_the_key(
        self, trial: TrackedRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = "0f" * 20
        monkeypatch.setenv("WANDB_API_KEY", key)
        run = WandbRun(WandbSettings(mode="offline"), trial)
        run.log(EPOCHS[0])
        run.finish("failed")
        run.finish("complete")

        written = read_run(run_files(trial.folder)[0])
        assert (written.summary["status"], written.exit_code) == ("failed", 1)
        files = [file for file in trial.folder.rglob("*") if file.is_file()]
        assert not [file for file in files if key.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        ("val_auroc", ["val_auroc", "best_val_auroc", "val_b_auroc"]),
        ("val_dice", ["val_dice", "best_val_dice", "val_b_dice"]),
        ("gan_kid", ["gan_kid", "best_gan_kid", "val_b_gan_kid"]),
    ],
)
def test_scores_are_named_after_their_metric_and_missing_ones_are_dropped(
    trial: TrackedRun, metric: ObjectiveName, names: list[str]
) -> None:
    scores = {"val_score": 0.7, "best_val_score": 0.8, "val_b_score": 0.6, "train_loss": None}

    assert list(replace(trial, metric=metric).named(scores)) == names


def test_a_run_belongs_to_one_study_and_one_trial(trial: TrackedRun) -> None:
    """Two studies of the same name in different folders do not share runs."""
    same = replace(trial, folder=trial.folder.parent / "moved", label="another")
    others = (replace(trial, study_identity="b2"), replace(trial, key=8), replace(trial, study="other"))

    assert same.run_id == trial.run_id
    assert len({trial.run_id, *(other.run_id for other in others)}) == 4
    assert replace(trial, study_identity="b2").group != trial.group
