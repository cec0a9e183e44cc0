r"""Whether verdicts from 300 real patients hold, where everybody outside a draw scores it.

Random subsets of the patients are hospitals. Each has a whole confirmation of ten replicates: linear
heads on a frozen MobileNetV2, trained on draws of 25, 60 or 120 patients. Four arms are compared with
training on the draw alone: the same with other seeds, repeated images, images of other patients,
and a Gaussian of their features. The truth is the mean over all draws of all subsets, scored on the
patients outside the subset. A subset has a share of these patients, and the variance of its error
is smaller by this share than it would be with patients without number; coverage is corrected for it.

Half-widths are compared with those of disjoint draws, whose patients are not scored.

    make bench ONLY=draws DATA=chest_xray WEIGHTS=weights
    make bench ONLY=draws DATA=nih WEIGHTS=weights SET="data.classes=auto data.split.group_regex=(\d+)_.*" PATIENTS=150 SIZES=25
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import Figure, figure
from benchmarks.simulated_studies import draw_in_turn
from xraytune.base.records import Compute, ignore_progress
from xraytune.base.seeding import numpy_generator
from xraytune.data.images import SideName
from xraytune.data.prepare import RunContext, side_image_set
from xraytune.nets.compute import configure_torch
from xraytune.space.fields import parameters_from
from xraytune.space.settings import Experiment
from xraytune.stats.classification import Flags, Floats, Labels
from xraytune.stats.placements import StructuralComponents, mean_overlap, outside_components
from xraytune.stats.verdict import LEVEL, estimate_evidence, p_values, score_interval
from xraytune.trial.network import TrialNetwork
from xraytune.trial.preflight import open_space, prepare_space

NEEDS = ("DATA", "WEIGHTS")
_SPACE = Path("search_spaces/gan_ratio_cpu.yaml")
_BACKBONE = parameters_from({"backbone": "mobilenet_v2", "trainable": "head"})
_SUBSETS = int(os.environ.get("SUBSETS", "200"))
_PATIENTS = int(os.environ.get("PATIENTS", "300"))
_SIZES = [int(size) for size in os.environ.get("SIZES", "25 60 120").split()]
_REPLICATES = 10
_OTHERS_SHARE = 1 / 6
"""Of the patients, those of the other hospital."""
_COMPONENTS = 128
"""Principal components of the other hospital's features that heads are trained on."""
ROPE = 0.01
"""The gain that is worth it; an interval that is above 0, or below this gain, is decided."""
_STEPS, _BATCH, _RATIO, _LR, _MOMENTUM = 100, 16, 2, 8e-4, 0.9
_ARMS = ("none", "other seeds", "duplicate", "others", "statistics")
_AT_ONCE = 10

Draws = Sequence[Sequence[int]]


def measure() -> Iterator[Figure]:
    """Yield coverage and half-widths for each size of the draws."""
    inputs, labels, patient_of_image, extra = read_hospitals()
    for size in _SIZES:
        yield from _subsets(inputs, labels, patient_of_image, extra, size)


def read_hospitals() -> tuple[Floats, Labels, Labels, Mapping[str, tuple[Floats, Labels]]]:
    """Return inputs of heads, labels and patients of one hospital, and what the other one sends."""
    features, labels, patients = _read_features()
    generator = numpy_generator(5, "hospitals")
    names = generator.permutation(np.unique(patients))
    is_other = np.isin(patients, names[: round(_OTHERS_SHARE * len(names))])
    others = features[is_other]
    centred = (features - others.mean(axis=0)) / (others.std(axis=0) + 1e-6)
    _, _, axes = np.linalg.svd(centred[is_other], full_matrices=False)
    inputs = centred @ axes[:_COMPONENTS].T
    extra = {
        "others": (inputs[is_other], labels[is_other]),
        "statistics": _sample_gaussians(inputs[is_other], labels[is_other]),
    }
    _, patient_of_image = np.unique(patients[~is_other], return_inverse=True)
    return inputs[~is_other], labels[~is_other], patient_of_image, extra


def _read_features() -> tuple[Floats, Labels, np.ndarray[tuple[int], np.dtype[np.str_]]]:
    """Return the features, labels and patients of all images."""
    data, weights = (Path(os.environ[name]) for name in NEEDS)
    compute = Compute(device="cpu", threads=1, precision="float32")
    configure_torch(compute)
    overrides = ["data.train_patients=null", *os.environ.get("SET", "").split()]
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(os.environ.get("KEEP", folder))
        space = open_space(_SPACE, overrides, data=data, weights_dir=weights)
        prepared, _ = prepare_space(
            space, cache, skip_broken=True, note=print, on_progress=ignore_progress
        )
        context = RunContext(prepared=prepared, cache=cache, compute=compute)
        network = TrialNetwork(Experiment(settings=space.settings, parameters=_BACKBONE), context)
        sides: tuple[SideName, ...] = ("train", "val_a", "val_b")
        features = [network.plain_features(side_image_set(side, prepared, cache)) for side in sides]
        tables = [prepared.side(side) for side in sides]
        return (
            np.concatenate(features).astype(np.float64),
            np.concatenate([table.labels for table in tables]),
            np.concatenate([table.patients for table in tables]),
        )


def _sample_gaussians(inputs: Floats, labels: Labels) -> tuple[Floats, Labels]:
    """Return a thousand samples of a Gaussian of each class's features, with their labels."""
    generator = numpy_generator(5, "statistics")
    drawn = generator.choice(labels, 1000)
    samples = np.zeros((len(drawn), inputs.shape[1]))
    for label in (0, 1):
        of_class = inputs[labels == label]
        covariance = np.cov(of_class.T)
        covariance = 0.95 * covariance + 0.05 * np.diag(np.diag(covariance))
        places = np.flatnonzero(drawn == label)
        samples[places] = generator.multivariate_normal(
            of_class.mean(axis=0), covariance, len(places), method="cholesky"
        )
    return samples, drawn


def _subsets(
    inputs: Floats,
    labels: Labels,
    patient_of_image: Labels,
    extra: Mapping[str, tuple[Floats, Labels]],
    size: int,
) -> Iterator[Figure]:
    """Yield the figures of one size of the draws."""
    population = int(patient_of_image.max()) + 1
    images = [np.flatnonzero(patient_of_image == patient) for patient in range(population)]
    is_ill = np.array([labels[places].max() for places in images])
    gains = []
    pairs = defaultdict(list)
    for start in range(0, _SUBSETS, _AT_ONCE):
        subsets: list[tuple[Labels, Draws]] = []
        for number in range(start, min(start + _AT_ONCE, _SUBSETS)):
            subsets.append(_draw_subset(is_ill, size, number))
        trained = [
            np.concatenate([images[patient] for patient in draw])
            for _, draws in subsets
            for draw in draws
        ]
        seeds = [start * _REPLICATES + number for number in range(len(trained))]
        heads = np.stack([_train(arm, trained, seeds, inputs, labels, extra) for arm in _ARMS])
        for number, (members, draws) in enumerate(subsets):
            of_subset = heads[:, number * _REPLICATES : (number + 1) * _REPLICATES]
            is_member = np.isin(patient_of_image, members)
            outside = aurocs(of_subset @ inputs[~is_member].T, labels[~is_member])
            gains.append((outside - outside[:1]).mean(axis=1))
            places = np.flatnonzero(is_member)
            scores = of_subset @ inputs[places].T
            for design, components in _measure(
                scores, labels[places], patient_of_image[places], draws
            ).items():
                pairs[design].append(components)
    truth = np.mean(gains, axis=0)
    remaining = np.sqrt(1 - _PATIENTS / population)
    widths = defaultdict(list)
    for design, of_design in pairs.items():
        for place, arm in enumerate(_ARMS[1:], start=1):
            evidence = [estimate_evidence(each.pair(place, 0)) for each in of_design]
            estimates = np.array([each.difference for each in evidence])
            supposed = estimates - (estimates - truth[place]) / remaining
            covered = [
                min(map(float, p_values(each, value))) >= LEVEL / 2
                for each, value in zip(evidence, supposed, strict=True)
            ]
            intervals = [score_interval(each) for each in evidence[:50]]
            decided = [each.low > 0 or each.high < ROPE for each in intervals]
            widths[design].append(np.mean([each.high - each.low for each in intervals]) / 2)
            case = f"{arm}, draws of {size} of {_PATIENTS}, {design}"
            bar = ">= 0.93" if design == "outside" else ""
            yield figure(f"draws: coverage, {case}", float(np.mean(covered)), "share", bar)
            yield figure(f"draws: half-width, {case}", float(widths[design][-1]), "AUROC")
            yield figure(f"draws: SD of the estimate, {case}", float(estimates.std()), "AUROC")
            yield figure(f"draws: true gain, {case}", float(truth[place]), "AUROC")
            yield figure(f"draws: decided, {case}", float(np.mean(decided)), "share")
    for design, bar in (("four disjoint", "<= 0.75"), ("ten disjoint", "<= 0.6")):
        if design in widths:
            ratio = float(np.mean(np.divide(widths["outside"], widths[design])))
            name = f"draws: half-width relative to {design} draws, draws of {size} of {_PATIENTS}"
            yield figure(name, ratio, "ratio", bar)


def _draw_subset(is_ill: Labels, size: int, number: int) -> tuple[Labels, Draws]:
    """Return the patients of a subset and its draws, each with the class shares of all patients."""
    generator = numpy_generator(5, "subset", size, number)
    members = []
    draws: list[list[int]] = [[] for _ in range(_REPLICATES)]
    for label in (0, 1):
        of_class = np.flatnonzero(is_ill == label)
        share = len(of_class) / len(is_ill)
        chosen = generator.choice(of_class, round(_PATIENTS * share), replace=False)
        members += chosen.tolist()
        in_turn = draw_in_turn(generator, len(chosen), round(size * share), _REPLICATES)
        for draw, places in zip(draws, in_turn, strict=True):
            draw += chosen[places].tolist()
    return np.array(members), draws


def _measure(
    scores: Floats, labels: Labels, patient_of_image: Labels, draws: Draws
) -> dict[str, StructuralComponents]:
    """Return all arms of one subset, scores [A, K, N], measured as each design does."""
    is_drawn = np.stack([np.isin(patient_of_image, draw) for draw in draws])
    designs = {"outside": _components(scores, is_drawn, labels, patient_of_image, draws)}
    for name, count in (("four disjoint", 4), ("ten disjoint", 10)):
        left = ~is_drawn[:count].any(axis=0)
        if sum(map(len, draws[:count])) < 0.95 * _PATIENTS and left.any():
            chosen = scores[:, :count, left]
            nobody = np.zeros(chosen.shape[1:], dtype=bool)
            designs[name] = _components(chosen, nobody, labels[left], patient_of_image[left], [])
    return designs


def _components(
    scores: Floats, is_drawn: Flags, labels: Labels, patient_of_image: Labels, draws: Draws
) -> StructuralComponents:
    results = np.where(is_drawn, np.nan, scores).reshape(-1, len(labels))
    names = [f"{patient:05d}" for patient in patient_of_image]
    overlap = mean_overlap([[f"{patient}" for patient in draw] for draw in draws]) if draws else 0.0
    found = outside_components(labels, np.stack([-results, results], axis=2), names, 1, overlap)
    return found.by_arm(len(scores))


def aurocs(scores: Floats, labels: Labels) -> Floats:
    """Return the AUROC of each head, [A, K]."""
    ordered = labels[np.argsort(scores, axis=-1)]
    ill_count = labels.sum()
    ranks = (ordered * np.arange(1, len(labels) + 1)).sum(axis=-1)
    pairs = ill_count * (len(labels) - ill_count)
    return np.asarray((ranks - ill_count * (ill_count + 1) / 2) / pairs)


def _train(
    arm: str,
    trained: Sequence[Labels],
    seeds: Sequence[int],
    inputs: Floats,
    labels: Labels,
    extra: Mapping[str, tuple[Floats, Labels]],
) -> Floats:
    """Return the weights of logistic regressions, [M, D], each trained on some of the images."""
    purpose = "other seeds" if arm == "other seeds" else "replicate"
    generators = [numpy_generator(seed, purpose) for seed in seeds]
    chosen = [
        generator.choice(places, (_STEPS, _BATCH))
        for places, generator in zip(trained, generators, strict=True)
    ]
    shown = [(inputs, labels, np.stack(chosen))]
    if arm == "duplicate":
        chosen = [
            generator.choice(places, (_STEPS, _RATIO * _BATCH))
            for places, generator in zip(trained, generators, strict=True)
        ]
        shown.append((inputs, labels, np.stack(chosen)))
    elif arm in extra:
        pool, pool_labels = extra[arm]
        chosen = [
            generator.integers(len(pool), size=(_STEPS, _RATIO * _BATCH))
            for generator in generators
        ]
        shown.append((pool, pool_labels, np.stack(chosen)))
    weights = torch.zeros(len(trained), inputs.shape[1] + 1)
    velocity = torch.zeros_like(weights)
    for step in range(_STEPS):
        batches = [torch.from_numpy(pool[rows[:, step]]) for pool, _, rows in shown]
        images = torch.cat(batches, 1).float()
        targets = torch.cat([torch.from_numpy(of[rows[:, step]]) for _, of, rows in shown], 1)
        logits = torch.bmm(images, weights[:, :-1, None])[..., 0] + weights[:, -1:]
        errors = (torch.sigmoid(logits) - targets) / targets.shape[1]
        gradient = torch.bmm(errors[:, None], images)[:, 0]
        velocity = _MOMENTUM * velocity
        velocity[:, :-1] += gradient
        velocity[:, -1] += errors.sum(1)
        weights = weights - _LR * velocity
    return weights[:, :-1].numpy().astype(np.float64)
