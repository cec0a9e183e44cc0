"""The same fixed trials run by xraytune, by other tuners and by a script that shares work by hand, and a lower bound.

Trials train a GAN and a MobileNetV2, with four ratios, GANs of 500 and of 1,500 steps, and either
three learning rates with a frozen backbone or one with all layers. Networks, steps, batch sizes,
bfloat16 and two slots of one thread are the same for all. The others start from decoded, scaled and
split images; for xraytune, this work is part of the search.

Needs a folder of X-rays in Kaggle's layout and the folder with MobileNetV2's weights:

    make bench ONLY=peers DATA=chest_xray WEIGHTS=weights

SEARCH=frozen or SEARCH=layers runs one of the two searches.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.figures import Figure, figure
from benchmarks.peer_trial import BATCH, GAN, IMAGE_SIZE_PX
from xraytune.data.prepare import RunContext, prepare, side_image_set
from xraytune.nets.compute import configure_torch
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder
from xraytune.study.status import status
from xraytune.synth.sources.gan import trained_generator
from xraytune.trial.run import run_trial

NEEDS = ("DATA", "WEIGHTS")
_PROGRAM = str(Path(sys.executable).with_name("xraytune"))
_PEERS = {
    "ray": "Ray Tune",
    "optuna": "Optuna in processes",
    "hand_shared": "script that shares by hand",
}
_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    name: str
    trainable: str
    epochs: int
    gan: dict[str, int]
    lrs: tuple[float, ...]
    bar: float
    """Of peers that share nothing: their time over ours."""

    @property
    def grid(self) -> dict[str, list[Any]]:
        """The values of each parameter that varies between trials."""
        return {"ratio": [0.25, 0.5, 1.0, 2.0], "lr": list(self.lrs), "gan_steps": [500, 1500]}


_SEARCHES = (
    _Search(
        name="frozen backbone, 24 trials",
        trainable="head",
        epochs=4,
        gan={"image_size": 32, "width": 16},
        lrs=(1e-3, 3e-3, 1e-2),
        bar=10,
    ),
    _Search(
        name="all layers, 8 trials",
        trainable="all",
        epochs=3,
        gan={"image_size": 64, "width": 32},
        lrs=(3e-4,),
        bar=2.5,
    ),
)


def measure() -> Iterator[Figure]:
    """Yield the median of three searches by xraytune, each from an empty cache, and one run of each peer."""
    with tempfile.TemporaryDirectory() as name:
        for search in (one for one in _SEARCHES if os.environ.get("SEARCH", "") in one.name):
            yield from _compare(Path(name) / search.trainable, search)


def _compare(folder: Path, search: _Search) -> Iterator[Figure]:
    folder.mkdir(parents=True)
    space = _write_space(folder, search)
    seconds, ours = list[float](), dict[tuple[Any, ...], float]()
    for number in range(_ROUNDS):
        seconds.append(
            _run(
                [
                    _PROGRAM,
                    "search",
                    "--space",
                    str(space),
                    "--studies",
                    str(folder / f"{number}" / "studies"),
                ]
            )
        )
        study = StudyFolder(folder / f"{number}" / "studies" / "peers")
        ours = {
            (row.parameters.synthetic_ratio, row.parameters.lr, row.parameters.gan.steps): row.value
            for row in status(study.path).trials
            if row.parameters.gan and row.value is not None
        }
    median = statistics.median(seconds)
    yield figure(f"peers, {search.name}: xraytune", median, "s")
    limit = _limit_seconds(space, folder / "limit")
    yield figure(f"peers, {search.name}: lower bound", limit, "s")
    yield figure(f"peers, {search.name}: xraytune / lower bound", median / limit, "x", "<= 1.1")

    trials = {
        "common": {
            "data": str(_write_images(space, folder / "decoded")),
            "weights": str(next(Path(os.environ["WEIGHTS"]).glob("mobilenet_v2-*.pth")).resolve()),
            "trainable": search.trainable,
            "epochs": search.epochs,
            **{f"gan_{name}": value for name, value in search.gan.items()},
        },
        "grid": search.grid,
    }
    (folder / "trials.json").write_text(json.dumps(trials), encoding="utf-8")
    for peer, title in _PEERS.items():
        out = folder / f"{peer}.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.peer_tuners",
            peer,
            str(folder / "trials.json"),
            str(out),
        ]
        theirs_seconds = _run(command)
        theirs = {
            (point["ratio"], point["lr"], point["gan_steps"]): value
            for point, value in json.loads(out.read_text(encoding="utf-8"))
        }
        assert theirs.keys() == ours.keys(), "peers ran other trials"
        differences = [ours[point] - theirs[point] for point in ours]
        bar = 1.0 if peer == "hand_shared" else search.bar
        yield figure(f"peers, {search.name}: {title}", theirs_seconds, "s")
        yield figure(
            f"peers, {search.name}: {title} / xraytune", theirs_seconds / median, "x", f">= {bar:g}"
        )
        yield figure(
            f"peers, {search.name}: AUROC of xraytune minus {title}, mean",
            statistics.fmean(differences),
            "AUROC",
        )
        yield figure(
            f"peers, {search.name}: AUROC, largest difference from {title}",
            max(map(abs, differences)),
            "AUROC",
            "<= 0.01",
        )


def _run(command: list[str]) -> float:
    started = time.perf_counter()
    # Without a terminal, a search prints few lines; the other tuners print pages.
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
    )
    return time.perf_counter() - started


def _write_space(folder: Path, search: _Search) -> Path:
    """Write a space with all trials in `points_to_evaluate`."""
    gan, grid = GAN.model_dump(exclude_unset=True) | search.gan, search.grid
    space = {
        "name": "peers",
        "data": {
            "path": str(Path(os.environ["DATA"]).resolve()),
            "classes": "binary",
            "image_size": IMAGE_SIZE_PX,
            "train_patients": 200,
            "split": {"val_a": 0.1, "val_b": 0.1, "seed": 7},
        },
        "weights_dir": str(Path(os.environ["WEIGHTS"]).resolve()),
        "parameters": {
            "source": {"value": "gan"},
            "synthetic_ratio": {"values": grid["ratio"]},
            "gan": {
                "parameters": {
                    **{k: {"value": v} for k, v in gan.items()},
                    "steps": {"values": grid["gan_steps"]},
                }
            },
            "augmentation": {"value": "none"},
            "backbone": {"value": "mobilenet_v2"},
            "trainable": {"value": search.trainable},
            "batch_size": {"value": BATCH},
            "lr": {"values": grid["lr"]},
        },
        "budget": {"trials": math.prod(map(len, grid.values())), "max_epochs": search.epochs},
        "scheduler": {"name": "none"},
        "sampler": {"name": "random"},
        "resources": {"gpus_per_trial": 0, "cpus_per_trial": 1},
        "points_to_evaluate": [
            {"synthetic_ratio": ratio, "lr": lr, "gan.steps": steps}
            for ratio, lr, steps in product(*grid.values())
        ],
    }
    path = folder / "peers.yaml"
    path.write_text(yaml.safe_dump(space, sort_keys=False), encoding="utf-8")
    return path


def _write_images(space: Path, folder: Path) -> Path:
    """Write the study's train and val-A images as PNG files to class folders."""
    settings, cache = load_space(space).settings, space.parent / "0" / "cache"
    prepared, _ = prepare(settings, cache)
    for name, side in (("train", "train"), ("val", "val_a")):
        images = side_image_set(side, prepared, cache)
        for place, label in enumerate(prepared.side(side).labels):
            target = folder / name / prepared.class_names[label]
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(images.read(slice(place, place + 1)))[0]).save(
                target / f"{place}.png"
            )
    return folder


def _limit_seconds(space: Path, folder: Path) -> float:
    """Return the seconds that all distinct stages take with perfect packing.

    One process runs them one after another, without Ray; starting Python and importing torch are
    not counted. Only GANs use two threads, so they fill both slots and no slot idles until the last
    GAN is trained; the rest is divided by two.
    """
    loaded = load_space(space)
    settings, study = loaded.settings, StudyFolder(space.parent / "0" / "studies" / "peers")
    started = time.perf_counter()
    prepared, _ = prepare(settings, folder)
    preparing = time.perf_counter() - started
    compute = study.compute()
    configure_torch(compute)
    experiments = [study.experiment(row.number) for row in status(study.path).trials]
    training, rest = 0.0, 0.0
    context = RunContext(prepared=prepared, cache=folder, compute=compute)
    experiments.sort(key=lambda one: one.parameters.gan.steps if one.parameters.gan else 0)
    for number, experiment in enumerate(experiments):
        started = time.perf_counter()
        if experiment.parameters.gan:
            trained_generator(experiment.parameters.gan, context)
        training += time.perf_counter() - started
        started = time.perf_counter()
        trial_dir = folder / "trials" / str(number)
        run_trial(experiment, context, trial_dir=trial_dir)
        rest += time.perf_counter() - started
    return preparing + training + rest / 2
