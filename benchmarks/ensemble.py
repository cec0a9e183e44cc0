"""Is the mean of several final models better than one? AUROC and Brier score of 1, 3 and 5 networks.

    make bench ONLY=ensemble DATA=chest_xray WEIGHTS=weights CONFIG=best.yaml KEEP=kept

CONFIG is what `export --exact` writes. `train` trains it with five seeds, on one split, in KEEP/NUMBER; what
is done is not trained again. `predict` then gives the probabilities of val-B and of DATA/test. The
figures of one network and of three are means over all choices among the five.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, roc_auc_score

from benchmarks.figures import Figure, figure
from xraytune.trial.saved_model import open_bundle

NEEDS = ("DATA", "WEIGHTS", "CONFIG", "KEEP")
_MEMBERS = 5
_POSITIVE = "PNEUMONIA"


def measure() -> Iterator[Figure]:
    """Train the members, and yield the scores of one, three and five."""
    keep = Path(os.environ["KEEP"]).resolve()
    data = Path(os.environ["DATA"]).resolve()
    models = [_model(keep / f"{number}", seed=number) for number in range(1, _MEMBERS + 1)]
    folders = {"val-B": _val_b(models[0], data, keep / "val_b"), "test": data / "test"}
    for name, images in folders.items():
        tables = [_predicted(model, images, name) for model in models]
        is_positive = np.array([_POSITIVE in Path(file).parts for file in tables[0]["file"]])
        members = np.stack([table[f"probability_{_POSITIVE}"].to_numpy() for table in tables])
        for size in (1, 3, _MEMBERS):
            choices = [members[list(chosen)] for chosen in combinations(range(_MEMBERS), size)]
            yield from _scores(f"ensemble: {size} on {name}", is_positive, choices)


def _scores(
    name: str, is_positive: NDArray[np.bool_], choices: list[NDArray[np.float64]]
) -> Iterator[Figure]:
    means = [chosen.mean(axis=0) for chosen in choices]
    aurocs = [roc_auc_score(is_positive, mean) for mean in means]
    briers = [brier_score_loss(is_positive, mean) for mean in means]
    yield figure(f"{name}, AUROC", float(np.mean(aurocs)), "AUROC")
    yield figure(f"{name}, Brier score", float(np.mean(briers)), "")


def _model(folder: Path, seed: int) -> Path:
    """Return the model of a seed; train it if it has not been trained yet."""
    if not folder.exists():
        _run("train", "--config", os.environ["CONFIG"], "-o", folder, "--set", f"seed={seed}")
    return folder


def _val_b(model: Path, data: Path, folder: Path) -> Path:
    """Copy the images of val-B, which no member was trained on, to class folders."""
    prepared = open_bundle(model).prepared()
    for image in prepared.images:
        if image.side == "val_b":
            target = folder / prepared.class_names[image.label] / Path(image.file).name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data / image.file, target)
    return folder


def _predicted(model: Path, images: Path, name: str) -> pd.DataFrame:
    table = model.with_name(f"{model.name}-{name}.csv")
    if not table.exists():
        _run("predict", model, images, "-o", table)
    return pd.read_csv(table)


def _run(command: str, *arguments: object) -> None:
    words = [command, *map(str, arguments)]
    if command == "train":
        words += ["--data", os.environ["DATA"], "--weights-dir", os.environ["WEIGHTS"]]
        words += ["--cache", str(Path(os.environ["KEEP"]).resolve() / "cache")]
    subprocess.run([sys.executable, "-m", "xraytune", *words], check=True, stdout=sys.stderr)
