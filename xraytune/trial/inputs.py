"""The inputs of a trial's training loop: its network, its batches of real and extra images, and val-A and val-B.

One image on its way into a step: a stream draws its number in the training set and one of its views
(`Batch`). This is done for many steps at once. Then, on the device, `PixelLoader` looks up its
pixels, and scales, augments and normalises them. If the backbone is frozen, `FeatureLoader` looks
up the features that were computed once for that view, and the loop trains the head alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import cached_property, partial
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.data.prepare import ImageSource, RunContext, side_images
from xraytune.nets.augment import augment, view_table
from xraytune.nets.captured import Draws
from xraytune.nets.inputs import normalise, to_unit
from xraytune.space.settings import Experiment
from xraytune.tasks.task import Results
from xraytune.trial.device_rows import TRANSFER_BYTES, DeviceRows, pinned
from xraytune.trial.network import Network, view_count
from xraytune.trial.sampler import NOTHING, Batch, image_stream
from xraytune.trial.training_set import TrainingSet, build_training_set

_MAX_NORM_IMAGES = 256
"""Running statistics of batch norms are estimated on at most this many real images."""
_STEPS_AT_ONCE = 64


class TrialInputs:
    """The network of a trial, and the batches that it trains and validates on; computes what the cache lacks of them.

    Attributes:
        trained: The module that the loop trains: the whole network, or a head.
    """

    trained: nn.Module
    _loader: FeatureLoader | PixelLoader

    def __init__(
        self, experiment: Experiment, context: RunContext, images: TrainingSet | None = None
    ) -> None:
        self._images = images or build_training_set(experiment, context)
        self.network = Network(experiment, context)
        settings = experiment.settings
        prepared = context.prepared
        self.val_a = side_images("val_a", prepared, context.cache)
        self.val_b = side_images("val_b", prepared, context.cache)
        self._parameters = experiment.parameters
        self._positive = prepared.positive
        total_steps = settings.budget.max_epochs * prepared.steps_per_epoch(settings)
        self._pretraining_steps = self._parameters.pretraining_steps(total_steps)
        stream = partial(image_stream, settings.seed, view_count=view_count(experiment))
        self._real_stream = stream(
            "real", image_count=len(self._images.real), per_step=self._parameters.batch_size
        )
        self._extra_stream = stream(
            "extra", image_count=len(self._images.extra), per_step=self._parameters.extra_per_step
        )
        if self.network.has_cached_features:
            self._loader = FeatureLoader(self._images, self.network)
            self.trained = self.network.head(self._loader.feature_count)
        else:
            self._loader = PixelLoader(self._images, self.network)
            self.trained = self.network.whole
        self.load = self._loader.load

    @property
    def real_targets(self) -> NDArray[np.int64]:
        """The labels or findings of the real images."""
        return self._images.targets[self._images.real]

    def draws(self, steps: range) -> Iterator[Draws]:
        """Yield what `load` needs for each step: where on the device its images are, their labels and their views.

        Real images come first. The k-th step with real images shows the same ones in every trial.
        """
        device = self.network.compute.device
        for (image_count, _), batches in groupby(map(self._batch_of_step, steps), self._shape):
            at_once = min(
                _STEPS_AT_ONCE, 1 + TRANSFER_BYTES // (image_count * self._loader.row_bytes)
            )
            while chunk := [*islice(batches, at_once)]:
                numbers, views = (np.stack(column) for column in zip(*chunk, strict=True))
                columns = [self._images.targets[numbers], *self._loader.prepare(numbers, views)]
                on_device = [
                    pinned(column, device).to(device, non_blocking=True) for column in columns
                ]
                yield from zip(*on_device, strict=True)

    def _batch_of_step(self, step: int) -> Batch:
        """Return the images of a step, numbered in the training set."""
        real = extra = NOTHING
        step_with_real = step - self._pretraining_steps
        if step_with_real >= 0:
            real = self._real_stream(step_with_real)
        if step_with_real < 0 or not self._pretraining_steps:
            extra = self._extra_stream(step)
        numbers = [self._images.real[real.numbers], self._images.extra[extra.numbers]]
        return Batch(np.concatenate(numbers), np.concatenate([real.views, extra.views]))

    def _shape(self, batch: Batch) -> tuple[int, int]:
        """Return the numbers of images and of those from the first source; batches that agree are stacked."""
        of_first_source = batch.numbers < len(self._images.sources[0].rows)
        return len(batch.numbers), int(of_first_source.sum())

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a step on the device: labels, int64 [B], findings, [B, C], or masks, [B, 1, S, S]."""
        return self.load(*next(self.draws(range(step, step + 1))))

    def norm_batches(self) -> Iterator[Tensor]:
        """Yield inputs to estimate batch norm statistics on: the mix of the first steps with real images."""
        first = self._pretraining_steps
        count = min(len(self._images.real), _MAX_NORM_IMAGES)  # each real image once
        for draws in self.draws(
            range(first, first + math.ceil(count / self._parameters.batch_size))
        ):
            yield self.load(*draws)[0]

    def whole(self) -> nn.Module:
        """Return the whole network, with the trained part in it."""
        whole = self.network.whole
        if self.network.has_cached_features:
            whole.head = self.trained
        return whole

    def validate(self, network: nn.Module) -> tuple[float, float]:
        """Return loss and score of a network on val-A."""
        task = self.network.task
        compute = self.network.compute
        batches = (
            self._val_a_features
            if self.network.has_cached_features
            else self.network.batches(self.val_a)
        )
        return task.validate(network, batches, self.val_a, positive=self._positive, compute=compute)

    @cached_property
    def _val_a_features(self) -> list[Tensor]:
        return [*self.network.batches(self.val_a)]

    def results(self, images: ImageSource) -> Results:
        """Return the results of the trained network on val-A or val-B, [N, C]."""
        batches = self.network.batches(images)
        return self.network.task.results(
            self.trained, batches, images, compute=self.network.compute
        )


def untrained(
    experiment: Experiment, context: RunContext, source: ImageSource
) -> tuple[nn.Module, Iterator[Tensor]]:
    """Return the module that a trial trains, before training, and the inputs of one data source for it to predict.

    Needs neither the trial's GAN nor the features of other images.
    """
    network = Network(experiment, context)
    if network.has_cached_features:
        return network.head(network.plain_features(source).shape[1]), network.batches(source)
    return network.whole, network.batches(source)


class FeatureLoader:
    """Looks up cached features, float32 [B, D]."""

    def __init__(self, images: TrainingSet, network: Network) -> None:
        totals = Counter[str]()
        for source in images.sources:
            totals[source.title] += len(source.rows)
        done = Counter[str]()
        features: list[NDArray[np.float32]] = []
        rows: list[NDArray[np.int64]] = []
        for source in images.sources:
            title = source.title
            arrays, rows_of_source = network.features(
                source,
                classical=network.experiment.parameters.classical,
                earlier=done[title],
                total=totals[title],
            )
            rows.append(rows_of_source + sum(map(len, features)))
            features += arrays
            done[title] += len(source.rows)
        self.feature_count = int(features[0].shape[1])
        self._row_of_view = np.concatenate(rows)
        readers = [(len(array), array.__getitem__) for array in features]
        self._rows = DeviceRows(readers, network.compute.device)
        self.row_bytes = self._rows.row_bytes

    def prepare(self, numbers: NDArray[np.int64], views: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Return what `load` needs for steps of one shape, [steps, B]."""
        return [self._rows.prepare(self._row_of_view[numbers, views])]

    def load(self, targets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of each image in its view, and the labels or findings."""
        return self._rows.look_up(rows), targets


class PixelLoader:
    """Scales, augments and normalises images, and masks if there are any, on the device.

    Real images and others may have different sizes, so that they are looked up apart.
    """

    def __init__(self, images: TrainingSet, network: Network) -> None:
        self._network = network
        self._real_count = len(images.sources[0].rows)
        self._classical = network.experiment.parameters.classical
        tables = [
            view_table(
                network.experiment.settings.seed,
                "views",
                source.name,
                image_count=len(source.rows),
                views=view_count(network.experiment),
                classical=self._classical,
            )
            for source in images.sources
        ]
        self._views = np.concatenate(tables)
        arrays = [(len(source.rows), source.planes) for source in images.sources]
        self._groups = [
            DeviceRows(group, network.compute.device) for group in (arrays[:1], arrays[1:]) if group
        ]
        self.row_bytes = max(group.row_bytes for group in self._groups)

    def prepare(self, numbers: NDArray[np.int64], views: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Return what `load` needs for steps of one shape, [steps, B]."""
        real_count = int((numbers[0] < self._real_count).sum())
        parts = [numbers[:, :real_count], numbers[:, real_count:] - self._real_count]
        rows = [group.prepare(part) for group, part in zip(self._groups, parts, strict=False)]
        return [self._views[numbers, views], *rows]

    def load(self, targets: Tensor, views: Tensor, *rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return each image in its view, float32 [B, C, S, S], and labels, findings or, in its view, masks, [B, 1, S, S]."""
        network = self._network
        planes = [
            group.look_up(part) for group, part in zip(self._groups, rows, strict=True) if len(part)
        ]
        images = torch.cat([to_unit(part[:, 0], network.form) for part in planes])

        def read_masks() -> Tensor:
            return torch.cat([network.scaled_masks(part[:, 1]) for part in planes])

        if not self._classical:  # every view is the image itself
            return normalise(images, network.form), network.task.load_targets(targets, read_masks)
        targets = network.task.load_targets(targets, read_masks, views)
        return normalise(augment(images, views), network.form), targets
