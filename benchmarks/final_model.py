"""Is the final model better than the trial that it comes from? Three splits by patient of each set.

    make bench ONLY=final_model DATA=hospitals WEIGHTS=weights KEEP=kept

Each folder of DATA is a set in class folders, of which a fifth of the patients is kept aside in
turn, three times. On the others, four models are trained at 64 px, and scored on those kept aside:

- the trial: a head on a frozen MobileNetV2, on 80 % of them
- `final` alone: all layers, on 80 % of them
- `train`, which compares both by cross-validation and uses all patients
- logistic regression on the frozen features of all patients
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.figures import Figure, figure
from xraytune.base.arrays import Float32Array, Int64Array
from xraytune.data.index import read_index
from xraytune.data.prepare import RunContext, prepare, side_image_set
from xraytune.data.split import split_into_folds
from xraytune.model.folds import with_all_on_train
from xraytune.model.predict import predict
from xraytune.model.train import train
from xraytune.nets.compute import compute_here
from xraytune.space.load import load_space
from xraytune.space.settings import Experiment
from xraytune.trial.network import TrialNetwork
from xraytune.trial.saved_model import open_bundle

NEEDS = ("DATA", "WEIGHTS", "KEEP")
_PARTS = 5
_SPLITS = 3
_SPACE = """\
name: final
data: {path: train, image_size: 64, split: {val_a: 0.1, val_b: 0.1, seed: 7}}
budget: {max_epochs: 27}
parameters:
  backbone: {value: mobilenet_v2}
  trainable: {value: head}
  lr: {value: 3e-3}
"""
_FINAL = "{trainable: all, max_epochs: 3, augmentation: affine, degrees: 15, views: 8, "
_FINAL += "lr: 3e-4, optimizer: adamw, schedule: cosine}"
_ALL_LAYERS = """\
name: final
data: {path: train, image_size: 64, split: {val_a: 0.1, val_b: 0.1, seed: 7}}
budget: {max_epochs: 3}
parameters:
  backbone: {value: mobilenet_v2}
  trainable: {value: all}
  augmentation: {value: affine}
  degrees: {value: 15}
  views: {value: 8}
  lr: {value: 3e-4}
  optimizer: {value: adamw}
  schedule: {value: cosine}
"""
_EXACT = "exported_from: {study: none, trial: 0}\n"  # trained on the train side alone
_SPACES = {
    "trial": _SPACE + _EXACT,
    "final": _ALL_LAYERS + _EXACT,
    "train": f"{_SPACE}final: {_FINAL}\n",
}


def measure() -> Iterator[Figure]:
    """Train and score the models of each split, and yield their means over the splits."""
    keep = Path(os.environ["KEEP"]).resolve()
    for hospital in sorted(Path(os.environ["DATA"]).resolve().iterdir()):
        scores: list[dict[str, float]] = []
        for split in range(_SPLITS):
            folder = keep / hospital.name / f"{split}"
            if not folder.exists():
                _divide(hospital, folder, split)
            of_split: dict[str, float] = {}
            for name, text in _SPACES.items():
                of_split |= _scores(name, _predict(folder, name, text))
            of_split |= _scores("logistic regression", _predict_by_regression(folder))
            print(hospital.name, split, {name: round(value, 3) for name, value in of_split.items()})
            scores.append(of_split)
        table = pd.DataFrame(scores)
        for name in table:
            yield figure(f"final_model: {hospital.name}, {name}", table[name].mean(), "")
        for other in ("trial", "final", "logistic regression"):
            difference = table["train, AUROC"] - table[f"{other}, AUROC"]
            what = f"final_model: {hospital.name}, train - {other}"
            error = difference.std() / np.sqrt(_SPLITS)
            yield figure(f"{what}, AUROC", difference.mean(), "AUROC", f">= {-error:.4f}")
            yield figure(f"{what}, standard error", error, "AUROC")


def _divide(hospital: Path, folder: Path, split: int) -> None:
    """Copy a set's images to `train` and `test`, which has a fifth of the patients."""
    index = read_index(_experiment(folder, hospital).settings.data, pairs=False)
    sides = split_into_folds(index.images, _PARTS, seed=0)[split]
    for image, side in zip(index.images, sides, strict=True):
        part = "train" if side == "train" else "test"
        target = folder / part / index.class_names[image.label] / Path(image.file).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(hospital / image.file, target)


def _experiment(folder: Path, data: Path) -> Experiment:
    """Return the experiment of the trial, on a folder of images."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "trial.yaml"
    file.write_text(_SPACE, encoding="utf-8")
    return load_space(file, data=data, weights_dir=Path(os.environ["WEIGHTS"])).experiment()


def _predict(folder: Path, name: str, text: str) -> pd.DataFrame:
    """Return a model's predictions for the test images; train the model if it is not there."""
    model = folder / "models" / name
    if not model.exists():
        model.parent.mkdir(exist_ok=True)
        file = folder / f"{model.name}.yaml"
        file.write_text(text, encoding="utf-8")
        train(
            config=file,
            out=model,
            data=folder / "train",
            weights_dir=Path(os.environ["WEIGHTS"]),
            cache=folder / "cache",
            note=print,
        )
    predictions = model.with_suffix(".csv")
    if not predictions.exists():
        predict(model, folder / "test", out=predictions)
    record = open_bundle(model).record
    table = pd.read_csv(predictions)
    return pd.DataFrame(
        {
            "label": [record.positive in Path(file).parts for file in table["file"]],
            "probability": table[f"probability_{record.positive}"],
            "threshold": record.threshold,
        }
    )


def _predict_by_regression(folder: Path) -> pd.DataFrame:
    """Return the predictions of logistic regression on the frozen features of all patients."""
    features, labels = _features(folder, folder / "train")
    test_features, test_labels = _features(folder, folder / "test")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    probabilities = model.fit(features, labels).predict_proba(test_features)[:, 1]
    return pd.DataFrame({"label": test_labels, "probability": probabilities, "threshold": 0.5})


def _features(folder: Path, images: Path) -> tuple[Float32Array, Int64Array]:
    """Return the frozen features of a folder's images, and whether each is positive."""
    experiment = _experiment(folder, images)
    cache = folder / "cache"
    prepared, _ = prepare(experiment.settings, cache)
    compute = compute_here(experiment.settings)
    context = RunContext(prepared=with_all_on_train(prepared), cache=cache, compute=compute)
    image_set = side_image_set("train", context.prepared, cache)
    features = TrialNetwork(experiment, context).plain_features(image_set)
    return features, (image_set.labels == prepared.positive).astype(np.int64)


def _scores(name: str, table: pd.DataFrame) -> dict[str, float]:
    """Return the scores of predictions, at the threshold and with it moved halfway to 0.5."""
    halfway = (table["threshold"] + 0.5) / 2
    return {
        f"{name}, AUROC": roc_auc_score(table["label"], table["probability"]),
        **{
            f"{name}, balanced accuracy{where}": balanced_accuracy_score(
                table["label"], table["probability"] >= threshold
            )
            for where, threshold in {
                "": table["threshold"],
                " halfway to .5": halfway,
                " at .5": 0.5,
            }.items()
        },
    }
