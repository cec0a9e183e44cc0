"""The network of an experiment, and the features of its backbone if the backbone is frozen.

Features are computed once for every distinct view of an image and shared by all heads trained on
them, so a head trains on exactly what the backbone would output. The store of the features depends
on the input format, the backbone and its weights, the device and its precision, and the releases of
torch and torchvision. The key of an image's features depends on its pixels and the view.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from xraytune.base.arrays import Float32Array, Int64Array
from xraytune.base.artifacts import releases
from xraytune.base.files import sha256_of
from xraytune.base.tensors import load_tensors
from xraytune.data.decoding import InputFormat
from xraytune.data.image_set import ImageSet
from xraytune.data.prepare import RunContext, side_image_set
from xraytune.nets.backbones import find_weights, fold_batch_norms
from xraytune.nets.compute import in_one_thread
from xraytune.nets.feature_store import KEY_BYTES, open_store
from xraytune.nets.infer import predict_logits, require_different
from xraytune.nets.inputs import (
    IDENTITY_VIEW,
    MASK_THRESHOLD,
    augment,
    input_format,
    normalise,
    to_unit,
    view_table,
)
from xraytune.nets.networks import build_head, linear_of
from xraytune.space.backbones import BACKBONES
from xraytune.space.encoders import MODEL_FILE
from xraytune.space.parameters import network_identity
from xraytune.space.settings import Experiment
from xraytune.synth.donor import donor_tensors, require_model
from xraytune.tasks import task_of
from xraytune.trial.saved_model import Bundle, open_bundle

_GPU_BATCH = 128
_CPU_BATCH = 32
"""Larger batches leave the caches of a CPU: with 64 images, features take up to a third longer."""
_COMPARED = 256
"""Features of about this many images are compared, to find out whether all are nearly equal."""
_READ_AT_ONCE = 256
_IDENTITY = np.array(IDENTITY_VIEW, dtype=np.float32)


class TrialNetwork:
    """The network of an experiment, and how images become its inputs.

    It is built on first use, which cached features avoid.

    Attributes:
        input_format: Converts stored pixels to the network's input.
        weights: The file of pretrained weights.
        has_cached_features: Whether the backbone is frozen, so that its features are computed once.
    """

    def __init__(self, experiment: Experiment, context: RunContext) -> None:
        parameters = experiment.parameters
        settings = experiment.settings
        self.experiment = experiment
        self.compute = context.compute
        self.task = task_of(settings)
        self.has_cached_features = parameters.trainable == "head" and self.task.trains_heads
        self._context = context
        self._batch = _GPU_BATCH if self.compute.device == "cuda" else _CPU_BATCH
        self.weights = find_weights(parameters.backbone, parameters.weights, settings.weights_dir)
        self._model: Bundle | None = None
        if experiment.donor and not self.has_cached_features:
            self._model = open_bundle(require_model(experiment.donor))
            self.input_format: InputFormat = self._model.record.input_format
            return
        mean, std = 0.0, 1.0  # pretrained weights have their own
        if parameters.weights == "none":
            mean, std = _grey_statistics(side_image_set("train", context.prepared, context.cache))
        self.input_format = input_format(experiment, train_mean=mean, train_std=std)

    @property
    def output_count(self) -> int:
        """The number of classes or findings, each of which has an output."""
        return len(self._context.prepared.outputs)

    @cached_property
    def whole(self) -> nn.Module:
        """The whole network, on the device."""
        network = self.task.build_network(
            self.experiment.parameters,
            self.output_count,
            weights=self.weights,
            seed=self.experiment.settings.seed,
        )
        if self._model:  # training starts at a donor's network, at the first if there are several
            load_tensors(network, load_file(self._model.path / MODEL_FILE))
        return network.to(self.compute.device)

    @cached_property
    def _frozen_backbone(self) -> nn.Module:
        """The backbone, as it computes features."""
        return fold_batch_norms(self.whole.get_submodule("backbone"))

    def untrained(self, image_set: ImageSet) -> nn.Module:
        """Return the module that a trial trains, before its training.

        This is the whole network or, if the backbone is frozen, a new head. If training starts at a
        donor's classifier, the head has the donor's weights. The first image of the set is needed
        only to find the number of features.
        """
        if not self.has_cached_features:
            return self.whole
        settings = self.experiment.settings
        parameters = self.experiment.parameters
        feature_count = self.features(image_set, np.zeros(1, dtype=np.int64))[0].shape[1]
        head = build_head(parameters, feature_count, self.output_count, seed=settings.seed)
        if self.experiment.donor:
            classifier = donor_tensors(
                self.experiment.donor, self._context.prepared.class_names, parameters, settings
            )
            linear_of(head).load_state_dict({name: classifier[name] for name in ("weight", "bias")})
        return head.to(self.compute.device)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that features depend on besides the images and their views."""
        parameters = self.experiment.parameters
        compute = self.compute
        return {
            "network": {
                "backbone": network_identity(parameters),
                "input_channels": parameters.input_channels,
                "weights": sha256_of(self.weights) if self.weights else None,
            },
            "format": asdict(self.input_format),
            "compute": [compute.device, compute.precision],
            "releases": releases("torch", "torchvision"),
        }

    def views(self, image_set: ImageSet) -> Float32Array:
        """Return the views of each image that training shows, [n, V, 11]."""
        experiment = self.experiment
        return view_table(
            experiment.settings.seed,
            "views",
            image_set.name,
            image_count=len(image_set.rows),
            parameters=experiment.parameters,
        )

    def features(
        self, image_set: ImageSet, indices: Int64Array, views: Float32Array | None = None
    ) -> tuple[Float32Array, Int64Array]:
        """Return features, float32 [N, D], and the row of each image in them, [n].

        The images are at `indices` of a set, [n], and shown in `views`, [n, 11]; without `views`,
        they are not augmented. Features that the store lacks are computed. The returned features
        may be memory-mapped.
        """
        if image_set.features is not None:
            return image_set.features, image_set.rows[indices]
        if views is None:
            views = np.broadcast_to(_IDENTITY, (len(indices), len(_IDENTITY)))
        features, rows = open_store(self._context.cache, self.identity).find(
            _name_views(image_set, indices, views),
            partial(self._compute_features, image_set, indices, views),
            what=f"features of {image_set.name} images",
            on_progress=self._context.on_progress,
        )
        if image_set.name == "real":  # a generator's images may be nearly equal themselves
            compared = features[rows[:: 1 + len(rows) // _COMPARED]]
            require_different(compared, self.experiment.parameters.backbone)
        return features, rows

    def plain_features(self, image_set: ImageSet) -> Float32Array:
        """Return the features of images without augmentation, float32 [n, D]."""
        features, rows = self.features(image_set, np.arange(len(image_set.rows)))
        return np.asarray(features[rows])

    def _compute_features(
        self, image_set: ImageSet, indices: Int64Array, views: Float32Array, numbers: Int64Array
    ) -> Iterator[Float32Array]:
        """Yield the features of some of the images in their views, by their `numbers`, in batches.

        All batches have the same size, and each is computed in one thread. So features depend
        neither on the other images of their batch nor on the number of threads.
        """
        parameters = self.experiment.parameters
        compute = self.compute
        backbone = self._frozen_backbone
        # An extension's network may not be made for threads.
        in_threads = compute.device == "cpu" and not BACKBONES.has(parameters.backbone)
        threads = compute.threads if in_threads else 1

        def compute_batch(in_batch: Int64Array) -> Float32Array:
            batch = np.resize(in_batch, self._batch)  # repeats them if there are fewer
            images = self.read_scaled(image_set, indices[batch])
            images = augment(images, torch.from_numpy(views[batch]).to(compute.device))
            inputs = normalise(images, self.input_format)
            features = predict_logits(backbone, [inputs], compute=compute)
            return features[: len(in_batch)]

        batches = np.split(numbers, range(self._batch, len(numbers), self._batch))
        pool = ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1))
        with in_one_thread(), pool:
            run = pool.map if threads > 1 else map
            yield from run(compute_batch, batches)

    def read_scaled(self, image_set: ImageSet, indices: Int64Array | slice) -> Tensor:
        """Return images of a set on the device, float32 [n, 1, S, S] in [0, 1]."""
        return to_unit(
            torch.from_numpy(image_set.read(indices)).to(self.compute.device), self.input_format
        )

    def scale_masks(self, masks: Tensor) -> Tensor:
        """Return masks, uint8 [n, h, w], as float32 [n, 1, S, S] of 0 and 1, scaled up."""
        size_px = self.input_format.image_size_px
        masks = (masks[:, None] > 0).float()
        if masks.shape[2] != size_px:
            masks = F.interpolate(masks, size=(size_px, size_px), mode="bilinear")
            masks = (masks >= MASK_THRESHOLD).float()
        return masks

    def batches(self, image_set: ImageSet) -> Iterator[Tensor]:
        """Yield the inputs of all images of a set, unaugmented.

        These are batches of images, [n, C, S, S], or one batch of features, [n, D].
        """
        if self.has_cached_features:
            yield torch.from_numpy(self.plain_features(image_set)).to(self.compute.device)
            return
        for start in range(0, len(image_set.rows), self._batch):
            yield normalise(
                self.read_scaled(image_set, slice(start, start + self._batch)), self.input_format
            )


def _name_views(image_set: ImageSet, indices: Int64Array, views: Float32Array) -> list[bytes]:
    """Return the keys of images in views: hashes of the pixels and, if augmented, of the view."""
    distinct, image_of = np.unique(indices, return_inverse=True)
    images = []
    for start in range(0, len(distinct), _READ_AT_ONCE):
        pixels = image_set.read(distinct[start : start + _READ_AT_ONCE])
        images += [_hash(image.tobytes()) for image in pixels]
    is_plain = (views == _IDENTITY).all(axis=1)
    return [
        images[image] if plain else _hash(images[image] + view.tobytes())
        for image, plain, view in zip(image_of, is_plain, views, strict=True)
    ]


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:KEY_BYTES]


def _grey_statistics(image_set: ImageSet) -> tuple[float, float]:
    """Return the mean and standard deviation of the pixels, scaled to [0, 1]."""
    histogram = np.zeros(256, dtype=np.int64)
    for start in range(0, len(image_set.rows), _CPU_BATCH):  # bincount converts the pixels to int64
        pixels = image_set.read(slice(start, start + _CPU_BATCH))
        histogram += np.bincount(pixels.ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = float((histogram * values).sum() / histogram.sum())
    std = float(np.sqrt((histogram * (values - mean) ** 2).sum() / histogram.sum()))
    return mean, std
