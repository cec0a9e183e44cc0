"""The main job on real X-rays: `search_spaces/gan_ratio_cpu.yaml` from an empty cache, and what the exported model is worth.

Needs a folder of X-rays in Kaggle's layout and MobileNetV2's official weights:

    make bench ONLY=search_cpu DATA=chest_xray WEIGHTS=weights [KEEP=folder]

The exported configuration's val-B AUROC stands beside a logistic regression's on the same backbone's features of the same
real images, its strength chosen on val-A.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.figures import Figure, figure
from xraytune.data.prepare import RunContext, side_images
from xraytune.nets.compute import pin
from xraytune.space.load import load_space
from xraytune.space.settings import Experiment
from xraytune.study.folder import StudyFolder
from xraytune.study.status import status
from xraytune.trial.inputs import TrialInputs

_PROGRAM = str(Path(sys.executable).with_name("xraytune"))
_SPACE = Path("search_spaces/gan_ratio_cpu.yaml")
NEEDS = ("DATA", "WEIGHTS")


def measure() -> Iterator[Figure]:
    """The search, what it covered, and the exported model against a logistic regression."""
    data, weights = (Path(os.environ[name]) for name in NEEDS)
    with _folder() as folder:
        studies = folder / "studies"
        options = ["--data", str(data), "--weights-dir", str(weights), "--studies", str(studies)]
        started = time.perf_counter()
        subprocess.run([_PROGRAM, "search", "--space", str(_SPACE), *options], check=True)
        minutes = (time.perf_counter() - started) / 60
        study = StudyFolder(studies / load_space(_SPACE).settings.name)
        rows = status(study.path).trials
        yield figure("search_cpu: wall time from an empty cache", minutes, "min", "<= 20")
        yield figure("search_cpu: trials", len(rows), "trials", ">= 16")
        yield figure("search_cpu: failed trials", sum(row.status == "failed" for row in rows), "trials", "<= 0")
        yield figure(
            "search_cpu: ratios", len({row.parameters.synthetic_ratio for row in rows} - {0.0}), "ratios", ">= 3"
        )
        yield figure("search_cpu: sources", len({row.parameters.source for row in rows}), "sources", ">= 3")
        gans = {row.parameters.gan for row in rows if row.parameters.gan}
        yield figure("search_cpu: GAN settings", len(gans), "settings", ">= 2")

        best = folder / "best.yaml"
        command = [_PROGRAM, "export", str(study.path), "-o", str(best), "--json"]
        exported = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        ours = float(exported["val_b_score"])
        theirs = _logistic_regression(study, studies.parent / "cache", load_space(best).experiment())
        yield figure("search_cpu: val-B AUROC, logistic regression", theirs, "AUROC")
        yield figure("search_cpu: val-B AUROC, exported", ours, "AUROC", f">= {theirs - 0.005:.4f}")


@contextmanager
def _folder() -> Iterator[Path]:
    """An empty folder; KEEP names one that stays."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(os.environ.get("KEEP", folder))


def _logistic_regression(study: StudyFolder, cache: Path, exported: Experiment) -> float:
    """Val-B AUROC of a logistic regression on the frozen features of the study's real images, C chosen on val-A."""
    parameters = exported.parameters.model_copy(
        update={"source": "none", "synthetic_ratio": 0.0, "gan": None, "classical": 0, "trainable": "head"}
    )
    experiment = exported.model_copy(update={"parameters": parameters})
    prepared, compute = study.prepared(), study.compute()
    pin(compute)
    trial_inputs = TrialInputs(experiment, RunContext(prepared=prepared, cache=cache, compute=compute))

    def side(name: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        side = prepared.side(name)
        (features,) = trial_inputs.network.batches(side_images(name, prepared, cache))
        return features.numpy(), side.labels == prepared.positive

    (train, train_labels), (val_a, labels_a), (val_b, labels_b) = side("train"), side("val_a"), side("val_b")
    fits = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000)).fit(train, train_labels)
        for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    ]
    best = max(fits, key=lambda fit: roc_auc_score(labels_a, fit.decision_function(val_a)))
    return float(roc_auc_score(labels_b, best.decision_function(val_b)))
