"""A data folder is compared with what a study recorded of it, also of images it does not use."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import DataFolder
from xraytune.base.errors import StudyError
from xraytune.data.changes import require_same_data
from xraytune.data.prepare import SplitData, read_prepared, write_prepared
from xraytune.space.data_settings import DataSettings

PATIENTS = 30
ROWS = tuple(
    f"p{patient}_{image}.png,P{patient},{('well', 'ill')[patient % 2]},{patient % 2},{image}\n"
    for patient in range(PATIENTS)
    for image in range(2)
)
TABLE = "image,who,finding,Edema,Effusion\n" + "".join(ROWS)
UNNAMED = {"file": "labels.csv", "image": "image", "label": "finding"}
NAMED = UNNAMED | {"patient": "who"}
OF_FINDINGS: dict[str, Any] = {
    "table": {"file": "labels.csv", "image": "image", "patient": "who"},
    "findings": ("Edema", "Effusion"),
}


class HalfUsed(DataFolder):
    """Thirty patients of two classes; a study does not use half of them."""

    def settings(self, table: dict[str, str] = NAMED, **data: Any) -> DataSettings:
        used = {"train_patients": 6, "split": {"val_a": 0.2, "val_b": 0.2}}
        classes = "binary" if "findings" in data else "auto"
        return super().settings(table=table, classes=classes, **used, **data)

    def write_table(self, text: str) -> None:
        self.table(text, name="labels.csv")


@pytest.fixture
def root(xrays: DataFolder) -> HalfUsed:
    half_used = HalfUsed(xrays)
    half_used.images(row.partition(",")[0] for row in ROWS)
    half_used.write_table(TABLE)
    return half_used


@pytest.fixture
def recorded(root: HalfUsed, tmp_path: Path) -> SplitData:
    """As it is read from a study."""
    prepared, _ = root.prepared()
    assert prepared.unused
    write_prepared(prepared, tmp_path / "split.json")
    return read_prepared(tmp_path / "split.json")


def check(root: DataFolder, recorded: SplitData, *, is_complete: bool = True, **data: Any) -> None:
    require_same_data(recorded, root.index(**data), root, is_complete=is_complete)


@pytest.mark.parametrize("is_complete", [True, False])
def test_the_same_data_elsewhere_and_with_new_images_are_the_same(
    recorded: SplitData, root: HalfUsed, is_complete: bool
) -> None:
    copy = HalfUsed(shutil.copytree(root, root.parent / "copy"))
    copy.images("new.png")
    copy.write_table(TABLE + "new.png,Px,ill,1,0")

    check(root, recorded, is_complete=is_complete)
    check(copy, recorded, is_complete=is_complete)


@pytest.mark.parametrize("is_complete", [True, False])
@pytest.mark.parametrize("is_used", [True, False])
@pytest.mark.parametrize("change", ["renamed", "joined with one of another side", "another label"])
def test_other_patients_and_labels_are_refused_with_their_number(
    recorded: SplitData, root: HalfUsed, change: str, is_used: bool, is_complete: bool
) -> None:
    """Also those of a patient that the study does not use."""
    changed = recorded.images[0]
    other = recorded.unused[0]
    if not is_used:
        changed, other = other, changed
    name = changed.patient
    label, another = ("well", "ill") if int(name[1:]) % 2 == 0 else ("ill", "well")
    changes = {
        "renamed": f",Somebody,{label},",
        "joined with one of another side": f",{other.patient},{label},",
        "another label": f",{name},{another},",
    }
    root.write_table(TABLE.replace(f",{name},{label},", changes[change]))

    kind = "label" if change == "another label" else "patient"
    with pytest.raises(StudyError, match=rf"2 with another {kind}: {changed.file} \(") as refused:
        check(root, recorded, is_complete=is_complete)

    assert refused.value.exit_code == 5
    assert "start a study with another name" in str(refused.value)


def test_a_lost_patient_column_or_table_is_refused(recorded: SplitData, root: HalfUsed) -> None:
    with pytest.raises(StudyError, match=r"60 with another patient: p0_0\.png \(P0, now unnamed\)"):
        check(root, recorded, table=UNNAMED)


@pytest.mark.parametrize("is_complete", [True, False])
@pytest.mark.parametrize(("before", "now"), [(NAMED, UNNAMED), (UNNAMED, NAMED)])
def test_patients_called_like_their_first_image_are_compared_by_their_images(
    root: HalfUsed, before: dict[str, str], now: dict[str, str], is_complete: bool
) -> None:
    """Their names do not differ from those of images without a patient."""
    root.write_table(re.sub(r",P(\d+),", r",p\1_0.png,", TABLE))
    recorded, _ = root.prepared(table=before)
    check(root, recorded, is_complete=is_complete, table=before)

    with pytest.raises(StudyError, match=r"30 with another patient: p\d+_1\.png \(") as refused:
        check(root, recorded, is_complete=is_complete, table=now)

    assert refused.value.exit_code == 5


def test_another_finding_is_another_label(root: HalfUsed) -> None:
    recorded, _ = root.prepared(**OF_FINDINGS)
    check(root, recorded, **OF_FINDINGS)

    root.write_table(TABLE.replace("p5_1.png,P5,ill,1,1", "p5_1.png,P5,ill,1,"))

    label = r"p5_1\.png \(Edema 1, Effusion 1, now Edema 1, Effusion \?\)"
    with pytest.raises(StudyError, match=label):
        check(root, recorded, **OF_FINDINGS)


def test_an_image_that_was_moved_to_another_class_folder_has_another_label(
    kermany: DataFolder,
) -> None:
    """And it is gone from its own, which only a final training on more images may accept."""
    recorded, _ = kermany.prepared()
    moved = (kermany / "NORMAL/IM-0001-0001.jpeg").rename(kermany / "PNEUMONIA/IM-0001-0001.jpeg")
    label = r"1 with another label: NORMAL/IM-0001-0001\.jpeg \(NORMAL, now PNEUMONIA\)"

    with pytest.raises(StudyError, match=rf"1 changed or gone: NORMAL/IM-0001-0001\.jpeg; {label}"):
        check(kermany, recorded)
    with pytest.raises(StudyError, match=label):
        check(kermany, recorded, is_complete=False)
    moved.unlink()
    check(kermany, recorded, is_complete=False)
