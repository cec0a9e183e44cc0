"""The backbones: all torchvision classifiers and a small custom CNN, one entry each, and those of other packages.

They are listed because importing torchvision takes seconds, and checking a space file must not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xraytune.space.extensions import Extensions

ENCODER_STRIDE_PX = 32
"""A U-Net halves an image five times."""
WEIGHT_SETS = (
    *("IMAGENET1K_V1", "IMAGENET1K_V2"),
    *("IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1", "IMAGENET1K_FEATURES"),
)
"""torchvision's names; not every backbone has all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """What is known of a backbone before it is built.

    Attributes:
        last_stage: The names of the parameters of the last stage start with it, at its beginning: the layers of the coarsest
            resolution, or the last block of a ViT. "" if a custom backbone does not say it.
        is_sequential: Whether it only runs the modules before the last stage one after the other.
        is_encoder: Whether segmentation-models-pytorch builds it from torchvision's layers, so that their weights load.
        has_auxiliary_heads: Whether torchvision builds it with further heads.
        smallest_px: The smallest side of an image.
        only_px: The only side of an image; None: any.
        is_of_torchvision: Whether torchvision has its network and weights.
    """

    last_stage: str
    is_sequential: bool = True
    is_encoder: bool = False
    has_auxiliary_heads: bool = False
    smallest_px: int = 1
    only_px: int | None = None
    is_of_torchvision: bool = True

    def takes(self, side_px: int) -> bool:
        """Return whether it takes square images of this side."""
        return side_px == self.only_px if self.only_px else side_px >= self.smallest_px

    @property
    def sizes(self) -> str:
        """The sides of the images that it takes, in words."""
        return f"{self.only_px} px only" if self.only_px else f"{self.smallest_px} px or more"


def _transformer(last_stage: str) -> Backbone:
    return Backbone(last_stage=last_stage, is_sequential=False, only_px=224)


_EFFICIENTNET = Backbone(last_stage="features.6.")
_MNASNET = Backbone(last_stage="layers.12.")
_REGNET = Backbone(last_stage="trunk_output.block4.")
_RESNET = Backbone(last_stage="layer4.")
_RESNET_ENCODER = Backbone(last_stage="layer4.", is_encoder=True)
_DENSENET = Backbone(last_stage="features.denseblock4.", is_encoder=True)
_SHUFFLENET = Backbone(last_stage="stage4.")
_SWIN = Backbone(last_stage="features.6.", is_sequential=False)

_BUILT_IN: Mapping[str, Backbone] = {
    "small_cnn": Backbone(last_stage="6.", is_of_torchvision=False),
    "alexnet": Backbone(last_stage="features.6.", smallest_px=63),
    **dict.fromkeys([f"convnext_{size}" for size in ("tiny", "small", "base", "large")], _EFFICIENTNET),
    **dict.fromkeys([f"densenet{depth}" for depth in (121, 161, 169, 201)], _DENSENET),
    **dict.fromkeys([f"efficientnet_b{scale}" for scale in range(8)], _EFFICIENTNET),
    **dict.fromkeys([f"efficientnet_v2_{size}" for size in "sml"], _EFFICIENTNET),
    "googlenet": Backbone(last_stage="inception5a.", is_sequential=False, has_auxiliary_heads=True),
    "inception_v3": Backbone(last_stage="Mixed_7a.", is_sequential=False, has_auxiliary_heads=True, smallest_px=75),
    "maxvit_t": _transformer("blocks.3."),
    **dict.fromkeys([f"mnasnet{width}" for width in ("0_5", "0_75", "1_0", "1_3")], _MNASNET),
    "mobilenet_v2": Backbone(last_stage="features.14.", is_encoder=True),
    "mobilenet_v3_small": Backbone(last_stage="features.9."),
    "mobilenet_v3_large": Backbone(last_stage="features.13."),
    **dict.fromkeys([f"regnet_x_{cost}" for cost in "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf".split()], _REGNET),
    **dict.fromkeys([f"regnet_y_{cost}" for cost in "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf 128gf".split()], _REGNET),
    **dict.fromkeys([f"resnet{depth}" for depth in (18, 34, 50, 101, 152)], _RESNET_ENCODER),
    "resnext50_32x4d": _RESNET_ENCODER,
    "resnext101_32x8d": _RESNET_ENCODER,
    "resnext101_64x4d": _RESNET,
    **dict.fromkeys([f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")], _SHUFFLENET),
    "squeezenet1_0": Backbone(last_stage="features.12."),
    "squeezenet1_1": Backbone(last_stage="features.9."),
    **dict.fromkeys([f"swin_{size}" for size in ("t", "s", "b", "v2_t", "v2_s", "v2_b")], _SWIN),
    "vgg11": Backbone(last_stage="features.16.", is_encoder=True),
    "vgg13": Backbone(last_stage="features.20.", is_encoder=True),
    "vgg16": Backbone(last_stage="features.24.", is_encoder=True),
    "vgg19": Backbone(last_stage="features.28.", is_encoder=True),
    "vgg11_bn": Backbone(last_stage="features.22.", is_encoder=True),
    "vgg13_bn": Backbone(last_stage="features.28.", is_encoder=True),
    "vgg16_bn": Backbone(last_stage="features.34.", is_encoder=True),
    "vgg19_bn": Backbone(last_stage="features.40.", is_encoder=True),
    "vit_b_16": _transformer("encoder.layers.encoder_layer_11."),
    "vit_b_32": _transformer("encoder.layers.encoder_layer_11."),
    "vit_l_16": _transformer("encoder.layers.encoder_layer_23."),
    "vit_l_32": _transformer("encoder.layers.encoder_layer_23."),
    "vit_h_14": _transformer("encoder.layers.encoder_layer_31."),
    "wide_resnet50_2": _RESNET,
    "wide_resnet101_2": _RESNET,
}

BACKBONES = Extensions("backbone", tuple(_BUILT_IN))
ENCODERS = tuple(name for name, backbone in _BUILT_IN.items() if backbone.is_encoder)
"""The backbones of segmentation."""


def is_of_torchvision(name: str) -> bool:
    """Return whether torchvision has the backbone and its weights. Imports no extension, unlike `backbone_of`."""
    return name in _BUILT_IN and _BUILT_IN[name].is_of_torchvision


def backbone_of(name: str) -> Backbone:
    """Return the entry of a backbone; that of another package is imported (MachineError if it cannot be)."""
    if not BACKBONES.has(name):
        return _BUILT_IN[name]
    network = BACKBONES.load(name)
    return Backbone(
        last_stage=getattr(network, "last_stage", ""),
        is_sequential=False,
        smallest_px=getattr(network, "least_image_px", 1),
        is_of_torchvision=False,
    )
