"""The inputs of a trial's training loop: its network, the batch of each step, and the two validation sides.

One image on its way into a step: a stream draws its number in the training set and one of its views (`Draw`). A loader
turns the draw into inputs: either it reads the image's pixels, then scales, augments and normalises them on the device, or,
if the backbone is frozen, it looks up the features that were computed once for that view, and the loop trains the head
alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.classifier.augment import augment, fresh_views, view_table
from xraytune.classifier.inputs import normalise
from xraytune.classifier.network import Classifier
from xraytune.config.settings import Experiment
from xraytune.mix.sampler import Stream, image_stream
from xraytune.pipeline.model import VAL_BATCH, Network, view_count
from xraytune.pipeline.prepare import Prepared
from xraytune.pipeline.training_set import ImageSource, TrainingSet, build_training_set, side_images
from xraytune.records import Compute, Progress, ignore_progress

_MAX_NORM_IMAGES = 256
"""Running statistics of batch norms are estimated on at most this many real images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The images of one step: numbers in the training set and views, int64 [B] both; the first `real_count` are real."""

    step: int
    numbers: NDArray[np.int64]
    views: NDArray[np.int64]
    real_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialInputs:
    """The network of a trial, and the batches that it trains and validates on.

    Attributes:
        trained: The module that the loop trains: the whole network, or a head on cached features.
        training_set: The trial's images.
        real: Draws the real images of each step.
        extra: Draws the extra images of each step.
        loader: Turns a draw into inputs.
        network: Builds the whole network.
        sides: val-A and val-B.
    """

    trained: nn.Module
    training_set: TrainingSet
    real: Stream
    extra: Stream
    loader: Loader
    network: Network
    sides: tuple[ImageSource, ImageSource]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels (int64 [B]) of a training step, on the device; real images come first."""
        real, extra = self.real(step), self.extra(step)
        numbers = np.concatenate([real.positions, self.training_set.extra[extra.positions]])
        views = np.concatenate([real.views, extra.views])
        draw = Draw(step=step, numbers=numbers, views=views, real_count=len(real.positions))
        labels = torch.from_numpy(self.training_set.labels[numbers])
        return self.loader.load(draw), labels.to(self.network.compute.device)

    def norm_batches(self) -> Iterator[Tensor]:
        """Inputs to estimate the running statistics of batch norms on: real images alone, or the mix of the first steps."""
        parameters, real_count = self.network.experiment.parameters, self.training_set.real_count
        if parameters.batch_norm == "real":
            return map(self.loader.load, draws_of_real_images(self.network.experiment, real_count))
        steps = -(-min(real_count, _MAX_NORM_IMAGES) // parameters.real_per_step)  # they show each real image once
        return (self.batch(step)[0] for step in range(steps))

    def val_a(self) -> Iterator[Tensor]:
        """Inputs of val-A in order, in batches."""
        return self.network.batches(self.sides[0])

    def val_b(self) -> Iterator[Tensor]:
        """Inputs of val-B in order, in batches."""
        return self.network.batches(self.sides[1])

    def classifier(self) -> Classifier:
        """The whole network, with the trained part in it."""
        whole = self.network.whole
        if self.trained is not whole:
            whole.head = self.trained
        return whole


def build_inputs(
    experiment: Experiment,
    prepared: Prepared,
    *,
    cache: Path,
    compute: Compute,
    on_progress: Progress = ignore_progress,
) -> TrialInputs:
    """Build a trial's network and batches; images and features that the cache lacks are computed."""
    training_set = build_training_set(experiment, prepared, compute=compute, cache=cache)
    network = Network(experiment, prepared, cache=cache, compute=compute, on_progress=on_progress)
    loader: Loader
    trained: nn.Module
    if network.has_cached_features:
        loader = FeatureLoader(training_set, network)
        trained = network.head(loader.feature_count)
    else:
        loader, trained = PixelLoader(training_set, network), network.whole
    parameters, seed, views = experiment.parameters, experiment.settings.seed, max(view_count(experiment), 1)
    real_count, extra_count = training_set.real_count, len(training_set.extra)
    return TrialInputs(
        trained=trained,
        training_set=training_set,
        real=image_stream(seed, "real", image_count=real_count, per_step=parameters.real_per_step, view_count=views),
        extra=image_stream(
            seed, "extra", image_count=extra_count, per_step=parameters.extra_per_step, view_count=views
        ),
        loader=loader,
        network=network,
        sides=(
            side_images("val_a", prepared.side("val_a"), prepared, cache),
            side_images("val_b", prepared.side("val_b"), prepared, cache),
        ),
    )


def untrained(
    experiment: Experiment, prepared: Prepared, source: ImageSource, *, cache: Path, compute: Compute
) -> tuple[nn.Module, Iterator[Tensor]]:
    """Return the module that a trial trains, before training, and the inputs of one data source for it to predict.

    Needs neither the trial's GAN nor the features of other images.
    """
    network = Network(experiment, prepared, cache=cache, compute=compute)
    if network.has_cached_features:
        return network.head(network.features(source, classical=0).shape[2]), network.batches(source)
    return network.whole, network.batches(source)


def draws_of_real_images(experiment: Experiment, real_count: int) -> Iterator[Draw]:
    """Draw up to 256 real images in a seeded order, the same in each call: each once, in one of its training views.

    They come in batches of nearly equal size, at most 128, with images of all classes.
    """
    seed, views = experiment.settings.seed, max(view_count(experiment), 1)
    drawn = image_stream(seed, "batch norm", image_count=real_count, per_step=real_count, view_count=views)(0)
    chosen = np.arange(min(real_count, _MAX_NORM_IMAGES))
    for part, places in enumerate(np.array_split(chosen, -(-len(chosen) // VAL_BATCH))):
        yield Draw(
            step=-1 - part,  # with `views: 0`, views that no training step draws
            numbers=drawn.positions[places],
            views=drawn.views[places],
            real_count=len(places),
        )


class FeatureLoader:
    """Looks up cached features, float32 [B, D]."""

    def __init__(self, training_set: TrainingSet, network: Network) -> None:
        self._training_set, self._device = training_set, network.compute.device
        classical = network.experiment.parameters.classical
        self._features = [network.features(source, classical=classical) for source in training_set.sources]
        self.feature_count = int(self._features[0].shape[2])

    def load(self, draw: Draw) -> Tensor:
        """The features of each image in its view."""
        features = np.empty((len(draw.numbers), self.feature_count), dtype=np.float32)
        for source, mask, places in self._training_set.by_source(draw.numbers):
            features[mask] = self._features[source][places, draw.views[mask]]
        return torch.from_numpy(features).to(self._device)


class PixelLoader:
    """Scales, augments and normalises images on the device: float32 [B, C, S, S], channels last."""

    def __init__(self, training_set: TrainingSet, network: Network) -> None:
        self._training_set, self._network = training_set, network
        self._seed, self._classical = network.experiment.settings.seed, network.experiment.parameters.classical
        views = view_count(network.experiment)
        tables = [
            view_table(
                self._seed,
                "views",
                source.name,
                image_count=len(source.rows),
                views=views,
                classical=self._classical,
            )
            for source in training_set.sources
        ]
        self._table = np.concatenate(tables) if views else None

    def load(self, draw: Draw) -> Tensor:
        """Each image in its view."""
        size_px, device = self._network.form.image_size_px, self._network.compute.device
        images = torch.empty(len(draw.numbers), 1, size_px, size_px, device=device)
        for source, mask, places in self._training_set.by_source(draw.numbers):
            images[torch.from_numpy(mask)] = self._network.scaled(self._training_set.sources[source], places)
        views = self._fresh_views(draw) if self._table is None else self._table[draw.numbers, draw.views]
        return normalise(augment(images, torch.from_numpy(views).to(device)), self._network.form)

    def _fresh_views(self, draw: Draw) -> NDArray[np.float32]:
        # Two streams, so that the views of real images are the same in every arm.
        counts = {"real": draw.real_count, "extra": len(draw.numbers) - draw.real_count}
        views = [
            fresh_views(self._seed, purpose, draw.step, count=count, classical=self._classical)
            for purpose, count in counts.items()
        ]
        return np.concatenate(views)


Loader: TypeAlias = FeatureLoader | PixelLoader
