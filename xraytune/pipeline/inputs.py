"""What a trial's training loop is given: the network, the batch of each step, and the two validation sides.

Two feeds say the same thing in two ways. On pixels, a step's images are scaled, augmented and normalised on the device. On
features, a frozen backbone has seen every view of every image once, and the loop trains the head alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.classifier.augment import augment, fresh_views, view_table
from xraytune.classifier.inputs import InputFormat, input_format, normalise, to_unit
from xraytune.classifier.network import Classifier, build_classifier, build_head
from xraytune.config.backbone_names import BACKBONES
from xraytune.config.settings import Experiment
from xraytune.mix.sampler import image_stream
from xraytune.pipeline.features import frozen_features
from xraytune.pipeline.model import pretrained_weights
from xraytune.pipeline.prepare import Prepared
from xraytune.pipeline.training_set import ImageSource, TrainingSet, build_training_set, side_images
from xraytune.records import Compute, Progress, ignore_progress

_VAL_BATCH = 128
_MOST_REAL_IMAGES = 256
"""Running statistics are estimated on so many real images, or on all where there are fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepImages:
    """The images of one optimiser step, real ones first: album numbers and views, int64 [B] each."""

    step: int
    numbers: NDArray[np.int64]
    views: NDArray[np.int64]
    real_count: int


class Loader(Protocol):
    """From drawn images to the inputs of what is trained."""

    def inputs(self, draw: StepImages) -> Tensor:
        """Inputs of one step, on the device."""
        ...

    def side(self, group: ImageSource) -> Iterator[Tensor]:
        """Inputs of one side of the split, in order, unaugmented, in batches."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialInputs:
    """What the loop trains, and on what.

    Attributes:
        classifier: Gives the whole network, what was trained so far in it.
        trained: What the loop trains: the whole network, or a head on features that were computed once.
        form: From stored pixels to the network's input.
        loader: From images to the inputs of what is trained.
        batch: From a step to its inputs and labels, on the device.
        norm_batches: Inputs that the running statistics of batch norms are estimated on.
        val_a: val-A in order, in batches.
        val_b: val-B likewise.
    """

    classifier: Callable[[], Classifier]
    trained: nn.Module
    form: InputFormat
    loader: Loader
    batch: Callable[[int], tuple[Tensor, Tensor]]
    norm_batches: Callable[[], Iterator[Tensor]]
    val_a: Callable[[], Iterator[Tensor]]
    val_b: Callable[[], Iterator[Tensor]]


def build_inputs(
    experiment: Experiment,
    prepared: Prepared,
    *,
    cache: Path,
    compute: Compute,
    on_progress: Progress = ignore_progress,
) -> TrialInputs:
    """Build the network and all that feeds it; pool blocks and features that are not there yet are made."""
    training_set = build_training_set(experiment, prepared, compute=compute, cache=cache)
    parts = _parts(experiment, prepared, cache=cache, compute=compute, on_progress=on_progress)
    loader: Loader
    trained: nn.Module
    if parts.features is not None:
        classical = experiment.parameters.classical
        loader = FeatureLoader(
            training_set,
            partial(parts.features, classical=classical),
            partial(parts.features, classical=0),
            compute.device,
        )
        trained = parts.head(loader.feature_count)
    else:
        loader = PixelLoader(training_set, experiment, parts.form, compute.device)
        trained = parts.network()

    def classifier() -> Classifier:
        whole = parts.network()
        if trained is not whole:
            whole.head = trained
        return whole

    batch = _batches(training_set, experiment, loader, compute.device)
    real_batches = partial(batches_of_real_images, training_set, experiment, loader)
    # Those of the first steps, which show real images once each.
    steps = -(-min(training_set.real_count, _MOST_REAL_IMAGES) // training_set.plan.real_per_step)

    def mixed_batches() -> Iterator[Tensor]:
        return (batch(step)[0] for step in range(steps))

    return TrialInputs(
        classifier=classifier,
        trained=trained,
        form=parts.form,
        loader=loader,
        batch=batch,
        norm_batches=real_batches if experiment.parameters.batch_norm == "real" else mixed_batches,
        val_a=partial(loader.side, side_images("val_a", prepared.side("val_a"), prepared, cache)),
        val_b=partial(loader.side, side_images("val_b", prepared.side("val_b"), prepared, cache)),
    )


def untrained(
    experiment: Experiment, prepared: Prepared, group: ImageSource, *, cache: Path, compute: Compute
) -> tuple[nn.Module, Iterator[Tensor]]:
    """What a trial trains, before its training, and the batches of one group of images for it to predict.

    No GAN is needed, nor the features of any other image.
    """
    parts = _parts(experiment, prepared, cache=cache, compute=compute)
    if parts.features is None:
        return parts.network(), pixel_batches(group, parts.form, compute.device)
    features = parts.features(group, classical=0)
    return parts.head(features.shape[2]), feature_batches(features, compute.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The network of an experiment, and how images become its inputs.

    Attributes:
        form: From stored pixels to the network's input.
        network: Gives the whole network, untrained.
        head: Gives the head that is trained on so many features.
        features: From a group of images and `classical` to float32 [n, V, D]; None where the backbone is trained.
    """

    form: InputFormat
    network: Callable[[], Classifier]
    head: Callable[[int], nn.Module]
    features: Callable[..., NDArray[np.float32]] | None


def _parts(
    experiment: Experiment,
    prepared: Prepared,
    *,
    cache: Path,
    compute: Compute,
    on_progress: Progress = ignore_progress,
) -> _Parts:
    settings, parameters = experiment.settings, experiment.parameters
    weights = pretrained_weights(parameters, settings.weights_dir, cache)
    class_count = len(prepared.class_names)
    mean, std = _grey_statistics(side_images("real", prepared.side("train"), prepared, cache))
    form = input_format(experiment, train_mean=mean, train_std=std)

    @lru_cache
    def network() -> Classifier:
        path = weights.path if weights else None
        return build_classifier(parameters, class_count, weights=path, seed=settings.seed).to(compute.device)

    def head(feature_count: int) -> nn.Module:
        return build_head(parameters, feature_count, class_count, seed=settings.seed).to(compute.device)

    features = None
    if parameters.trainable == "head" and view_count(experiment) > 0:
        features = partial(
            frozen_features,
            network=network,
            network_inputs={
                "backbone": BACKBONES.identity(parameters.backbone),
                "input_channels": parameters.input_channels,
                "weights": weights.sha256 if weights else None,
            },
            form=form,
            seed=settings.seed,
            views=parameters.views,
            compute=compute,
            cache=cache,
            on_progress=on_progress,
        )
    return _Parts(form=form, network=network, head=head, features=features)


def view_count(experiment: Experiment) -> int:
    """Views of each image: one without augmentation, 0 where they are drawn afresh every time."""
    return experiment.parameters.views if experiment.parameters.classical else 1


def _batches(
    training_set: TrainingSet, experiment: Experiment, loader: Loader, device: str
) -> Callable[[int], tuple[Tensor, Tensor]]:
    seed, views = experiment.settings.seed, max(view_count(experiment), 1)
    plan = training_set.plan
    real = image_stream(
        seed, "real", image_count=training_set.real_count, per_step=plan.real_per_step, view_count=views
    )
    extra = image_stream(
        seed, "extra", image_count=len(training_set.extra), per_step=plan.extra_per_step, view_count=views
    )

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn, added = real(step), extra(step)
        numbers = np.concatenate([drawn.positions, training_set.extra[added.positions]])
        draw = StepImages(
            step=step,
            numbers=numbers,
            views=np.concatenate([drawn.views, added.views]),
            real_count=len(drawn.positions),
        )
        return loader.inputs(draw), torch.from_numpy(training_set.labels[numbers]).to(device)

    return batch


def batches_of_real_images(training_set: TrainingSet, experiment: Experiment, loader: Loader) -> Iterator[Tensor]:
    """Up to 256 real images in a seeded order, the same at each call: each once, in one of its training views.

    They come in batches of about equal size, with images of all classes, and as large as those of validation.
    """
    seed, count, views = experiment.settings.seed, training_set.real_count, max(view_count(experiment), 1)
    drawn = image_stream(seed, "batch norm", image_count=count, per_step=count, view_count=views)(0)
    chosen = np.arange(min(count, _MOST_REAL_IMAGES))
    for part, places in enumerate(np.array_split(chosen, -(-len(chosen) // _VAL_BATCH))):
        yield loader.inputs(
            StepImages(
                step=-1 - part,  # with `views: 0`, views that no step of the training draws
                numbers=drawn.positions[places],
                views=drawn.views[places],
                real_count=len(places),
            )
        )


class FeatureLoader:
    """Inputs are the features of a frozen backbone.

    Args:
        training_set: The trial's images.
        features: From a group to the features of its augmented views, float32 [n, V, D].
        plain_features: The same without augmentation, for validation.
        device: Where the head is.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        features: Callable[[ImageSource], NDArray[np.float32]],
        plain_features: Callable[[ImageSource], NDArray[np.float32]],
        device: str,
    ) -> None:
        self._training_set = training_set
        self._device = device
        self._features = [features(group) for group in training_set.groups]
        self._plain_features = plain_features

    @property
    def feature_count(self) -> int:
        """D, the features of an image."""
        return int(self._features[0].shape[2])

    def inputs(self, draw: StepImages) -> Tensor:
        """Float32 [B, D]."""
        groups, places = self._training_set.locate(draw.numbers)
        out = np.empty((len(draw.numbers), self.feature_count), dtype=np.float32)
        for group in np.unique(groups).tolist():
            chosen = groups == group
            out[chosen] = self._features[group][places[chosen], draw.views[chosen]]
        return torch.from_numpy(out).to(self._device)

    def side(self, group: ImageSource) -> Iterator[Tensor]:
        """One batch, float32 [n, D]."""
        return feature_batches(self._plain_features(group), self._device)


class PixelLoader:
    """Inputs are images, [B, C, S, S]: scaled, augmented and normalised on the device."""

    def __init__(self, training_set: TrainingSet, experiment: Experiment, form: InputFormat, device: str) -> None:
        self._training_set = training_set
        self._form = form
        self._device = device
        self._seed = experiment.settings.seed
        self._classical = experiment.parameters.classical
        self._views = view_count(experiment)
        self._tables = [
            view_table(
                self._seed,
                "views",
                group.name,
                image_count=len(group.rows),
                views=max(self._views, 1),
                classical=self._classical,
            )
            for group in training_set.groups
        ]

    def inputs(self, draw: StepImages) -> Tensor:
        """Float32 [B, C, S, S], channels last."""
        groups, places = self._training_set.locate(draw.numbers)
        size_px = self._form.image_size_px
        images = torch.empty(len(draw.numbers), 1, size_px, size_px, device=self._device)
        views = np.empty((len(draw.numbers), self._tables[0].shape[2]), dtype=np.float32)
        for group in np.unique(groups).tolist():
            chosen = groups == group
            images[torch.from_numpy(chosen)] = _unit(
                self._training_set.groups[group], places[chosen], self._form, self._device
            )
            views[chosen] = self._tables[group][places[chosen], draw.views[chosen]]
        if self._views == 0:
            views = self._fresh(draw)
        return normalise(augment(images, torch.from_numpy(views).to(self._device)), self._form)

    def _fresh(self, draw: StepImages) -> NDArray[np.float32]:
        # Two streams, so that the real images' views are the same in every arm.
        counts = {"real": draw.real_count, "extra": len(draw.numbers) - draw.real_count}
        return np.concatenate(
            [
                fresh_views(self._seed, purpose, draw.step, count=count, classical=self._classical)
                for purpose, count in counts.items()
            ]
        )

    def side(self, group: ImageSource) -> Iterator[Tensor]:
        """Batches of [n, C, S, S]."""
        return pixel_batches(group, self._form, self._device)


def feature_batches(features: NDArray[np.float32], device: str) -> Iterator[Tensor]:
    """The unaugmented view of all images, float32 [n, D], as one batch; `features` is [n, V, D]."""
    yield torch.from_numpy(np.array(features[:, 0])).to(device)


def pixel_batches(group: ImageSource, form: InputFormat, device: str) -> Iterator[Tensor]:
    """The images of a group, in batches of [n, C, S, S]."""
    for start in range(0, len(group.rows), _VAL_BATCH):
        places = np.arange(start, min(start + _VAL_BATCH, len(group.rows)))
        yield normalise(_unit(group, places, form, device), form)


def _unit(group: ImageSource, places: NDArray[np.int64], form: InputFormat, device: str) -> Tensor:
    return to_unit(torch.from_numpy(group.pixels[group.rows[places]]).to(device), form)


def _grey_statistics(group: ImageSource) -> tuple[float, float]:
    """Mean and standard deviation of a group's pixels, in [0, 1]; from the histogram of their 256 values."""
    histogram = np.zeros(256, dtype=np.int64)
    for start in range(0, len(group.rows), 512):
        histogram += np.bincount(group.pixels[group.rows[start : start + 512]].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = float((histogram * values).sum() / histogram.sum())
    std = float(np.sqrt((histogram * (values - mean) ** 2).sum() / histogram.sum()))
    return mean, std
