"""The names of backbones, and the weights that they can have.

Backbones are torchvision's classifiers, a small custom CNN, timm's models, published encoders of
X-rays (encoders.py), and backbones of other packages. torchvision's names are read from the source
of its registry, since importing the registry takes seconds, and checking a space file must not.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from xraytune.space.encoders import XRAY_ENCODERS, architecture_of
from xraytune.space.extensions import Kind

_OF_SMP = re.compile(r"densenet\d+|mobilenet_v2|resnet\d+|resnext(50_32x4d|101_32x8d)|vgg\d+(_bn)?")
"""Matches the backbones that segmentation-models-pytorch builds from torchvision's layers, so that
their weights load."""
_REGISTERED = re.compile(r"^@register_model\(\)\n(?:(?!def ).*\n)*def (\w+)", re.MULTILINE)


def _torchvision_names() -> tuple[str, ...]:
    package = find_spec("torchvision")
    assert package, "xraytune depends on torchvision"
    sources = Path(str(package.origin)).parent.glob("models/*.py")
    return tuple(
        sorted(
            name
            for source in sources
            for name in _REGISTERED.findall(source.read_text(encoding="utf-8"))
        )
    )


_OF_TORCHVISION = _torchvision_names()
BACKBONES = Kind("backbone", ("small_cnn", *_OF_TORCHVISION, *XRAY_ENCODERS), library="timm")
BackboneName = Annotated[str, AfterValidator(BACKBONES.check)]
ENCODERS = tuple(filter(_OF_SMP.fullmatch, BACKBONES.built_in))
"""The backbones that a segmenter can have."""


def is_of_torchvision(name: str) -> bool:
    """Return whether torchvision has the backbone and its weights."""
    return name in _OF_TORCHVISION


def identity_of(backbone: str) -> str:
    """Return the identity of a backbone in fingerprints, with the version of its package."""
    architecture = architecture_of(backbone)
    return BACKBONES.identity(architecture).replace(architecture, backbone, 1)


def has_weights(weights: str, backbone: str) -> bool:
    """Return whether a backbone can have weights of this name.

    ImageNet weights are torchvision's, and `hub` is for timm's.
    """
    if weights == "imagenet" or weights.startswith("IMAGENET1K_"):
        return is_of_torchvision(backbone)
    return weights != "hub" or BACKBONES.is_of_library(backbone)
