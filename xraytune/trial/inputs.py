"""The inputs of a trial's training loop: its network, the batch of each step, and the two validation sides.

One image on its way into a step: a stream draws its number in the training set and one of its views (`StepImages`). Then
`PixelLoader` reads its pixels, and scales, augments and normalises them on the device. If the backbone is frozen,
`FeatureLoader` looks up the features that were computed once for that view, and the loop trains the head alone. If only
the last stage is trained, it looks up the inputs of that stage in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.data.prepare import ImageSource, RunContext, side_images
from xraytune.nets.augment import augment, augment_masks, fresh_views, view_table
from xraytune.nets.inputs import normalise
from xraytune.space.settings import Experiment
from xraytune.trial.network import VAL_BATCH, Network, view_count
from xraytune.trial.sampler import NOTHING, image_stream
from xraytune.trial.task import Results
from xraytune.trial.training_set import TrainingSet, build_training_set

_MAX_NORM_IMAGES = 256
"""Running statistics of batch norms are estimated on at most this many real images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepImages:
    """The images of one step: numbers in the training set and views, int64 [B] both; the first `real_count` are real.

    `step` seeds views that are drawn anew at each step; with `mixing: pretrain`, it counts from the start of its phase.
    """

    step: int
    numbers: NDArray[np.int64]
    views: NDArray[np.int64]
    real_count: int


class TrialInputs:
    """The network of a trial, and the batches that it trains and validates on; computes what the cache lacks of them.

    Attributes:
        trained: The module that the loop trains: the whole network, its part from the last stage on, or a head.
    """

    trained: nn.Module

    def __init__(self, experiment: Experiment, context: RunContext, training_set: TrainingSet | None = None) -> None:
        training_set = training_set or build_training_set(experiment, context)
        self._training_set = training_set
        self.network = network = Network(experiment, context)
        settings, prepared, cache = experiment.settings, context.prepared, context.cache
        self.val_a, self.val_b = side_images("val_a", prepared, cache), side_images("val_b", prepared, cache)
        self._parameters, self._positive = experiment.parameters, prepared.positive
        steps = settings.budget.max_epochs * prepared.steps_per_epoch(settings)
        self._pretraining_steps = self._parameters.pretraining_steps(steps)
        stream = partial(image_stream, settings.seed, view_count=max(view_count(experiment), 1))
        real_count, extra_count = len(training_set.real), len(training_set.extra)
        self._real = stream("real", image_count=real_count, per_step=self._parameters.real_per_step)
        self._extra = stream("extra", image_count=extra_count, per_step=self._parameters.extra_per_step)
        self._targets = self._labels
        if network.has_cached_features:
            features = FeatureLoader(training_set, network)
            self._load, self.trained = features.load, network.head(features.feature_count)
        elif network.cache_last_stage(training_set.sources):
            self._load, self.trained = FeatureLoader(training_set, network).load, network.from_last_stage()
        else:
            pixels = PixelLoader(training_set, network)
            self._load, self.trained = pixels.load, network.whole
            if network.task.has_pairs:
                self._targets = pixels.masks

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a training step, on the device: labels, int64 [B], or masks, float32 [B, 1, S, S].

        Real images come first. The k-th step with real images shows the same ones in every trial.
        """
        if step < self._pretraining_steps:
            real, extra = NOTHING, self._extra(step)
        else:
            step -= self._pretraining_steps
            real, extra = self._real(step), NOTHING if self._pretraining_steps else self._extra(step)
        chosen = self._training_set
        numbers = np.concatenate([chosen.real[real.positions], chosen.extra[extra.positions]])
        views = np.concatenate([real.views, extra.views])
        drawn = StepImages(step=step, numbers=numbers, views=views, real_count=len(real.positions))
        return self._load(drawn), self._targets(drawn)

    def norm_batches(self) -> Iterator[Tensor]:
        """Return inputs to estimate batch norm statistics on: real images, or the mix of the first steps with real ones."""
        real = self._training_set.real
        if self._parameters.batch_norm == "real":
            drawn = real_images_for_norms(self.network.experiment, len(real))
            return (self._load(replace(images, numbers=real[images.numbers])) for images in drawn)
        steps = -(-min(len(real), _MAX_NORM_IMAGES) // self._parameters.real_per_step)  # each real image is shown once
        return (self.batch(self._pretraining_steps + step)[0] for step in range(steps))

    def whole(self) -> nn.Module:
        """Return the whole network, with the trained part in it."""
        whole = self.network.whole
        if self.network.has_cached_features:
            whole.head = self.trained
        return whole

    def validate(self, network: nn.Module) -> tuple[float, float]:
        """Return loss and score of a network on val-A."""
        task, batches, compute = self.network.task, self.network.batches(self.val_a), self.network.compute
        return task.validate(network, batches, self.val_a, positive=self._positive, compute=compute)

    def results(self, images: ImageSource) -> Results:
        """Return the results of the trained network on val-A or val-B, [N, C]."""
        batches = self.network.batches(images)
        return self.network.task.results(self.trained, batches, images, compute=self.network.compute)

    def _labels(self, drawn: StepImages) -> Tensor:
        return torch.from_numpy(self._training_set.labels[drawn.numbers]).to(self.network.compute.device)


def untrained(experiment: Experiment, context: RunContext, source: ImageSource) -> tuple[nn.Module, Iterator[Tensor]]:
    """Return the module that a trial trains, before training, and the inputs of one data source for it to predict.

    Needs neither the trial's GAN nor the features of other images.
    """
    network = Network(experiment, context)
    if network.has_cached_features:
        return network.head(network.features(source, classical=0).shape[2]), network.batches(source)
    return network.whole, network.batches(source)


def real_images_for_norms(experiment: Experiment, real_count: int) -> Iterator[StepImages]:
    """Draw up to 256 real images in a seeded order, the same in each call: each once, in one of its training views.

    They come in batches of nearly equal size, at most 128, with images of all classes.
    """
    seed, views = experiment.settings.seed, max(view_count(experiment), 1)
    drawn = image_stream(seed, "batch norm", image_count=real_count, per_step=real_count, view_count=views)(0)
    chosen = np.arange(min(real_count, _MAX_NORM_IMAGES))
    for part, places in enumerate(np.array_split(chosen, -(-len(chosen) // VAL_BATCH))):
        yield StepImages(
            step=-1 - part,  # with `views: 0`, views that no training step draws
            numbers=drawn.positions[places],
            views=drawn.views[places],
            real_count=len(places),
        )


class FeatureLoader:
    """Looks up cached features, float32 [B, D], or cached inputs of the last stage, [B, C, H, W]."""

    def __init__(self, training_set: TrainingSet, network: Network) -> None:
        self._training_set, self._network = training_set, network
        classical = network.experiment.parameters.classical
        totals = Counter[str]()
        for source in training_set.sources:
            totals[source.title] += len(source.rows)
        done, self._features = Counter[str](), []
        for source in training_set.sources:
            earlier, total = done[source.title], totals[source.title]
            self._features.append(network.features(source, classical=classical, earlier=earlier, total=total))
            done[source.title] += len(source.rows)
        self.feature_count = int(self._features[0].shape[-1])

    def load(self, drawn: StepImages) -> Tensor:
        """Return the features of each image in its view."""
        like = self._features[0]
        features = np.empty((len(drawn.numbers), *like.shape[2:]), dtype=like.dtype)
        for source, mask, places in self._training_set.by_source(drawn.numbers):
            features[mask] = self._features[source][places, drawn.views[mask]]
        return self._network.on_device(features)


class PixelLoader:
    """Scales, augments and normalises images on the device: float32 [B, C, S, S], channels last."""

    def __init__(self, training_set: TrainingSet, network: Network) -> None:
        self._training_set, self._network = training_set, network
        self._seed, self._classical = network.experiment.settings.seed, network.experiment.parameters.classical
        views = view_count(network.experiment)
        table = partial(view_table, self._seed, "views", views=views, classical=self._classical)
        tables = [table(source.name, image_count=len(source.rows)) for source in training_set.sources]
        self._table = np.concatenate(tables) if views else None

    def load(self, drawn: StepImages) -> Tensor:
        """Return each image in its view."""
        images = self._collect(drawn, self._network.scaled)
        if self._classical:  # without it, every view is the image itself
            images = augment(images, self._views(drawn))
        return normalise(images, self._network.form)

    def masks(self, drawn: StepImages) -> Tensor:
        """Return the mask of each image in its view, float32 [B, 1, S, S]."""
        return augment_masks(self._collect(drawn, self._network.scaled_masks), self._views(drawn))

    def _collect(self, drawn: StepImages, read: Callable[[ImageSource, NDArray[np.int64]], Tensor]) -> Tensor:
        size_px, device = self._network.form.image_size_px, self._network.compute.device
        collected = torch.empty(len(drawn.numbers), 1, size_px, size_px, device=device)
        for source, mask, places in self._training_set.by_source(drawn.numbers):
            images = read(self._training_set.sources[source], places)
            if mask.all():
                return images
            collected[torch.from_numpy(mask)] = images
        return collected

    def _views(self, drawn: StepImages) -> Tensor:
        if self._table is not None:
            views = self._table[drawn.numbers, drawn.views]
        else:  # two streams, so that the views of real images are the same in every arm
            draw = partial(fresh_views, self._seed, classical=self._classical)
            extra_count = len(drawn.numbers) - drawn.real_count
            real, extra = draw("real", drawn.step, count=drawn.real_count), draw("extra", drawn.step, count=extra_count)
            views = np.concatenate([real, extra])
        return torch.from_numpy(views).to(self._network.compute.device)
