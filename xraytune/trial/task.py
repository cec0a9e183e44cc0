"""The differences between classification and segmentation: one record of functions for each task.

In a segmentation study, all images are of one class, and each has a mask. The rest of the code, from the split to the
verdict, is the same for both tasks and gets these functions from `task_of(settings)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.base.errors import TrialError, XraytuneError
from xraytune.base.records import Compute
from xraytune.data.index import ImageFile, ImageIndex, LabelledImages, read_index, read_labelled, read_labelled_folder
from xraytune.nets.classifier import build_classifier
from xraytune.nets.segmenter import MASK_THRESHOLD, build_segmenter, mask_loss, segment
from xraytune.nets.train import Loss, predict_probabilities, validate_classifier
from xraytune.space.settings import Objective, Settings, TaskName
from xraytune.stats.classification import Floats, Labels, Score, auprc, auroc, require_finite_outputs, sensitivity_at
from xraytune.stats.placements import StructuralComponents, mean_components, structural_components
from xraytune.stats.threshold import balanced_threshold

ReadMasks: TypeAlias = Callable[[slice], NDArray[np.uint8]]
Results: TypeAlias = Floats
"""A network's result for each image, float64 [N, C]: the probability of each class, or the Dice coefficient (C = 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The functions of a task.

    Attributes:
        metric: The display name of the score that `confirm` compares, whatever the search's objective.
        read_index: Lists the images of `settings.data`.
        read_labelled: Lists images to score networks on, from a folder or a data file; see `data.index.read_labelled`.
        read_folder: Lists the images of a folder; see `data.index.read_labelled_folder`.
        build_network: Builds the network of a trial; of parameters, number of classes, weights and seed.
        has_features: Whether a frozen backbone outputs one feature vector per image, which can be cached.
        validate: Loss and score of a network on images, given `positive`, `compute` and `score`; a loss that is not finite
            comes with the score NaN.
        results: The network's results for images; raises `error` if outputs are not finite.
        score: The search's objective: a score of results on images with these labels.
        threshold: The lowest probability at which an image or a pixel is positive; from labels and results.
        components: The scores (`metric`) of several networks on the same images, with each patient's contribution to their
            variance.
    """

    metric: str
    network: str
    read_index: Callable[..., ImageIndex]
    read_labelled: Callable[..., LabelledImages]
    read_folder: Callable[[Path, Sequence[str]], tuple[ImageFile, ...]]
    build_network: Callable[..., nn.Module]
    has_features: bool
    loss: Loss
    validate: Callable[..., tuple[float, float]]
    results: Callable[..., Results]
    score: Score
    threshold: Callable[[Labels, Results, int], float]
    components: Callable[[Labels, Floats, Sequence[str], int], StructuralComponents]


def task_of(settings: Settings) -> Task:
    """Return the task of a study, with the score of its objective."""
    task = TASKS[settings.task]
    return replace(task, score=_classifier_score(settings.objective)) if settings.task == "classification" else task


def _classifier_score(objective: Objective) -> Score:
    if objective.specificity is not None:
        return partial(sensitivity_at, specificity=objective.specificity)
    return auprc if objective.metric == "val_auprc" else auroc


def _validate_segmenter(
    network: nn.Module, batches: Iterable[Tensor], read_masks: ReadMasks, *, compute: Compute, **_: Any
) -> tuple[float, float]:
    losses, dices = segment(network, batches, read_masks, compute=compute)
    return float(losses.mean()), float(dices.mean())


def _dice_of_images(
    network: nn.Module,
    batches: Iterable[Tensor],
    read_masks: ReadMasks,
    *,
    compute: Compute,
    error: type[XraytuneError] = TrialError,
    where: Path | str = "",
) -> Results:
    losses, dices = segment(network, batches, read_masks, compute=compute)
    require_finite_outputs(losses[:, None], error, where)
    return dices[:, None]


CLASSIFICATION = Task(
    metric="AUROC",
    network="classifier",
    read_index=read_index,
    read_labelled=read_labelled,
    read_folder=read_labelled_folder,
    build_network=build_classifier,
    has_features=True,
    loss=F.cross_entropy,
    validate=lambda network, batches, images, **options: validate_classifier(
        network, batches, images.labels, **options
    ),
    results=lambda network, batches, _images, **options: predict_probabilities(network, batches, **options),
    score=auroc,
    threshold=lambda labels, probabilities, positive: balanced_threshold(
        labels == positive, probabilities[:, positive]
    ),
    components=structural_components,
)
SEGMENTATION = Task(
    metric="Dice",
    network="segmenter",
    read_index=partial(read_index, pairs=True),
    read_labelled=partial(read_labelled, pairs=True),
    read_folder=partial(read_labelled_folder, pairs=True),
    build_network=lambda parameters, _class_count, **options: build_segmenter(parameters, **options),
    has_features=False,
    loss=mask_loss,
    validate=lambda network, batches, images, **options: _validate_segmenter(
        network, batches, images.read_masks, **options
    ),
    results=lambda network, batches, images, **options: _dice_of_images(network, batches, images.read_masks, **options),
    score=lambda _labels, dices, **_: float(dices.mean()),
    threshold=lambda _labels, _dices, _positive: MASK_THRESHOLD,
    components=lambda _labels, dices, patients, _positive: mean_components(dices[..., 0], patients),
)
TASKS: Mapping[TaskName, Task] = {"classification": CLASSIFICATION, "segmentation": SEGMENTATION}
