"""Quality of a trial's synthetic images: how far they are from real ones, in the features of a pretrained backbone.

The first images of each class's pool are compared with val-A, which no generator has seen. All images have the resolution
of the synthetic ones, as in a trial. Figures are computed on sharp images and after a common blur, which removes texture
and leaves content. Blurred images of val-B give the KID a scale: "as far from real images as a blur of 1.5 px".

The figures of a pool are an artifact, computed once. So are those of the real images: features of val-A and the train side,
the floor of the KID (val-A against val-B), and the scale.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from xraytune.compute import autocast
from xraytune.config.backbone_names import BACKBONES
from xraytune.config.settings import Experiment, Parameters
from xraytune.errors import MachineError, Problem, TrialError
from xraytune.files import read_json, write_bytes, write_json
from xraytune.generators.pool import BLOCK
from xraytune.generators.train import resize_pixels
from xraytune.metrics.classification import Floats
from xraytune.metrics.generator_quality import (
    COMMON_BLUR_PX,
    SCALE_PX,
    ClassQuality,
    PoolReport,
    Quality,
    kernel_inception_distance,
    neighbourhoods,
    transfer_auroc,
)
from xraytune.metrics.memorisation import blurred
from xraytune.models.backbones import build_backbone
from xraytune.models.inputs import input_format, normalise, to_unit
from xraytune.pipeline.artifacts import build_once, releases
from xraytune.pipeline.memorisation import copies_found, measure_memorisation
from xraytune.pipeline.model import pretrained_weights
from xraytune.pipeline.pools import ReadBlock, first_images, pool_reader
from xraytune.pipeline.prepare import Prepared, SideName, training_pixels
from xraytune.records import Compute, Progress, ignore_progress

QUALITY_STAGE, REAL_STAGE = "quality-1", "quality-real-1"
MOST_IMAGES, FEWEST_IMAGES = 2 * BLOCK, 50
"""The most images of a class that are compared, and the fewest that val-A, val-B and the pool must have."""
_REFERENCE_PX = 64
_BATCH = 32


_QUALITY = TypeAdapter(Quality)


def measure_quality(
    experiment: Experiment,
    prepared: Prepared,
    *,
    compute: Compute,
    cache: Path,
    read: ReadBlock | None = None,
    note: Callable[[str], None] = lambda _: None,
    on_progress: Progress = ignore_progress,
) -> Quality | None:
    """Return the quality of an experiment's synthetic images; None if it cannot be measured: `note` then gets the reason.

    Raises:
        MachineError: The weights of `quality.backbone` are missing.
        TrialError: The pool cannot be drawn.
    """
    if not experiment.parameters.has_synthetic_images:
        return None
    names = prepared.class_names
    network = _feature_parameters(experiment)
    if network is None:
        note("not measured: the backbone is not pretrained; set quality.backbone")
        return None
    for side in ("val_a", "val_b"):
        if few := _few(dict(zip(names, np.bincount(prepared.side(side).labels, minlength=len(names)), strict=True))):
            note(f"not measured: too few images in {side.replace('_a', '-A').replace('_b', '-B')} ({few})")
            return None
    counts = np.bincount(prepared.side("val_a").labels, minlength=len(names)).clip(max=MOST_IMAGES)
    read = read or pool_reader(experiment, prepared, compute=compute, cache=cache)
    # Whole blocks: GAN-train uses all of them, even if the class has few real images.
    pools = [first_images(read, label, -(-int(count) // BLOCK) * BLOCK) for label, count in enumerate(counts)]
    if few := _few({name: len(pixels) for name, (pixels, _) in zip(names, pools, strict=True)}):
        note(f"not measured: too few synthetic images ({few})")
        return None
    resolution_px = min(pools[0][0].shape[1], prepared.image_size_px)
    try:
        features = Features(experiment, network, resolution_px, compute=compute, cache=cache, on_progress=on_progress)
    except MachineError as error:
        if experiment.settings.quality.backbone:
            raise
        note(f"not measured: {error.problems[0].what}")
        return None
    real = _real_side(features, prepared, cache)

    def build(folder: Path) -> None:
        sets = [(pixels, np.arange(len(pixels)), blur) for blur in (0.0, COMMON_BLUR_PX) for pixels, _ in pools]
        found = features.of("synthetic", sets)
        sharp, hazy = found[: len(names)], found[len(names) :]
        record = read_json(real / "real.json")
        with np.load(real / "features.npz") as stored:
            val_a, val_a_hazy, train = (
                [stored[f"{name} {label}"] for label in range(len(names))]
                for name in ("val_a", "val_a blurred", "train")
            )
        classes = {
            name: ClassQuality(
                images=min(len(val_a[label]), len(sharp[label])),
                kid=kernel_inception_distance(*equal(val_a[label], sharp[label])),
                floor=record["floor"][label],
                full=neighbourhoods(*equal(val_a[label], sharp[label])),
                blurred=neighbourhoods(*equal(val_a_hazy[label], hazy[label])),
            )
            for label, name in enumerate(names)
        }
        is_classified, positive = len(names) > 1, prepared.positive
        quality = Quality(
            features=features.name,
            resolution_px=resolution_px,
            classes=classes,
            gan_train=transfer_auroc(sharp, val_a, positive=positive) if is_classified else None,
            gan_test=transfer_auroc(train, sharp, positive=positive) if is_classified else None,
            real_train=record["real_train"],
            blur_px=0.0,
        )
        blur_px = float(np.interp(quality.kid, np.maximum.accumulate(record["scale"]), SCALE_PX))
        write_json(folder / "quality.json", _QUALITY.dump_python(replace(quality, blur_px=blur_px), mode="json"))

    inputs = {"real": real.name, "pixels": [prepared.pixels], "pools": [of_blocks for _, of_blocks in pools]}
    path = build_once(cache, QUALITY_STAGE, inputs, build)
    return _QUALITY.validate_python(read_json(path / "quality.json"))


def report_pool(
    experiment: Experiment,
    prepared: Prepared,
    *,
    compute: Compute,
    cache: Path,
    on_progress: Progress = ignore_progress,
) -> PoolReport:
    """Return the quality and memorisation of an experiment's synthetic images, without refusing any."""
    notes = list[str]()
    read = pool_reader(experiment, prepared, compute=compute, cache=cache)
    quality = measure_quality(
        experiment, prepared, compute=compute, cache=cache, read=read, note=notes.append, on_progress=on_progress
    )
    found, _ = measure_memorisation(read, prepared, cache)
    return PoolReport(quality=quality, note="; ".join(notes), copies=copies_found(found))


def refuse_poor(experiment: Experiment, read: ReadBlock, prepared: Prepared, *, compute: Compute, cache: Path) -> None:
    """Refuse synthetic images that miss `quality.min_coverage` or `quality.max_kid`, if either is set.

    Raises:
        TrialError: The images miss a limit, or cannot be measured.
    """
    limits, reasons = experiment.settings.quality, list[str]()
    if limits.min_coverage is None and limits.max_kid is None:
        return
    found = measure_quality(experiment, prepared, compute=compute, cache=cache, read=read, note=reasons.append)
    where, fix = f"source: {experiment.parameters.source}", "use a better generator, or relax this limit"
    if found is None:
        what = f"quality.min_coverage and quality.max_kid cannot be checked: {'; '.join(reasons)}"
        raise TrialError(Problem(what, where, "set both to null, or provide what is missing"))
    coverage = min(one.full.coverage for one in found.classes.values())
    if limits.min_coverage is not None and coverage < limits.min_coverage:
        what = f"the synthetic images cover {coverage:.2f} of the real ones, below quality.min_coverage"
        raise TrialError(Problem(f"{what}: {limits.min_coverage:g}", where, fix))
    if limits.max_kid is not None and found.kid > limits.max_kid:
        what = f"the KID of the synthetic images minus its floor is {found.kid:.3g}, above quality.max_kid"
        raise TrialError(Problem(f"{what}: {limits.max_kid:g}", where, fix))


def _few(counts: Mapping[str, int]) -> str:
    """Return the classes with too few images, with their counts; "" if there are none."""
    few = [f"{name} {count}" for name, count in counts.items() if count < FEWEST_IMAGES]
    return f"{', '.join(few)}; at least {FEWEST_IMAGES} needed" if few else ""


def _feature_parameters(experiment: Experiment) -> Parameters | None:
    """Return the backbone and weights of the features; None if it is the trial's own backbone and not pretrained."""
    chosen, own = experiment.settings.quality, experiment.parameters
    backbone, weights = (chosen.backbone, chosen.weights) if chosen.backbone else (own.backbone, own.weights)
    return None if weights == "none" else Parameters(backbone=backbone, weights=weights)


class Features:
    """Computes the features of images at one resolution."""

    def __init__(
        self,
        experiment: Experiment,
        network: Parameters,
        resolution_px: int,
        *,
        compute: Compute,
        cache: Path,
        on_progress: Progress,
    ) -> None:
        weights = pretrained_weights(network, experiment.settings.weights_dir, cache)
        assert weights is not None, "features come from pretrained weights"
        self._network, self._weights, self._compute, self._on_progress = network, weights, compute, on_progress
        with_network = Experiment(settings=experiment.settings, parameters=network)
        self._form = input_format(with_network, train_mean=0.5, train_std=0.5)
        self.resolution_px = resolution_px
        self.name = f"{network.backbone} ({weights.path.name})"
        self.inputs = {
            "backbone": BACKBONES.identity(network.backbone),
            "weights": weights.sha256,
            "format": asdict(self._form),
            "resolution_px": resolution_px,
            "compute": [compute.device, compute.threads, compute.precision],
            "releases": releases("torch", "torchvision", "torchmetrics", "scikit-learn"),
        }

    @torch.inference_mode()
    def of(self, what: str, sets: Sequence[tuple[NDArray[np.uint8], NDArray[np.int64], float]]) -> list[Floats]:
        """Return the features, float64 [n, D], of each set: images uint8 [N, h, w], rows [n], and a blur in px at 64 px."""
        backbone, _ = build_backbone(self._network.backbone, weights=self._weights.path)
        backbone.to(self._compute.device).to(memory_format=torch.channels_last).eval()
        total, done, found = sum(len(rows) for _, rows, _ in sets), 0, []
        for pixels, rows, blur in sets:
            batches, sigma_px = [], blur * self.resolution_px / _REFERENCE_PX
            for start in range(0, len(rows), _BATCH):
                images = torch.from_numpy(resize_pixels(pixels[rows[start : start + _BATCH]], self.resolution_px))
                if sigma_px:
                    images = blurred(images.float(), sigma_px).round().to(torch.uint8)
                shown = normalise(to_unit(images.to(self._compute.device), self._form), self._form)
                with autocast(self._compute):
                    batches.append(backbone(shown).double().cpu())
                done += len(images)
                self._on_progress(f"quality: features of {what} images", done, total)
            found.append(torch.cat(batches).numpy())
        return found


def _real_side(features: Features, prepared: Prepared, cache: Path) -> Path:
    """Return the artifact of the real images: `features.npz`, and `real.json` with floor, scale and GAN-train reference."""
    labels = range(len(prepared.class_names))

    def build(folder: Path) -> None:
        stored = training_pixels(prepared, cache)
        shown: list[tuple[SideName, float]] = [("train", 0.0), ("val_a", 0.0), ("val_a", COMMON_BLUR_PX)]
        shown += [("val_b", blur) for blur in (0.0, *SCALE_PX)]
        sets = []
        for name, blur in shown:
            side = prepared.side(name)
            sets += [(stored, spread(side.rows[side.labels == label], MOST_IMAGES), blur) for label in labels]
        flat = features.of("real", sets)
        train, val_a, val_a_blurred, *val_b = (flat[at : at + len(labels)] for at in range(0, len(flat), len(labels)))
        floor, *scale = (
            [kernel_inception_distance(*equal(*pair)) for pair in zip(val_a, one, strict=True)] for one in val_b
        )
        record = {
            "floor": floor,
            "scale": [float(np.mean(np.subtract(one, floor))) for one in scale],
            "real_train": transfer_auroc(train, val_a, positive=prepared.positive) if len(labels) > 1 else None,
        }
        write_json(folder / "real.json", record)
        kept = {"val_a": val_a, "val_a blurred": val_a_blurred, "train": train}
        arrays: dict[str, Any] = {f"{name} {label}": own[label] for name, own in kept.items() for label in labels}
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_bytes(folder / "features.npz", content.getvalue())

    inputs: dict[str, Any] = {
        "features": features.inputs,
        "images": prepared.fingerprint,
        "pixels": [prepared.pixels, prepared.pixels_sha256],
        "class_names": list(prepared.class_names),
        "positive": prepared.positive,
        "images_of_class": [MOST_IMAGES, COMMON_BLUR_PX, *SCALE_PX],
    }
    return build_once(cache, REAL_STAGE, inputs, build)


def equal(real: Floats, synthetic: Floats) -> tuple[Floats, Floats]:
    """Return equal numbers of both, evenly spaced, since the figures depend on the numbers of images."""
    count = min(len(real), len(synthetic))
    return spread(real, count), spread(synthetic, count)


def spread(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Return `count` values, or all if there are fewer; evenly spaced, since adjacent ones often share a patient."""
    return values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(np.int64)]
