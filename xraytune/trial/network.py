"""The network of an experiment, and the features of its backbone if that is frozen.

Features are computed once for every distinct view of an image and shared by all heads trained on
them, so a head trains on exactly what the backbone would output. The fingerprint covers the images,
the views, the input format, the backbone and its weights, and the releases of torch and
torchvision.
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraytune.base.arrays import Float32Array, Int64Array
from xraytune.base.artifacts import build_once, releases
from xraytune.base.files import sha256_of
from xraytune.data.decoding import InputFormat
from xraytune.data.prepare import ImageSource, RunContext, side_images
from xraytune.nets.backbones import find_weights, fold_batch_norms
from xraytune.nets.infer import predict_logits, require_different
from xraytune.nets.inputs import (
    MASK_THRESHOLD,
    augment,
    input_format,
    normalise,
    to_unit,
    view_table,
)
from xraytune.nets.networks import build_head, linear_of
from xraytune.space.backbones import BACKBONES
from xraytune.space.settings import Experiment
from xraytune.synth.sources.statistics import donor_tensors
from xraytune.tasks import task_of

FEATURES_STAGE = "features-6"
_GPU_BATCH = 128
_CPU_BATCH = 32
"""On a CPU, larger batches leave its caches: with 64, features take up to a third longer."""


class Network:
    """The network of an experiment, and how images become its inputs.

    It is built on first use, which cached features avoid.

    Attributes:
        form: Converts stored pixels to the network's input.
        weights: The file of pretrained weights.
        has_cached_features: Whether the backbone is frozen, so that its features are computed once.
    """

    def __init__(self, experiment: Experiment, context: RunContext) -> None:
        parameters = experiment.parameters
        settings = experiment.settings
        self.experiment = experiment
        self.compute = context.compute
        self.task = task_of(settings)
        self.has_cached_features = parameters.trainable == "head" and not self.task.has_masks
        self._context = context
        self._batch = _GPU_BATCH if self.compute.device == "cuda" else _CPU_BATCH
        self.weights = find_weights(parameters.backbone, parameters.weights, settings.weights_dir)
        mean, std = 0.0, 1.0  # pretrained weights have their own
        if parameters.weights == "none":
            mean, std = _grey_statistics(side_images("train", context.prepared, context.cache))
        self.form: InputFormat = input_format(experiment, train_mean=mean, train_std=std)

    @cached_property
    def whole(self) -> nn.Module:
        """The whole network, on the device."""
        network = self.task.build_network(
            self.experiment.parameters,
            len(self._context.prepared.outputs),
            weights=self.weights,
            seed=self.experiment.settings.seed,
        )
        return network.to(self.compute.device)

    def untrained(self, source: ImageSource) -> nn.Module:
        """Return what a trial trains, before its training: the whole network, or a new head.

        A head is a donor's, if training starts at it. Only the features of `source` are needed.
        """
        if not self.has_cached_features:
            return self.whole
        settings = self.experiment.settings
        parameters = self.experiment.parameters
        prepared = self._context.prepared
        feature_count = self.plain_features(source).shape[1]
        head = build_head(parameters, feature_count, len(prepared.outputs), seed=settings.seed)
        if self.experiment.donor:
            sent = donor_tensors(self.experiment.donor, prepared.class_names, parameters, settings)
            linear_of(head).load_state_dict({name: sent[name] for name in ("weight", "bias")})
        return head.to(self.compute.device)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What features depend on besides the images and their views, for fingerprints."""
        parameters = self.experiment.parameters
        compute = self.compute
        return {
            "network": {
                "backbone": BACKBONES.identity(parameters.backbone),
                "input_channels": parameters.input_channels,
                "weights": sha256_of(self.weights) if self.weights else None,
            },
            "format": asdict(self.form),
            "compute": [compute.device, compute.threads, compute.precision],
            "releases": releases("torch", "torchvision"),
        }

    def features(self, source: ImageSource, *, classical: int) -> tuple[Float32Array, Int64Array]:
        """Return the features of a source, and the row of each view in them, int64 [n, V].

        The features are float32 [m, D], memory-mapped. V is 1 if `classical` is 0. Equal views of
        an image share a row.
        """
        seed = self.experiment.settings.seed
        count = len(source.rows)
        views = self.experiment.parameters.views if classical else 1
        if source.features is not None or not classical:
            rows = np.broadcast_to(np.arange(count)[:, None], (count, views))
            return self.plain_features(source), rows
        table = view_table(
            seed, "views", source.name, image_count=count, views=views, classical=classical
        )
        numbers = np.arange(count).repeat(views)[:, None]
        named = np.concatenate([numbers, table.reshape(count * views, -1)], axis=1)
        distinct, rows = np.unique(named, axis=0, return_inverse=True)
        changes = distinct[:, 1:].astype(np.float32)
        key = [seed, views, classical]
        features = self._compute(source, distinct[:, 0].astype(np.int64), changes, key)
        return features, rows.reshape(count, views)

    def plain_features(self, source: ImageSource) -> Float32Array:
        """Return the features of a source without augmentation, float32 [n, D], memory-mapped."""
        if source.features is not None:
            return source.features
        return self._compute(source, np.arange(len(source.rows)), None, None)

    def _compute(
        self,
        source: ImageSource,
        numbers: Int64Array,
        views: Float32Array | None,
        key: list[int] | None,
    ) -> Float32Array:
        """Return the features, float32 [m, D], of images [m] in views [m, 7]; memory-mapped."""
        what = f"features of {source.name} images"
        on_progress = self._context.on_progress

        def build(folder: Path) -> None:
            backbone = fold_batch_norms(self.whole.get_submodule("backbone"))
            # Not in a memory map: a full disk would kill the process.
            with (folder / "features.npy").open("wb") as stream:
                for start in range(0, len(numbers), self._batch):
                    on_progress(what, start, len(numbers))
                    batch = slice(start, start + self._batch)
                    images = self.scaled(source, numbers[batch])
                    if views is not None:
                        of_batch = torch.from_numpy(views[batch])
                        images = augment(images, of_batch.to(self.compute.device))
                    inputs = normalise(images, self.form)
                    features = predict_logits(backbone, [inputs], compute=self.compute)
                    if start == 0:
                        shape = (len(numbers), features.shape[1])
                        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(stream, header)
                    stream.write(features.tobytes())
            on_progress(what, len(numbers), len(numbers))

        path = build_once(
            self._context.cache,
            FEATURES_STAGE,
            {"group": [source.name, source.inputs], "views": key, **self.identity},
            build,
            waiting=lambda: on_progress(
                f"waiting for {what}, which another process computes", 0, len(numbers)
            ),
        )
        features: Float32Array = np.load(path / "features.npy", mmap_mode="r")
        if source.name == "real":  # those of a generator may be nearly equal themselves
            require_different(features, self.experiment.parameters.backbone)
        return features

    def scaled(self, source: ImageSource, places: Int64Array | slice) -> Tensor:
        """Return images of a source on the device, float32 [n, 1, S, S] in [0, 1]."""
        return to_unit(torch.from_numpy(source.read(places)).to(self.compute.device), self.form)

    def scaled_masks(self, masks: Tensor) -> Tensor:
        """Return masks, uint8 [n, h, w], as float32 [n, 1, S, S] of 0 and 1, scaled up."""
        size_px = self.form.image_size_px
        masks = (masks[:, None] > 0).float()
        if masks.shape[2] != size_px:
            masks = F.interpolate(masks, size=(size_px, size_px), mode="bilinear")
            masks = (masks >= MASK_THRESHOLD).float()
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


def _grey_statistics(source: ImageSource) -> tuple[float, float]:
    """Return mean and standard deviation of the pixels, in [0, 1], from a histogram."""
    histogram = np.zeros(256, dtype=np.int64)
    for start in range(0, len(source.rows), _CPU_BATCH):  # bincount converts the pixels to int64
        pixels = source.read(slice(start, start + _CPU_BATCH))
        histogram += np.bincount(pixels.ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = float((histogram * values).sum() / histogram.sum())
    std = float(np.sqrt((histogram * (values - mean) ** 2).sum() / histogram.sum()))
    return mean, std
