"""The final model of a search on a subset: its images, its threshold and what it says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.in_process import command, one_core, search_in_process
from xraytune.config.load import load_space
from xraytune.config.settings import FinalSettings, Validation
from xraytune.data.phantom import draw_phantoms
from xraytune.errors import ConfigError, DataError
from xraytune.export.best import export
from xraytune.export.bundle import prepared_of
from xraytune.export.final import FOLDS, fits_of, used_images
from xraytune.export.train import Trained, train
from xraytune.files import read_json, read_jsonl
from xraytune.pipeline.bundle import Bundle, open_bundle
from xraytune.pipeline.prepare import Prepared, prepare
from xraytune.pipeline.synthesize import GAN_STAGE
from xraytune.search.study import StudyFolder

pytestmark = pytest.mark.slow

SPACE = """\
version: 1
name: subset
data: {path: xrays, image_size: 32, train_patients: 8, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {value: gan}
  synthetic_ratio: {value: 0.5}
  gan: {parameters: {image_size: {value: 32}, steps: {value: 4}, batch_size: {value: 8}, width: {value: 4}}}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
  schedule: {value: cosine}
  batch_size: {value: 8}
budget: {trials: 1, max_epochs: 3, steps_per_epoch: 2}
scheduler: {name: none}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """X-rays, a study of one trial on eight patients, and its cache."""
    root = tmp_path_factory.mktemp("final")
    draw_phantoms(root / "xrays", patients=40, seed=6, image_size_px=48, difficulty=0.0)
    (root / "space.yaml").write_text(SPACE, encoding="utf-8")
    search_in_process(load_space(root / "space.yaml"), root)
    return root


@pytest.fixture(scope="module")
def study(root: Path) -> StudyFolder:
    return StudyFolder(root / "studies" / "subset")


@pytest.fixture(autouse=True)
def pinned() -> Iterator[None]:
    """A final training uses all cores."""
    with one_core():
        yield


@pytest.fixture(scope="module")
def everything(root: Path) -> Prepared:
    """All images on the sides of the study's split."""
    settings = load_space(root / "space.yaml").settings
    whole = settings.model_copy(update={"data": settings.data.model_copy(update={"train_patients": None})})
    prepared, _ = prepare(whole, root / "cache")
    return prepared


def final_model(study: StudyFolder, folder: Path, validation: Validation) -> tuple[Trained, Bundle]:
    export(study.path, out=folder / "best.yaml", validation=validation)
    trained = train(folder / "best.yaml", out=folder / "model")
    return trained, open_bundle(folder / "model")


def sides(prepared: Prepared) -> dict[str, str]:
    return {image.sha256: image.side for image in prepared.images}


def test_an_exported_file_has_all_patients_and_says_what_the_trial_had(study: StudyFolder, tmp_path: Path) -> None:
    exported = export(study.path, out=tmp_path / "best.yaml")

    settings = load_space(tmp_path / "best.yaml").settings
    train_side = study.prepared().side("train")
    epochs = read_jsonl(study.trial_path(0) / "epochs.jsonl")
    best = max(epochs, key=lambda row: (row["val_score"], -row["epoch"]))["epoch"]
    assert settings.data.train_patients is None
    assert settings.final == FinalSettings(
        validation="keep", epochs=best, trial_images=len(train_side.rows), trial_patients=8
    )
    assert (exported.validation, exported.trial_patients, exported.train_patients) == ("keep", 8, 8)


def test_an_exact_export_is_the_trial_to_the_bit(study: StudyFolder, tmp_path: Path) -> None:
    export(study.path, out=tmp_path / "exact.yaml", exact=True)
    notes: list[str] = []

    trained = train(tmp_path / "exact.yaml", out=tmp_path / "model", note=notes.append)

    assert trained.equals_trial is True
    assert (trained.trained_on.patients, trained.trained_on.changes) == (8, ())
    assert any("of 8 patients" in note or "(8 of " in note for note in notes)
    assert any("left out by data.train_patients: 8" in note for note in notes)


def test_the_final_model_keeps_the_validation_sides_and_trains_on_all_others(
    study: StudyFolder, everything: Prepared, tmp_path: Path
) -> None:
    trained, bundle = final_model(study, tmp_path, "keep")

    used = everything.side("train")
    searched = sides(study.prepared())
    assert sides(prepared_of(bundle)) == sides(everything)
    assert {key for key, side in sides(everything).items() if side != "train"} == {
        key for key, side in searched.items() if side != "train"
    }
    assert (trained.trained_on.images, trained.trained_on.patients) == (len(used.rows), len({*used.patients}))
    assert trained.trained_on.of_images == len(everything.images)
    assert trained.equals_trial is None
    assert bundle.record.trained_on == trained.trained_on


def test_the_mix_keeps_its_ratio_and_an_epoch_its_passes(
    study: StudyFolder, everything: Prepared, tmp_path: Path
) -> None:
    trained, bundle = final_model(study, tmp_path, "keep")

    before, now = len(study.prepared().side("train").rows), len(everything.side("train").rows)
    steps = [row["steps"] for row in read_jsonl(bundle.path / "epochs.jsonl")]
    assert steps[0] == -(-2 * now // before)
    changes = "\n".join(trained.trained_on.changes)
    assert (
        f"training images: {now} of {trained.trained_on.patients} patients (trial: {before} of 8 patients)" in changes
    )
    assert f"extra images: {int(now / 2 + 0.5)} (trial: {int(before / 2 + 0.5)})" in changes
    assert f"steps per epoch: {steps[0]} (trial: 2)" in changes
    assert "GAN: trained anew" in changes
    assert changes in "\n".join((bundle.path / "README.md").read_text("utf-8").split("\n- "))


def test_training_on_val_a_leaves_val_b_for_the_threshold(
    study: StudyFolder, everything: Prepared, tmp_path: Path
) -> None:
    trained, bundle = final_model(study, tmp_path, "val_a")

    val_b = everything.side("val_b")
    expected = {key: "val_b" if side == "val_b" else "train" for key, side in sides(everything).items()}
    assert sides(prepared_of(bundle)) == expected
    assert (trained.val_score, trained.threshold_rule) == (None, "calibrated_val_b")
    assert trained.validation_images == len(val_b.rows)
    assert trained.val_b_score is not None
    final = load_space(tmp_path / "best.yaml").settings.final
    assert final is not None
    assert trained.epochs == trained.best_epoch == final.epochs
    rows = read_jsonl(bundle.path / "epochs.jsonl")
    assert "val_score" not in rows[-1], "nothing is chosen on a side that it trains on"


def test_training_on_all_images_sets_the_threshold_out_of_fold(
    study: StudyFolder, everything: Prepared, root: Path, tmp_path: Path
) -> None:
    before = {*(root / "cache" / GAN_STAGE).glob("[!.]*")}

    trained, bundle = final_model(study, tmp_path, "all")

    assert {*sides(prepared_of(bundle)).values()} == {"train"}
    assert trained.trained_on.images == trained.trained_on.of_images == len(everything.images)
    assert trained.validation_images == len(everything.images), "each is scored once, by a fold that has not seen it"
    assert (trained.val_score, trained.val_b_score) == (None, None)
    assert trained.out_of_fold_score is not None
    new = {*(root / "cache" / GAN_STAGE).glob("[!.]*")} - before
    seen = {read_json(path / "manifest.json")["inputs"]["train"] for path in new}
    fits = fits_of(used_images(everything, "all"), "all", 0)
    assert seen == {images.train_fingerprint for images in fits.values()}, (
        "one GAN for each training, on what that one sees"
    )


def test_every_patient_is_unseen_in_one_fold(everything: Prepared) -> None:
    *folds, final = fits_of(used_images(everything, "all"), "all", 3).values()

    unseen: Counter[str] = Counter()
    for fold in folds:
        train_side, out = fold.side("train"), fold.side("val_a")
        assert {*train_side.patients}.isdisjoint(out.patients)
        assert {*train_side.labels} == {*out.labels} == {0, 1}
        unseen.update({*out.patients})
    assert len(folds) == FOLDS
    assert unseen == Counter({image.patient for image in everything.images})
    assert len(final.side("train").rows) == len(everything.images)


def test_a_class_with_fewer_patients_than_folds_is_refused(everything: Prepared) -> None:
    normal = sorted({image.patient for image in everything.images if image.label == 0})
    images = tuple(image for image in everything.images if image.label == 1 or image.patient in normal[:2])
    few = Prepared(**{name: getattr(everything, name) for name in everything.__slots__} | {"images": images})

    with pytest.raises(DataError, match=r"the 2 patients of NORMAL are too few for 3 folds"):
        fits_of(few, "all", 0)


def test_an_interrupted_final_training_resumes_to_the_same_files(study: StudyFolder, tmp_path: Path) -> None:
    export(study.path, out=tmp_path / "best.yaml", validation="all")
    train(tmp_path / "best.yaml", out=tmp_path / "straight")

    def stop(note: str) -> None:
        if note.startswith("fold 2 of 3: epoch"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "best.yaml", out=tmp_path / "again", note=stop)
    train(tmp_path / "best.yaml", out=tmp_path / "again")

    contents = [
        {file.name: file.read_bytes() for file in sorted((tmp_path / name).iterdir())} for name in ("straight", "again")
    ]
    assert contents[0] == contents[1]


def test_progress_counts_the_steps_of_all_folds(study: StudyFolder, tmp_path: Path) -> None:
    export(study.path, out=tmp_path / "best.yaml", validation="all")
    steps: list[tuple[int, int]] = []

    train(
        tmp_path / "best.yaml",
        out=tmp_path / "model",
        on_progress=lambda what, done, total: (
            steps.append((done, total)) if what == "training the network (steps)" else None
        ),
    )

    assert len({total for _, total in steps}) == 1
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("validation", ["val_a", "all"])
def test_a_schedule_that_needs_val_a_is_refused(study: StudyFolder, tmp_path: Path, validation: Validation) -> None:
    export(study.path, out=tmp_path / "best.yaml", validation=validation)

    with pytest.raises(ConfigError, match="plateau lowers the learning rate when the loss on val-A stalls"):
        train(tmp_path / "best.yaml", out=tmp_path / "model", overrides=["schedule=plateau"], cache=tmp_path / "cache")

    assert not (tmp_path / "cache").exists()


def test_a_folder_too_small_for_all_patients_is_refused_before_the_training(study: StudyFolder, tmp_path: Path) -> None:
    draw_phantoms(tmp_path / "others", patients=12, seed=9, image_size_px=48)
    export(study.path, out=tmp_path / "best.yaml")
    folder = ("source=folder", f"folder.path={tmp_path / 'others' / 'train'}", "synthetic_ratio=1.0")
    notes: list[str] = []

    with pytest.raises(DataError, match=r"but the mix needs"):
        train(tmp_path / "best.yaml", out=tmp_path / "model", overrides=folder, note=notes.append)

    assert not any(note.startswith("training:") for note in notes)


def test_the_model_card_names_data_metrics_and_limits(study: StudyFolder, tmp_path: Path) -> None:
    trained, bundle = final_model(study, tmp_path, "keep")

    card = (bundle.path / "README.md").read_text("utf-8")
    data = trained.trained_on
    assert card.startswith("# subset: NORMAL or PNEUMONIA\n")
    assert f"| trained on | {data.images} images of {data.patients} patients |" in card
    assert f"{trained.threshold:.3f}" in card
    assert "| sensitivity (PNEUMONIA) |" in card
    assert "no verdict on this model" in card
    assert "is not confirmed: `xraytune confirm` has not compared" in card
    assert "## Intended use" in card
    assert "not a medical device" in card
    assert f"| fingerprint of training images | `{bundle.record.train_fingerprint}` |" in card
    assert "by patient, seed 0; images: " in card
    assert "xraytune predict MODEL" in card
    assert str(tmp_path) not in card


def test_the_commands_say_what_is_trained_on(study: StudyFolder, tmp_path: Path) -> None:
    exported = command("export", study.path, "-o", tmp_path / "best.yaml").stdout
    trained = command("train", "--config", tmp_path / "best.yaml", "-o", tmp_path / "model")

    assert (
        "of 8 patients (data.train_patients: 8); `train` uses all patients except those of val-A and val-B" in exported
    )
    record = open_bundle(tmp_path / "model").record.trained_on
    assert f"trained on {record.images} of {record.of_images} images" in " ".join(trained.stdout.split())
    assert (
        "images are kept for validation" in " ".join(trained.stderr.split()) or "kept for validation" in trained.stderr
    )
    assert "trial:" in trained.stderr
    assert "xraytune evaluate" in trained.stdout
    contradiction = command("export", study.path, "-o", tmp_path / "other.yaml", "--exact", "--validation", "all")
    assert (contradiction.exit_code, "leave one out" in contradiction.stderr) == (2, True)
