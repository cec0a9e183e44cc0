"""A data folder is compared with what a study recorded of it, also of images it does not use."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import WriteImages
from xraytune.base.errors import StudyError
from xraytune.data.changes import require_same_data
from xraytune.data.index import read_index
from xraytune.data.prepare import SplitData, prepare, read_prepared, write_prepared
from xraytune.space.settings import Settings

PATIENTS = 30
ROWS = tuple(
    f"p{patient}_{image}.png,P{patient},{('well', 'ill')[patient % 2]},{patient % 2},{image}\n"
    for patient in range(PATIENTS)
    for image in range(2)
)
TABLE = "image,who,finding,Edema,Effusion\n" + "".join(ROWS)


def settings_of(root: Path, **data: Any) -> Settings:
    """Half of the patients are unused."""
    table = {"file": "labels.csv", "image": "image", "patient": "who", "label": "finding"}
    split = {"val_a": 0.2, "val_b": 0.2}
    content = {
        "path": root,
        "image_size": 32,
        "train_patients": 6,
        "split": split,
        "classes": "auto",
        "table": table,
    }
    return Settings.model_validate({"name": "any", "data": content | data})


@pytest.fixture
def root(tmp_path: Path, write: WriteImages) -> Path:
    root = tmp_path / "xrays"
    write(root, (row.partition(",")[0] for row in ROWS))
    write_table(root, TABLE)
    return root


def write_table(root: Path, text: str) -> None:
    (root / "labels.csv").write_text(text, "utf-8")


def check(settings: Settings, prepared: SplitData, **options: Any) -> None:
    require_same_data(prepared, read_index(settings.data), settings.data.path, **options)


@pytest.fixture
def settings(root: Path) -> Settings:
    return settings_of(root)


@pytest.fixture
def prepared(settings: Settings, tmp_path: Path) -> SplitData:
    """As it is read from a study."""
    prepared, _ = prepare(settings, tmp_path / "cache")
    assert prepared.unused
    write_prepared(prepared, tmp_path / "split.json")
    return read_prepared(tmp_path / "split.json")


@pytest.mark.parametrize("is_complete", [True, False])
def test_the_same_data_elsewhere_and_with_new_images_are_the_same(
    settings: Settings,
    prepared: SplitData,
    root: Path,
    tmp_path: Path,
    write: WriteImages,
    is_complete: bool,
) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    write(copy, ["new.png"])
    write_table(copy, TABLE + "new.png,Px,ill,1,0\n")

    check(settings, prepared, is_complete=is_complete)
    check(settings_of(copy), prepared, is_complete=is_complete)


@pytest.mark.parametrize("is_complete", [True, False])
@pytest.mark.parametrize("is_used", [True, False])
@pytest.mark.parametrize("change", ["renamed", "joined with one of another side", "another label"])
def test_other_patients_and_labels_are_refused_with_their_number(
    settings: Settings,
    prepared: SplitData,
    root: Path,
    change: str,
    is_used: bool,
    is_complete: bool,
) -> None:
    """Also those of a patient that the study does not use."""
    ours, others = prepared.images, prepared.unused
    changed, other = (ours[0], others[0]) if is_used else (others[0], ours[0])
    name = changed.patient
    label = ("well", "ill")[int(name[1:]) % 2]
    changes = {
        "renamed": f",Somebody,{label},",
        "joined with one of another side": f",{other.patient},{label},",
        "another label": f",{name},{'ill' if label == 'well' else 'well'},",
    }
    write_table(root, TABLE.replace(f",{name},{label},", changes[change]))

    kind = "label" if change == "another label" else "patient"
    with pytest.raises(StudyError, match=rf"2 with another {kind}: {changed.file} \(") as refused:
        check(settings, prepared, is_complete=is_complete)

    assert refused.value.exit_code == 5
    assert "start a study with another name" in str(refused.value)


def test_a_lost_patient_column_or_table_is_refused(
    settings: Settings, prepared: SplitData, root: Path
) -> None:
    table = settings.data.table
    assert table is not None
    lost = settings_of(root, table=table.model_dump() | {"patient": None})

    with pytest.raises(StudyError, match=r"60 with another patient: p0_0\.png \(P0, now unnamed\)"):
        check(lost, prepared)


@pytest.mark.parametrize("is_complete", [True, False])
@pytest.mark.parametrize("named", ["before", "now"])
def test_patients_called_like_their_first_image_are_compared_by_their_images(
    root: Path, tmp_path: Path, named: str, is_complete: bool
) -> None:
    """Their names do not differ from those of images without a patient."""
    write_table(root, re.sub(r",P(\d+),", r",p\1_0.png,", TABLE))
    table = {"file": "labels.csv", "image": "image", "label": "finding"}
    with_patients = settings_of(root, table=table | {"patient": "who"})
    without = settings_of(root, table=table)
    first, second = (with_patients, without) if named == "before" else (without, with_patients)
    prepared, _ = prepare(first, tmp_path / "cache")
    check(first, prepared, is_complete=is_complete)

    with pytest.raises(StudyError, match=r"30 with another patient: p\d+_1\.png \(") as refused:
        check(second, prepared, is_complete=is_complete)

    assert refused.value.exit_code == 5


def test_another_finding_is_another_label(root: Path, tmp_path: Path) -> None:
    table = {"file": "labels.csv", "image": "image", "patient": "who"}
    findings = {"table": table, "findings": ("Edema", "Effusion"), "classes": "binary"}
    settings = settings_of(root, **findings)
    settings = Settings.model_validate(
        {"name": "any", "task": "findings", "data": settings.data.model_dump()}
    )
    prepared, _ = prepare(settings, tmp_path / "cache")
    check(settings, prepared)

    write_table(root, TABLE.replace("p5_1.png,P5,ill,1,1", "p5_1.png,P5,ill,1,"))

    with pytest.raises(
        StudyError, match=r"p5_1\.png \(Edema 1, Effusion 1, now Edema 1, Effusion \?\)"
    ):
        check(settings, prepared)


def test_an_image_that_was_moved_to_another_class_folder_has_another_label(
    kermany: Path, tmp_path: Path
) -> None:
    """And it is gone from its own, which only a final training on more images may accept."""
    settings = Settings.model_validate({"name": "any", "data": {"path": kermany, "image_size": 32}})
    prepared, _ = prepare(settings, tmp_path / "cache")
    moved = kermany / "NORMAL" / "IM-0001-0001.jpeg"
    moved.rename(kermany / "PNEUMONIA" / moved.name)
    label = r"1 with another label: NORMAL/IM-0001-0001\.jpeg \(NORMAL, now PNEUMONIA\)"

    with pytest.raises(StudyError, match=rf"1 changed or gone: NORMAL/IM-0001-0001\.jpeg; {label}"):
        check(settings, prepared)
    with pytest.raises(StudyError, match=label):
        check(settings, prepared, is_complete=False)
    (kermany / "PNEUMONIA" / moved.name).unlink()
    check(settings, prepared, is_complete=False)
