"""ChestX-ray14 by its label table and the shipped data file, from the inspection to the metrics of the test side."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.spaces import EXPERIMENT
from tests.in_process import command, said
from xraytune.base.seeding import numpy_generator

SHIPPED = Path(__file__).resolve().parents[2] / "search_spaces" / "data" / "nih_chestxray14.yaml"


def draw(path: Path, *, is_bright: bool) -> None:
    """A small image of its own; the ill are brighter, so that a classifier has something to learn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = numpy_generator(0, str(path.name), str(path.parent)).integers(0, 120, (40, 40), dtype=np.uint8)
    Image.fromarray(grey + np.uint8(100 * is_bright)).save(path)


def nih(root: Path) -> None:
    """20 patients with two X-rays each, in two image folders; the last 6 are the official test patients."""
    rows: list[str] = []
    lists: dict[str, list[str]] = {"train_val_list.txt": [], "test_list.txt": []}
    for patient, visit in product(range(1, 21), range(2)):
        name, is_ill = f"{patient:08d}_{visit:03d}.png", patient % 2 == 0
        draw(root / f"images_{1 + patient // 11:03d}" / "images" / name, is_bright=is_ill)
        labels = "Infiltration|Pneumonia" if is_ill else "No Finding"
        labels = "Cardiomegaly" if patient == 1 and visit else labels
        rows.append(f"{name},{labels},{visit},{patient},{50 + patient},F,PA,2500,2048,0.14,0.14,")
        lists["test_list.txt" if patient > 14 else "train_val_list.txt"].append(name)
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    header += ",OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    for file, lines in {"Data_Entry_2017.csv": [header, *rows], **lists}.items():
        (root / file).write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.slow
def test_model_is_trained_and_evaluated_by_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the inspection to the metrics of the test side; a table of the same patients is recognised."""
    monkeypatch.chdir(tmp_path)
    Path("fixed.yaml").write_text(EXPERIMENT, encoding="utf-8")
    nih(tmp_path / "CXR8")
    file = Path(shutil.copy(SHIPPED, tmp_path / "CXR8"))

    found = said("data", "inspect", file)
    trained = command("train", "--config", "fixed.yaml", "--data", file, "-o", "model")
    assert trained.exit_code == 0, trained.stderr
    on_test = said("evaluate", "model", "--data", file)

    assert (found["class_names"], found["positive"], found["broken"]) == (["NORMAL", "PNEUMONIA"], "PNEUMONIA", [])
    assert found["images"]["train"] == {"NORMAL": 13, "PNEUMONIA": 14}
    assert on_test["class_counts"] == {"NORMAL": 6, "PNEUMONIA": 6}
    assert (on_test["patients"], on_test["known_patients"]) == (6, 0)
    assert (on_test["opened_test"], on_test["test_access"]) == (True, 1)

    file.write_text("\n".join(line for line in file.read_text().splitlines() if "side:" not in line), encoding="utf-8")
    on_all = said("evaluate", "model", "--data", file)

    assert on_all["class_counts"] == {"NORMAL": 19, "PNEUMONIA": 20}
    assert (on_all["known_patients"], on_all["known_images"], on_all["opened_test"]) == (14, 27, False)
