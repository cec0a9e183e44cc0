"""The classifier that another hospital, the donor, sends with its generator or instead of it.

The donor's folder has `donor.json` and `donor.safetensors`. These hold a head trained on the
hospital's own images with a frozen backbone, and the mean and shrunken covariance of the images'
features for each class. The folder may also have a whole network, in a folder `model` that
`xraytune train` wrote.
"""

from pathlib import Path
from typing import Literal

from safetensors.torch import load_file
from torch import Tensor

from xraytune.base.errors import DataError
from xraytune.base.files import sha256_of
from xraytune.base.records import frozen
from xraytune.base.tensors import explain_unreadable
from xraytune.data.prepare import read_prepared
from xraytune.nets.backbones import find_weights
from xraytune.space.domains import Value
from xraytune.space.encoders import RECORD_FILE
from xraytune.space.fields import flat_values
from xraytune.space.parameters import Parameters, network_identity
from xraytune.space.settings import Settings
from xraytune.space.space import Space
from xraytune.synth.saved_generator import read_record

DONOR_FILE = "donor.json"
TENSORS_FILE = "donor.safetensors"
_MODEL_FOLDER = "model"
SPLIT_FILE = "split.json"
MANIFEST_FILE = "manifest.json"
"""Files of a model that `xraytune train` wrote; see trial/saved_model.py."""
_OF_FEATURES = (
    "backbone",
    "weights",
    "input_channels",
    "input_size",
    "pixel_mean",
    "pixel_std",
    "trainable",
)
"""What features depend on, besides the settings of an extension; see `frozen_network`."""


@frozen
class Donor:
    """The content of `donor.json`.

    Attributes:
        network: The backbone that computes the features; see `frozen_network`.
        val_auroc: AUROC of the head on the donor's own val-A.
        train_images: SHA-256 of the images that the head and the statistics were computed from.
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


def model_folder(folder: Path) -> Path | None:
    """Return the folder of a donor's whole network, which may be `folder` itself, or None."""
    for model in (folder, folder / _MODEL_FOLDER):
        if (model / RECORD_FILE).is_file():
            return model
    return None


def require_model(folder: Path) -> Path:
    """Return the folder of a donor's whole network; raise DataError if there is none."""
    model = model_folder(folder)
    if model is None:
        raise DataError(
            "there is no model of `xraytune train` here",
            folder,
            f"ask the hospital for one, as {_MODEL_FOLDER}/",
        )
    return model


def donor_records_sha256(folder: Path) -> str:
    """Return the SHA-256 of the records of a donor's classifiers, or "" if there are none."""
    model = model_folder(folder)
    records = [folder / DONOR_FILE, *([model / MANIFEST_FILE] if model else [])]
    return "".join(sha256_of(record) for record in records if record.is_file())


def donor_images_sha256(folder: Path) -> frozenset[str]:
    """Return the SHA-256 of the images that a donor's classifiers were trained on.

    Raises ArtifactError if a record is damaged.
    """
    images = {*read_donor(folder).train_images} if (folder / DONOR_FILE).is_file() else set()
    if model := model_folder(folder):
        split = model / SPLIT_FILE
        with explain_unreadable("the record of its images is damaged", split, "copy it again"):
            images |= {image.sha256 for image in read_prepared(split).images}
    return frozenset(images)


HOW_TO_DONATE = (
    "ask for a folder that `xraytune generator train` wrote with this study's frozen backbone"
)


def read_donor(folder: Path) -> Donor:
    """Return the record of a donor's folder.

    Raises:
        ArtifactError: A file is damaged.
        DataError: There is no record.
    """
    if not (folder / DONOR_FILE).is_file():
        raise DataError(
            f"there is no {DONOR_FILE} here: neither a classifier nor statistics of features",
            folder,
            HOW_TO_DONATE,
        )
    return read_record(folder / DONOR_FILE, Donor, "files")


def donor_tensors(
    folder: Path, class_names: tuple[str, ...], parameters: Parameters, settings: Settings
) -> dict[str, Tensor]:
    """Return a donor's tensors for a trial's frozen backbone, in the order of the study's classes.

    These are the head's `weight` [C, D] and `bias` [C], and the features' `means` [C, D] and
    `covariances` [C, D, D], all float32.

    Raises:
        ArtifactError: A file is damaged.
        DataError: There is no donor's record, or it is for another network or other classes.
    """
    donor = read_donor(folder)
    donor_values = {**donor.network, "trainable": "head"}
    needed = {**frozen_network(parameters, settings), "trainable": parameters.trainable}
    differences = [
        f"{name} {donor_values.get(name)}, not {value}"
        for name, value in needed.items()
        if donor_values.get(name) != value
    ]
    donor_classes = [*donor.class_counts]
    differences += [
        f"other classes than {name}" for name in class_names if name not in donor_classes
    ]
    if differences:
        raise DataError(
            f"the classifier and the statistics here are for {', '.join(differences)}",
            folder,
            HOW_TO_DONATE,
        )
    rows = [donor_classes.index(name) for name in class_names]
    return {name: tensor[rows] for name, tensor in load_file(folder / TENSORS_FILE).items()}


def feature_parameters(space: Space) -> tuple[str, ...]:
    """Return the names of the parameters that the features of a space's trials depend on."""
    return (*_OF_FEATURES, *space.backbone_settings())


def feature_values(parameters: Parameters) -> dict[str, Value]:
    """Return the parameters that a trial's features depend on, by dotted name."""
    of_backbone = f"{parameters.backbone}."
    return {
        name: value
        for name, value in flat_values(parameters).items()
        if name in _OF_FEATURES or name.startswith(of_backbone)
    }


def frozen_network(parameters: Parameters, settings: Settings) -> dict[str, str | int | None]:
    """Return everything that the features of a frozen backbone depend on, besides the images.

    The errors are those of `find_weights`.
    """
    weights = find_weights(parameters.backbone, parameters.weights, settings.weights_dir)
    mean = parameters.pixel_mean
    return {
        "backbone": network_identity(parameters),
        "weights": sha256_of(weights) if weights else None,
        "input_channels": parameters.input_channels,
        "image_size": parameters.size_px(settings.data),
        "resize": settings.data.resize,
        "pixels": None if mean is None else f"mean={mean} std={parameters.pixel_std}",
    }
