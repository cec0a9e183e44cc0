"""Write randomly transformed copies of the training images of a data folder, for `source: folder`.

    python examples/transform_folder.py chest_xray copies --copies 2 --augmentation affine --degrees 15

Copies keep the patient of their original in `patients.csv`, so that no patient is on two sides of a
split. The test folder is not read. `docs/spaces.md` describes what each `--augmentation` changes.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from xraytune.data.decoding import LARGEST_SIDE_PX, read_image
from xraytune.data.index import read_index
from xraytune.nets.inputs import augment, view_table
from xraytune.space.data_settings import DataSettings
from xraytune.space.load import data_settings
from xraytune.space.parameters import Augmentation, Parameters


def transform_folder(
    data: Path,
    out: Path,
    *,
    copies: int = 2,
    augmentation: Augmentation = "affine",
    degrees: float = 15,
    seed: int = 0,
) -> None:
    """Write `out/CLASS/STEM__tN.png`, each square and as large as the longer side of its original, and `patients.csv`."""
    index = read_index(data_settings(data, DataSettings(path=data)))
    parameters = Parameters(augmentation=augmentation, degrees=degrees, views=1)
    rows = []
    for image in index.images:
        original = (
            np.asarray(read_image(index.root / image.file, LARGEST_SIDE_PX).image, dtype=np.float32)
            / 255
        )
        side = max(original.shape)
        square = torch.zeros(1, 1, side, side)
        top, left = ((side - length) // 2 for length in original.shape)
        square[0, 0, top : top + original.shape[0], left : left + original.shape[1]] = (
            torch.from_numpy(original)
        )
        table = view_table(seed, "transform", image.file, image_count=copies, parameters=parameters)
        views = table[:, 0]
        for number, view in enumerate(torch.from_numpy(views), start=1):
            stem = "__".join(PurePosixPath(image.file).with_suffix("").parts)
            name = PurePosixPath(index.class_names[image.label], f"{stem}__t{number}.png")
            pixels = augment(square, view[None])[0, 0].mul(255).round().byte().numpy()
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(out / name)
            rows.append((name, image.patient))
    with (out / "patients.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("file", "patient"), *rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Write transformed copies of the training images of a data folder."
    )
    parser.add_argument(
        "data", type=Path, help="folder with one subfolder per class, as for xraytune search"
    )
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--copies", type=int, default=2, help="copies of each image")
    parser.add_argument("--augmentation", default="affine", choices=("flip", "affine", "trivial"))
    parser.add_argument("--degrees", type=float, default=15, help="largest rotation of affine")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    transform_folder(
        given.data,
        given.out,
        copies=given.copies,
        augmentation=given.augmentation,
        degrees=given.degrees,
        seed=given.seed,
    )
