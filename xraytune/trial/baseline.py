"""The AUROC that a study's networks are likely to reach, measured before any of them is trained.

A linear classifier of a frozen backbone's features is trained on a few validation patients and
scored on the others, for several draws of them. No patient who may be tested on is looked at, and
the search uses the same features again.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from xraytune.base.arrays import Int64Array
from xraytune.base.cores import cpu_count
from xraytune.base.errors import MachineError
from xraytune.base.records import Progress, ignore_progress
from xraytune.data.images import ImageTable
from xraytune.data.prepare import RunContext, SplitData, side_image_set
from xraytune.data.split import nested_order
from xraytune.nets.backbones import find_weights
from xraytune.nets.compute import choose_compute
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment
from xraytune.space.space import Space
from xraytune.stats.precision import clip_auroc
from xraytune.synth.generator_quality import transfer_auroc
from xraytune.trial.network import TrialNetwork

_DRAWS = 10
_MOST_PATIENTS = 400


def expected_auroc(
    space: Space, prepared: SplitData, cache: Path, *, on_progress: Progress = ignore_progress
) -> float | None:
    """Return the mean AUROC of linear classifiers of as many patients as a trial trains on.

    The features are those of the space's first backbone whose weights are on this machine. At most
    half of the validation patients are trained on.

    Returns None if there is no such backbone, no AUROC, as for masks, or too few validation
    patients.
    """
    settings = space.settings
    folder = settings.weights_dir or Path(torch.hub.get_dir()) / "checkpoints"
    trial = next((trial for trial in space.networks() if _has_weights(trial, folder)), None)
    if settings.task == "segmentation" or trial is None:
        return None
    size_px = trial.size_px(settings.data)
    experiment = Experiment(
        settings=settings.of_size(size_px).with_values({"weights_dir": folder}),
        parameters=trial.with_values({"trainable": "head"}),
    )
    validated = ImageTable([*prepared.side("val_a"), *prepared.side("val_b")])
    order = nested_order(validated.patients, validated.targets, settings.data.split.seed)
    numbers = _images_of(order[:_MOST_PATIENTS])
    sample = ImageTable(replace(validated[number], side="val_a") for number in numbers)
    sampled = replace(prepared.sizes[size_px], images=sample)
    context = RunContext(
        prepared=sampled,
        cache=cache,
        compute=choose_compute(gpus=0, threads=cpu_count()),
        on_progress=on_progress,
    )
    images = side_image_set("val_a", sampled, cache)
    features = TrialNetwork(experiment, context).plain_features(images).astype(np.float64)
    class_count = len(np.unique(images.labels))
    aurocs = []
    for draw in range(_DRAWS):
        order = nested_order(sample.patients, images.targets, draw)
        count = min(prepared.train_patient_count, len(order) // 2)
        parts = [_images_of(patients) for patients in (order[:count], order[count:])]
        if any(len(np.unique(images.labels[part])) < class_count for part in parts):
            continue
        trained, scored = ((features[part], images.targets[part]) for part in parts)
        auroc = transfer_auroc(trained, scored, positive=prepared.positive)
        if auroc is not None:
            aurocs.append(auroc)
    return clip_auroc(float(np.mean(aurocs))) if aurocs else None


def _has_weights(trial: Parameters, folder: Path) -> bool:
    """Return whether a trial's weights are in a folder, or elsewhere on this machine."""
    try:
        return bool(find_weights(trial.backbone, trial.weights, folder, may_download=False))
    except MachineError:
        return False


def _images_of(order: Sequence[tuple[int, ...]]) -> Int64Array:
    """Return the numbers of all images of some patients."""
    return np.array([number for numbers in order for number in numbers], dtype=np.int64)
