"""What another hospital sends beside its generator, or instead of it.

It is in `donor.json` and `donor.safetensors`.

The head that its own real images train on a frozen backbone, and the mean and shrunken covariance
of their features for each class. Both are of use only with the same backbone, weights and size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter

from xraytune.base.errors import ArtifactError, DataError, Problem
from xraytune.base.files import read_json, sha256_of
from xraytune.space.backbones import BACKBONES
from xraytune.space.settings import Parameters, Settings

if TYPE_CHECKING:
    from torch import Tensor

DONOR_FILE = "donor.json"
TENSORS_FILE = "donor.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
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


_RECORD = TypeAdapter(Donor)


def frozen_network(parameters: Parameters, settings: Settings) -> dict[str, str | int | None]:
    """Return what the features of a frozen backbone depend on besides the images.

    Raise as `find_weights`.
    """
    from xraytune.nets.weights import find_weights  # loads torch

    weights = find_weights(parameters.backbone, parameters.weights, settings.weights_dir)
    return {
        "backbone": BACKBONES.identity(parameters.backbone),
        "weights": sha256_of(weights) if weights else None,
        "input_channels": parameters.input_channels,
        "image_size": settings.data.image_size,
        "resize": settings.data.resize,
        "pixels": str(settings.weights_pixels) if settings.weights_pixels else None,
    }


def read_donor(folder: Path) -> Donor | None:
    """Return the record of a donor's folder, None if there is none.

    Raises ArtifactError if a file is damaged.
    """
    if not (folder / DONOR_FILE).is_file():
        return None
    fix = "copy the folder again, or run `xraytune generator train` again"
    try:
        donor = _RECORD.validate_python(read_json(folder / DONOR_FILE))
    except ValueError as error:
        what = f"{DONOR_FILE} is damaged, or from another version"
        raise ArtifactError(Problem(what, folder, fix)) from error
    tensors = folder / TENSORS_FILE
    if not tensors.is_file() or sha256_of(tensors) != donor.files.get(TENSORS_FILE):
        raise ArtifactError(Problem("the file is missing or damaged", tensors, fix))
    return donor


def donor_tensors(
    folder: Path, class_names: tuple[str, ...], parameters: Parameters, settings: Settings
) -> dict[str, Tensor]:
    """Return what a donor sent for a trial's frozen backbone, in the order of the study's classes.

    `weight` [C, D] and `bias` [C] of the head, `means` [C, D] and `covariances` [C, D, D] of
    features; float32.

    Raises:
        ArtifactError: A file is damaged.
        DataError: The folder has none, or they are of another network or other classes.
    """
    from safetensors.torch import load_file  # loads torch

    donor = read_donor(folder)
    if donor is None:
        what = f"there is no {DONOR_FILE} here: neither a classifier nor statistics of features"
        raise DataError(Problem(what, folder, HOW_TO_DONATE))
    network = frozen_network(parameters, settings)
    differences = [
        f"{name} {donor.network.get(name)}, not {value}"
        for name, value in network.items()
        if donor.network.get(name) != value
    ]
    if parameters.trainable != "head":
        differences = [f"a frozen backbone, not trainable: {parameters.trainable}"]
    missing = [name for name in class_names if name not in donor.class_counts]
    if missing:
        differences.append(f"other classes than {missing[0]}")
    if differences:
        what = f"the classifier and the statistics here are for {', '.join(differences)}"
        raise DataError(Problem(what, folder, HOW_TO_DONATE))
    known = [*donor.class_counts]
    rows = [known.index(name) for name in class_names]
    return {name: tensor[rows] for name, tensor in load_file(folder / TENSORS_FILE).items()}


HOW_TO_DONATE = (
    "ask for a folder that `xraytune generator train` wrote with this study's frozen backbone"
)
