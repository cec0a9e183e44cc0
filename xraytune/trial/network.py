"""The network of an experiment, and the features of its backbone if that is frozen.

Features are computed once for every distinct view of an image and shared by all heads trained on
them, so a head trains on exactly what the backbone would output. The fingerprint covers the images,
the views, the input format, the backbone and its weights, and the releases of torch and
torchvision.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.base.artifacts import build_once, releases
from xraytune.base.files import sha256_of
from xraytune.data.decoding import InputFormat
from xraytune.data.prepare import ImageSource, RunContext, side_images
from xraytune.nets.augment import MASK_THRESHOLD, augment, distinct_views, view_table
from xraytune.nets.backbones import fold_batch_norms
from xraytune.nets.classifier import Classifier, build_head, linear_of
from xraytune.nets.infer import predict_logits, require_different
from xraytune.nets.inputs import input_format, normalise, to_unit
from xraytune.nets.weights import find_weights
from xraytune.space.backbones import BACKBONES
from xraytune.space.settings import Experiment
from xraytune.synth.donor import donor_tensors
from xraytune.tasks import task_of

FEATURES_STAGE = "features-5"
VAL_BATCH = 128
_CPU_BATCH = 32
"""On a CPU, larger batches leave its caches: with 64, features take up to a third longer."""


class Network:
    """The network of an experiment, and how images become its inputs.

    It is built on first use, which cached features avoid.

    Attributes:
        form: Converts stored pixels to the network's input.
    """

    def __init__(self, experiment: Experiment, context: RunContext) -> None:
        self.experiment = experiment
        self.compute = context.compute
        self._context = context
        self.task = task_of(experiment.settings)
        self._output_count = len(context.prepared.outputs)
        parameters = experiment.parameters
        self._weights = find_weights(
            parameters.backbone, parameters.weights, experiment.settings.weights_dir
        )
        mean, std = 0.0, 1.0  # pretrained weights have their own
        if parameters.weights == "none":
            mean, std = _grey_statistics(side_images("train", context.prepared, context.cache))
        self.form: InputFormat = input_format(experiment, train_mean=mean, train_std=std)

    @cached_property
    def whole(self) -> nn.Module:
        """The whole network, on the device."""
        parameters = self.experiment.parameters
        seed = self.experiment.settings.seed
        network = self.task.build_network(
            parameters, self._output_count, weights=self._weights, seed=seed
        )
        return network.to(self.compute.device)

    @cached_property
    def frozen_backbone(self) -> nn.Module:
        """The backbone alone, for features."""
        assert isinstance(self.whole, Classifier), "only a classifier has features"
        return fold_batch_norms(self.whole.backbone)

    def head(self, feature_count: int) -> nn.Module:
        """Return a new head, on the device; a donor's, if training starts at it."""
        seed = self.experiment.settings.seed
        parameters = self.experiment.parameters
        head = build_head(parameters, feature_count, self._output_count, seed=seed)
        if folder := self.experiment.donor:
            names = self._context.prepared.class_names
            sent = donor_tensors(folder, names, parameters, self.experiment.settings)
            linear_of(head).load_state_dict({name: sent[name] for name in ("weight", "bias")})
        return head.to(self.compute.device)

    @cached_property
    def _weights_sha256(self) -> str | None:
        return sha256_of(self._weights) if self._weights else None

    @property
    def has_cached_features(self) -> bool:
        """Whether the backbone is frozen, so that its features are computed once."""
        is_frozen = self.experiment.parameters.trainable == "head"
        return is_frozen and self.task.caches_features

    def features(
        self, source: ImageSource, *, classical: int, earlier: int = 0, total: int | None = None
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
        """Return the features of a source, and the row of each view in them, int64 [n, V].

        The features are one or two arrays, float32 [m, D], memory-mapped, with rows numbered across
        both. V is 1 if `classical` is 0. Equal views share a row, and views that change nothing are
        those of `classical: 0`. Progress counts `earlier` images of other sources with the same
        title, of `total`.
        """
        seed = self.experiment.settings.seed
        views = self.experiment.parameters.views
        count = len(source.rows)
        if source.features is not None:
            shape = (count, views if classical else 1)
            return [source.features], np.broadcast_to(np.arange(count)[:, None], shape)
        table = view_table(
            seed, "views", source.name, image_count=count, views=views, classical=classical
        )
        numbers, changes, rows = distinct_views(table)
        shown = partial(self._cached_features, source, earlier=earlier, total=total or count)
        changed = [shown(numbers, changes, key=[seed, views, classical])] if len(numbers) else []
        if rows.min() >= count:
            return changed, rows - count
        return [shown(np.arange(count), None, key=None), *changed], rows

    def plain_features(self, source: ImageSource) -> NDArray[np.float32]:
        """Return the features of a source without augmentation, float32 [n, D], memory-mapped."""
        (features,), _ = self.features(source, classical=0)
        return features

    def _cached_features(
        self,
        source: ImageSource,
        numbers: NDArray[np.int64],
        views: NDArray[np.float32] | None,
        *,
        key: Sequence[int] | None,
        earlier: int,
        total: int,
    ) -> NDArray[np.float32]:
        """Return the features, float32 [m, D], of images in views [m, 7]; memory-mapped.

        Numbers of the images, [m], ascend.
        """
        parameters = self.experiment.parameters
        compute = self.compute
        what = f"features of {source.title}"
        inputs = {
            "group": [source.name, source.inputs],
            "network": {
                "backbone": BACKBONES.identity(parameters.backbone),
                "input_channels": parameters.input_channels,
                "weights": self._weights_sha256,
            },
            "format": asdict(self.form),
            "views": key,
            "compute": [compute.device, compute.threads, compute.precision],
            "releases": releases("torch", "torchvision"),
        }

        def compute_features(batch: slice) -> NDArray[np.float32]:
            images = self.scaled(source, numbers[batch])
            if views is not None:
                images = augment(images, torch.from_numpy(views[batch]).to(compute.device))
            return predict_logits(
                self.frozen_backbone, [normalise(images, self.form)], compute=compute
            )

        def build(folder: Path) -> None:
            shape = (len(numbers), compute_features(slice(0, 1)).shape[1])
            out = np.lib.format.open_memmap(
                folder / "features.npy", mode="w+", dtype=np.float32, shape=shape
            )
            # A full disk is an error here; later, in the map, it would kill the process.
            if hasattr(os, "posix_fallocate"):
                with (folder / "features.npy").open("rb+") as stream:
                    os.posix_fallocate(stream.fileno(), 0, out.offset + out.nbytes)
            self._context.on_progress(what, earlier, total)
            for start in range(0, len(numbers), self._batch):
                batch = slice(start, start + self._batch)
                out[batch] = compute_features(batch)
                self._context.on_progress(what, earlier + int(numbers[batch][-1]) + 1, total)
            if source.name == "real":  # those of a generator may be nearly equal themselves
                require_different(out, parameters.backbone)
            out.flush()

        path = build_once(
            self._context.cache,
            FEATURES_STAGE,
            inputs,
            build,
            waiting=lambda: self._context.on_progress(
                f"waiting for {what}, which another process computes", 0, total
            ),
        )
        features: NDArray[np.float32] = np.load(path / "features.npy", mmap_mode="r")
        return features

    def scaled(self, source: ImageSource, places: NDArray[np.int64] | slice) -> Tensor:
        """Return images of a source on the device, float32 [n, 1, S, S] in [0, 1]."""
        return to_unit(torch.from_numpy(source.read(places)).to(self.compute.device), self.form)

    def scaled_masks(self, masks: Tensor) -> Tensor:
        """Return masks, uint8 [n, h, w], as float32 [n, 1, S, S] of 0 and 1, scaled up."""
        size_px = self.form.image_size_px
        masks = (masks[:, None] > 0).float()
        if masks.shape[2] != size_px:
            masks = (
                F.interpolate(masks, size=(size_px, size_px), mode="bilinear") >= MASK_THRESHOLD
            ).float()
        return masks

    def batches(self, source: ImageSource) -> Iterator[Tensor]:
        """Yield the inputs of all images of a source, unaugmented.

        Batches of [n, C, S, S], or one of features [n, D].
        """
        if self.has_cached_features:
            yield torch.from_numpy(np.array(self.plain_features(source))).to(self.compute.device)
            return
        for start in range(0, len(source.rows), self._batch):
            yield normalise(self.scaled(source, slice(start, start + self._batch)), self.form)

    def untrained(self, source: ImageSource) -> tuple[nn.Module, Iterator[Tensor]]:
        """Return the module that a trial trains, before training, and its inputs of a source.

        Needs neither the trial's GAN nor the features of other images.
        """
        if self.has_cached_features:
            return self.head(self.plain_features(source).shape[1]), self.batches(source)
        return self.whole, self.batches(source)

    @property
    def _batch(self) -> int:
        """The number of images that the network is shown at a time, if it does not train."""
        return VAL_BATCH if self.compute.device == "cuda" else _CPU_BATCH


def view_count(experiment: Experiment) -> int:
    """Return the views of each image: one without augmentation."""
    return experiment.parameters.views if experiment.parameters.classical else 1


def _grey_statistics(source: ImageSource) -> tuple[float, float]:
    """Return mean and standard deviation of the pixels, in [0, 1], from a histogram."""
    histogram = np.zeros(256, dtype=np.int64)
    for start in range(
        0, len(source.rows), _CPU_BATCH
    ):  # small, since bincount converts the pixels to int64
        histogram += np.bincount(
            source.read(slice(start, start + _CPU_BATCH)).ravel(), minlength=256
        )
    values = np.arange(256) / 255
    mean = float((histogram * values).sum() / histogram.sum())
    std = float(np.sqrt((histogram * (values - mean) ** 2).sum() / histogram.sum()))
    return mean, std
