"""Extra images from a folder: none of them may be of a validation patient."""

import logging
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from examples.transform_folder import transform_folder
from tests.trial.conftest import Bench
from xraytune.base.errors import ArtifactError, DataError, TrialError
from xraytune.data.folders import PROVENANCE_FILE
from xraytune.data.images import ImageFile
from xraytune.data.pixels import PIXELS_STAGE, stored_files
from xraytune.space.data_settings import SplitSettings
from xraytune.space.source_settings import FolderSettings
from xraytune.synth.sources.folder import store_folder
from xraytune.synth.sources.registry import source_of
from xraytune.synth.sources.source import StudyImages
from xraytune.trial.run import trial_epochs
from xraytune.trial.training_set import build_training_set


def usable(root: Path, study: StudyImages) -> tuple[ImageFile, ...]:
    """The images of a folder that a trial may train on."""
    return store_folder(root, study)[0]


@pytest.fixture
def study(bench: Bench, tmp_path: Path) -> StudyImages:
    return StudyImages(bench.settings.data, bench.prepared, tmp_path / "cache")


def one_of_each(study: StudyImages) -> tuple[ImageFile, ImageFile]:
    """An image of a validation side, and one of the train side."""
    images = study.prepared.images
    return next(image for image in images if image.side != "train"), next(
        image for image in images if image.side == "train"
    )


def write_negatives(study: StudyImages, root: Path, images: Iterable[ImageFile]) -> Path:
    """Write the negative of each image below `root`, in its class folder and under its own name."""
    for image in images:
        source = study.data.path / image.file
        out = root / study.prepared.class_names[image.label] / f"{source.stem}.png"
        out.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source) as opened:
            ImageOps.invert(opened).save(out)
    return root


def test_images_of_validation_patients_are_excluded_and_counted(
    study: StudyImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under their own names, and identical files under any name."""
    images = study.prepared.images
    root = write_negatives(study, tmp_path / "extra", images)
    for number, image in enumerate(images):
        folder = root / study.prepared.class_names[image.label]
        shutil.copy(study.data.path / image.file, folder / f"copy{number}.jpeg")

    with caplog.at_level(logging.WARNING, logger="xraytune.synth.sources.folder"):
        used = usable(root, study)

    train = [image for image in images if image.side == "train"]
    copies = [image for image in used if "copy" in image.file]
    assert {image.sha256 for image in copies} == {image.sha256 for image in train}
    assert {image.patient for image in used if image not in copies} == {
        image.patient for image in train
    }
    assert len(used) == 2 * len(train)
    left_out = 2 * (len(images) - len(train))
    assert f"{left_out} of {2 * len(images)} extra images are left out" in caplog.text
    assert "val-A or val-B" in caplog.text


def test_patient_owning_validation_file_is_excluded_entirely(
    study: StudyImages, tmp_path: Path
) -> None:
    """A table has other names, but an identical file links one of them to validation."""
    seen, trained = one_of_each(study)
    root = write_negatives(study, tmp_path / "extra", [seen, trained])
    folders = study.prepared.class_names
    shutil.copy(study.data.path / seen.file, root / folders[seen.label] / "copy.jpeg")
    rows = [
        (f"{folders[seen.label]}/copy.jpeg", "anna"),
        (f"{folders[seen.label]}/{Path(seen.file).stem}.png", "anna"),
        (f"{folders[trained.label]}/{Path(trained.file).stem}.png", "bert"),
    ]
    table = "".join(f"{file},{patient}\n" for file, patient in rows)
    (root / "patients.csv").write_text(f"file,patient\n{table}")

    assert [image.patient for image in usable(root, study)] == ["bert"]


def test_copies_matched_by_study_regex_are_excluded(study: StudyImages, tmp_path: Path) -> None:
    seen, trained = one_of_each(study)
    renamed = (replace(seen, patient="p1"), replace(trained, patient="p2"))
    root = tmp_path / "extra" / study.prepared.class_names[trained.label]
    root.mkdir(parents=True)
    content = (study.data.path / trained.file).read_bytes()
    for number, name in enumerate(["p1_blurred", "p2_blurred", "somebody"]):
        # Different content: identical files are of one patient.
        (root / f"{name}.jpeg").write_bytes(content + bytes([number]))
    split = SplitSettings(group_regex=r"(p\d+)_")
    data = study.data.model_copy(update={"split": split})
    prepared = replace(study.prepared, images=renamed)

    used = usable(root.parent, replace(study, data=data, prepared=prepared))

    assert sorted(Path(image.file).stem for image in used) == ["p2_blurred", "somebody"]


def test_a_folder_of_validation_patients_alone_is_refused(
    study: StudyImages, tmp_path: Path
) -> None:
    root = write_negatives(study, tmp_path / "extra", one_of_each(study)[:1])

    with pytest.raises(DataError, match=r"are left out(.|\n)*fix: use images of other"):
        usable(root, study)


def test_a_trial_on_transformed_copies_sees_no_validation_patient(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Copies are made before the split; only the table links their names to patients.

    The gate, the quality figures and the training set read the folder once, so it warns once.
    """
    data = bench.settings.data
    transform_folder(data.path, tmp_path / "copies", copies=2, augmentation="flip")
    extra = bench.experiment(
        source="folder", folder=FolderSettings(path=tmp_path / "copies"), synthetic_ratio=2.0
    )
    with pytest.raises(TrialError, match="are copies of training images"):
        build_training_set(extra, bench.context)
    extra = extra.with_values({"settings.quality.allow_memorised": True})

    training_set = build_training_set(extra, bench.context)
    caplog.clear()
    epochs = [*trial_epochs(extra, bench.context, tmp_path / "trial")]
    assert caplog.text.count("are left out") == 1

    files, _ = stored_files(
        bench.cache / PIXELS_STAGE / training_set.image_sets[1].inputs["pixels"]
    )
    used = {files[number - len(training_set.real)] for number in training_set.extra}
    side_of = {
        "__".join(Path(image.file).with_suffix("").parts): image.side
        for image in bench.prepared.images
    }
    assert len(used) == 2 * len(training_set.real)
    assert {side_of[Path(file).name.rpartition("__t")[0]] for file in used} == {"train"}
    assert len(epochs) == 3


@pytest.mark.parametrize("content", ["{", "\xff", "[]", '{"train_images": 1}'])
def test_a_damaged_or_unrelated_record_is_refused(
    bench: Bench, tmp_path: Path, content: str
) -> None:
    (tmp_path / PROVENANCE_FILE).write_bytes(content.encode("latin-1"))

    with pytest.raises(ArtifactError, match=r"provenance\.json: .* cannot be read"):
        source_of(
            bench.experiment(source="folder", folder={"path": tmp_path}).parameters
        ).seen_images_sha256()
