"""The final training: the trial's metrics, equal files, and resuming after an interruption."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.in_process import one_core
from tests.model.conftest import CopyLab, Lab
from tests.search.wandb.offline_runs import read_run, run_files
from xraytune.base.errors import ArtifactError, ConfigError, StudyError
from xraytune.base.files import read_jsonl
from xraytune.base.records import EpochRecord
from xraytune.model.best import export
from xraytune.model.train import train
from xraytune.study.folder import StudyFolder, locked

pytestmark = pytest.mark.slow


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("trial", [0, 1])
def test_an_exact_export_repeats_its_trial_to_the_bit(lab: Lab, tmp_path: Path, trial: int) -> None:
    """Trial 0 trained a GAN, whose images the model shows. The study may be searched meanwhile."""
    study, model, notes = StudyFolder(lab.study), tmp_path / "model", list[str]()
    export(lab.study, out=tmp_path / "trial.yaml", trial=trial, exact=True)

    with locked(study):
        trained = train(tmp_path / "trial.yaml", out=model, note=notes.append)

    recorded, repeated = (
        read_jsonl(folder / "epochs.jsonl") for folder in (study.trial_path(trial), model)
    )
    for row in recorded:
        del row["seconds"]
    assert repeated == recorded
    assert trained.equals_trial is True
    told = any("the generator has been trained" in note and "samples.png" in note for note in notes)
    assert told == (model / "samples.png").exists() == (trial == 0)
    if trial == 0:
        with Image.open(model / "samples.png") as grid:
            assert grid.format == "PNG"


@pytest.mark.filterwarnings("default")  # wandb's own
def test_a_tracked_training_is_a_run_with_curves_and_the_model_as_an_artifact(
    copy_lab: CopyLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    lab = copy_lab()

    trained = train(lab.best, out=lab.path / "again", overrides=["tracking.wandb={}"])

    (file,) = run_files(lab.path)
    run = read_run(file)
    assert (run.kind, run.name, run.exit_code) == ("train", f"mix final {trained.arm}", 0)
    assert run.epochs == [1, 2, 3]
    assert (run.summary["value"], run.summary["val_b_auroc"]) == (
        trained.val_score,
        trained.val_b_score,
    )
    model = run.artifacts["model"]
    assert model.name == "mix"
    assert {entry.path for entry in model.manifest.contents} == {*files_of(lab.path / "again")}
    assert str(lab.path) not in str(run.config)


def test_an_interrupted_training_resumes_to_the_same_files(
    copy_lab: CopyLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = copy_lab()
    monkeypatch.setattr(
        "xraytune.trial.training._CHECKPOINT_SECONDS", -1.0
    )  # as if each epoch took longer
    first, second = list[EpochRecord](), list[EpochRecord]()

    def interrupt(record: EpochRecord) -> None:
        first.append(record)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(lab.best, out=lab.path / "again", on_epoch=interrupt)
    assert not (lab.path / "again").exists()
    assert len(list(lab.path.glob("cache/train-1.work/*/checkpoint/checkpoint.pt"))) == 1
    train(lab.best, out=lab.path / "again", on_epoch=second.append)

    assert [record.epoch for record in second] == [1, 2, 3]
    assert second[:1] == first, "with the same seconds: it was not trained again"
    assert files_of(lab.path / "again") == files_of(lab.model)
    assert not list(lab.path.glob("cache/train-1.work/*"))


@pytest.mark.parametrize(
    ("exact", "change", "said"),
    [
        (True, "an image", "differ from those of study mix"),
        (False, "the study", "does not exist here"),
    ],
)
def test_a_change_since_the_study_is_noted(
    copy_lab: CopyLab, exact: bool, change: str, said: str
) -> None:
    """An image was removed, or the study moved away."""
    lab = copy_lab()
    export(lab.study, out=lab.path / "chosen.yaml", exact=exact)
    if change == "an image":
        sorted(lab.xrays.glob("train/NORMAL/*"))[0].unlink()
    else:
        lab.study.rename(lab.path / "away")
    options: dict[str, Any] = {"overrides": ["budget.max_epochs=1"], "cache": lab.path / "cache"}
    notes: list[str] = []

    with one_core():
        trained = train(
            lab.path / "chosen.yaml", out=lab.path / "again", note=notes.append, **options
        )

    assert trained.equals_trial is None
    assert any(said in note for note in notes)


@pytest.mark.parametrize("change", ["patients", "label"])
def test_other_patients_or_labels_than_those_of_the_study_are_refused(
    copy_lab: CopyLab, change: str
) -> None:
    lab = copy_lab()
    first = min(lab.xrays.glob("train/NORMAL/*"))
    if change == "label":
        first.rename(lab.xrays / "train" / "PNEUMONIA" / first.name)
    else:
        files = sorted(file.relative_to(lab.xrays).as_posix() for file in lab.xrays.rglob("*.jpeg"))
        rows = "".join(f"{file},patient {file}\n" for file in files)
        (lab.xrays / "patients.csv").write_text(f"file,patient\n{rows}", encoding="utf-8")

    with pytest.raises(
        StudyError, match=rf"since the study began: \d+ with another {change.removesuffix('s')}"
    ):
        train(lab.study, out=lab.path / "again")

    assert not (lab.path / "again").exists()


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("final.max_epochs=1", "set budget.max_epochs instead"),
        ("final.lr=0.1", "final.lr: `train` does not use it"),
        ("confirm.replicates=7", "`train` does not use it"),
        ("gan.steps=3", "no trial of this space uses it"),
    ],
)
def test_an_override_without_effect_is_refused_before_the_images_are_read(
    lab: Lab, tmp_path: Path, override: str, what: str
) -> None:
    """The exported trial has no generator."""
    source = lab.study
    if override.startswith("gan"):
        source = tmp_path / "plain.yaml"
        export(lab.study, out=source, trial=1)

    with pytest.raises(
        ConfigError, match=f"(?s){re.escape(override)}.*{what}|{what}.*{re.escape(override)}"
    ):
        train(source, out=tmp_path / "model", overrides=[override], data=tmp_path / "nowhere")


def test_a_training_that_runs_already_is_not_started_again_and_overrides_are_kept(
    copy_lab: CopyLab,
) -> None:
    lab, short = copy_lab(), ["budget.max_epochs=1"]

    def train_too(_: EpochRecord) -> None:
        with pytest.raises(ArtifactError, match="already running"):
            train(lab.best, out=lab.path / "other", overrides=short)

    trained = train(lab.best, out=lab.path / "again", overrides=short, on_epoch=train_too)

    assert (trained.epochs, trained.equals_trial) == (1, None)
    assert '"budget.max_epochs=1"' in (lab.path / "again" / "bundle.json").read_text(
        encoding="utf-8"
    )
