"""Validation images with what a trial's network makes of them: Grad-CAM maps of a classifier, masks of a segmenter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraytune.base.errors import ArtifactError
from xraytune.base.records import Compute
from xraytune.data.masks import outlined
from xraytune.data.prepare import Prepared, RunContext, side_images
from xraytune.nets.checkpoint import load_best
from xraytune.nets.classifier import Classifier
from xraytune.nets.grad_cam import grad_cam, jpeg_of_pair, overlay
from xraytune.nets.inputs import normalise
from xraytune.nets.segmenter import MASK_THRESHOLD
from xraytune.nets.train import predict_probabilities
from xraytune.space.settings import Experiment
from xraytune.trial.network import Network

_CPU = Compute(device="cpu", threads=1, precision="float32")


def explained(
    experiment: Experiment, trial_dir: Path, prepared: Prepared, places: NDArray[np.int64], *, cache: Path
) -> list[bytes]:
    """Return pictures of a trial's images at these places in val-B, [n], as JPEG files; see `grad_cam`.

    Raises:
        MachineError: The backbone's weights are missing.
        ArtifactError: The decoded images or the trial's network are missing.
        ConfigError: The backbone has no feature maps.
    """
    images = side_images("val_b", prepared, cache)
    network = Network(experiment, RunContext(prepared=prepared, cache=cache, compute=_CPU))
    whole, pixels = network.whole, images.read(places)
    inputs = normalise(network.scaled(images, places), network.form)
    if isinstance(whole, Classifier):
        load_best(trial_dir / "checkpoint", whole.head if network.has_cached_features else whole)
        whole.eval().requires_grad_(False)
        return [*map(overlay, pixels, grad_cam(whole, inputs))]
    load_best(trial_dir / "checkpoint", whole)
    predicted = predict_probabilities(whole, [inputs], compute=_CPU, error=ArtifactError, where=trial_dir)
    return [
        *map(jpeg_of_pair, outlined(pixels, images.read_masks(places)), outlined(pixels, predicted > MASK_THRESHOLD))
    ]
