"""Tasks; the base class is the task of images in classes: a classifier, scored by AUROC.

A task is a class with its network, loss and score, and with the `reports` on its networks.
`Findings` and `Masks` override what differs. The rest of the code, from the split to the verdict,
is the same for all tasks and asks `task_of(settings)`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from xraytune.base.arrays import AnyArray
from xraytune.base.errors import ArtifactError
from xraytune.base.records import Compute
from xraytune.data.image_set import ImageSet
from xraytune.data.prepare import SplitData
from xraytune.nets.infer import predict_logits
from xraytune.nets.networks import build_classifier
from xraytune.space.parameters import Parameters
from xraytune.space.task_settings import Objective
from xraytune.stats.classification import (
    Floats,
    Labels,
    auprc,
    auroc,
    require_finite_outputs,
    sensitivity_at,
)
from xraytune.stats.threshold import balanced_threshold
from xraytune.tasks.evaluation import Validated
from xraytune.tasks.reports import ClassReports, FindingReports

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Results: TypeAlias = Floats
"""The probabilities of each image's classes or findings, float64 [N, C], or its Dice, [N, 1]."""
_GAMMA = 2.0
"""The exponent of `imbalance: focal`, as published."""
_SPECIFICITY = 0.9
"""The least specificity of `objective.metric: val_sensitivity`."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task, with the objective of its study; the base class is for two or more classes.

    Attributes:
        metric: The display name of the score that `confirm` compares, whatever the search's
            objective.
        network: The kind of network that `confirm` trains, in words.
        packages: The packages that the network and its results depend on.
        has_classes: Whether an image has one of several classes; otherwise, each output of a
            network has a probability of its own.
        trains_heads: Whether a head can be trained alone, on the features of a frozen backbone.
        build_network: Builds the network of a trial.
        reports: Writes what is reported of a network, such as its card and its evaluation.
    """

    metric: ClassVar[str] = "AUROC"
    network: ClassVar[str] = "classifier"
    packages: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    has_classes: ClassVar[bool] = True
    trains_heads: ClassVar[bool] = True
    build_network: ClassVar[Callable[..., nn.Module]] = staticmethod(build_classifier)
    reports: ClassVar[ClassReports] = ClassReports()

    objective: Objective = field(default_factory=Objective)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of logits, [B, C], and labels, [B], or probabilities, [B, C]."""
        return cross_entropy(outputs, targets)

    def balanced_loss(
        self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, gamma: float = 0.0
    ) -> Tensor:
        """Return the loss of `imbalance`: weighted by class, [C], or the focal loss.

        It is the cross-entropy of logits, [B, C], and labels, [B], or probabilities, [B, C]: the
        mean over images, weighted by the weights of their classes. With `gamma`, images that the
        network is sure of count less.

        From: Lin et al. 2017, "Focal Loss for Dense Object Detection" (arXiv:1708.02002), equation
        4.
        """
        if targets.ndim == 1:
            targets = one_hot(targets, outputs.shape[1]).to(outputs.dtype)
        if weights is not None:
            targets = targets * weights
        total = targets.sum()
        logarithms = outputs.log_softmax(dim=1)
        if gamma:
            targets = targets * (1 - logarithms.exp()) ** gamma
        return -(targets * logarithms).sum() / total

    def loss_of(self, parameters: Parameters, real: AnyArray, device: str) -> Loss:
        """Return the loss of a trial's training steps.

        `real` are the labels or findings of the real images, or their probabilities.
        """
        loss: Loss = self.loss
        if parameters.imbalance == "weighted":
            weights = self.balance(real).astype(np.float32)
            loss = partial(self.balanced_loss, weights=torch.as_tensor(weights, device=device))
        elif parameters.imbalance == "focal":
            loss = partial(self.balanced_loss, gamma=_GAMMA)
        return weigh_extra_images(loss, parameters)

    def balance(self, real: AnyArray) -> Floats:
        """Return the weights of `imbalance: weighted`, [C], with which classes weigh the same."""
        shares = np.bincount(real) if real.ndim == 1 else real.sum(axis=0)
        weights: Floats = shares.sum() / (len(shares) * np.maximum(shares, 1))
        return weights

    def probabilities(self, logits: AnyArray) -> AnyArray:
        """Return the probabilities of classes, in float64, so that they do not tie at 1."""
        return torch.from_numpy(logits).double().softmax(dim=1).numpy()

    def predict_probabilities(
        self, network: nn.Module, batches: Iterable[Tensor], *, compute: Compute, where: Path
    ) -> AnyArray:
        """Return the `probabilities` of at least one batch of inputs.

        Raises ArtifactError if an output is NaN or infinite, since metrics would rank such outputs
        arbitrarily; `where` names the network in the message.
        """
        logits = predict_logits(network, batches, compute=compute)
        require_finite_outputs(logits.reshape(len(logits), -1), ArtifactError, where)
        return self.probabilities(logits)

    def predict(
        self, network: nn.Module, batches: Iterable[Tensor], images: ImageSet, compute: Compute
    ) -> tuple[float, Results, AnyArray]:
        """Return the mean loss, the probabilities and the logits, [N, C]."""
        logits = predict_logits(network, batches, compute=compute)
        loss = self.loss(torch.from_numpy(logits).double(), torch.from_numpy(images.targets))
        return float(loss), self.probabilities(logits), logits

    def score(self, labels: Labels, results: Results, *, positive: int) -> float:
        """Return the objective: AUROC, AUPRC, or the sensitivity at a specificity."""
        if self.objective.metric == "val_sensitivity":
            return sensitivity_at(labels, results, positive=positive, specificity=_SPECIFICITY)
        area = auprc if self.objective.metric == "val_auprc" else auroc
        return area(labels, results, positive=positive)

    def threshold(self, labels: Labels, results: Results, positive: int) -> float:
        """Return the positive class's threshold for balanced accuracy.

        Findings have `thresholds`, and the threshold of a mask's pixels is 0.5.
        """
        if not self.has_classes:
            return 0.5
        return balanced_threshold(labels == positive, results[:, positive])

    def thresholds(self, prepared: SplitData, validated: Validated) -> dict[str, float]:
        """Return the thresholds of findings; classes and masks have none."""
        return {}


def weigh_extra_images(loss: Loss, parameters: Parameters) -> Loss:
    """Return a loss that is the weighted mean over real images, which come first, and extra ones.

    A real image has weight 1, and an extra one has weight `synthetic_weight`. The mean of findings
    is over the known ones.
    """
    weight = parameters.synthetic_weight
    count = parameters.batch_size
    if weight == 1 or parameters.mixing == "pretrain":  # then, no step has both kinds
        return loss

    def weigh(outputs: Tensor, targets: Tensor) -> Tensor:
        extra_weight = weight * (len(outputs) - count)
        real_loss = loss(outputs[:count], targets[:count])
        extra_loss = loss(outputs[count:], targets[count:])
        return (count * real_loss + extra_weight * extra_loss) / (count + extra_weight)

    return weigh


class Findings(Task):
    """Images with findings, each present, absent or unknown, scored by macro AUROC.

    A class is the one-hot case. A finding with fewer than `FEWEST_LABELS` positive or negative
    images has no score, and is not in the means.
    """

    metric = "macro AUROC"
    has_classes = False
    reports = FindingReports()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of known findings, or of their probabilities."""
        return self.balanced_loss(outputs, targets)

    def balanced_loss(
        self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, gamma: float = 0.0
    ) -> Tensor:
        """Return the loss of `imbalance`: with weights of positives, [C], or the focal loss."""
        is_known = (targets >= 0).to(outputs.dtype)
        expected = targets.clamp(min=0).to(outputs.dtype)
        losses = binary_cross_entropy_with_logits(
            outputs, expected, weight=is_known, pos_weight=weights, reduction="none"
        )
        if gamma:
            losses = losses * (expected - outputs.sigmoid()).abs() ** gamma
        return losses.sum() / is_known.sum().clamp(min=1)

    def balance(self, real: AnyArray) -> Floats:
        """Return the weights of positives, [C], which make them weigh as much as negatives."""
        positives = (real > 0.5).sum(axis=0)
        negatives = ((real >= 0) & (real <= 0.5)).sum(axis=0)
        return np.where(positives, negatives / np.maximum(positives, 1), 1)

    def thresholds(self, prepared: SplitData, validated: Validated) -> dict[str, float]:
        """Return the threshold of each finding for balanced accuracy.

        It is 0.5 if all or none of the images have the finding.
        """
        thresholds = {}
        for index, name in enumerate(prepared.outputs):
            is_known = validated.labels[:, index] >= 0
            has_it = validated.labels[is_known, index] == 1
            scores = validated.results[is_known, index]
            is_mixed = has_it.any() and not has_it.all()
            thresholds[name] = balanced_threshold(has_it, scores) if is_mixed else 0.5
        return thresholds

    def probabilities(self, logits: AnyArray) -> AnyArray:
        """Return the probability of each finding, float64."""
        return torch.from_numpy(logits).double().sigmoid().numpy()
