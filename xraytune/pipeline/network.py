"""The network of an experiment, and the features of its backbone if that is frozen.

Features are computed once for every view of an image and shared by all heads trained on them. With V views an image has V
feature vectors, so a head trains on exactly what the backbone would output. If only the last stage is trained, the
inputs of that stage are cached instead, unless they are too large. The fingerprint covers the images, the views, the input
format, the backbone and its weights, and the releases of torch and torchvision.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.config.backbone_names import BACKBONES
from xraytune.config.settings import Experiment
from xraytune.data.decoding import InputFormat
from xraytune.models.augment import augment, view_table
from xraytune.models.backbones import last_stage_of, last_stage_prefix, skip_to_last_stage
from xraytune.models.classifier import Classifier, build_head
from xraytune.models.inputs import input_format, normalise, to_unit
from xraytune.models.segmenter import MASK_THRESHOLD
from xraytune.models.train import predict_logits
from xraytune.pipeline.artifacts import build_in_parts, is_being_built, releases
from xraytune.pipeline.model import pretrained_weights
from xraytune.pipeline.prepare import ImageSource, RunContext, side_images
from xraytune.pipeline.task import Task, task_of
from xraytune.records import Compute

FEATURES_STAGE = "features-2"
_FEATURES_FILE = "features.npy"
VAL_BATCH = 128
_CPU_BATCH = 32
"""Larger batches are not faster on the CPU and take more memory."""
_FEATURE_BATCH = 64
_MIN_PART_IMAGES, _MAX_PARTS = 4 * _FEATURE_BATCH, 64
"""A source is split into at most so many parts of at least so many images; the last part may be smaller."""
MAX_STAGE_BYTES = 2 * 2**30
"""Larger inputs of the last stage are recomputed in each step."""


class Network:
    """The network of an experiment, built on first use (cached features avoid it), and how images become its inputs.

    Attributes:
        form: Converts stored pixels to the network's input.
        stage: The last stage, if its inputs are cached instead of features; else None.
    """

    def __init__(self, experiment: Experiment, context: RunContext) -> None:
        self.experiment, self.compute, self._context = experiment, context.compute, context
        self._class_count = len(context.prepared.class_names)
        self._weights = pretrained_weights(experiment.parameters, experiment.settings.weights_dir, context.cache)
        mean, std = 0.0, 1.0  # pretrained weights have their own
        if experiment.parameters.weights == "none":
            mean, std = _grey_statistics(side_images("train", context.prepared, context.cache))
        self.form: InputFormat = input_format(experiment, train_mean=mean, train_std=std)
        self.stage: nn.Module | None = None

    @cached_property
    def whole(self) -> nn.Module:
        """The whole network, on the device."""
        path, seed = self._weights.path if self._weights else None, self.experiment.settings.seed
        network = self.task.build_network(self.experiment.parameters, self._class_count, weights=path, seed=seed)
        return network.to(self.compute.device)

    @property
    def task(self) -> Task:
        """The task of the study."""
        return task_of(self.experiment.settings)

    def head(self, feature_count: int) -> nn.Module:
        """Return a new head, on the device."""
        seed = self.experiment.settings.seed
        head = build_head(self.experiment.parameters, feature_count, self._class_count, seed=seed)
        return head.to(self.compute.device)

    @property
    def has_cached_features(self) -> bool:
        """Whether the backbone is frozen and sees the same views in every epoch, so that its features are computed once."""
        is_frozen = self.experiment.parameters.trainable == "head"
        return self.task.has_features and is_frozen and view_count(self.experiment) > 0

    def cache_last_stage(self, sources: Iterable[ImageSource]) -> bool:
        """Let `features` return inputs of the last stage, if only that is trained; return whether they can be cached.

        On a GPU, reading them would not be faster than computing them.
        """
        parameters, views = self.experiment.parameters, view_count(self.experiment)
        can_cache = self.task.has_features and self.compute.device == "cpu" and views > 0
        if parameters.trainable != "last_stage" or not can_cache:
            return False
        network = self.whole
        assert isinstance(network, Classifier), "only a classifier has features"
        stage, side_px = last_stage_of(parameters.backbone, network.backbone), self.form.image_size_px
        if stage is None:
            return False
        probe = torch.zeros(1, parameters.input_channels, side_px, side_px, device=self.compute.device)
        size = _stage_inputs(network.backbone, stage, probe, self.compute).nbytes
        if size * views * sum(len(source.rows) for source in sources) <= MAX_STAGE_BYTES:
            self.stage = stage
        return self.stage is not None

    def from_last_stage(self) -> nn.Module:
        """Return a network that maps inputs of the last stage to logits, with the parameters of the whole network."""
        shared = {id(tensor): tensor for tensor in chain(self.whole.parameters(), self.whole.buffers())}
        network = copy.deepcopy(self.whole, shared)
        skip_to_last_stage(self.experiment.parameters.backbone, network.get_submodule("backbone"))
        return network

    def features(
        self, source: ImageSource, *, classical: int, earlier: int = 0, total: int | None = None
    ) -> NDArray[Any]:
        """Return the features of all views of a source, memory-mapped; V is 1 if `classical` is 0.

        Features are float32 [n, V, D]; inputs of the last stage are [n, V, H, W, C], with bfloat16 stored as int16.
        Progress counts `earlier` images of other sources with the same title, of `total`.
        """
        parameters, seed, count = self.experiment.parameters, self.experiment.settings.seed, len(source.rows)
        table = view_table(seed, "views", source.name, image_count=count, views=parameters.views, classical=classical)
        what, total = f"features of {source.title}", total or count

        def build(folder: Path, part: Mapping[str, Any], parts_done: int) -> None:
            network, (first, end) = self.whole, part["images"]
            assert isinstance(network, Classifier), "only a classifier has features"
            like = self._outputs(network, self.scaled(source, slice(0, 1)), table[:1, 0])
            out = _new_array(folder, (end - first, table.shape[1], *like.shape[1:]), like.dtype)
            done = earlier + min(parts_done * per_part, count - (end - first))
            self._context.on_progress(what, done, total)
            for start in range(0, end - first, _FEATURE_BATCH):
                batch = slice(first + start, min(first + start + _FEATURE_BATCH, end))
                images = self.scaled(source, batch)
                for view in range(table.shape[1]):
                    out[start : start + len(images), view] = self._outputs(network, images, table[batch, view])
                self._context.on_progress(what, done + batch.stop - first, total)
            out.flush()

        def join(folder: Path, parts: Sequence[Path]) -> None:
            self._context.on_progress(what, earlier + count, total)
            out = None
            for part, first in zip(parts, range(0, count, per_part), strict=True):
                own = np.load(part / _FEATURES_FILE)  # not mapped: another process may remove it
                if out is None:
                    out = _new_array(folder, (count, *own.shape[1:]), own.dtype)
                out[first : first + len(own)] = own
            assert out is not None, "there are parts"
            out.flush()

        per_part = max(_MIN_PART_IMAGES, -(-count // (_MAX_PARTS * _FEATURE_BATCH)) * _FEATURE_BATCH)
        origin = {name: value for name, value in source.inputs.items() if name != "rows"}  # for `clean`
        path = build_in_parts(
            self._context.cache,
            FEATURES_STAGE,
            self._feature_inputs(source, classical),
            [{"images": [first, min(first + per_part, count)], "of": origin} for first in range(0, count, per_part)],
            build,
            join,
            waiting=lambda: self._context.on_progress(f"waiting for {what}, which another process computes", 0, count),
        )
        features: NDArray[Any] = np.load(path / _FEATURES_FILE, mmap_mode="r")
        return features

    def is_computed_elsewhere(self, source: ImageSource, *, classical: int) -> bool:
        """Return whether a source's features are not cached yet and another process is computing them."""
        return is_being_built(self._context.cache, FEATURES_STAGE, self._feature_inputs(source, classical))

    def _feature_inputs(self, source: ImageSource, classical: int) -> dict[str, Any]:
        parameters, compute = self.experiment.parameters, self.compute
        return {
            "group": [source.name, source.inputs],
            "network": {
                "backbone": BACKBONES.identity(parameters.backbone),
                "input_channels": parameters.input_channels,
                "weights": self._weights.sha256 if self._weights else None,
            },
            "format": asdict(self.form),
            "views": [self.experiment.settings.seed, parameters.views, classical] if classical else None,
            "compute": [compute.device, compute.threads, compute.precision],
            "releases": releases("torch", "torchvision"),
            **({"until": last_stage_prefix(parameters.backbone)} if self.stage else {}),
        }

    def _outputs(self, network: Classifier, images: Tensor, views: NDArray[np.float32]) -> NDArray[Any]:
        """Return what to cache for images, float32 [n, 1, S, S], in these views, [n, 7]."""
        shown = normalise(augment(images, torch.from_numpy(views).to(self.compute.device)), self.form)
        if self.stage is None:
            return predict_logits(network.backbone, [shown], compute=self.compute)
        return _stage_inputs(network.backbone, self.stage, shown, self.compute)

    def on_device(self, features: NDArray[Any]) -> Tensor:
        """Return cached features, [n, D], or inputs of the last stage, stored as [n, H, W, C], restored to [n, C, H, W]."""
        tensor = torch.from_numpy(features).to(self.compute.device)
        tensor = tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor

    def scaled(self, source: ImageSource, places: NDArray[np.int64] | slice) -> Tensor:
        """Return images of a source on the device, float32 [n, 1, S, S] in [0, 1]."""
        return to_unit(torch.from_numpy(source.read(places)).to(self.compute.device), self.form)

    def scaled_masks(self, source: ImageSource, places: NDArray[np.int64] | slice) -> Tensor:
        """Return masks of a source on the device, float32 [n, 1, S, S] of 0 and 1; smaller ones are scaled up."""
        size_px = self.form.image_size_px
        masks = (torch.from_numpy(source.read_masks(places)).to(self.compute.device)[:, None] > 0).float()
        if masks.shape[2] != size_px:
            masks = (F.interpolate(masks, size=(size_px, size_px), mode="bilinear") >= MASK_THRESHOLD).float()
        return masks

    def batches(self, source: ImageSource) -> Iterator[Tensor]:
        """Yield the inputs of all images of a source, unaugmented: batches of [n, C, S, S], or one of features [n, D]."""
        if self.has_cached_features:
            features = self.features(source, classical=0)
            yield torch.from_numpy(np.array(features[:, 0])).to(self.compute.device)
            return
        inputs = self.features(source, classical=0)[:, 0] if self.stage else None
        size = VAL_BATCH if self.compute.device == "cuda" else _CPU_BATCH
        for places in (slice(start, start + size) for start in range(0, len(source.rows), size)):
            if inputs is None:
                yield normalise(self.scaled(source, places), self.form)
            else:
                yield self.on_device(np.array(inputs[places]))


def _stage_inputs(backbone: nn.Module, stage: nn.Module, images: Tensor, compute: Compute) -> NDArray[Any]:
    """Return the inputs of a backbone's stage for these images, [n, H, W, C], with bfloat16 stored as int16."""
    found: list[Tensor] = []
    hook = stage.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].clone()))
    try:
        predict_logits(backbone, [images], compute=compute)
    finally:
        hook.remove()
    maps = found[0].permute(0, 2, 3, 1).contiguous()
    values: NDArray[Any] = (maps.view(torch.int16) if maps.dtype == torch.bfloat16 else maps).cpu().numpy()
    return values


def _new_array(folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.memmap[Any, Any]:
    """Create a file and return it as a memory-mapped array. A full disk is an error now; later it would kill the process."""
    file = folder / _FEATURES_FILE
    out: np.memmap[Any, Any] = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with file.open("rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, out.offset + out.nbytes)
    return out


def view_count(experiment: Experiment) -> int:
    """Return the views of each image: one without augmentation, 0 if they are drawn afresh in every step."""
    return experiment.parameters.views if experiment.parameters.classical else 1


def _grey_statistics(source: ImageSource) -> tuple[float, float]:
    """Return the mean and standard deviation of the pixels, in [0, 1]; from the histogram of their 256 values."""
    histogram = np.zeros(256, dtype=np.int64)
    for start in range(0, len(source.rows), _FEATURE_BATCH):  # small, since bincount converts the pixels to int64
        histogram += np.bincount(source.read(slice(start, start + _FEATURE_BATCH)).ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = float((histogram * values).sum() / histogram.sum())
    std = float(np.sqrt((histogram * (values - mean) ** 2).sum() / histogram.sum()))
    return mean, std
