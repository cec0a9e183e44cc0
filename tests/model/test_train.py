"""The final training: the trial's metrics, equal files, and resuming after an interruption."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.in_process import command, proposed_by
from tests.model.conftest import Lab
from tests.search.wandb.offline_runs import read_run, run_files
from tests.study.studies import ended_trials
from xraytune.base.errors import ArtifactError, ConfigError, DataError, StudyError
from xraytune.base.files import read_json, read_jsonl, write_json
from xraytune.base.records import EpochRecord
from xraytune.data.phantom import paint_phantoms
from xraytune.model.export import export
from xraytune.model.train import train
from xraytune.study.folder import StudyFolder, locked
from xraytune.trial.saved_model import open_bundle


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("trial", [0, 1])
def test_an_exact_export_repeats_its_trial_to_the_bit(lab: Lab, tmp_path: Path, trial: int) -> None:
    """Trial 0 trained a GAN, whose images the model shows. The study may be searched meanwhile."""
    study = StudyFolder(lab.study)
    model = tmp_path / "model"
    notes = list[str]()
    export(lab.study, out=tmp_path / "trial.yaml", trial=trial, exact=True)

    with locked(study):
        trained = train(tmp_path / "trial.yaml", out=model, note=notes.append)

    recorded, repeated = (
        read_jsonl(folder / "epochs.jsonl") for folder in (study.trial_path(trial), model)
    )
    for row in recorded:
        del row["seconds"]
    assert repeated == recorded
    ended = ended_trials(study)[trial]
    scores = (ended.value, ended.val_b_score)
    assert (trained.record.val_score, trained.record.val_b_score) == scores
    told = any("the generator has been trained" in note and "samples.png" in note for note in notes)
    assert told == (model / "samples.png").exists() == (trial == 0)
    if trial == 0:
        with Image.open(model / "samples.png") as grid:
            assert grid.format == "PNG"


def test_an_exact_training_says_if_this_machine_lacks_the_precision_of_the_study(
    private: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is emulated, and rounds in another way."""
    exact = private.path / "exact.yaml"
    notes = list[str]()
    export(private.study, out=exact, trial=1, exact=True)
    file = private.study / "environment.json"
    environment = read_json(file)
    compute = {**environment["compute"], "precision": "bfloat16"}
    write_json(file, {**environment, "compute": compute})
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "DEFAULT")

    train(exact, out=private.path / "again", note=notes.append)

    (said,) = (note for note in notes if "bfloat16" in note)
    assert "metrics will differ" in said


def test_samples_that_a_kill_kept_from_being_written_are_written_after_it(private: Lab) -> None:
    """Their folder is made first, and a full disk may come between, too."""
    exact = private.path / "exact.yaml"
    export(private.study, out=exact, trial=0, exact=True)

    def interrupt(_: EpochRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(exact, out=private.path / "again", on_epoch=interrupt)
    (samples,) = private.path.glob("cache/train-1.work/*/candidate_0/samples/*.png")
    samples.unlink()

    train(exact, out=private.path / "again")

    assert (private.path / "again/samples.png").exists()


def test_a_network_disk_that_keeps_open_files_does_not_stop_a_training_at_its_end(
    private: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of the training is still open when its folder is removed."""
    remove = shutil.rmtree

    def remove_on_network_disk(path: Path, ignore_errors: bool = False, **more: Any) -> None:
        if "train-1.work" in str(path) and not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        remove(path, ignore_errors, **more)

    monkeypatch.setattr("shutil.rmtree", remove_on_network_disk)

    trained = train(private.best, out=private.path / "again")

    assert open_bundle(trained.path).record == trained.record


def test_a_model_is_written_although_its_study_and_its_images_are_gone_at_the_end(
    private: Lab,
) -> None:
    exact = private.path / "exact.yaml"
    export(private.study, out=exact, trial=1, exact=True)

    def move_away(text: str) -> None:
        if text.startswith("training on"):
            private.study.rename(private.path / "moved study")
            private.xrays.rename(private.path / "moved images")

    trained = train(exact, out=private.path / "again", note=move_away)

    assert trained.test_data == private.xrays / "test"
    assert open_bundle(trained.path).record == trained.record


@pytest.mark.filterwarnings("default")  # wandb's own
def test_a_tracked_training_is_a_run_with_curves_and_the_model_as_an_artifact(
    private: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)

    trained = train(private.best, out=private.path / "again", overrides=["tracking.wandb={}"])

    (file,) = run_files(private.path)
    run = read_run(file)
    assert (run.kind, run.exit_code, run.epochs) == ("train", 0, [1, 2, 3])
    assert run.summary["value"] == trained.record.val_score
    files = {entry.path for entry in run.artifacts["model"].manifest.contents}
    assert files == {*files_of(private.path / "again")}


@pytest.mark.parametrize("epochs", [1, 10])
def test_an_interrupted_training_resumes_to_the_same_files(
    private: Lab, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    """It is interrupted in the first of three folds, or in the training on all patients."""
    plain = private.path / "plain.yaml"
    export(private.study, out=plain, trial=1)
    monkeypatch.setattr(
        "xraytune.trial.training._CHECKPOINT_SECONDS", -1.0
    )  # as if each epoch took longer
    first = list[EpochRecord]()
    second = list[EpochRecord]()

    def interrupt(record: EpochRecord) -> None:
        first.append(record)
        if len(first) == epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plain, out=private.path / "again", on_epoch=interrupt)
    assert not (private.path / "again").exists()
    train(plain, out=private.path / "again", on_epoch=second.append)
    train(plain, out=private.path / "straight")

    assert [record.epoch for record in second[:9]] == [1, 2, 3] * 3
    assert second[:epochs] == first, "with the same seconds: it was not trained again"
    assert files_of(private.path / "again") == files_of(private.path / "straight")
    assert not list(private.path.glob("cache/train-1.work/*"))


def test_the_better_of_two_settings_is_trained_on_all_patients(private: Lab) -> None:
    """Both settings are scored on the same held-out patients."""
    plain = private.path / "plain.yaml"
    text = export(private.study, out=plain, trial=1).path.read_text()
    changes = ["lr=1e-3", "budget.max_epochs=4", "budget.steps_per_epoch=null"]
    ways: dict[str, list[str]] = {"the trial's settings": [], "the settings of final": changes}
    scores = {
        name: train(plain, out=private.path / name, overrides=overrides).record.val_b_score
        for name, overrides in ways.items()
    }
    plain.write_text(f"{text}\nfinal: {{lr: 1e-3, max_epochs: 4}}\n")
    model = private.path / "again"
    notes = list[str]()

    record = train(plain, out=model, note=notes.append).record

    better = max(scores, key=lambda name: scores[name])
    (reason,) = (note for note in notes if note.startswith("the final model has"))
    assert better in reason.partition(":")[0]
    assert all(f"{score:.3f} with {name}" in reason for name, score in scores.items())
    for file in ("model.safetensors", "epochs.jsonl"):
        assert (model / file).read_bytes() == (private.path / better / file).read_bytes()
    used = record.trained_on
    assert used.patients == used.of_patients == used.validated_patients == 32
    assert {image.side for image in open_bundle(model).prepared().images} == {"train"}
    last = read_jsonl(model / "epochs.jsonl")[-1]
    assert last["epoch"] == record.best_epoch == len(read_jsonl(model / "epochs.jsonl"))


def test_a_study_that_does_not_exist_is_named(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"studies/typo: there is no such study"):
        train(lab.path / "studies/typo", out=tmp_path / "model")


def test_the_test_folder_is_found_under_any_of_its_names(private: Lab) -> None:
    test = private.xrays / "test"
    trained = train(private.best, out=private.path / "again", data=private.xrays)
    assert trained.test_data == test

    testing = test.rename(private.xrays / "Testing")

    renamed = train(private.best, out=private.path / "renamed", data=private.xrays)
    assert renamed.test_data == testing


FINDINGS = """\
name: findings
task: findings
data: {path: xrays, image_size: 32, findings: auto, split: {val_a: 0.25, val_b: 0.25}, TABLE}
parameters:
  source: {value: none}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
budget: {trials: 1, max_epochs: 1, steps_per_epoch: 2}
"""


@pytest.mark.parametrize("is_file_given", [True, False])
def test_the_proposed_evaluation_is_of_what_a_label_table_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_file_given: bool
) -> None:
    """A folder `test/` has no labels. If the data file is not known, other X-rays are named."""
    paint_phantoms(tmp_path / "xrays", patients=150, seed=2, image_size_px=32, findings=True)
    table = "table: {file: labels.csv, image: file, patient: patient, side: side}"
    (tmp_path / "mix.yaml").write_text(FINDINGS.replace("TABLE", table))
    monkeypatch.chdir(tmp_path)
    data = "--data xrays/data.yaml" if is_file_given else ""

    trained = command(f"train --config mix.yaml -o model {data}")

    assert trained.exit_code == 0, trained.output
    proposed = proposed_by(trained)["evaluate"]
    if is_file_given:
        evaluated = command(proposed)
        assert evaluated.exit_code == 0, evaluated.output
    else:
        assert "OTHER_XRAYS" in proposed


def test_broken_images_that_the_study_left_out_need_no_new_permission(
    private: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proposed command is run as it is; a broken image of the study is still refused."""
    monkeypatch.chdir(private.path)
    (private.xrays / "train/NORMAL/broken.jpeg").write_bytes(b"")
    proposed = export(private.study, out="left_out.yaml").command

    trained = command(proposed.removeprefix("xraytune "))

    assert trained.exit_code == 0, trained.stderr
    min(private.xrays.glob("train/NORMAL/*")).write_bytes(b"")
    with pytest.raises(DataError, match="1 images or masks are broken"):
        train(private.study, out="again")


def test_another_label_than_in_the_study_is_refused(private: Lab) -> None:
    first = min(private.xrays.glob("train/NORMAL/*"))
    first.rename(private.xrays / "train/PNEUMONIA" / first.name)

    with pytest.raises(StudyError, match="1 with another label"):
        train(private.study, out=private.path / "again")


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("final.lr=0.1", "without `final.`"),
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

    with pytest.raises(ConfigError, match=what):
        train(source, out=tmp_path / "model", overrides=[override], data=tmp_path / "nowhere")


def test_a_training_that_runs_already_is_not_started_again_and_overrides_are_kept(
    private: Lab,
) -> None:
    short = ["budget.max_epochs=1"]

    def train_too(_: EpochRecord) -> None:
        with pytest.raises(ArtifactError, match="already running"):
            train(private.best, out=private.path / "other", overrides=short)

    trained = train(private.best, out=private.path / "again", overrides=short, on_epoch=train_too)

    assert trained.epochs == 1
    assert '"budget.max_epochs=1"' in (private.path / "again/bundle.json").read_text()
