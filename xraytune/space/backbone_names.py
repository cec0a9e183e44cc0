"""The names of the backbones: all torchvision classifiers and a small custom CNN; their weight sets and image sizes.

The names are listed because importing torchvision takes seconds, and checking a space file must not.
"""

from __future__ import annotations

from typing import Literal, get_args

from xraytune.space.extensions import Extensions

# fmt: off
BackboneName = Literal[
    "small_cnn",
    "alexnet",
    "convnext_tiny", "convnext_small", "convnext_base", "convnext_large",
    "densenet121", "densenet161", "densenet169", "densenet201",
    "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7",
    "efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l",
    "googlenet", "inception_v3",
    "maxvit_t",
    "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3",
    "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
    "regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf",
    "regnet_x_8gf", "regnet_x_16gf", "regnet_x_32gf",
    "regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf",
    "regnet_y_8gf", "regnet_y_16gf", "regnet_y_32gf", "regnet_y_128gf",
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0",
    "squeezenet1_0", "squeezenet1_1",
    "swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b",
    "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn",
    "vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14",
    "wide_resnet50_2", "wide_resnet101_2",
]
# fmt: on

BACKBONES = Extensions("backbone", get_args(BackboneName))

WEIGHT_SETS = (
    *("IMAGENET1K_V1", "IMAGENET1K_V2"),
    *("IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1", "IMAGENET1K_FEATURES"),
)
"""torchvision's names; not every backbone has all of them."""

ENCODERS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
    *("mobilenet_v2", "densenet121", "densenet161", "densenet169", "densenet201"),
    *("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
)
"""Backbones that segmentation-models-pytorch builds from torchvision's layers, so that torchvision's weights load."""
ENCODER_STRIDE_PX = 32
"""A U-Net halves an image five times."""

_ONLY_SIZE_PX = dict.fromkeys(("maxvit_t", "vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"), 224)
_SMALLEST_SIZE_PX = {"alexnet": 63, "inception_v3": 75}


def is_of_torchvision(backbone: str) -> bool:
    """Return whether torchvision provides the backbone and its weights."""
    return backbone != "small_cnn" and not BACKBONES.has(backbone)


def size_problem(backbone: str, image_size_px: int) -> tuple[str, str] | None:
    """Return why a backbone cannot take square images of this size, and the fix; None if it can."""
    only, smallest = _ONLY_SIZE_PX.get(backbone, image_size_px), _SMALLEST_SIZE_PX.get(backbone, 0)
    if BACKBONES.has(backbone):
        smallest = getattr(BACKBONES.load(backbone), "least_image_px", 0)
    if image_size_px != only:
        sizes, size_px = f"{only} px only", only
    elif image_size_px < smallest:
        sizes, size_px = f"{smallest} px or more", max(smallest, 96)
    else:
        return None
    what = f"backbone: {backbone} takes images of {sizes}, but data.image_size is {image_size_px}"
    return what, f"set data.image_size: {size_px}"
