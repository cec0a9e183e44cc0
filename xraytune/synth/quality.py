"""Quality of synthetic images: how far they are from real ones, in features of a backbone.

The first images of each class's pool are compared with val-A, which no generator has seen. All
images have the resolution of the synthetic ones, as in a trial.

The figures of a pool are an artifact, computed once. So are the features of each side of the real
images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import nn

from xraytune.base.artifacts import build_once, releases
from xraytune.base.errors import MachineError, join_names
from xraytune.base.files import read_json, sha256_of, write_array, write_json
from xraytune.data.images import SideName
from xraytune.data.prepare import ImageSource, Prepared, RunContext, side_images
from xraytune.data.sides import side_sizes
from xraytune.nets.backbones import build_backbone, fold_batch_norms
from xraytune.nets.compute import autocast
from xraytune.nets.infer import require_different
from xraytune.nets.inputs import input_format, normalise, to_unit
from xraytune.nets.weights import find_weights
from xraytune.space.backbones import BACKBONES
from xraytune.space.settings import Experiment, Parameters
from xraytune.stats.classification import Floats
from xraytune.synth.generator_quality import (
    ClassQuality,
    LabelledFeatures,
    PoolReport,
    Quality,
    coverage,
    kernel_inception_distance,
    transfer_auroc,
)
from xraytune.synth.memorisation_gate import describe_copies, measure_memorisation
from xraytune.synth.sources.source import BLOCK, ReadBlock, blocks_for
from xraytune.synth.sources.which import block_reader
from xraytune.synth.train import resize_pixels

QUALITY_STAGE = "quality-4"
REAL_STAGE = "quality-real-4"
MOST_IMAGES = 2 * BLOCK
FEWEST_IMAGES = 50
"""The most images of a class that are compared, and the fewest on each side."""
_FEWEST_PX = 32
_BATCH = 32
_QUALITY = TypeAdapter(Quality)


def measure_quality(
    experiment: Experiment, context: RunContext, read: ReadBlock | None = None
) -> Quality | str:
    """Return the quality of synthetic images, or the reason why it cannot be measured.

    Raises:
        MachineError: The weights of `quality.backbone` are missing.
        TrialError: The pool cannot be drawn.
    """
    prepared = context.prepared
    names = prepared.class_names
    network = feature_parameters(experiment)
    if network is None:
        return "not measured: the backbone is not pretrained; set quality.backbone"
    side = find_small_side(prepared)
    if side:
        return f"not measured: too few images in {side}"
    counts = np.bincount(prepared.side("val_a").labels, minlength=len(names)).clip(max=MOST_IMAGES)
    read = read or block_reader(experiment, context)
    # Whole blocks: GAN-train uses all of them, even if the class has few real images.
    pools = [first_images(read, label, int(count)) for label, count in enumerate(counts)]
    few = _few({name: len(pixels) for name, (pixels, *_) in zip(names, pools, strict=True)})
    if few:
        return f"not measured: too few synthetic images ({few})"
    size_px = pools[0][0].shape[1]
    # Enlarged files look unlike real ones at the study's size.
    file_size_px = read(0, 0).file_size_px or size_px
    resolution_px = max(_FEWEST_PX, min(size_px, file_size_px, prepared.image_size_px))
    try:
        features = Features(experiment, network, resolution_px, context)
    except MachineError as error:
        if experiment.settings.quality.backbone:
            raise
        return f"not measured: {error.problems[0].what}"

    def build(folder: Path) -> None:
        drawn = features.compute(
            "synthetic images", [(pixels, np.arange(len(pixels))) for pixels, *_ in pools]
        )
        train, val_a, val_b = (features.compute_side(side) for side in ("train", "val_a", "val_b"))
        classes = {}
        for name, synthetic, real, others in zip(names, drawn, val_a, val_b, strict=True):
            pair = sample_equally(real, synthetic)
            classes[name] = ClassQuality(
                images=len(pair[0]),
                kid=kernel_inception_distance(*pair),
                floor=kernel_inception_distance(*sample_equally(real, others)),
                coverage=coverage(*pair),
            )
        pool = np.concatenate(drawn), np.concatenate([targets for _, targets, _ in pools])
        unseen = _labelled("val_a", val_a, prepared)
        quality = Quality(
            features=features.name,
            resolution_px=resolution_px,
            classes=classes,
            gan_train=transfer_auroc(pool, unseen, positive=prepared.positive),
            real_train=transfer_auroc(
                _labelled("train", train, prepared), unseen, positive=prepared.positive
            ),
        )
        write_json(folder / "quality.json", _QUALITY.dump_python(quality, mode="json"))

    inputs = {
        "features": features.inputs,
        "images": prepared.fingerprint,
        "content": [prepared.pixels, prepared.pixels_sha256],
        "class_names": list(names),
        "positive": prepared.positive,
        "images_of_class": MOST_IMAGES,
        "pools": [blocks for *_, blocks in pools],
        **(
            {"findings": [targets.tolist() for _, targets, _ in pools]} if prepared.findings else {}
        ),
    }
    path = build_once(context.cache, QUALITY_STAGE, inputs, build, waiting=features.waiting)
    return _QUALITY.validate_python(read_json(path / "quality.json"))


def first_images(
    read: ReadBlock, label: int, count: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[dict[str, Any]]]:
    """Return the images of a class in the blocks that hold `count`, or in a folder; their targets.

    The blocks' inputs.
    """
    blocks: list[ImageSource] = []
    while len(blocks) < blocks_for(count) and all(len(block.rows) == BLOCK for block in blocks):
        blocks.append(read(label, len(blocks)))
    targets = np.concatenate([block.targets for block in blocks])
    return (
        np.concatenate([block.read() for block in blocks]),
        targets,
        [block.inputs for block in blocks],
    )


def report_pool(experiment: Experiment, context: RunContext) -> PoolReport:
    """Return quality and memorisation of synthetic images, without refusing any."""
    read = block_reader(experiment, context)
    quality = measure_quality(experiment, context, read)
    copies = describe_copies(measure_memorisation(context, read)[0])
    if isinstance(quality, str):
        return PoolReport(quality=None, note=quality, copies=copies)
    return PoolReport(quality=quality, note="", copies=copies)


def find_small_side(prepared: Prepared) -> str:
    """Return the first of val-A and val-B with too few images of a class; "" if none has.

    Such as `val-A (NORMAL 8)`.
    """
    sizes = ((size.name, size, size.images) for size in side_sizes(prepared)[1:])
    named = [
        (name, _few({"image": size.image_count} if prepared.findings else of))
        for name, size, of in sizes
    ]
    return next((f"{name} ({few})" for name, few in named if few), "")


def _few(counts: Mapping[str, int]) -> str:
    few = [f"{name} {count}" for name, count in counts.items() if count < FEWEST_IMAGES]
    return f"{join_names(few)}; at least {FEWEST_IMAGES} needed" if few else ""


def feature_parameters(experiment: Experiment) -> Parameters | None:
    """Return the backbone and weights of the features.

    None if it is the trial's own backbone and not pretrained.
    """
    quality = experiment.settings.quality
    trial = experiment.parameters
    backbone, weights = (
        (quality.backbone, quality.weights) if quality.backbone else (trial.backbone, trial.weights)
    )
    return None if weights == "none" else Parameters(backbone=backbone, weights=weights)


class Features:
    """Computes the features of images at one resolution."""

    def __init__(
        self, experiment: Experiment, network: Parameters, resolution_px: int, context: RunContext
    ) -> None:
        weights = find_weights(network.backbone, network.weights, experiment.settings.weights_dir)
        assert weights is not None, "features come from pretrained weights"
        self._network = network
        self._weights = weights
        self._context = context
        compute = context.compute
        with_network = Experiment(settings=experiment.settings, parameters=network)
        self._form = input_format(with_network, train_mean=0.5, train_std=0.5)
        self.resolution_px = resolution_px
        self._class_count = len(context.prepared.class_names)
        self.name = f"{network.backbone} ({weights.name})"
        self.inputs = {
            "backbone": BACKBONES.identity(network.backbone),
            "weights": sha256_of(weights),
            "format": asdict(self._form),
            "resolution_px": resolution_px,
            "compute": [compute.device, compute.threads, compute.precision],
            "releases": releases("torch", "torchvision", "torchmetrics", "scikit-learn"),
        }

    @cached_property
    def _backbone(self) -> nn.Module:
        backbone, _ = build_backbone(self._network.backbone, weights=self._weights)
        on_device = backbone.to(self._context.compute.device).to(memory_format=torch.channels_last)
        return fold_batch_norms(on_device)

    def waiting(self) -> None:
        """Tell that another process computes what is needed next."""
        self._context.on_progress(
            "waiting for the quality of images, which another process is computing", 0, 1
        )

    def compute_side(self, name: SideName) -> list[Floats]:
        """Return the features of at most `MOST_IMAGES` images of each class, float64 [n, D].

        They are an artifact, shared by the draws of a confirmation, whose validation sides are the
        same.
        """
        side = side_images(name, self._context.prepared, self._context.cache)
        class_count = self._class_count
        rows = [
            sample_evenly(side.rows[side.labels == label], MOST_IMAGES)
            for label in range(class_count)
        ]

        def build(folder: Path) -> None:
            of_classes = self.compute(side.title, [(side.pixels, of_class) for of_class in rows])
            features = np.concatenate(of_classes)
            require_different(features, self._network.backbone)
            write_array(folder / "features.npy", features)

        images = {**side.inputs, "rows": [of_class.tolist() for of_class in rows]}
        inputs = {"features": self.inputs, "images": images}
        path = build_once(self._context.cache, REAL_STAGE, inputs, build, waiting=self.waiting)
        return np.split(
            np.load(path / "features.npy"), np.cumsum([len(of_class) for of_class in rows])[:-1]
        )

    @torch.inference_mode()
    def compute(
        self, what: str, sets: Sequence[tuple[NDArray[np.uint8], NDArray[np.int64]]]
    ) -> list[Floats]:
        """Return the features, float64 [n, D], of each set: images uint8 [N, h, w] and rows [n]."""
        compute = self._context.compute
        total = sum(len(rows) for _, rows in sets)
        done = 0
        features: list[Floats] = []
        for pixels, rows in sets:
            batches = []
            for start in range(0, len(rows), _BATCH):
                images = torch.from_numpy(
                    resize_pixels(pixels[rows[start : start + _BATCH]], self.resolution_px)
                )
                shown = normalise(to_unit(images.to(compute.device), self._form), self._form)
                with autocast(compute):
                    batches.append(self._backbone(shown).double().cpu())
                done += len(images)
                self._context.on_progress(f"quality: features of {what}", done, total)
            features.append(torch.cat(batches).numpy())
        return features


def _labelled(name: SideName, features: Sequence[Floats], prepared: Prepared) -> LabelledFeatures:
    """Return the features of a side, with the targets of those images."""
    side = prepared.side(name)
    chosen = [
        sample_evenly(np.flatnonzero(side.labels == label), MOST_IMAGES)
        for label in range(len(features))
    ]
    return np.concatenate(features), side.targets[np.concatenate(chosen)]


def sample_equally(real: Floats, synthetic: Floats) -> tuple[Floats, Floats]:
    """Return equal numbers of both, since the figures depend on the numbers of images."""
    count = min(len(real), len(synthetic))
    return sample_evenly(real, count), sample_evenly(synthetic, count)


def sample_evenly(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Return `count` values, or all if there are fewer.

    Evenly spaced, since adjacent ones often share a patient.
    """
    return values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(np.int64)]
