"""Train the head that a hospital sends to others, and compute the statistics of its features.

`synth/donor.py` describes and reads both.
"""

from pathlib import Path

import numpy as np
import torch

from xraytune.base.artifacts import releases
from xraytune.base.files import sha256_of, write_json, write_text
from xraytune.base.records import to_json
from xraytune.base.tensors import save_state
from xraytune.data.prepare import RunContext, side_image_set
from xraytune.nets.networks import linear_of
from xraytune.space.settings import Experiment
from xraytune.space.space import Space
from xraytune.space.task_settings import CLASS_TASKS
from xraytune.synth.donor import DONOR_FILE, TENSORS_FILE, Donor, feature_parameters, frozen_network
from xraytune.trial.training import TrialTraining

_LR = 3e-3
_REVEALS = {
    TENSORS_FILE: "a linear classifier, and the mean and covariance of features of each class: no "
    "image and no single patient, unless a class has only a few",
    DONOR_FILE: "numbers of images and patients, and the SHA-256 of each training image: anyone "
    "who has such an image can tell that it was used",
    "generator.json": "the same, and settings of the GAN",
    "generator.safetensors": "a GAN; with `architecture: pca`, also the code of each training "
    "image, from which a blurred version of it can be drawn",
    "samples.png": "**training images**, next to generated ones; delete it before you send the "
    "folder",
}


def find_donor_experiment(space: Space) -> Experiment | None:
    """Return the experiment that trains the head on the first frozen, pretrained backbone.

    Returns None if the space has no such backbone.
    """
    for trial in space.extreme_parameters(*feature_parameters(space)):
        is_frozen = trial.trainable == "head" and trial.weights != "none"
        if is_frozen and space.settings.task in CLASS_TASKS:
            parameters = trial.with_values({"lr": _LR})
            settings = space.settings.with_values({"objective.metric": "val_auroc"})
            return Experiment(settings=settings, parameters=parameters)
    return None


def write_donor(folder: Path, experiment: Experiment, context: RunContext) -> Donor:
    """Train the head of `find_donor_experiment`, and write it to a folder.

    The statistics and a record of both are also written to the folder.

    Raises:
        MachineError: The weights of the backbone are missing.
        TrialError: The loss is not finite.
    """
    from sklearn.covariance import LedoitWolf  # takes a second to import

    prepared = context.prepared
    training = TrialTraining(experiment, context)
    records = training.train_at_once()
    head = linear_of(training.trained)
    train = side_image_set("train", prepared, context.cache)
    features = training.network.plain_features(train).astype(np.float64)
    estimates = [
        LedoitWolf().fit(features[train.labels == label])
        for label in range(len(prepared.class_names))
    ]
    tensors = {
        "weight": head.weight,
        "bias": head.bias,
        "means": torch.tensor(np.stack([each.location_ for each in estimates])).float(),
        "covariances": torch.tensor(np.stack([each.covariance_ for each in estimates])).float(),
    }
    save_state(tensors, folder / TENSORS_FILE)
    donor = Donor(
        network=frozen_network(experiment.parameters, experiment.settings),
        class_counts=dict(zip(prepared.class_names, prepared.train_counts, strict=True)),
        patients=prepared.train_patient_count,
        val_auroc=max(record.val_score for record in records),
        train_images=sorted(image.sha256 for image in prepared.side("train")),
        files={TENSORS_FILE: sha256_of(folder / TENSORS_FILE)},
        packages=releases("xraytune", "torch", "scikit-learn"),
    )
    write_json(folder / DONOR_FILE, to_json(donor))
    return donor


def write_card(folder: Path) -> None:
    """Write `card.md`: the size of each file of a folder to send, and what it reveals."""
    lines = ["# What this folder holds", "", "| file | size | it reveals |", "|---|---|---|"]
    for name, reveals in _REVEALS.items():
        if (folder / name).is_file():
            size = f"{(folder / name).stat().st_size / 1e6:,.2f} MB"
            lines.append(f"| {name} | {size} | {reveals} |")
    write_text(folder / "card.md", "\n".join(lines) + "\n")
