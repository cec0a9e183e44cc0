"""What a trained generator depends on, and whether it is in the cache.

Ray's process asks this of each trial, so this file does not import torch, which takes seconds,
unless it has to look for official weights.
"""

from pathlib import Path
from typing import Any

from xraytune.base.artifacts import artifact_path, fingerprint, is_intact, releases
from xraytune.base.files import sha256_of
from xraytune.base.records import Compute
from xraytune.data.prepare import SplitData
from xraytune.space.settings import GanSettings

NETWORK_FILE = "generator.safetensors"
GAN_STAGE = "gan-5"
"""The stage of the artifacts of GANs."""
GAN_PROGRESS = "training the GAN (steps)"
"""The name of a training in progress reports."""
FEATURE_BACKBONE = "mobilenet_v2"
"""The backbone of `gan.features`."""


def with_features(gan: GanSettings, weights_dir: Path | None) -> GanSettings:
    """Return the settings with the file that `features: imagenet` stands for.

    So the word and the path of the same file give the same generator.

    Raises MachineError if the file cannot be found or downloaded; see `find_weights`.
    """
    if gan.features != "imagenet":
        return gan
    from xraytune.nets.backbones import find_weights

    alternative = "gan.features: null"
    file = find_weights(FEATURE_BACKBONE, "imagenet", weights_dir, without_weights=alternative)
    return gan.model_copy(update={"features": file})


def generator_inputs(
    settings: GanSettings, prepared: SplitData, compute: Compute
) -> dict[str, Any]:
    """Return everything that a trained generator depends on.

    `settings` must name the file of `features`; see `with_features`.
    """
    names = [*prepared.outputs]
    if len(prepared.findings) == 1:  # a network of a single class ignores the class
        names.append(f"no {names[0]}")
    inputs = {
        "settings": settings.model_dump(exclude={"start_from", "features"}),
        "makes_masks": prepared.has_masks,
        "train": prepared.train_fingerprint,
        "pixels_sha256": prepared.pixels_sha256,
        "image_size_px": prepared.image_size_px,
        "class_names": names,
        "compute": [compute.device, compute.threads, compute.precision],
        "releases": releases("torch"),
    }
    if settings.start_from:
        inputs["start"] = sha256_of(settings.start_from / NETWORK_FILE)
    if settings.features:
        inputs["features"] = sha256_of(Path(settings.features))
    return inputs


def generator_need(
    settings: GanSettings | None,
    draw: int | None,
    size_px: int,
    prepared: SplitData,
    compute: Compute,
    cache: Path,
) -> str | None:
    """Return the lineage of the generator that a trial with these settings must train first.

    Returns None if no generator is needed or the cache has it. `draw` is as in `Experiment`, and
    `size_px` is the side of the study's images. Runs of one lineage differ only in their number of
    steps, so that one can start from another.
    """
    if settings is None:
        return None
    inputs = generator_inputs(settings, prepared.sizes[size_px].of_draw(draw), compute)
    if is_intact(artifact_path(cache, GAN_STAGE, inputs)):
        return None
    return fingerprint(GAN_STAGE, without_steps(inputs))


def without_steps(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs that all runs of a lineage have in common."""
    return {**inputs, "settings": {**inputs["settings"], "steps": None}}
