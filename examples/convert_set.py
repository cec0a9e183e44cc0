"""Bring a public set into a form that xraytune reads.

Run it in the folder of the set, with its name:

    python convert_set.py mimic_cxr       # writes labels.csv, for the data file mimic_cxr.yaml
    python convert_set.py bimcv           # writes labels.csv, for the data file bimcv.yaml
    python convert_set.py pneumoniamnist  # writes pneumoniamnist/, with class folders
    python convert_set.py chestmnist      # writes chestmnist/, with data.yaml for findings
    python convert_set.py jsrt            # writes images/, in the size of the SCR masks

For another table with one row per study or patient, or another array with one label per image, change the names.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

FINDINGS = [
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural", "Hernia"),
]
"""The labels of ChestMNIST, in order."""


def join_mimic_cxr() -> None:
    """Join the labels of MIMIC-CXR-JPG, one row for each study, with the list of images."""
    images = pd.read_csv("mimic-cxr-2.0.0-split.csv.gz")
    labels = pd.read_csv("mimic-cxr-2.0.0-chexpert.csv.gz")
    images.merge(labels, on=["subject_id", "study_id"]).to_csv("labels.csv", index=False)


def join_bimcv() -> None:
    """Join the labels of BIMCV-COVID19, one row for each report, with the images."""
    images = pd.DataFrame({"file": [path.as_posix() for path in Path().rglob("*.png")]})
    images["ReportID"] = images["file"].str.extract(r"ses-(E\d+)")
    labels = pd.read_csv("derivatives/labels/labels_covid19_posi.tsv", sep="\t")
    images.merge(labels, on="ReportID").to_csv("labels.csv", index=False)


def convert_pneumoniamnist() -> None:
    """Write the arrays of PneumoniaMNIST, which have one label per image, as class folders."""
    with np.load("pneumoniamnist.npz") as arrays:
        for part in ("train", "val", "test"):
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
            assert labels.shape == (len(images), 1), "not one label per image: see chestmnist"
            for number, (pixels, label) in enumerate(zip(images, labels[:, 0], strict=True)):
                folder = Path("pneumoniamnist", part, ("NORMAL", "PNEUMONIA")[label])
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def convert_chestmnist() -> None:
    """Write the arrays of ChestMNIST, with 14 labels per image, as images, a table and a data file."""
    tables = []
    with np.load("chestmnist.npz") as arrays:
        for part in ("train", "val", "test"):
            Path("chestmnist", part).mkdir(parents=True)
            table = pd.DataFrame(arrays[f"{part}_labels"], columns=FINDINGS)
            table["file"] = [f"{part}/{number}.png" for number in range(len(table))]
            for file, pixels in zip(table["file"], arrays[f"{part}_images"], strict=True):
                Image.fromarray(pixels).save(Path("chestmnist", file))
            tables.append(table)
    pd.concat(tables).to_csv("chestmnist/labels.csv", index=False)
    Path("chestmnist/data.yaml").write_text(
        "data: {table: {file: labels.csv, image: file}, findings: auto}\n", encoding="utf-8"
    )


def convert_jsrt() -> None:
    """Write the raw images of JSRT in half their size, with white bones."""
    Path("images").mkdir(exist_ok=True)
    for file in Path("All247images").glob("*.IMG"):
        pixels = 4095 - np.fromfile(file, ">u2").reshape(1024, 2, 1024, 2).mean((1, 3))
        Image.fromarray(pixels.astype(np.uint16)).save(Path("images", f"{file.stem}.png"))


CONVERSIONS: dict[str, Callable[[], None]] = {
    "mimic_cxr": join_mimic_cxr,
    "bimcv": join_bimcv,
    "pneumoniamnist": convert_pneumoniamnist,
    "chestmnist": convert_chestmnist,
    "jsrt": convert_jsrt,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Convert a public set, in the current folder.")
    parser.add_argument("name", choices=CONVERSIONS)
    CONVERSIONS[parser.parse_args().name]()
