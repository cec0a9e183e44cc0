"""Images with masks: a segmenter, scored by the mean Dice."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from xraytune.base.arrays import AnyArray
from xraytune.base.records import Compute
from xraytune.data.image_set import ImageSet
from xraytune.nets.infer import outputs_of
from xraytune.nets.inputs import MASK_THRESHOLD
from xraytune.nets.networks import build_segmenter
from xraytune.stats.classification import Labels
from xraytune.tasks.mask_reports import MaskReports
from xraytune.tasks.task import Results, Task

_SMOOTHING = 1.0
"""Pixels added to both sides of the Dice loss, so that an empty mask has a gradient."""


class Masks(Task):
    """Images of a single class, with masks."""

    metric = "Dice"
    network = "segmenter"
    packages = ("torch", "torchvision", "segmentation-models-pytorch")
    has_classes = False
    trains_heads = False
    build_network = staticmethod(build_segmenter)
    reports = MaskReports()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy plus the soft Dice loss of logits and masks, the mean of images.

        Logits and masks are float32 [B, 1, S, S]; masks are 0 or 1.

        From: Milletari et al. 2016, "V-Net" (arXiv:1606.04797), equation of section 3, without
        squares; the sum of both losses as in Isensee et al. 2021, "nnU-Net".
        """
        probabilities = outputs.sigmoid()
        overlap = (probabilities * targets).sum(dim=(1, 2, 3))
        sizes = probabilities.sum(dim=(1, 2, 3)) + targets.sum(dim=(1, 2, 3))
        dice = (2 * overlap + _SMOOTHING) / (sizes + _SMOOTHING)
        return binary_cross_entropy_with_logits(outputs, targets) + (1 - dice).mean()

    def probabilities(self, logits: AnyArray) -> AnyArray:
        """Return the probability of each pixel, float32 [N, S, S]."""
        return torch.from_numpy(logits[:, 0]).sigmoid().numpy()

    def predict(
        self, network: nn.Module, batches: Iterable[Tensor], images: ImageSet, compute: Compute
    ) -> tuple[float, Results, AnyArray]:
        """Return the mean loss, and the Dice and the loss of each image, [N, 1] each.

        The loss is the cross-entropy, in nats.

        From: Dice 1945, "Measures of the amount of ecologic association between species": 2 |A
        and B| / (|A| + |B|).
        """
        losses = []
        dices = []
        start = 0
        for logits in outputs_of(network, batches, compute=compute):
            is_mask = images.read_masks(slice(start, start + len(logits)))[:, None] > 0
            masks = torch.from_numpy(is_mask).to(logits.device)
            start += len(logits)
            entropy = binary_cross_entropy_with_logits(logits, masks.float(), reduction="none")
            losses.append(entropy.mean((1, 2, 3)).double())
            predicted = logits.sigmoid() >= MASK_THRESHOLD
            overlap = (predicted & masks).sum((1, 2, 3))
            sizes = predicted.sum((1, 2, 3)) + masks.sum((1, 2, 3))
            dices.append(2 * overlap.double() / sizes)
        loss = torch.cat(losses).cpu().numpy()
        return float(loss.mean()), torch.cat(dices).cpu().numpy()[:, None], loss[:, None]

    def score(self, labels: Labels, results: Results, *, positive: int) -> float:
        """Return the mean Dice."""
        return float(results.mean())
