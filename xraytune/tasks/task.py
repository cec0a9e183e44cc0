"""A task: what the trials of a study train, and all that depends on it, from the labels to the report.

Images are in classes, have findings, or have masks; each task is a class in a file of its own
(`classes.py`, `findings.py`, `masks.py`). The rest of the code, from the split to the verdict, is
the same for all tasks and asks `task_of(settings)`. Only methods that compute import torch, so that
`status` and `export` start without it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from numpy.typing import NDArray

from xraytune.base.errors import ArtifactError, TrialError, XraytuneError
from xraytune.base.records import Compute
from xraytune.base.tables import Table
from xraytune.data.images import ImageFile, ImageIndex
from xraytune.data.index import (
    LabelledImages,
    read_index,
    read_labelled,
    read_labelled_folder,
)
from xraytune.data.prepare import ImageSource, Prepared
from xraytune.space.settings import DataSettings, Objective, Parameters
from xraytune.stats.classification import Floats, Labels, require_finite_outputs
from xraytune.stats.placements import StructuralComponents
from xraytune.tasks.bundle_record import CardMetric
from xraytune.tasks.evaluated import About, Evaluated, Write
from xraytune.tasks.prediction import ImageFiles, Predicted, PredictedMasks, Predictor

if TYPE_CHECKING:
    from torch import Tensor, nn

Results: TypeAlias = Floats
"""A network's result for each image, float64 [N, C]: the probability of each class or finding, or the Dice (C = 1)."""
CARD_REPLICATES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """Images, such as val-A and val-B: labels, int64 [N], or findings, [N, C]; a network's results, [N, C]; patients."""

    labels: Labels
    results: Results
    patients: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistakes:
    """The images of val-B that a network gets most wrong, the worst first, with their `places` in val-B and captions.

    `note` is about their pictures.
    """

    title: str
    note: str
    places: Sequence[int]
    captions: Sequence[str]
    lead: str = ""
    table: Table | None = None


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task, with the objective of its study.

    Attributes:
        metric: The display name of the score that `confirm` compares, whatever the search's
        objective.
        network: What `confirm` trains.
        packages: What the network and its results depend on.
        has_masks: Whether images come with masks.
        caches_features: Whether the features of a frozen backbone are computed once.
    """

    metric: ClassVar[str]
    network: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    has_masks: ClassVar[bool] = False
    caches_features: ClassVar[bool] = True

    objective: Objective = field(default_factory=Objective)

    # Images

    def read_index(self, data: DataSettings, **options: Any) -> ImageIndex:
        """List the images of a data folder; see `data.index.read_index`."""
        return read_index(data, pairs=self.has_masks, **options)

    def read_labelled(self, source: Path, outputs: Sequence[str], **options: Any) -> LabelledImages:
        """Read labelled images for a network with these outputs; see `data.index.read_labelled`."""
        findings = self.findings(outputs)
        return read_labelled(source, outputs, pairs=self.has_masks, findings=findings, **options)

    def read_labelled_folder(self, folder: Path, outputs: Sequence[str]) -> tuple[ImageFile, ...]:
        """Read the images of a folder without parts; see `data.index.read_labelled_folder`."""
        findings = self.findings(outputs)
        return read_labelled_folder(folder, outputs, pairs=self.has_masks, findings=findings)

    def findings(self, outputs: Sequence[str]) -> Sequence[str]:
        """Return those of a network's outputs that are findings."""
        return ()

    # Training

    @abstractmethod
    def build_network(
        self, parameters: Parameters, output_count: int, *, weights: Path | None, seed: int
    ) -> nn.Module:
        """Build the network of a trial, with the weights of a file if there is one."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a training step."""

    def balanced_loss(
        self, parameters: Parameters, real: Labels, device: str
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss with the trial's `pos_weight`, if the task has one, of `real` labels or findings."""
        return self.loss

    def loss_of(
        self, parameters: Parameters, real: Labels, device: str
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss of a trial's training steps, with `real` labels or findings among its images."""
        loss = self.balanced_loss(parameters, real, device)
        weight = parameters.synthetic_weight
        if weight == 1:
            return loss
        return partial(_weigh_extra, loss, real_count=parameters.batch_size, weight=weight)

    def load_targets(
        self, targets: Tensor, read_masks: Callable[[], Tensor], views: Tensor | None = None
    ) -> Tensor:
        """Return the targets of a step, [B, ...]: labels, or masks in the views of their images, if there are any."""
        return targets

    # Scores

    @abstractmethod
    def predict(
        self, network: nn.Module, batches: Iterable[Tensor], images: ImageSource, compute: Compute
    ) -> tuple[float, Results, NDArray[Any]]:
        """Return a network's mean loss on images, its results, and its outputs, [N, ...], which show if it is broken."""

    @abstractmethod
    def score(self, labels: Labels, results: Results, *, positive: int) -> float:
        """Return the search's objective, of results on images with these labels."""

    @abstractmethod
    def threshold(self, labels: Labels, results: Results, positive: int) -> float:
        """Return the lowest probability at which an image or a pixel is positive; that of findings is not used."""

    @abstractmethod
    def components(
        self, labels: Labels, results: Floats, patients: Sequence[str], positive: int
    ) -> StructuralComponents:
        """Return scores (`metric`) of several networks on the same images, with each patient's share of their variance."""

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
        if not math.isfinite(loss):
            return loss, math.nan
        return loss, self.score(images.targets, results, positive=positive)

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

    @abstractmethod
    def probabilities(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the probabilities of logits: of classes or findings, float64 [N, C], or of masks, float32 [N, S, S]."""

    def predict_probabilities(
        self, network: nn.Module, batches: Iterable[Tensor], *, compute: Compute, where: Path
    ) -> NDArray[Any]:
        """Return the `probabilities` of at least one batch of inputs.

        Raises ArtifactError, in which `where` names the network, for NaN or infinity, as metrics
        would rank them arbitrarily.
        """
        from xraytune.nets.infer import predict_logits

        logits = predict_logits(network, batches, compute=compute)
        require_finite_outputs(logits.reshape(len(logits), -1), ArtifactError, where)
        return self.probabilities(logits)

    # The final model

    def positive_class(self, prepared: Prepared) -> str | None:
        """Return the positive class, if the task has one."""
        return None

    def thresholds(self, prepared: Prepared, validated: Validated) -> dict[str, float]:
        """Return the threshold of each finding, if the images have any."""
        return {}

    @abstractmethod
    def card_metrics(
        self, prepared: Prepared, threshold: float, validated: Validated
    ) -> tuple[CardMetric, ...]:
        """Return the metrics of the model card, computed from the results on the validation images."""

    @abstractmethod
    def write_predictions(
        self, model: Predictor, images: ImageFiles, out: Path
    ) -> Predicted | PredictedMasks:
        """Predict images and write the predictions to `out`, a file or a folder."""

    def require_labels(self, labelled: LabelledImages, outputs: Sequence[str]) -> None:
        """Raise DataError if there is no metric of a model with these outputs on these images."""
        return

    @abstractmethod
    def evaluate(
        self,
        model: Predictor,
        labelled: LabelledImages,
        images: ImageFiles,
        columns: Mapping[str, Mapping[str, str]],
        *,
        replicates: int,
        about: About,
        calibration: Any = None,
    ) -> tuple[Evaluated, Write]:
        """Predict labelled images and compute all metrics, also by the values of `columns`.

        Raises DataError if images are broken or a metric is undefined.
        """

    # The report

    def find_mistakes(
        self, results: Results, prepared: Prepared, threshold: float, trial: int
    ) -> Mistakes | None:
        """Return the images of val-B that trial number `trial` gets most wrong."""
        return None


def _weigh_extra(
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
