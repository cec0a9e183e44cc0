"""Which rule sets the decision threshold: frozen MobileNetV2 heads, trained on random splits of real X-rays.

Needs a folder of X-rays in Kaggle's layout and MobileNetV2's official weights:

    make bench ONLY=threshold DATA=chest_xray WEIGHTS=weights [KEEP=folder]

Each split divides the training images by patient into train, val-A and val-B; the patients outside all three are held
back. xraytune's own loop trains the head, val-A chooses the epoch, and each rule turns the scores of the validation sides
into a threshold. The rule was chosen by balanced accuracy on the held-back patients; only the chosen rule is scored on
the folder's `test`. Five to fifteen minutes on two cores.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import expit, logit  # type: ignore[import-untyped]
from sklearn.metrics import roc_curve

from benchmarks.figures import Figure, figure
from xraytune.compute import choose_compute, pin
from xraytune.config.load import load_space
from xraytune.config.settings import Experiment, SplitSettings
from xraytune.data.index import ImageFile, read_index, read_labelled_folder
from xraytune.data.pixels import open_pixels
from xraytune.data.split import split_by_patient
from xraytune.metrics.classification import Flags, Floats
from xraytune.metrics.threshold import balanced_threshold
from xraytune.mix.sampler import image_stream
from xraytune.models.checkpoint import load_best
from xraytune.models.classifier import build_classifier, build_head
from xraytune.models.inputs import input_format, normalise, to_unit
from xraytune.models.train import Training, predict_logits, predict_probabilities, train_network, validate_classifier
from xraytune.pipeline.model import pretrained_weights
from xraytune.pipeline.prepare import require_unbroken, store_images
from xraytune.records import Compute
from xraytune.seeding import numpy_generator

_SPACE = Path("search_spaces/gan_ratio_cpu.yaml")
_PATIENTS = (40, 100, 200, 500, 1000)
_SPLITS = 20
_SHARES = {"10 % sides": 0.1, "tiny sides": 0.008}
"""Of the images, in val-A and in val-B: the default, and about 42 images as a tiny data set has."""
_LR = (3e-4, 3e-2)
"""As the space searches it; each split draws one."""
_RESAMPLES = 100
_SHRINKAGE = 10
"""Patients of the smaller class at which the shrunk rule lies midway between the calibrated one and one half."""
_CHOSEN = "calibrated, A+B"
"""Chosen before `test` was scored. On the held-back patients its mean gain is the largest with 10 % sides, within .0003 of
the largest with tiny ones, and above 0 for every training size; it has no constant to tune."""
NEEDS = ("DATA", "WEIGHTS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Images of one side: whether each is positive, its probability, its patient."""

    is_positive: Flags
    scores: Floats
    patients: NDArray[np.str_]

    def __add__(self, other: Scored) -> Scored:
        """Both sides together."""
        return Scored(
            is_positive=np.concatenate([self.is_positive, other.is_positive]),
            scores=np.concatenate([self.scores, other.scores]),
            patients=np.concatenate([self.patients, other.patients]),
        )

    def take(self, places: NDArray[np.int64]) -> Scored:
        """Some of the images, each as often as it is named."""
        return Scored(is_positive=self.is_positive[places], scores=self.scores[places], patients=self.patients[places])

    def balanced_accuracy(self, threshold: float) -> float:
        """Mean of sensitivity and specificity."""
        is_called = self.scores >= threshold
        return float((is_called[self.is_positive].mean() + (~is_called)[~self.is_positive].mean()) / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One trained head on all images that it did not learn from."""

    val_a: Scored
    val_b: Scored
    held_back: Scored
    test: Scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Features and labels of a folder's images, the training images first, then those of `test`."""

    experiment: Experiment
    images: tuple[ImageFile, ...]
    features: NDArray[np.float32]
    is_positive: Flags
    patients: NDArray[np.str_]
    compute: Compute

    def run(self, train_patients: int, share: float, seed: int) -> Run:
        """Split, train, and score every image."""
        split = split_by_patient(self.images, SplitSettings(val_a=share, val_b=share, seed=seed), train_patients)
        low, high = _LR
        lr = float(np.exp(numpy_generator(seed, "lr").uniform(np.log(low), np.log(high))))
        parameters = self.experiment.parameters.model_copy(update={"lr": lr})
        train, val_a = np.array(split.train), np.array(split.val_a)
        stream = image_stream(seed, "real", image_count=len(train), per_step=parameters.batch_size, view_count=1)
        labels = self.is_positive.astype(np.int64)

        def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
            chosen = train[stream(step).positions]
            return torch.from_numpy(self.features[chosen]), torch.from_numpy(labels[chosen])

        head = build_head(parameters, self.features.shape[1], 2, seed=seed)
        with tempfile.TemporaryDirectory() as checkpoint:
            epochs = train_network(
                Training(
                    parameters=parameters,
                    network=head,
                    batch=batch,
                    loss=F.cross_entropy,
                    norm_batches=list,  # a head has no batch norm
                    max_epochs=self.experiment.settings.budget.max_epochs,
                    steps_per_epoch=max(8, -(-len(train) // 32)),
                    seed=seed,
                    compute=self.compute,
                    checkpoint_dir=Path(checkpoint),
                ),
                validate=lambda network: validate_classifier(
                    network, [torch.from_numpy(self.features[val_a])], labels[val_a], positive=1, compute=self.compute
                ),
            )
            for _ in epochs:
                pass
            load_best(Path(checkpoint), head)
        scores = predict_probabilities(head, [torch.from_numpy(self.features)], compute=self.compute)[:, 1]
        used = {*split.train, *split.val_a, *split.val_b}
        held_back = [place for place in range(len(self.images)) if place not in used]

        scored = Scored(is_positive=self.is_positive, scores=scores, patients=self.patients)
        return Run(
            val_a=scored.take(val_a),
            val_b=scored.take(np.array(split.val_b)),
            held_back=scored.take(np.array(held_back)),
            test=scored.take(np.arange(len(self.images), len(self.patients))),
        )


def _youden(scored: Scored) -> float:
    """The earlier rule: the logit midway between the scores beside the largest sensitivity + specificity."""
    false_positive_rate, sensitivity, scores = roc_curve(scored.is_positive, scored.scores, drop_intermediate=False)
    gain = np.round(sensitivity - false_positive_rate, 12)
    best = int(np.flatnonzero(gain == gain.max())[-1])  # of equally good ones the lowest
    below = scores[best + 1] if best + 1 < len(scores) else scores[best]
    return float(_logit((min(scores[best], 1.0) + below) / 2))


def _averaged_youden(scored: Scored) -> float:
    """Its mean over bootstraps of the patients of each class."""
    generator = numpy_generator(0, "resamples")
    names, patient = np.unique(scored.patients, return_inverse=True)
    is_ill = np.bincount(patient, scored.is_positive) > 0
    images = [np.flatnonzero(patient == number) for number in range(len(names))]
    thresholds = []
    for _ in range(_RESAMPLES):
        drawn = [generator.choice(members, len(members)) for members in map(np.flatnonzero, (~is_ill, is_ill))]
        chosen = np.concatenate([images[number] for number in np.concatenate(drawn)])
        thresholds.append(_youden(scored.take(chosen)))
    return float(np.mean(thresholds))


def _class_means(scored: Scored) -> float:
    """Midway between the mean logits of the classes."""
    logits = _logit(scored.scores)
    return float(logits[scored.is_positive].mean() + logits[~scored.is_positive].mean()) / 2


def _calibrated(scored: Scored) -> float:
    return float(_logit(balanced_threshold(scored.is_positive, scored.scores)))


def _shrunk(scored: Scored) -> float:
    """The calibrated one, drawn towards one half where patients are few."""
    count = min(len({*scored.patients[chosen]}) for chosen in (scored.is_positive, ~scored.is_positive))
    return _calibrated(scored) * count / (count + _SHRINKAGE)


def _logit(probability: Any) -> Any:
    return logit(np.clip(probability, 1e-12, 1 - 1e-12))


_RULES: dict[str, Callable[[Run], float]] = {
    "largest Youden's J, B": lambda run: _youden(run.val_b),
    "largest Youden's J, A+B": lambda run: _youden(run.val_a + run.val_b),
    "averaged Youden's J, A+B": lambda run: _averaged_youden(run.val_a + run.val_b),
    "middle of class means, A+B": lambda run: _class_means(run.val_a + run.val_b),
    "calibrated, A+B": lambda run: _calibrated(run.val_a + run.val_b),
    "calibrated and shrunk, A+B": lambda run: _shrunk(run.val_a + run.val_b),
}
"""From a run to the logit of the threshold."""


def measure() -> Iterator[Figure]:
    """Each rule on the held-back patients, then the chosen one on `test`."""
    with _folder() as cache:
        bench = _bench(cache)
    runs = {
        (sides, patients): [bench.run(patients, share, seed) for seed in range(_SPLITS)]
        for sides, share in _SHARES.items()
        for patients in _PATIENTS
    }
    for sides in _SHARES:
        for rule, logit_of in _RULES.items():
            is_chosen = rule == _CHOSEN
            of_sizes = [[_gain(run, run.held_back, logit_of) for run in runs[sides, size]] for size in _PATIENTS]
            yield from _figures(f"{rule}, {sides}", of_sizes, each=">= 0", mean=">= 0.0001", with_bars=is_chosen)
    for sides in _SHARES:
        of_sizes = [[_gain(run, run.test, _RULES[_CHOSEN]) for run in runs[sides, size]] for size in _PATIENTS]
        yield from _figures(f"test folder, {_CHOSEN}, {sides}", of_sizes, each="", mean=">= 0", with_bars=True)


def _gain(run: Run, on: Scored, logit_of: Callable[[Run], float]) -> float:
    """Balanced accuracy at the rule's threshold less that at .5."""
    return on.balanced_accuracy(float(expit(logit_of(run)))) - on.balanced_accuracy(0.5)


def _figures(
    name: str, of_sizes: Sequence[Sequence[float]], *, each: str, mean: str, with_bars: bool
) -> Iterator[Figure]:
    """Mean and spread over splits for each training size, and the mean over sizes."""
    unit = "balanced accuracy less that at .5"
    for size, gains in zip(_PATIENTS, of_sizes, strict=True):
        label = f"threshold: {name}, {size} patients"
        yield figure(label, float(np.mean(gains)), unit, each if with_bars else "")
        yield figure(f"{label}, SD over splits", float(np.std(gains, ddof=1)), unit)
    yield figure(f"threshold: {name}, mean over sizes", float(np.mean(of_sizes)), unit, mean if with_bars else "")


@contextmanager
def _folder() -> Iterator[Path]:
    """An empty cache; KEEP names one that stays."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(os.environ.get("KEEP", folder)).resolve() / "cache"


def _bench(cache: Path) -> Bench:
    """Decode all images and compute their features."""
    data, weights_dir = (Path(os.environ[name]) for name in NEEDS)
    space = load_space(_SPACE, ("source=none", "classical=0", "lr=3e-3", "data.train_patients=null"), data=data)
    experiment = space.experiment()
    compute = choose_compute(gpus=0, threads=os.cpu_count() or 1)
    pin(compute)
    index = read_index(experiment.settings.data)
    test = read_labelled_folder(data / "test", index.class_names)
    weights = pretrained_weights(experiment.parameters, weights_dir, cache)
    assert weights is not None
    network = build_classifier(experiment.parameters, 2, weights=weights.path, seed=0)
    form = input_format(experiment, train_mean=0.5, train_std=0.25)  # of pretrained weights: their own constants

    def features(root: Path, images: tuple[ImageFile, ...]) -> NDArray[np.float32]:
        store = store_images(root, images, experiment.settings.data, cache=cache)
        require_unbroken(store, root)
        pixels = open_pixels(store)
        batches = (
            normalise(to_unit(torch.from_numpy(pixels[np.arange(start, min(start + 64, len(pixels)))]), form), form)
            for start in range(0, len(pixels), 64)
        )
        return predict_logits(network.backbone, batches, compute=compute)

    both = (*index.images, *test)
    extracted = np.concatenate([features(index.root, index.images), features(data / "test", test)])
    one_core = replace(compute, threads=1)  # a head is too small for more
    pin(one_core)
    return Bench(
        experiment=experiment,
        images=index.images,
        features=extracted,
        is_positive=np.array([image.label == index.positive for image in both]),
        patients=np.array([image.patient for image in both]),
        compute=one_core,
    )
