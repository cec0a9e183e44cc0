"""The final training: the trial's metrics, equal files, and resuming after an interruption."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.in_process import one_core
from tests.model.conftest import PRUNED, CopyLab, Lab
from tests.search.wandb.offline_runs import read_run, run_files
from xraytune.base.errors import ArtifactError, ConfigError, StudyError
from xraytune.base.files import read_jsonl
from xraytune.base.records import EpochRecord
from xraytune.model.best import export
from xraytune.model.train import train
from xraytune.space.load import experiment_to_yaml
from xraytune.space.settings import Experiment, ExportedFrom
from xraytune.study.folder import StudyFolder, locked

pytestmark = pytest.mark.slow

KILLED = """
import os, signal, sys
from pathlib import Path
from xraytune.model.train import train
from xraytune.base.files import read_jsonl

def kill(record):
    if record.epoch == 2:
        print(*sorted({"ray", "wandb", "optuna"} & set(sys.modules)), sep=",", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

train(Path(sys.argv[1]), out=Path(sys.argv[2]), on_epoch=kill)
"""


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("trial", [0, 1])
def test_an_exact_export_repeats_its_trial_to_the_bit(lab: Lab, tmp_path: Path, trial: int) -> None:
    """Trial 0 trained a GAN. The study may be searched meanwhile."""
    study = StudyFolder(lab.study)
    export(lab.study, out=tmp_path / "trial.yaml", trial=trial, exact=True)

    with locked(study):
        trained = train(tmp_path / "trial.yaml", out=tmp_path / "model")

    recorded, repeated = (
        read_jsonl(folder / "epochs.jsonl") for folder in (study.trial_path(trial), tmp_path / "model")
    )
    for row in recorded:
        del row["seconds"]
    assert repeated == recorded
    assert trained.equals_trial is True


def test_retraining_reproduces_the_files_of_a_model(copy_lab: CopyLab) -> None:
    lab = copy_lab()

    train(lab.best, out=lab.path / "again")

    assert files_of(lab.path / "again") == files_of(lab.model)


@pytest.mark.filterwarnings("default")  # wandb's own
def test_a_tracked_training_is_a_run_with_curves_and_the_model_as_an_artifact(
    copy_lab: CopyLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    lab = copy_lab()

    trained = train(lab.best, out=lab.path / "again", overrides=["tracking.wandb.mode=offline"])

    (file,) = run_files(lab.path)
    run = read_run(file)
    assert {**files_of(lab.path / "again"), "config.yaml": b"", "bundle.json": b"", "manifest.json": b""} == {
        **files_of(lab.model),
        "config.yaml": b"",
        "bundle.json": b"",
        "manifest.json": b"",
    }, "but for the setting itself"
    assert (run.kind, run.name, run.exit_code) == ("train", f"mix final {trained.arm}", 0)
    assert run.epochs == [1, 2, 3]
    assert (run.summary["value"], run.summary["val_b_auroc"]) == (trained.val_score, trained.val_b_score)
    model = run.artifacts["model"]
    assert (model.name, model.description) == ("mix", (lab.path / "again" / "README.md").read_text("utf-8"))
    assert {entry.path for entry in model.manifest.contents} == {*files_of(lab.path / "again")}
    assert str(lab.path) not in str(run.config)


def test_an_interrupted_training_resumes_to_the_same_files(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    first: list[EpochRecord] = []

    def interrupt(record: EpochRecord) -> None:
        first.append(record)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(lab.best, out=lab.path / "again", on_epoch=interrupt)
    assert not (lab.path / "again").exists()
    assert len(list(lab.path.glob("cache/train-1.work/*/checkpoint/checkpoint.pt"))) == 1
    epochs: list[EpochRecord] = []
    train(lab.best, out=lab.path / "again", on_epoch=epochs.append)

    assert [record.epoch for record in epochs] == [1, 2, 3]
    assert epochs[0] == first[0], "with the same seconds: it was not trained again"
    assert files_of(lab.path / "again") == files_of(lab.model)
    assert not list(lab.path.glob("cache/train-1.work/*"))


@dataclass(frozen=True, slots=True)
class Killed:
    """A lab in which a training process was killed, and what it had imported by then."""

    lab: Lab
    imported: str


@pytest.fixture(scope="module")
def killed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """A training that a signal ends after its second epoch."""
    out = lab.path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(lab.best), str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path_factory.mktemp("elsewhere"),
    )
    assert done.returncode == -9, done.stderr
    return Killed(lab, done.stdout.strip())


def test_a_killed_training_resumes_to_the_same_files(killed: Killed) -> None:
    lab = killed.lab
    assert not (lab.path / "killed").exists()

    train(lab.best, out=lab.path / "killed")

    assert files_of(lab.path / "killed") == files_of(lab.model)


def test_a_final_training_needs_neither_ray_nor_optuna_nor_wandb(killed: Killed) -> None:
    assert killed.imported == ""


def test_folder_created_during_training_is_preserved(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    out = lab.path / "taken"

    first: list[EpochRecord] = []

    def take(record: EpochRecord) -> None:
        first.append(record)
        out.mkdir(exist_ok=True)
        (out / "mine.txt").touch()

    with pytest.raises(ConfigError, match="already"):
        train(lab.best, out=out, on_epoch=take)

    epochs: list[EpochRecord] = []
    train(lab.best, out=lab.path / "free", on_epoch=epochs.append)
    assert epochs == first, "with the same seconds: no epoch was trained again"
    assert [file.name for file in out.iterdir()] == ["mine.txt"]
    assert files_of(lab.path / "free") == files_of(lab.model)


@pytest.mark.parametrize(
    ("exact", "said"),
    [(True, "differ from those of study mix"), (False, "images of study mix are missing here or have changed")],
)
def test_images_that_differ_from_the_studys_are_noted(copy_lab: CopyLab, exact: bool, said: str) -> None:
    lab = copy_lab()
    export(lab.study, out=lab.path / "chosen.yaml", exact=exact)
    next(iter(sorted(lab.xrays.glob("train/NORMAL/*")))).unlink()
    notes: list[str] = []

    with one_core():
        trained = train(
            lab.path / "chosen.yaml", out=lab.path / "again", overrides=["budget.max_epochs=1"], note=notes.append
        )

    assert trained.equals_trial is None
    assert any(said in note for note in notes)


def test_without_its_study_a_configuration_still_trains(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    lab.study.rename(lab.path / "away")
    notes: list[str] = []

    trained = train(lab.best, out=lab.path / "again", cache=lab.path / "cache", note=notes.append)

    assert trained.equals_trial is None
    assert any("does not exist here" in note for note in notes)


def test_a_damaged_table_of_the_study_is_an_error_before_the_training(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    exact = export(lab.study, out=lab.path / "exact.yaml", trial=0, exact=True)
    StudyFolder(lab.study).rows_path.write_text('{"version": 2}\n', encoding="utf-8")
    epochs: list[EpochRecord] = []

    with pytest.raises(StudyError, match=r"trials\.jsonl"):
        train(exact.path, out=lab.path / "again", on_epoch=epochs.append)

    assert not epochs


def test_a_trial_that_asha_stopped_has_no_figures_to_compare_with(copy_lab: CopyLab) -> None:
    """For example one that a confirmation completed, and found to help."""
    lab = copy_lab()
    folder = StudyFolder(lab.study)
    experiment = Experiment(
        settings=folder.space().settings.model_copy(
            update={"exported_from": ExportedFrom(study=lab.study, trial=PRUNED)}
        ),
        parameters=folder.experiment(PRUNED).parameters,
    )
    config = lab.path / "stopped.yaml"
    config.write_text(experiment_to_yaml(experiment, lab.path), encoding="utf-8")

    trained = train(config, out=lab.path / "again")

    assert trained.epochs == experiment.settings.budget.max_epochs
    assert trained.equals_trial is None


def test_overrides_are_kept_with_the_model(copy_lab: CopyLab) -> None:
    lab = copy_lab()

    trained = train(lab.best, out=lab.path / "again", overrides=["budget.max_epochs=1"])

    assert (trained.epochs, trained.equals_trial) == (1, None)
    assert '"budget.max_epochs=1"' in (lab.path / "again" / "bundle.json").read_text(encoding="utf-8")


def test_a_training_that_runs_already_is_not_started_again(copy_lab: CopyLab) -> None:
    lab = copy_lab()

    def train_too(record: EpochRecord) -> None:
        if record.epoch == 1:
            with pytest.raises(ArtifactError, match="already running"):
                train(lab.best, out=lab.path / "other")

    train(lab.best, out=lab.path / "again", on_epoch=train_too)

    assert files_of(lab.path / "again") == files_of(lab.model)


def test_a_model_trained_with_a_gan_shows_its_images(copy_lab: CopyLab) -> None:
    lab, notes = copy_lab(), list[str]()
    export(lab.study, out=lab.path / "gan.yaml", trial=0)
    export(lab.study, out=lab.path / "none.yaml", trial=1)

    train(lab.path / "gan.yaml", out=lab.path / "with_gan", note=notes.append)
    train(lab.path / "none.yaml", out=lab.path / "without_gan")

    with Image.open(lab.path / "with_gan" / "samples.png") as grid:
        assert grid.format == "PNG"
    assert any("the generator has been trained" in note and "samples.png" in note for note in notes)
    assert not (lab.path / "without_gan" / "samples.png").exists()
