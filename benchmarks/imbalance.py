"""What a rare class gains from weights, repeated images, a GAN and another hospital (docs/studies/opponents.md).

    make bench ONLY=imbalance DATA=chest_xray WEIGHTS=weights HOSPITAL_A=hospital_a PICTURES=docs/studies

`hospital_a` is that of `benchmarks/other_hospital.py`. `RARE=NORMAL` limits it to one rare class.

Plan, committed before the first run:

- Hospital B has one patient of the rare class for 20 of the other, NORMAL or PNEUMONIA in turn. Its
  training patients are five draws of 100 and 5 from Kermany's patients that A does not have;
  validation has the same shares. It is scored on all of the other patients.
- A linear head on a frozen MobileNetV2 at 128 px (lr .003), 216 steps with 32 real images, the epoch
  that is best on val-A.
- Arms: nothing; `weighted`, `oversample` and `focal`; repeated images of the rare class; a GAN of the
  draw's own patients (1,000 steps, after which its images are copies); A's statistics, and A's GAN with its classes, of the rare class;
  A's GAN of both classes with the labels of A's classifier. Extra images are .9 per real one, so that
  those of the rare class balance a step.
- Read-out: AUROC; area under the precision-recall curve and Brier score, both weighted so that the
  rare class has its share of 1 in 21; balanced accuracy at the threshold of validation. Mean difference
  from nothing, and its standard error over draws. The rare class is the positive one.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    roc_auc_score,
)

from benchmarks.figures import Figure, figure
from xraytune.base.figures import COLOURS, new_figure
from xraytune.base.files import read_json, write_json
from xraytune.base.records import ignore_progress
from xraytune.base.seeding import derive_seed
from xraytune.confirm.arms import Arm, replicate
from xraytune.confirm.sealed import choose_test, load_test_image_set
from xraytune.data.images import ImageFile
from xraytune.data.index import read_index
from xraytune.data.prepare import RunContext
from xraytune.nets.compute import choose_compute, configure_torch
from xraytune.space.domains import Value
from xraytune.space.fields import parameters_from
from xraytune.space.load import load_space
from xraytune.synth.donor import read_donor
from xraytune.trial.preflight import prepare_space
from xraytune.trial.training import TrialTraining

NEEDS = ("DATA", "WEIGHTS", "HOSPITAL_A", "PICTURES")
RARE = ("NORMAL", "PNEUMONIA")
DRAWS, COMMON_PATIENTS, RARE_PATIENTS = 5, 100, 5
POOL = 36
"""Patients of the rare class for the search's sides and all draws; 20 times as many of the other."""
VALIDATION_SHARE = 0.07
NOTHING = "nothing"
METRICS = ("AUROC", "AUPRC", "balanced accuracy", "Brier score")
NETWORK: Mapping[str, Value] = {"backbone": "mobilenet_v2", "trainable": "head", "lr": 3e-3}
RARE_ONLY: Mapping[str, Value] = {"synthetic_ratio": 0.9, "balance": "equal"}
OWN_GAN: Mapping[str, Value] = {"gan.image_size": 64, "gan.width": 16, "gan.steps": 1000}
Scores = dict[str, dict[str, dict[str, list[float]]]]
"""By rare class, arm and metric: of each draw."""


def measure() -> Iterator[Figure]:
    """Train the arms, write the scores beside the picture, draw it, and yield each difference.

    An arm is not trained again if its scores are there.
    """
    pictures = Path(os.environ["PICTURES"])
    kept = pictures / "imbalance.json"
    scores: Scores = read_json(kept)["scores"] if kept.exists() else {}
    for rare in RARE:
        if os.environ.get("RARE", rare) != rare:
            continue
        with TemporaryDirectory() as folder:
            hospital_b = _copy_hospital_b(Path(folder) / "b", rare)
            _score_arms(hospital_b, rare, scores.setdefault(rare, {}), kept, scores)
    _plot(scores, pictures / "imbalance.svg")
    for rare, by_arm in scores.items():
        for arm in by_arm.keys() - {NOTHING}:
            for metric in METRICS:
                mean, _ = _difference(by_arm, arm, metric)
                yield figure(f"imbalance: {rare} rare, {arm}", mean, metric, "")


def _copy_hospital_b(folder: Path, rare: str) -> Path:
    """Copy the images of B: `train` with one rare patient for 20 others, `test` with all others."""
    sent = {*read_donor(Path(os.environ["HOSPITAL_A"])).train_images}
    space = load_space(Path("other_hospital_cpu"), data=Path(os.environ["DATA"]))
    index = read_index(space.settings.data)
    of_a = {image.patient for image in index.images if image.sha256 in sent}
    images_of: dict[str, list[ImageFile]] = defaultdict(list)
    for image in index.images:
        if image.patient not in of_a:
            images_of[image.patient].append(image)
    used = dict.fromkeys(index.class_names, 0)
    order = sorted(images_of)
    np.random.default_rng(derive_seed(11, "imbalance") % 2**32).shuffle(order)
    for patient in order:
        class_name = index.class_names[images_of[patient][0].label]
        most = POOL if class_name == rare else 20 * POOL
        part = "train" if used[class_name] < most else "test"
        used[class_name] += 1
        for image in images_of[patient]:
            source = index.root / image.file
            target = folder / part / class_name / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return folder


def _score_arms(
    hospital_b: Path,
    rare: str,
    by_arm: dict[str, dict[str, list[float]]],
    kept: Path,
    scores: Scores,
) -> None:
    """Score each arm that is not known in all draws, and write the scores after each."""
    hospital_a = Path(os.environ["HOSPITAL_A"]).resolve()
    overrides = [
        f"generator.path={hospital_a}",
        f"data.train_patients={COMMON_PATIENTS + RARE_PATIENTS}",
        f"data.split={{val_a: {VALIDATION_SHARE}, val_b: {VALIDATION_SHARE}, seed: 7}}",
        f"data.positive={rare}",
        "final=null",
    ]
    space = load_space(
        Path("other_hospital_cpu"),
        overrides,
        data=hospital_b,
        weights_dir=Path(os.environ["WEIGHTS"]),
    )
    cache = Path("cache").resolve()
    prepared, _ = prepare_space(
        space, cache, skip_broken=True, note=lambda _: None, on_progress=ignore_progress
    )
    settings = space.settings
    sealed = choose_test(settings, prepared, replicates=DRAWS, planned_kind="draws")
    images = load_test_image_set(sealed, settings.data, cache)
    compute = choose_compute(gpus=0, threads=int(os.environ.get("THREADS", "2")))
    configure_torch(compute)
    positive = prepared.positive
    is_rare = images.targets == positive
    for name, arm in _arms(hospital_a).items():
        if name in by_arm:
            continue
        by_metric: dict[str, list[float]] = {metric: [] for metric in METRICS}
        for draw in range(DRAWS):
            experiment = replicate(arm, settings, draw, "draws")
            context = RunContext(
                prepared=sealed.prepared.of_draw(draw), cache=cache, compute=compute
            )
            training = TrialTraining(experiment, context)
            training.train_at_once()
            validated = training.validation_results()
            threshold = training.task.threshold(validated.labels, validated.results, positive)
            probability = training.results(images)[:, positive]
            for metric, value in _measure(is_rare, probability, threshold).items():
                by_metric[metric].append(value)
        by_arm[name] = by_metric
        write_json(kept, {"scores": scores})
        texts = []
        for metric in METRICS:
            mean, error = _difference(by_arm, name, metric)
            texts.append(f"{metric} {np.mean(by_metric[metric]):.4f} {mean:+.4f} ({error:.4f})")
        print(f"{rare} rare, {name}: {', '.join(texts)}", flush=True)


def _measure(
    is_rare: NDArray[np.bool_], probability: NDArray[np.float64], threshold: float
) -> dict[str, float]:
    """Return each metric; where the share of a class matters, the rare one has 1 in 21."""
    common = (~is_rare).sum()
    weights = np.where(is_rare, common / 20 / is_rare.sum(), 1.0)
    is_called = probability >= threshold
    recalls = (is_called[is_rare].mean(), (~is_called[~is_rare]).mean())
    return {
        "AUROC": float(roc_auc_score(is_rare, probability)),
        "AUPRC": float(average_precision_score(is_rare, probability, sample_weight=weights)),
        "balanced accuracy": float(np.mean(recalls)),
        "Brier score": float(brier_score_loss(is_rare, probability, sample_weight=weights)),
    }


def _arms(hospital_a: Path) -> dict[str, Arm]:
    generator: dict[str, Value] = {"source": "generator", "generator.path": str(hospital_a)}
    statistics: dict[str, Value] = {"source": "statistics", "statistics.path": str(hospital_a)}
    both: dict[str, Value] = {"synthetic_ratio": 0.9, "labels": "donor"}
    sources: dict[str, Mapping[str, Value]] = {
        NOTHING: {},
        "weighted": {"imbalance": "weighted"},
        "oversample": {"imbalance": "oversample"},
        "focal": {"imbalance": "focal"},
        "repeated images": {"source": "duplicate", **RARE_ONLY},
        "GAN of the same patients": {"source": "gan", **OWN_GAN, **RARE_ONLY},
        "A's statistics": {**statistics, **RARE_ONLY},
        "A's GAN": {**generator, **RARE_ONLY},
        "A's GAN, A's labels": {**generator, **both},
    }
    return {
        name: Arm(
            name=name,
            role="finalist",
            trial_label="#0",
            parameters=parameters_from({**NETWORK, **source}),
        )
        for name, source in sources.items()
    }


def _difference(
    by_arm: Mapping[str, Mapping[str, list[float]]], arm: str, metric: str
) -> tuple[float, float]:
    """Return the mean difference of an arm from nothing, and its standard error over draws."""
    differences = np.subtract(by_arm[arm][metric], by_arm[NOTHING][metric])
    return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))


def _plot(scores: Scores, picture: Path) -> None:
    """Draw the differences, a panel for each metric and a colour for each rare class."""
    names = [name for name in next(iter(scores.values())) if name != NOTHING]
    places = np.arange(len(names))[::-1]
    with new_figure((picture,), 3.2) as drawing:
        panels = drawing.subplots(1, len(METRICS), sharey=True)
        for axes, metric in zip(panels, METRICS, strict=True):
            axes.axvline(0, color="#444444", linewidth=0.6)
            for number, (rare, by_arm) in enumerate(scores.items()):
                found = [_difference(by_arm, name, metric) for name in names]
                axes.errorbar(
                    [mean for mean, _ in found],
                    places + 0.2 * (0.5 - number),
                    xerr=[2 * error for _, error in found],
                    fmt="o",
                    markersize=4,
                    color=COLOURS[number],
                    capsize=2,
                    label=f"{rare} rare",
                )
            better = " (less is better)" if metric == "Brier score" else ""
            axes.set_xlabel(f"{metric}{better}", size=8)
            axes.locator_params(axis="x", nbins=3)
            axes.tick_params(axis="x", labelsize=8)
        panels[0].set_yticks(places, names)
        handles, labels = panels[0].get_legend_handles_labels()
        drawing.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2)
