"""What the trials of a study train and how their results are scored.

A study trains a classifier of images in classes, a classifier of images with findings or a
segmenter of images with masks (both of one class). The rest of the code, from the split to the
verdict, is the same for all tasks and asks `task_of(settings)`. Only methods that compute import
torch, so that `status` and `export` start without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xraytune.base.errors import TrialError, XraytuneError
from xraytune.base.records import Compute
from xraytune.data.prepare import ImageSource
from xraytune.space.settings import Objective, Parameters, Settings, TaskName
from xraytune.stats.classification import (
    Floats,
    Labels,
    auprc,
    auroc,
    require_finite_outputs,
    sensitivity_at,
)
from xraytune.stats.placements import StructuralComponents, mean_components, structural_components
from xraytune.stats.threshold import balanced_threshold

if TYPE_CHECKING:
    from torch import Tensor, nn

Results: TypeAlias = Floats
"""A network's result for each image, float64 [N, C]: the probability of each class or finding, or the Dice (C = 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task, with the objective of its study.

    Attributes:
        metric: The display name of the score that `confirm` compares, whatever the search's
        objective.
        network: What `confirm` trains.
        has_pairs: Whether the images have masks instead of classes.
        has_findings: Whether the images have findings instead of classes.
    """

    metric: str
    network: str
    has_pairs: bool = False
    has_findings: bool = False
    objective: Objective = field(default_factory=Objective)

    def build_network(
        self, parameters: Parameters, class_count: int, *, weights: Path | None, seed: int
    ) -> nn.Module:
        """Build the network of a trial, with the weights of a file if there is one."""
        if self.has_pairs:
            from xraytune.nets.segmenter import build_segmenter

            return build_segmenter(parameters, weights=weights, seed=seed)
        from xraytune.nets.classifier import build_classifier

        return build_classifier(parameters, class_count, weights=weights, seed=seed)

    def loss_of(
        self, parameters: Parameters, real: Labels, device: str
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss of a trial's training steps, with `real` labels or findings among its images."""
        loss = self.loss
        if parameters.pos_weight == "balanced":
            from torch import as_tensor

            positives, negatives = ((real == value).sum(axis=0) for value in (1, 0))
            weights = np.where(positives, negatives / np.maximum(positives, 1), 1)
            pos_weight = as_tensor(weights.astype(np.float32), device=device)
            loss = partial(self.loss, pos_weight=pos_weight)
        weight = parameters.synthetic_weight
        if weight == 1:
            return loss
        return partial(weighted_loss, loss, real_count=parameters.batch_size, weight=weight)

    def loss(self, outputs: Tensor, targets: Tensor, pos_weight: Tensor | None = None) -> Tensor:
        """Return the loss of a training step; `pos_weight` is the weight of positives of each finding, [C]."""
        if self.has_findings:
            from torch.nn.functional import binary_cross_entropy_with_logits

            is_known = (targets >= 0).to(outputs.dtype)
            expected = (targets == 1).to(outputs.dtype)
            summed = binary_cross_entropy_with_logits(
                outputs, expected, weight=is_known, pos_weight=pos_weight, reduction="sum"
            )
            return summed / is_known.sum().clamp(min=1)
        if self.has_pairs:
            from xraytune.nets.segmenter import mask_loss

            return mask_loss(outputs, targets)
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets)

    def predict(
        self, network: nn.Module, batches: Iterable[Tensor], images: ImageSource, compute: Compute
    ) -> tuple[float, Results, NDArray[Any]]:
        """Return a network's mean loss on images, its results, and its outputs, [N, ...], which show if it is broken."""
        if self.has_pairs:
            from xraytune.nets.segmenter import segment

            losses, dices = segment(network, batches, images.read_masks, compute=compute)
            return float(losses.mean()), dices[:, None], losses[:, None]
        import torch

        from xraytune.nets.train import predict_logits, probabilities

        logits = predict_logits(network, batches, compute=compute)
        loss = self.loss(torch.from_numpy(logits).double(), torch.from_numpy(images.targets))
        return float(loss), probabilities(logits, of_findings=self.has_findings), logits

    def score(self, labels: Labels, results: Results, *, positive: int) -> float:
        """Return the search's objective, of results on images with these labels."""
        if self.has_pairs:
            return float(results.mean())
        if self.objective.specificity is not None:
            return sensitivity_at(
                labels, results, positive=positive, specificity=self.objective.specificity
            )
        return (auprc if self.objective.metric == "val_auprc" else auroc)(
            labels, results, positive=positive
        )

    def threshold(self, labels: Labels, results: Results, positive: int) -> float:
        """Return the lowest probability at which an image or a pixel is positive; that of findings is not used."""
        if self.has_pairs:
            from xraytune.nets.augment import MASK_THRESHOLD

            return MASK_THRESHOLD
        if self.has_findings:
            return 0.5
        return balanced_threshold(labels == positive, results[:, positive])

    def components(
        self, labels: Labels, results: Floats, patients: Sequence[str], positive: int
    ) -> StructuralComponents:
        """Return scores (`metric`) of several networks on the same images, with each patient's share of their variance."""
        if self.has_pairs:
            return mean_components(results[..., 0], patients)
        return structural_components(labels, results, patients, positive)

    def validate(
        self,
        network: nn.Module,
        batches: Iterable[Tensor],
        images: ImageSource,
        *,
        positive: int,
        compute: Compute,
    ) -> tuple[float, float]:
        """Return loss and score of a network on images; the score is NaN if the loss is not finite."""
        loss, results, _ = self.predict(network, batches, images, compute)
        return loss, self.score(images.targets, results, positive=positive) if math.isfinite(
            loss
        ) else math.nan

    def results(
        self,
        network: nn.Module,
        batches: Iterable[Tensor],
        images: ImageSource,
        *,
        compute: Compute,
        error: type[XraytuneError] = TrialError,
        where: Path | str = "",
    ) -> Results:
        """Return the network's results for images; raise `error`, in which `where` names it, if outputs are not finite."""
        _, results, outputs = self.predict(network, batches, images, compute)
        require_finite_outputs(outputs, error, where)
        return results


def weighted_loss(
    loss: Callable[[Tensor, Tensor], Tensor],
    outputs: Tensor,
    targets: Tensor,
    *,
    real_count: int,
    weight: float,
) -> Tensor:
    """Return the weighted mean of the loss over real images, which come first, and over extra ones.

    A real image has weight 1, an extra one `weight`; of findings, each mean is over known ones.
    """
    extra_weight = weight * (len(outputs) - real_count)
    of_real = loss(outputs[:real_count], targets[:real_count])
    of_extra = loss(outputs[real_count:], targets[real_count:])
    return (real_count * of_real + extra_weight * of_extra) / (real_count + extra_weight)


TASKS: Mapping[TaskName, Task] = {
    "classification": Task(metric="AUROC", network="classifier"),
    "findings": Task(metric="macro AUROC", network="classifier", has_findings=True),
    "segmentation": Task(metric="Dice", network="segmenter", has_pairs=True),
}


def task_of(settings: Settings) -> Task:
    """Return the task of a study, with the score of its objective."""
    return replace(TASKS[settings.task], objective=settings.objective)
