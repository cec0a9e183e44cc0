"""How many patients on val-A and val-B choose a good trial.

Random subsets of the patients are searches. Each trains 18 linear heads on features of a frozen
MobileNetV2: four mixes with images of other patients or a Gaussian of their features, the draw
alone, and repeated images, with three learning rates. The number of steps is chosen on val-A and
the head on val-B, or both in five folds of the training patients. The chosen head is scored on
everyone outside the subset.

    make bench ONLY=sides DATA=chest_xray WEIGHTS=weights PATIENTS=300 SIZES=25
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from benchmarks.draws import NEEDS, aurocs, read_hospitals
from benchmarks.figures import Figure, figure
from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import Floats, Labels

__all__ = ["NEEDS", "measure"]
_SUBSETS = int(os.environ.get("SUBSETS", "60"))
_PATIENTS = int(os.environ.get("PATIENTS", "300"))
_SIZE = int(os.environ.get("SIZES", "25").split()[0])
_SHARES = (0.2, 0.15, 0.1, 0.05)
_STEPS = (25, 50, 100, 200)
_BATCH, _MOMENTUM, _FOLDS = 16, 0.9, 5
_MIXES = (
    ("none", 0),
    ("duplicate", 2),
    *((a, r) for a in ("others", "statistics") for r in (1, 4)),
)
_TRIALS = [(*mix, lr) for mix in _MIXES for lr in (2e-4, 8e-4, 3e-3)]

Pools = Mapping[str, tuple[Floats, Labels]]


def measure() -> Iterator[Figure]:
    """Yield the AUROC of the chosen head for each way to choose it."""
    inputs, labels, patient_of_image, pools = read_hospitals()
    generator = numpy_generator(5, "sides")
    chosen = defaultdict(list)
    for _ in range(_SUBSETS):
        for way, score in _search(inputs, labels, patient_of_image, pools, generator).items():
            chosen[way].append(score)
    for way, scores in chosen.items():
        case = f"{way}, {_PATIENTS} patients, {_SIZE} trained on"
        yield figure(f"sides: AUROC of the chosen trial, {case}", float(np.mean(scores)), "AUROC")
        error = float(np.std(scores) / np.sqrt(len(scores)))
        yield figure(f"sides: its standard error, {case}", error, "AUROC")


def _search(
    inputs: Floats,
    labels: Labels,
    patient_of_image: Labels,
    pools: Pools,
    generator: np.random.Generator,
) -> dict[str, float]:
    """Return the AUROC, outside a random subset, of the head that each way chooses."""
    is_ill = np.zeros(patient_of_image.max() + 1, dtype=int)
    np.maximum.at(is_ill, patient_of_image, labels)

    def draw(count: int, among: Labels) -> Labels:
        """Draw patients, with the class shares of all."""
        parts = []
        for label in (0, 1):
            of_class = among[is_ill[among] == label]
            size = max(2, round(count * len(of_class) / len(among)))
            parts.append(generator.permutation(of_class)[:size])
        return np.concatenate(parts)

    def score(heads: Floats, members: Labels, *, outside: bool = False) -> Floats:
        is_scored = np.isin(patient_of_image, members) != outside
        return aurocs(heads @ inputs[is_scored].T, labels[is_scored])

    subset = draw(_PATIENTS, np.arange(len(is_ill)))
    trained = draw(_SIZE, subset)
    rest = np.setdiff1d(subset, trained)
    heads = _train_trials(trained, inputs, labels, patient_of_image, pools, generator)
    truth = score(heads, subset, outside=True)
    found = {"at random": float(truth[generator.integers(len(truth)), -1])}
    for share in _SHARES:
        val_a = draw(round(share * _PATIENTS), rest)
        val_b = draw(len(val_a), np.setdiff1d(rest, val_a))
        steps = score(heads, val_a).argmax(axis=1)
        of_best = score(heads, val_b)[np.arange(len(steps)), steps]
        best = of_best.argmax()
        found[f"{share:g} + {share:g}"] = float(truth[best, steps[best]])
    total = np.zeros_like(truth)
    fold_of = np.zeros(len(trained), dtype=int)
    for label in (0, 1):
        places = np.flatnonzero(is_ill[trained] == label)
        fold_of[places] = generator.permutation(len(places)) % _FOLDS
    for fold in range(_FOLDS):
        left_out = trained[fold_of == fold]
        if len({*is_ill[left_out].tolist()}) == 2:
            kept = trained[fold_of != fold]
            of_fold = _train_trials(kept, inputs, labels, patient_of_image, pools, generator)
            total += score(of_fold, left_out)
    found["five folds"] = float(truth.flat[total.argmax()])
    return found


def _train_trials(
    patients: Labels,
    inputs: Floats,
    labels: Labels,
    patient_of_image: Labels,
    pools: Pools,
    generator: np.random.Generator,
) -> Floats:
    """Return the weights of the head of each trial after each of `_STEPS`, [trials, steps, D]."""
    images = np.flatnonzero(np.isin(patient_of_image, patients))
    heads = []
    for arm, ratio, lr in _TRIALS:
        shown = [(inputs, labels, generator.choice(images, (_STEPS[-1], _BATCH)))]
        if arm == "duplicate":
            shown.append((inputs, labels, generator.choice(images, (_STEPS[-1], ratio * _BATCH))))
        elif arm in pools:
            pool, of_pool = pools[arm]
            rows = generator.integers(len(pool), size=(_STEPS[-1], ratio * _BATCH))
            shown.append((pool, of_pool, rows))
        heads.append(_train(shown, lr))
    return np.stack(heads)


def _train(shown: Sequence[tuple[Floats, Labels, Labels]], lr: float) -> Floats:
    """Return the weights of a logistic regression after each of `_STEPS`, [steps, D]."""
    weights = torch.zeros(shown[0][0].shape[1] + 1)
    velocity = torch.zeros_like(weights)
    kept = []
    for step in range(_STEPS[-1]):
        images = torch.cat([torch.from_numpy(of[rows[step]]) for of, _, rows in shown]).float()
        targets = torch.cat([torch.from_numpy(of[rows[step]]) for _, of, rows in shown])
        errors = (torch.sigmoid(images @ weights[:-1] + weights[-1]) - targets) / len(targets)
        velocity = _MOMENTUM * velocity
        velocity[:-1] += errors @ images
        velocity[-1] += errors.sum()
        weights = weights - lr * velocity
        if step + 1 in _STEPS:
            kept.append(weights[:-1].numpy().astype(np.float64))
    return np.stack(kept)
