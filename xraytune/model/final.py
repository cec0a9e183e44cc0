"""The training of a final model, and what differs from the exported trial.

Val-A chooses the epoch, and val-A and val-B set the threshold, as in a trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from xraytune.base.records import EpochRecord
from xraytune.data.decoding import InputFormat
from xraytune.data.prepare import Prepared, RunContext
from xraytune.nets.checkpoint import load_best
from xraytune.space.settings import Experiment
from xraytune.trial.inputs import TrialInputs
from xraytune.trial.mix import plan_mix
from xraytune.trial.run import Validated, run_trial, validate


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTraining:
    """A trained network, whole even if only its head was trained, and what its validation found.

    Attributes:
        val_score: On val-A, as `val_b_score` on val-B.
        threshold: The probability from which an image of two classes is positive, or a pixel belongs to the mask.
        validated: The images of val-A and then val-B.
    """

    network: nn.Module
    input_format: InputFormat
    prepared: Prepared
    epochs: Sequence[EpochRecord]
    best_epoch: int
    val_score: float
    val_b_score: float
    threshold: float
    validated: Validated


def changes_of(experiment: Experiment, prepared: Prepared) -> Iterator[str]:
    """Yield what differs from the exported trial, one line each."""
    settings, parameters, origin = experiment.settings, experiment.parameters, experiment.settings.exported_from
    if origin is None or origin.images is None:
        return
    yield from origin.changes
    counts, generator = prepared.train_counts, parameters.gan
    if generator and generator.image_size < settings.data.image_size and experiment.resolution_px is None:
        enlarged = f"{generator.image_size} px, enlarged to {settings.data.image_size} px"
        yield f"images of the GAN: {enlarged}; real images are not matched to them"
    if origin.images == sum(counts):
        return
    images, of_patients = origin.images, f" of {origin.patients:,} patients"
    yield f"training images: {sum(counts):,} of {prepared.train_patients:,} patients (trial: {images:,}{of_patients})"
    if parameters.source != "none":
        extra, before = len(plan_mix(counts, parameters)), len(plan_mix([images], parameters))
        yield f"extra images: {extra:,} (trial: {before:,}), at the same ratio of {parameters.synthetic_ratio:g}"
    if generator:
        yield f"GAN: trained anew on these images, for the same {generator.steps:,} steps"


def train_final(
    experiment: Experiment, context: RunContext, folder: Path, on_epoch: Callable[[EpochRecord], None]
) -> FinalTraining:
    """Train as a trial does, in a folder; with the study's images and threads, to the same metrics bit by bit."""
    epochs: list[EpochRecord] = []

    def collect(record: EpochRecord) -> None:
        epochs.append(record)
        on_epoch(record)

    result = run_trial(experiment, context, trial_dir=folder, on_epoch=collect)
    inputs = TrialInputs(experiment, context)
    load_best(folder / "checkpoint", inputs.trained)
    return FinalTraining(
        network=inputs.whole(),
        input_format=inputs.network.form,
        prepared=context.prepared,
        epochs=epochs,
        best_epoch=result.best_epoch,
        val_score=result.value,
        val_b_score=result.val_b_score,
        threshold=result.threshold,
        validated=validate(inputs, context.prepared),
    )
