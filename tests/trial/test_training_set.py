"""Extra images from a folder: none of them may be of a validation patient."""

import logging
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from examples.transform_folder import transform_folder
from tests.trial.conftest import Bench
from tests.trial.test_trial import run
from xraytune.base.errors import DataError, TrialError
from xraytune.data.folders import PROVENANCE_FILE
from xraytune.data.images import ImageFile
from xraytune.data.pixels import stored_files
from xraytune.data.prepare import PIXELS_STAGE, Prepared
from xraytune.space.settings import (
    DataSettings,
    FolderSettings,
    Parameters,
    SplitSettings,
    without_gate,
)
from xraytune.synth.mix import plan_mix, require_enough
from xraytune.synth.sources.folder import store_folder
from xraytune.synth.sources.which import source_of
from xraytune.trial.training_set import build_training_set

pytestmark = pytest.mark.slow


def held_back(prepared: Prepared) -> list[ImageFile]:
    return [image for image in prepared.images if image.side != "train"]


def used_of(
    bench: Bench, root: Path, prepared: Prepared | None = None, data: DataSettings | None = None
) -> Any:
    """The images of a folder that a trial may train on."""
    return store_folder(
        root, prepared or bench.prepared, data or bench.settings.data, cache=root.parent / "cache"
    )[0]


def one_of_each(bench: Bench) -> tuple[ImageFile, ImageFile]:
    """An image of a validation side, and one of the train side."""
    return held_back(bench.prepared)[0], next(
        image for image in bench.prepared.images if image.side == "train"
    )


def write_negatives(bench: Bench, root: Path, images: Iterable[ImageFile]) -> Path:
    """Write the negative of each image below `root`, in its class folder and under its own name."""
    for image in images:
        source = bench.settings.data.path / image.file
        out = root / bench.prepared.class_names[image.label] / f"{source.stem}.png"
        out.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source) as opened:
            ImageOps.invert(opened).save(out)
    return root


def copy_renamed(bench: Bench, root: Path, images: Iterable[ImageFile]) -> Path:
    """Copy the files under names that identify no patient."""
    for number, image in enumerate(images):
        out = root / bench.prepared.class_names[image.label] / f"copy{number}.jpeg"
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(bench.settings.data.path / image.file, out)
    return root


def test_images_of_validation_patients_are_excluded_and_counted(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_negatives(bench, tmp_path / "extra", bench.prepared.images)

    with caplog.at_level(logging.WARNING, logger="xraytune.synth.sources.folder"):
        used, store = store_folder(
            root, bench.prepared, bench.settings.data, cache=tmp_path / "cache"
        )

    in_validation = held_back(bench.prepared)
    assert {image.patient for image in used} == set(bench.prepared.side("train").patients)
    assert len(used) == len(bench.prepared.images) - len(in_validation)
    assert len(np.load(store / "pixels.npy")) == len(used)
    (warning,) = [
        record.getMessage()
        for record in caplog.records
        if record.name == "xraytune.synth.sources.folder"
    ]
    assert (
        f"{len(in_validation)} of {len(bench.prepared.images)} extra images are left out" in warning
    )
    assert "val-A or val-B" in warning
    kept = write_negatives(
        bench, tmp_path / "kept", [i for i in bench.prepared.images if i.side == "train"]
    )
    again = store_folder(kept, bench.prepared, bench.settings.data, cache=tmp_path / "cache")
    assert again == (used, store), "the fingerprint covers the usable files only"


def test_validation_files_are_excluded_under_any_name(bench: Bench, tmp_path: Path) -> None:
    root = copy_renamed(bench, tmp_path / "extra", bench.prepared.images)

    used = used_of(bench, root)

    contents = {image.sha256 for image in bench.prepared.images if image.side == "train"}
    assert {image.sha256 for image in used} == contents


def test_patient_owning_validation_file_is_excluded_entirely(bench: Bench, tmp_path: Path) -> None:
    """A table of patients uses other names, but an identical file links one of them to validation."""
    seen, trained = one_of_each(bench)
    root = copy_renamed(bench, tmp_path / "extra", [seen])
    write_negatives(bench, root, [seen, trained])
    names = {path.stem: path.relative_to(root).as_posix() for path in root.rglob("*.*")}
    rows = {"copy0": "anna", Path(seen.file).stem: "anna", Path(trained.file).stem: "bert"}
    table = "".join(f"{names[stem]},{patient}\n" for stem, patient in rows.items())
    (root / "patients.csv").write_text(f"file,patient\n{table}", encoding="utf-8")

    used = used_of(bench, root)

    assert [image.patient for image in used] == ["bert"]


def test_both_names_of_a_validation_patient_are_excluded(bench: Bench, tmp_path: Path) -> None:
    """Patients who share an image are merged under one name; their files still carry the other."""
    seen, trained = one_of_each(bench)
    joined = replace(seen, patient="another name")
    prepared = replace(bench.prepared, images=(joined, trained))
    root = write_negatives(bench, tmp_path / "extra", [seen, trained])

    used = used_of(bench, root, prepared)

    assert [image.patient for image in used] == [trained.patient]


def test_copies_matched_by_study_regex_are_excluded(bench: Bench, tmp_path: Path) -> None:
    seen, trained = one_of_each(bench)
    prepared = replace(
        bench.prepared, images=(replace(seen, patient="p1"), replace(trained, patient="p2"))
    )
    root = copy_renamed(bench, tmp_path / "extra", [trained, trained, trained])
    class_folder = root / bench.prepared.class_names[trained.label]
    for number, name in enumerate(["p1_blurred", "p2_blurred", "somebody"]):
        copy = class_folder / f"copy{number}.jpeg"
        copy.write_bytes(
            copy.read_bytes() + bytes([number])
        )  # different content: identical files are of one patient
        copy.rename(class_folder / f"{name}.jpeg")
    data = bench.settings.data.model_copy(update={"split": SplitSettings(group_regex=r"(p\d+)_")})

    used = used_of(bench, root, prepared, data)

    assert sorted(Path(image.file).stem for image in used) == ["p2_blurred", "somebody"]


def test_copies_named_like_validation_images_are_excluded_with_table(
    bench: Bench, tmp_path: Path
) -> None:
    renamed = [
        replace(image, file=f"IMG{n}.jpeg", patient=f"p{n}")
        for n, image in enumerate(bench.prepared.images)
    ]
    prepared = replace(bench.prepared, images=tuple(renamed))
    root = write_negatives(bench, tmp_path / "extra", bench.prepared.images)
    for before, after in zip(bench.prepared.images, renamed, strict=True):
        class_folder = root / bench.prepared.class_names[after.label]
        (class_folder / f"{Path(before.file).stem}.png").rename(
            class_folder / f"{Path(after.file).stem.lower()}.png"
        )

    used = used_of(bench, root, prepared)

    assert {Path(i.file).stem for i in used} == {
        Path(i.file).stem.lower() for i in renamed if i.side == "train"
    }


def test_a_folder_of_validation_patients_alone_is_refused(bench: Bench, tmp_path: Path) -> None:
    root = write_negatives(bench, tmp_path / "extra", held_back(bench.prepared))

    with pytest.raises(
        DataError, match=r"extra images are left out(.|\n)*fix: use images of other patients"
    ):
        used_of(bench, root)


def test_a_trial_on_transformed_copies_sees_no_validation_patient(
    bench: Bench, tmp_path: Path
) -> None:
    """Copies are made before the split, of val-A and val-B too; only the table links their names to patients."""
    data = bench.settings.data
    transform_folder(data.path, tmp_path / "copies", copies=2, classical=1)
    extra = bench.experiment(
        source="folder", folder=FolderSettings(path=tmp_path / "copies"), synthetic_ratio=2.0
    )
    with pytest.raises(TrialError, match="are copies of training images"):
        build_training_set(extra, bench.context)
    extra = extra.model_copy(update={"settings": without_gate(extra.settings)})

    training_set = build_training_set(extra, bench.context)
    epochs = run(bench, extra, tmp_path / "trial")

    files, _ = stored_files(bench.cache / PIXELS_STAGE / training_set.sources[1].inputs["pixels"])
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

    with pytest.raises(DataError, match=r"provenance\.json: .* cannot be read"):
        source_of(
            bench.experiment(source="folder", folder={"path": tmp_path}).parameters
        ).seen_images()


def test_a_mix_that_needs_more_images_of_a_class_than_there_are_is_refused(bench: Bench) -> None:
    prepared = bench.prepared
    mix = Parameters.model_validate(
        {"source": "folder", "folder": {"path": "extra"}, "synthetic_ratio": 0.5}
    )
    normal, pneumonia = np.bincount(plan_mix(prepared.train_counts, mix)).tolist()

    require_enough([normal, pneumonia], mix, prepared)
    message = rf"extra: {normal - 1} images of NORMAL, but the mix needs {normal}\n.*lower"
    with pytest.raises(DataError, match=message):
        require_enough([normal - 1, pneumonia], mix, prepared)
