"""Published encoders of X-rays: what each network expects, and which data sets it has seen.

An encoder is a backbone with a name of its own. Its weights are a file that the user downloads, and
loads with `weights: FILE`. In contrast to other backbones, an encoder has facts about this file:
the size of its images, its pixel constants, and the data sets on which a score would be biased.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from xraytune.base.files import read_json
from xraytune.base.records import frozen
from xraytune.space.paths import is_path

RECORD_FILE = "bundle.json"
MODEL_FILE = "model.safetensors"
"""Files of a model that `xraytune train` wrote (trial/saved_model.py)."""

DataSet: TypeAlias = Literal[
    "nih", "chexpert", "mimic", "padchest", "brax", "vinbig", "rsna", "openi", "kermany", "other"
]
"""The public sets that encoders may have seen (`data.set`); all further sets are `other`."""


@frozen
class ExpectedImages:
    """The images that pretrained weights expect.

    Attributes:
        side_px: The side of the images, in pixels.
        mean, std: The mean and standard deviation of the pixels in [0, 1], for each channel.
    """

    side_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@frozen
class Encoder:
    """A published encoder.

    Attributes:
        architecture: The backbone of torchvision or timm whose layers have the file's names.
        file: The official file of the weights.
        prefix: The prefix of the layers' names in the file.
        features: A description of an image's features.
        seen: The data sets of the pretraining; images of NIH are also images of RSNA.
        reference: The publication of these facts.
    """

    architecture: str
    file: str
    prefix: str = ""
    images: ExpectedImages
    features: str
    licence: str
    seen: tuple[DataSet, ...]
    reference: str


def _torchxrayvision(file: str, *seen: DataSet) -> Encoder:
    """Return a row of TorchXRayVision's DenseNets, whose pixels are in [-1024, 1024]."""
    return Encoder(
        architecture="densenet121",
        file=f"{file}-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt",
        images=ExpectedImages(side_px=224, mean=(0.5,), std=(1 / 2048,)),
        features="mean over positions",
        licence="Apache-2.0",
        seen=seen,
        reference="https://github.com/mlmed/torchxrayvision/blob/main/torchxrayvision/models.py",
    )


_NIH: tuple[DataSet, ...] = ("nih", "rsna")
XRAY_ENCODERS: Mapping[str, Encoder] = {
    "rad_dino": Encoder(
        architecture="timm/vit_base_patch14_dinov2",
        file="backbone_compatible.safetensors",
        images=ExpectedImages(side_px=518, mean=(0.5307,) * 3, std=(0.2583,) * 3),
        features="class token",
        licence="MIT",
        seen=(*_NIH, "chexpert", "mimic", "padchest", "brax"),
        reference="https://huggingface.co/microsoft/rad-dino",
    ),
    "biomedclip": Encoder(
        architecture="timm/vit_base_patch16_224",
        file="open_clip_pytorch_model.bin",
        prefix="visual.trunk.",
        images=ExpectedImages(
            side_px=224,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        ),
        features="class token",
        licence="MIT",
        seen=(),
        reference="https://huggingface.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    ),
    "xrv_densenet121_all": _torchxrayvision(
        "nih-pc-chex-mimic_ch-google-openi-kaggle",
        *(*_NIH, "padchest", "chexpert", "mimic", "openi"),
    ),
    "xrv_densenet121_nih": _torchxrayvision("nih", *_NIH),
    "xrv_densenet121_rsna": _torchxrayvision("kaggle", *_NIH),
    "xrv_densenet121_pc": _torchxrayvision("pc", "padchest"),
    "xrv_densenet121_chex": _torchxrayvision("chex", "chexpert"),
    "xrv_densenet121_mimic_nb": _torchxrayvision("mimic_nb", "mimic"),
    "xrv_densenet121_mimic_ch": _torchxrayvision("mimic_ch", "mimic"),
}
ONE_CHANNEL = tuple(
    name for name, encoder in XRAY_ENCODERS.items() if len(encoder.images.mean) == 1
)
"""Encoders of grey images, which always get one channel."""


def architecture_of(backbone: str) -> str:
    """Return the backbone whose layers an encoder has; other backbones are returned as they are."""
    encoder = XRAY_ENCODERS.get(backbone)
    return encoder.architecture if encoder else backbone


def is_model(weights: str) -> bool:
    """Return whether weights are the folder of a model that `xraytune train` wrote."""
    return is_path("weights", weights) and (Path(weights) / RECORD_FILE).is_file()


def has_unknown_origin(backbone: str, weights: str) -> bool:
    """Return whether weights are a file of which it is not known what it was trained on."""
    is_file = is_path("weights", weights) and not is_model(weights)
    return is_file and backbone not in XRAY_ENCODERS


def expected_images(backbone: str, weights: str) -> ExpectedImages | None:
    """Return the images that a model of `xraytune train`, or an encoder of the table, expects.

    None for other weights, and for a model whose record is missing or damaged, which opening it
    reports.
    """
    if is_model(weights):
        try:
            input_format = read_json(Path(weights) / RECORD_FILE)["input_format"]
            return ExpectedImages(
                side_px=input_format["image_size_px"],
                mean=tuple(input_format["mean"]),
                std=tuple(input_format["std"]),
            )
        except (ValueError, LookupError, TypeError):
            return None
    encoder = XRAY_ENCODERS.get(backbone)
    return encoder.images if encoder else None


def describe_seen(networks: Iterable[tuple[str, str]], data_set: DataSet | None) -> list[str]:
    """Return a sentence for each encoder that was, or may have been, pretrained on a data set.

    `networks` are pairs of backbone and weights.
    """
    sentences = []
    pretrained = [backbone for backbone, weights in networks if weights != "none"]
    for backbone in dict.fromkeys(pretrained):
        encoder = XRAY_ENCODERS.get(backbone)
        if encoder is None or not encoder.seen:
            continue
        if data_set is None:
            what = "may have been pretrained on these images, whose public set is not declared"
            sentences.append(f"the encoder {backbone} {what}")
        elif data_set in encoder.seen:
            sentences.append(f"the encoder {backbone} was pretrained on images of {data_set}")
    return sentences
