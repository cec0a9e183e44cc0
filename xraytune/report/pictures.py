"""Validation images with what a trial's network makes of them: Grad-CAM maps of a classifier, masks of a segmenter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraytune.config.settings import Experiment
from xraytune.data.masks import outlined
from xraytune.errors import ArtifactError
from xraytune.metrics.classification import Floats
from xraytune.models.checkpoint import load_best
from xraytune.models.classifier import Classifier
from xraytune.models.grad_cam import grad_cam, jpeg_of_pair
from xraytune.models.inputs import normalise
from xraytune.models.segmenter import MASK_THRESHOLD, mask_probabilities
from xraytune.pipeline.context import RunContext
from xraytune.pipeline.network import Network
from xraytune.pipeline.prepare import Prepared
from xraytune.pipeline.training_set import ImageSource, side_images
from xraytune.records import Compute

_CPU = Compute(device="cpu", threads=1, precision="float32")


def explained(
    experiment: Experiment, trial_dir: Path, prepared: Prepared, places: NDArray[np.int64], *, cache: Path
) -> tuple[NDArray[np.uint8], Floats]:
    """Return images of val-B, uint8 [n, S, S], and the Grad-CAM maps of their predicted classes; see `grad_cam`.

    Args:
        experiment: The trial's.
        trial_dir: Its folder, with the best network.
        prepared: The study's images.
        places: Positions of the images in val-B, [n].
        cache: The artifact cache.

    Raises:
        MachineError: The backbone's weights are missing.
        ArtifactError: The decoded images or the trial's network are missing.
        ConfigError: The backbone has no feature maps.
    """
    network, chosen = _network(experiment, prepared, places, cache)
    whole = network.whole
    assert isinstance(whole, Classifier), "only a classifier has classes"
    load_best(trial_dir / "checkpoint", whole.head if network.has_cached_features else whole)
    whole.eval().requires_grad_(False)
    inputs = normalise(network.scaled(chosen, slice(None)), network.form)
    return chosen.read(slice(None)), grad_cam(whole, inputs)


def segmented(
    experiment: Experiment, trial_dir: Path, prepared: Prepared, places: NDArray[np.int64], *, cache: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """Return images of val-B, their masks (0 or 255) and the predicted masks, each [n, S, S]; see `explained`."""
    network, chosen = _network(experiment, prepared, places, cache)
    load_best(trial_dir / "checkpoint", network.whole)
    batches = [normalise(network.scaled(chosen, slice(None)), network.form)]
    found = mask_probabilities(network.whole, batches, compute=_CPU, error=ArtifactError, where=trial_dir)
    return chosen.read(slice(None)), chosen.read_masks(slice(None)), found > MASK_THRESHOLD


def _network(
    experiment: Experiment, prepared: Prepared, places: NDArray[np.int64], cache: Path
) -> tuple[Network, ImageSource]:
    source = side_images("val_b", prepared, cache)
    chosen = replace(source, rows=source.rows[places], labels=source.labels[places])
    return Network(experiment, RunContext(prepared=prepared, cache=cache, compute=_CPU)), chosen


def outlines(pixels: NDArray[np.uint8], true: NDArray[np.uint8], predicted: NDArray[np.bool_]) -> bytes:
    """Return a JPEG of an image, [S, S], with the outline of its mask on the left, and of the predicted one on the right."""
    return jpeg_of_pair(outlined(pixels, true), outlined(pixels, predicted))
