"""The inputs of a trial's training loop: its network, the batches that join real and extra images, and val-A and val-B.

One image on its way into a step: a stream draws its number in the training set and one of its views (`StepImages`). This
is done for many steps at once. Then, on the device, `PixelLoader` looks up its pixels, and scales, augments and normalises
them. If the backbone is frozen, `FeatureLoader` looks up the features that were computed once for that view, and the loop
trains the head alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.data.prepare import ImageSource, RunContext, side_images
from xraytune.nets.augment import augment, augment_masks, view_table
from xraytune.nets.captured import Draws
from xraytune.nets.inputs import normalise, to_unit
from xraytune.space.settings import Experiment
from xraytune.trial.device_rows import DRAWN_BYTES, Array, DeviceRows, pinned
from xraytune.trial.network import Network, view_count
from xraytune.trial.sampler import NOTHING, image_stream
from xraytune.trial.task import Results
from xraytune.trial.training_set import TrainingSet, build_training_set

_MAX_NORM_IMAGES = 256
"""Running statistics of batch norms are estimated on at most this many real images."""
_STEPS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class StepImages:
    """The images of one step: numbers in the training set and views, int64 [B] both; the first `real_count` are real."""

    numbers: NDArray[np.int64]
    views: NDArray[np.int64]
    real_count: int


class TrialInputs:
    """The network of a trial, and the batches that it trains and validates on; computes what the cache lacks of them.

    Attributes:
        trained: The module that the loop trains: the whole network, or a head.
    """

    trained: nn.Module
    _loader: FeatureLoader | PixelLoader

    def __init__(self, experiment: Experiment, context: RunContext, training_set: TrainingSet | None = None) -> None:
        training_set = training_set or build_training_set(experiment, context)
        self._training_set = training_set
        self.network = network = Network(experiment, context)
        settings, prepared, cache = experiment.settings, context.prepared, context.cache
        self.val_a, self.val_b = side_images("val_a", prepared, cache), side_images("val_b", prepared, cache)
        self._parameters, self._positive = experiment.parameters, prepared.positive
        steps = settings.budget.max_epochs * prepared.steps_per_epoch(settings)
        self._pretraining_steps = self._parameters.pretraining_steps(steps)
        stream = partial(image_stream, settings.seed, view_count=view_count(experiment))
        real_count, extra_count = len(training_set.real), len(training_set.extra)
        self._real = stream("real", image_count=real_count, per_step=self._parameters.batch_size)
        self._extra = stream("extra", image_count=extra_count, per_step=self._parameters.extra_per_step)
        if network.has_cached_features:
            self._loader = FeatureLoader(training_set, network)
            self.trained = network.head(self._loader.feature_count)
        else:
            self._loader, self.trained = PixelLoader(training_set, network), network.whole
        self.load = self._loader.load

    @property
    def real_targets(self) -> NDArray[np.int64]:
        """The labels or findings of the real images."""
        return self._training_set.targets[self._training_set.real]

    def draws(self, steps: range) -> Iterator[Draws]:
        """Yield what `load` needs for each step: where on the device its images are, their labels and their views.

        Real images come first. The k-th step with real images shows the same ones in every trial.
        """
        return self._on_device(map(self._drawn, steps))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a step on the device: labels, int64 [B], findings, [B, C], or masks, [B, 1, S, S]."""
        return self.load(*next(self.draws(range(step, step + 1))))

    def _drawn(self, step: int) -> StepImages:
        if step < self._pretraining_steps:
            real, extra = NOTHING, self._extra(step)
        else:
            step -= self._pretraining_steps
            real, extra = self._real(step), NOTHING if self._pretraining_steps else self._extra(step)
        chosen = self._training_set
        numbers = np.concatenate([chosen.real[real.positions], chosen.extra[extra.positions]])
        views = np.concatenate([real.views, extra.views])
        return StepImages(numbers=numbers, views=views, real_count=len(real.positions))

    def _on_device(self, steps: Iterable[StepImages]) -> Iterator[Draws]:
        device = self.network.compute.device
        for (image_count, _), alike in groupby(steps, lambda images: (len(images.numbers), images.real_count)):
            at_once = min(_STEPS_AT_ONCE, 1 + DRAWN_BYTES // (image_count * self._loader.drawn_bytes))
            while chunk := [*islice(alike, at_once)]:
                columns = (pinned(column, device) for column in self._loader.draw(chunk))
                yield from zip(*(column.to(device, non_blocking=True) for column in columns), strict=True)

    def norm_batches(self) -> Iterator[Tensor]:
        """Return inputs to estimate batch norm statistics on: the mix of the first steps with real images."""
        first = self._pretraining_steps
        shown = min(len(self._training_set.real), _MAX_NORM_IMAGES)  # each real image once
        draws = self.draws(range(first, first + math.ceil(shown / self._parameters.batch_size)))
        return (self.load(*drawn)[0] for drawn in draws)

    def whole(self) -> nn.Module:
        """Return the whole network, with the trained part in it."""
        whole = self.network.whole
        if self.network.has_cached_features:
            whole.head = self.trained
        return whole

    def validate(self, network: nn.Module) -> tuple[float, float]:
        """Return loss and score of a network on val-A."""
        task, compute = self.network.task, self.network.compute
        batches = self._val_a_features if self.network.has_cached_features else self.network.batches(self.val_a)
        return task.validate(network, batches, self.val_a, positive=self._positive, compute=compute)

    @cached_property
    def _val_a_features(self) -> list[Tensor]:
        return [*self.network.batches(self.val_a)]

    def results(self, images: ImageSource) -> Results:
        """Return the results of the trained network on val-A or val-B, [N, C]."""
        batches = self.network.batches(images)
        return self.network.task.results(self.trained, batches, images, compute=self.network.compute)


def untrained(experiment: Experiment, context: RunContext, source: ImageSource) -> tuple[nn.Module, Iterator[Tensor]]:
    """Return the module that a trial trains, before training, and the inputs of one data source for it to predict.

    Needs neither the trial's GAN nor the features of other images.
    """
    network = Network(experiment, context)
    if network.has_cached_features:
        return network.head(network.plain_features(source).shape[1]), network.batches(source)
    return network.whole, network.batches(source)


class Loader:
    """The data sources of a training set as steps draw them: the real images, and all others, perhaps of another size."""

    def __init__(self, training_set: TrainingSet, network: Network, groups: Sequence[Sequence[Array]]) -> None:
        self.network, self._targets = network, training_set.targets
        self._first_other = sum(count for count, _ in groups[0])
        self._rows = [DeviceRows(group, network.compute.device) for group in groups]
        self.drawn_bytes = max(rows.drawn_bytes for rows in self._rows)

    def draw_rows(self, numbers: NDArray[np.int64], real_count: int) -> list[NDArray[Any]]:
        """Draw rows of the arrays for some steps, [steps, B], in each step `real_count` real ones first."""
        if len(self._rows) == 1:
            return [self._rows[0].draw(numbers)]
        real, others = np.split(numbers, [real_count], axis=1)
        return [self._rows[0].draw(real), self._rows[1].draw(others - self._first_other)]

    def look_up(self, drawn: Sequence[Tensor], convert: Callable[[Tensor], Tensor] = lambda rows: rows) -> Tensor:
        """Return the rows of a step, [B, ...], converted to one size."""
        parts = [
            convert(rows.look_up(of_rows)) for rows, of_rows in zip(self._rows, drawn, strict=True) if len(of_rows)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class FeatureLoader(Loader):
    """Looks up cached features, float32 [B, D]."""

    def __init__(self, training_set: TrainingSet, network: Network) -> None:
        classical = network.experiment.parameters.classical
        totals = Counter[str]()
        for source in training_set.sources:
            totals[source.title] += len(source.rows)
        done = Counter[str]()
        features: list[NDArray[np.float32]] = []
        rows: list[NDArray[np.int64]] = []
        for source in training_set.sources:
            earlier, total = done[source.title], totals[source.title]
            arrays, rows_of_source = network.features(source, classical=classical, earlier=earlier, total=total)
            rows.append(rows_of_source + sum(map(len, features)))
            features += arrays
            done[source.title] += len(source.rows)
        self.feature_count, self._rows_of_views = int(features[0].shape[1]), np.concatenate(rows)
        super().__init__(training_set, network, [[(len(array), array.__getitem__) for array in features]])

    def draw(self, steps: Sequence[StepImages]) -> list[NDArray[Any]]:
        """Return what `load` needs for steps of one shape, each array with a row for each step."""
        numbers, views = _stacked(steps)
        return [*self.draw_rows(self._rows_of_views[numbers, views], steps[0].real_count), self._targets[numbers]]

    def load(self, *drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of each image in its view, and the labels or findings."""
        *features, targets = drawn
        return self.look_up(features), targets


class PixelLoader(Loader):
    """Scales, augments and normalises images, and masks if there are any, on the device."""

    def __init__(self, training_set: TrainingSet, network: Network) -> None:
        seed = network.experiment.settings.seed
        self._classical = network.experiment.parameters.classical
        views = view_count(network.experiment)
        table = partial(view_table, seed, "views", views=views, classical=self._classical)
        tables = [table(source.name, image_count=len(source.rows)) for source in training_set.sources]
        self._table = np.concatenate(tables)
        arrays = [(len(source.rows), source.planes) for source in training_set.sources]
        super().__init__(training_set, network, [group for group in (arrays[:1], arrays[1:]) if group])

    def draw(self, steps: Sequence[StepImages]) -> list[NDArray[Any]]:
        """Return what `load` needs for steps of one shape, each array with a row for each step."""
        numbers, views = _stacked(steps)
        shown = self._table[numbers, views]
        return [*self.draw_rows(numbers, steps[0].real_count), self._targets[numbers], shown]

    def load(self, *drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Return each image in its view, float32 [B, C, S, S], and labels, findings or, in its view, masks, [B, 1, S, S]."""
        *planes, targets, views = drawn
        network = self.network
        images = self.look_up(planes, lambda planes: to_unit(planes[:, 0], network.form))
        if network.task.has_pairs:
            targets = self.look_up(planes, lambda planes: network.scaled_masks(planes[:, 1]))
        if self._classical:  # without it, every view is the image itself
            images = augment(images, views)
            targets = augment_masks(targets, views) if network.task.has_pairs else targets
        return normalise(images, network.form), targets


def _stacked(steps: Sequence[StepImages]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.stack([images.numbers for images in steps]), np.stack([images.views for images in steps])
