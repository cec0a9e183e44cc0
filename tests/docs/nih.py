"""ChestX-ray14 in small: its folders, label table and lists, with images that a classifier can learn."""

from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from xraytune.base.seeding import numpy_generator


def draw(path: Path, *, is_bright: bool) -> None:
    """A small image of its own; the ill are brighter, so that a classifier has something to learn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = numpy_generator(0, str(path.name), str(path.parent)).integers(
        0, 120, (40, 40), dtype=np.uint8
    )
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
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    )
    header += ",OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    for file, lines in {"Data_Entry_2017.csv": [header, *rows], **lists}.items():
        (root / file).write_text("\n".join(lines), encoding="utf-8")
