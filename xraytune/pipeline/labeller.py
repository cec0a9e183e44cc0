"""The segmenter that predicts the masks of generated images (`mask_from: segmenter`).

A U-Net with the trial's backbone and weights is trained on the real pairs of the train side, at the generator's image size:
300 steps of 8 pairs, augmented with `classical: 2`, with Adam and a cosine schedule from 5e-4. It is seeded by
the generator's seed: the replicates of a confirmation differ in their masks, too. It is an artifact, so all trials with this
backbone, seed and pairs share it, and an interrupted training run resumes.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor

from xraytune.config.settings import Experiment, Parameters
from xraytune.data.decoding import InputFormat
from xraytune.errors import TrialError
from xraytune.files import read_json, require_file, write_json
from xraytune.generators.train import resize_planes
from xraytune.mix.sampler import image_stream
from xraytune.models.augment import augment, augment_masks, view_table
from xraytune.models.checkpoint import intact_epochs
from xraytune.models.inputs import input_format, normalise, to_unit
from xraytune.models.segmenter import MASK_THRESHOLD, build_segmenter, mask_loss, mask_probabilities
from xraytune.models.train import Training, fit_network
from xraytune.models.weights import load_tensors
from xraytune.pipeline.artifacts import artifact_path, build_once, releases
from xraytune.pipeline.model import pretrained_weights
from xraytune.pipeline.prepare import RunContext, side_images
from xraytune.records import Compute, FittedEpoch
from xraytune.tensors import explain_unreadable, save_state

LABELLER_STAGE, LABELLER_WORK = "labeller-1", "labeller-1.work"
LABELLER_FILES = ("segmenter.json", "segmenter.safetensors")
EPOCHS, STEPS_PER_EPOCH, BATCH_SIZE = 10, 30, 8
_LR, _CLASSICAL, _VIEWS, _PREDICTED_AT_ONCE = 5e-4, 2, 8, 32
_WHAT = "training the segmenter for generated masks (steps)"
_WAITING = "waiting for the segmenter for generated masks, which another process trains (steps)"
_RECORD = TypeAdapter(tuple[str, int, InputFormat])


def trained_labeller(experiment: Experiment, context: RunContext) -> Path | None:
    """Return the artifact of the segmenter, trained if not cached; None if the experiment's generator needs none.

    Raises:
        TrialError: The loss is not finite.
        MachineError: segmentation-models-pytorch or the weights of the backbone are missing.
    """
    prepared, compute, cache, on_progress = context.prepared, context.compute, context.cache, context.on_progress
    generator = experiment.parameters.generator
    if generator is None or not prepared.has_masks or generator.mask_from != "segmenter":
        return None
    kept = experiment.parameters.model_dump(include={"backbone", "weights", "input_channels"})
    parameters = Parameters.model_validate({**kept, "lr": _LR, "batch_size": BATCH_SIZE, "schedule": "cosine"})
    weights = pretrained_weights(experiment.parameters, experiment.settings.weights_dir, cache)
    inputs = {
        "backbone": parameters.backbone,
        "input_channels": parameters.input_channels,
        "weights": weights.sha256 if weights else None,
        "training": [EPOCHS, STEPS_PER_EPOCH, BATCH_SIZE, _LR, _CLASSICAL, _VIEWS],
        "seed": generator.seed,
        "image_size_px": generator.image_size,
        "train": prepared.train_fingerprint,
        "pixels": prepared.pixels,
        "pixels_sha256": prepared.pixels_sha256,
        "compute": [compute.device, compute.threads, compute.precision],
        "releases": releases("torch", "torchvision", "segmentation-models-pytorch"),
    }
    work = artifact_path(cache, LABELLER_WORK, inputs)

    def build(folder: Path) -> None:
        train = side_images("train", prepared, cache)
        planes = resize_planes(train.read(), train.read_masks(), generator.image_size)
        mean, std = float(planes[:, 0].mean() / 255), float(planes[:, 0].std() / 255)
        form = input_format(experiment, train_mean=mean, train_std=std)
        form = replace(form, image_size_px=generator.image_size, resolution_px=None)
        network = build_segmenter(parameters, weights=weights.path if weights else None, seed=generator.seed).to(
            compute.device
        )
        intact_epochs(work, FittedEpoch)
        batch = _batch_of(planes, form, generator.seed, compute)
        training = Training(
            parameters=parameters,
            network=network,
            batch=batch,
            loss=mask_loss,
            norm_batches=lambda: (batch(step)[0] for step in range(STEPS_PER_EPOCH // 2)),
            max_epochs=EPOCHS,
            steps_per_epoch=STEPS_PER_EPOCH,
            seed=generator.seed,
            compute=compute,
            checkpoint_dir=work,
            on_progress=lambda _, done, total: on_progress(_WHAT, done, total),
        )
        deque(fit_network(training, EPOCHS), maxlen=0)
        record, state = (folder / name for name in LABELLER_FILES)
        write_json(record, _RECORD.dump_python((parameters.backbone, parameters.input_channels, form), mode="json"))
        save_state(network, state)

    path = build_once(cache, LABELLER_STAGE, inputs, build, waiting=lambda: on_progress(_WAITING, 0, 1))
    shutil.rmtree(work, ignore_errors=True)
    return path


def load_labeller(folder: Path, compute: Compute) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return a function from images [n, S, S] of the generator's size to masks, uint8 [n, S, S] of 0 and 255.

    Raises:
        ArtifactError: A file of the segmenter in `folder` is missing or damaged.
    """
    record, state = (folder / name for name in LABELLER_FILES)
    with explain_unreadable("cannot read this segmenter", folder, "train the generator again"):
        backbone, input_channels, form = _RECORD.validate_python(read_json(record))
        values = {"backbone": backbone, "input_channels": input_channels, "weights": "none"}
        network = build_segmenter(Parameters.model_validate(values), weights=None, seed=0)
        require_file(state, "file of tensors")
        load_tensors(network, load_file(state))
    network.to(compute.device)

    def segment(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        parts = (pixels[at : at + _PREDICTED_AT_ONCE].copy() for at in range(0, len(pixels), _PREDICTED_AT_ONCE))
        batches = (normalise(to_unit(torch.from_numpy(part).to(compute.device), form), form) for part in parts)
        probabilities = mask_probabilities(network, batches, compute=compute, error=TrialError, where=folder)
        return np.where(probabilities >= MASK_THRESHOLD, np.uint8(255), np.uint8(0))

    return segment


def _batch_of(
    planes: NDArray[np.uint8], form: InputFormat, seed: int, compute: Compute
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Return, from real pairs [N, 2, S, S], the inputs [B, C, S, S] and masks [B, 1, S, S], 0 or 1, of each step."""
    stream = image_stream(seed, "labeller", image_count=len(planes), per_step=BATCH_SIZE, view_count=_VIEWS)
    table = view_table(seed, "labeller", image_count=len(planes), views=_VIEWS, classical=_CLASSICAL)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn = stream(step)
        chosen = torch.from_numpy(planes[drawn.positions]).to(compute.device)
        views = torch.from_numpy(table[drawn.positions, drawn.views]).to(compute.device)
        images = normalise(augment(to_unit(chosen[:, 0], form), views), form)
        return images, augment_masks((chosen[:, 1:] > 0).float(), views)

    return batch
