"""Pictures of validation images with a network's Grad-CAM maps or predicted masks.

Grad-CAM shows the regions of an image that support the predicted class. From: Selvaraju et al.
2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization".
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from xraytune.base.arrays import AnyArray, Int64Array
from xraytune.base.errors import ConfigError
from xraytune.base.records import Compute
from xraytune.data.masks import draw_outlines
from xraytune.data.prepare import RunContext, SplitData, side_image_set
from xraytune.nets.checkpoint import load_best
from xraytune.nets.inputs import MASK_THRESHOLD, normalise
from xraytune.nets.networks import Classifier
from xraytune.space.settings import Experiment
from xraytune.stats.classification import Floats
from xraytune.trial.network import TrialNetwork

_CPU = Compute(device="cpu", threads=1, precision="float32")
_SHOWN_PX = 224
_ORANGE = np.array([255, 140, 0])
_OPACITY = 0.6


def explain_images(
    experiment: Experiment,
    trial_dir: Path,
    prepared: SplitData,
    indices: Int64Array,
    *,
    cache: Path,
) -> list[bytes]:
    """Return pictures of the images at these indices in val-B, [n], as JPEG files.

    Each picture has an image on the left and, on the right, the Grad-CAM map of a trial's network
    over it (see `grad_cam`). For a segmenter, it has the outlines of the true and of the predicted
    mask.

    Raises:
        MachineError: The backbone's weights are missing.
        ArtifactError: The decoded images or the trial's network are missing.
        ConfigError: The backbone has no feature maps.
    """
    images = side_image_set("val_b", prepared, cache)
    network = TrialNetwork(experiment, RunContext(prepared=prepared, cache=cache, compute=_CPU))
    classifier = network.whole
    pixels = images.read(indices)
    inputs = normalise(network.read_scaled(images, indices), network.input_format)
    trained = classifier.get_submodule("head") if network.has_cached_features else classifier
    load_best(trial_dir / "checkpoint", trained)
    shown_pixels: AnyArray
    right: AnyArray
    if isinstance(classifier, Classifier):
        classifier.eval().requires_grad_(False)
        saliency = grad_cam(classifier, inputs)[..., None] * _OPACITY
        shown_pixels = np.repeat(pixels[..., None].astype(float), 3, axis=3)
        right = shown_pixels * (1 - saliency) + _ORANGE * saliency
    else:
        predicted = network.task.predict_probabilities(
            classifier, [inputs], compute=_CPU, where=trial_dir
        )
        shown_pixels = draw_outlines(pixels, images.read_masks(indices))
        right = draw_outlines(pixels, predicted > MASK_THRESHOLD)
    pictures = []
    for pair in np.concatenate([shown_pixels, right], axis=2).round().astype(np.uint8):
        content = io.BytesIO()
        size = (2 * _SHOWN_PX, _SHOWN_PX)
        resized = Image.fromarray(pair).resize(size, Image.Resampling.BICUBIC)
        resized.save(content, "jpeg", quality=85)
        pictures.append(content.getvalue())
    return pictures


def grad_cam(network: Classifier, inputs: Tensor) -> Floats:
    """Return Grad-CAM maps of the predicted classes, float64 [n, S, S] in [0, 1].

    `inputs` are images, [n, C, S, S]. The network must be in eval mode, and its parameters must not
    require gradients. Raises ConfigError if the backbone, such as a ViT, has no feature maps.
    """
    last_maps: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            last_maps[:] = [output]

    hooks = [module.register_forward_hook(keep) for module in network.backbone.modules()]
    logits = network(inputs.requires_grad_())
    for hook in hooks:
        hook.remove()
    if not last_maps:
        raise ConfigError(
            "Grad-CAM needs feature maps, which this backbone does not have",
            fix="leave out Grad-CAM",
        )
    (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), last_maps)
    maps = F.relu(
        (gradient.mean(dim=(2, 3), keepdim=True) * last_maps[0].detach()).sum(dim=1, keepdim=True)
    )
    maps = maps / maps.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    maps = F.interpolate(maps, size=inputs.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    saliency: Floats = maps.double().cpu().numpy()
    return saliency
