"""`source: statistics`: features drawn from the mean and covariance that another hospital sent.

The hospital, the donor, sends `donor.json` and `donor.safetensors` beside its generator or instead
of it: the head that its own real images train on a frozen backbone, and the mean and shrunken
covariance of their features for each class. Both are of use only with the same backbone, weights
and size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from xraytune.base.artifacts import build_once, releases
from xraytune.base.errors import DataError
from xraytune.base.files import sha256_of, write_array
from xraytune.base.records import frozen
from xraytune.base.seeding import numpy_generator
from xraytune.data.prepare import ImageSource, RunContext
from xraytune.nets.backbones import find_weights
from xraytune.space.backbones import BACKBONES
from xraytune.space.settings import GivenFolder, Parameters, Settings
from xraytune.synth.saved_generator import read_record
from xraytune.synth.sources.source import BLOCK, Source, StudyImages

DONOR_FILE = "donor.json"
TENSORS_FILE = "donor.safetensors"
_STAGE = "statistics-1"
_RIDGE = 1e-6
"""Added to the covariance, as a share of its mean variance: rounding may have made it singular."""


@frozen
class Donor:
    """`donor.json`.

    Attributes:
        network: What the features come from; see `frozen_network`.
        val_auroc: AUROC of the head on the donor's own val-A.
        train_images: SHA-256 of the images that both were computed from.
        files: SHA-256 of each other file.
    """

    version: Literal[1] = 1
    network: dict[str, str | int | None]
    class_counts: dict[str, int]
    patients: int
    val_auroc: float
    train_images: list[str]
    files: dict[str, str]
    packages: dict[str, str]


class Statistics(Source):
    """Normally distributed features of each class; they have no pixels."""

    colour = "#cc79a7"
    settings: GivenFolder

    def seen_images(self) -> frozenset[str]:
        """Return the images that the statistics are of."""
        return frozenset(read_donor(self.settings.path).train_images)

    @classmethod
    def read_input(cls, setting: str, path: Path, study: StudyImages) -> str:
        """Return the SHA-256 of the donor's record."""
        read_donor(path)
        return sha256_of(path / DONOR_FILE)

    def block(
        self, settings: Settings, context: RunContext, label: int, number: int
    ) -> ImageSource:
        """Return features of a class.

        DataError if the statistics are of another network or other classes.
        """
        names = context.prepared.class_names
        tensors = donor_tensors(self.settings.path, names, self.parameters, settings)
        inputs = {
            "file": sha256_of(self.settings.path / TENSORS_FILE),
            "class": names[label],
            "block": number,
            "seed": settings.seed,
            "releases": releases("numpy"),
        }

        def build(folder: Path) -> None:
            covariance = tensors["covariances"][label].double().numpy()
            ridge = _RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
            factor = np.linalg.cholesky(covariance + ridge)
            generator = numpy_generator(settings.seed, "statistics", names[label], number)
            normal = generator.standard_normal((BLOCK, len(factor)))
            drawn = tensors["means"][label].numpy() + normal @ factor.T
            write_array(folder / "features.npy", drawn.astype(np.float32))

        path = build_once(context.cache, _STAGE, inputs, build)
        return ImageSource(
            name=f"{self.name} {label} {number}",
            pixels=np.empty((0, 0, 0), dtype=np.uint8),
            rows=np.arange(BLOCK),
            labels=np.full(BLOCK, label),
            inputs=inputs,
            features=np.load(path / "features.npy"),
        )


_HOW_TO_DONATE = (
    "ask for a folder that `xraytune generator train` wrote with this study's frozen backbone"
)


def read_donor(folder: Path) -> Donor:
    """Return the record of a donor's folder.

    Raises:
        ArtifactError: A file is damaged.
        DataError: There is none.
    """
    if not (folder / DONOR_FILE).is_file():
        what = f"there is no {DONOR_FILE} here: neither a classifier nor statistics of features"
        raise DataError(what, folder, _HOW_TO_DONATE)
    return read_record(folder / DONOR_FILE, Donor, "files")


def donor_tensors(
    folder: Path, class_names: tuple[str, ...], parameters: Parameters, settings: Settings
) -> dict[str, Tensor]:
    """Return what a donor sent for a trial's frozen backbone, in the order of the study's classes.

    `weight` [C, D] and `bias` [C] of the head, `means` [C, D] and `covariances` [C, D, D] of
    features; float32.

    Raises:
        ArtifactError: A file is damaged.
        DataError: There is no donor's record, or they are of another network or other classes.
    """
    donor = read_donor(folder)
    sent = {**donor.network, "trainable": "head"}
    needed = {**frozen_network(parameters, settings), "trainable": parameters.trainable}
    differences = [
        f"{name} {sent.get(name)}, not {value}"
        for name, value in needed.items()
        if sent.get(name) != value
    ]
    known = [*donor.class_counts]
    differences += [f"other classes than {name}" for name in class_names if name not in known]
    if differences:
        what = f"the classifier and the statistics here are for {', '.join(differences)}"
        raise DataError(what, folder, _HOW_TO_DONATE)
    rows = [known.index(name) for name in class_names]
    return {name: tensor[rows] for name, tensor in load_file(folder / TENSORS_FILE).items()}


def frozen_network(parameters: Parameters, settings: Settings) -> dict[str, str | int | None]:
    """Return what the features of a frozen backbone depend on besides the images.

    Raise as `find_weights`.
    """
    weights = find_weights(parameters.backbone, parameters.weights, settings.weights_dir)
    return {
        "backbone": BACKBONES.identity(parameters.backbone),
        "weights": sha256_of(weights) if weights else None,
        "input_channels": parameters.input_channels,
        "image_size": settings.data.image_size,
        "resize": settings.data.resize,
        "pixels": str(settings.weights_pixels) if settings.weights_pixels else None,
    }
