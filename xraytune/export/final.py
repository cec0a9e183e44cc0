"""Train the final model: on the train side alone, or on validation images as well.

    keep    as a trial: val-A chooses the epoch, val-A and val-B set the threshold
    val_a   on train and val-A, for a fixed number of epochs; val-B sets the threshold
    all     on all images, for a fixed number of epochs; three more trainings, each without a third of the patients, score
            every image by a network that has not seen its patient, and these out-of-fold scores set the threshold

Each training has a generator of its own, which sees the images of that training only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from torch import nn

from xraytune.config.settings import Experiment, Settings, Validation, without_gates
from xraytune.data.decoding import InputFormat
from xraytune.errors import DataError, Problem
from xraytune.mix.plan import plan_mix
from xraytune.models.checkpoint import load_best
from xraytune.models.train import TRAINING_STEPS
from xraytune.pipeline.inputs import TrialInputs
from xraytune.pipeline.prepare import Prepared, PreparedImage, RunContext, SideName
from xraytune.pipeline.task import task_of
from xraytune.pipeline.trial import Validated, fit_trial, run_trial, validate
from xraytune.records import EpochRecord, FittedEpoch, Progress
from xraytune.seeding import derive_seed

FOLDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTraining:
    """A trained network, whole even if only its head was trained, and what its validation found.

    Attributes:
        prepared: The images, on the sides that they were used for.
        val_score: On val-A, as `val_b_score` on val-B; None if the network was trained on it.
        out_of_fold_score: On all images, each scored by a network that has not seen its patient; None without folds.
        threshold: The probability from which an image of two classes is positive, or a pixel belongs to the mask.
        validated: The images that the network, or one of the folds, was validated on. In `keep` val-A and then val-B.
    """

    network: nn.Module
    input_format: InputFormat
    prepared: Prepared
    epochs: Sequence[EpochRecord] | Sequence[FittedEpoch]
    best_epoch: int
    val_score: float | None = None
    val_b_score: float | None = None
    out_of_fold_score: float | None = None
    threshold: float
    validated: Validated


def used_images(prepared: Prepared, validation: Validation) -> Prepared:
    """Return the images on the sides that the final training uses them for."""
    trained: dict[Validation, tuple[SideName, ...]] = {
        "keep": ("train",),
        "val_a": ("train", "val_a"),
        "all": ("train", "val_a", "val_b"),
    }
    return _with_sides(prepared, lambda image: "train" if image.side in trained[validation] else image.side)


def fits_of(used: Prepared, validation: Validation, seed: int) -> dict[str, Prepared]:
    """Return the images of the trainings without val-A by name, the final one last; none for `keep`.

    What a training does not see, if anything, is on its val-A. `used` is as from `used_images`; `seed` draws the folds.

    Raises:
        DataError: Too few patients of a class for the folds.
    """
    if validation == "keep":
        return {}
    folds = _folds(used, seed) if validation == "all" else []
    fits = {f"fold {number} of {FOLDS}": _without(used, fold) for number, fold in enumerate(folds, 1)}
    return fits | {"final model": _without(used, {image.patient for image in used.images if image.side != "train"})}


def _without(prepared: Prepared, patients: Set[str]) -> Prepared:
    return _with_sides(prepared, lambda image: "val_a" if image.patient in patients else "train")


def _with_sides(prepared: Prepared, side_of: Callable[[PreparedImage], SideName]) -> Prepared:
    return replace(prepared, images=tuple(replace(image, side=side_of(image)) for image in prepared.images))


def _folds(prepared: Prepared, seed: int) -> list[set[str]]:
    """Return the patients of each fold. Patients of the same classes are dealt out in a seeded order."""
    labels: dict[str, set[int]] = {}
    for image in prepared.images:
        labels.setdefault(image.patient, set()).add(image.label)
    ordered = sorted(labels, key=lambda name: (sorted(labels[name]), derive_seed(seed, "fold", name), name))
    folds = [{*ordered[fold::FOLDS]} for fold in range(FOLDS)]
    for label, class_name in enumerate(prepared.class_names):
        own = {name for name in ordered if label in labels[name]}
        if any(own.isdisjoint(fold) for fold in folds):
            of_class = f" of {class_name}" if len(prepared.class_names) > 1 else ""
            what = f"the {len(own)} patients{of_class} are too few for {FOLDS} folds"
            raise DataError(Problem(what, "final.validation: all", "use keep or val_a, or add patients"))
    return folds


def fixed_epochs(settings: Settings) -> int:
    """Return the epochs of a training without val-A."""
    epochs = settings.final.epochs if settings.final else None
    return min(epochs or settings.budget.max_epochs, settings.budget.max_epochs)


def changes_of(experiment: Experiment, used: Prepared) -> Iterator[str]:
    """Yield what differs from the exported trial, one line each; `used` as from `used_images`."""
    settings, parameters, final = experiment.settings, experiment.parameters, experiment.settings.final
    if final is None:
        return
    counts, images = used.train_counts, final.trial_images
    if images and images != sum(counts):
        of_patients = f" of {final.trial_patients:,} patients" if final.trial_patients else ""
        yield f"training images: {sum(counts):,} of {used.train_patients:,} patients (trial: {images:,}{of_patients})"
        if parameters.source != "none":
            extra, before = (len(plan_mix(one, parameters)) for one in (counts, [images]))
            yield f"extra images: {extra:,} (trial: {before:,}), at the same ratio of {parameters.synthetic_ratio:g}"
        of_trial = settings.budget.steps_per_epoch or max(8, -(-images // 32))
        yield f"steps per epoch: {used.steps_per_epoch(settings):,} (trial: {of_trial:,})"
        if generator := parameters.generator:
            yield f"{generator.noun}: trained anew on these images, for the same {generator.steps:,} steps"
    if final.validation != "keep":
        most = settings.budget.max_epochs
        yield f"epochs: fixed at {fixed_epochs(settings)}, instead of the best of {most} on val-A"
        if not used.has_masks:
            is_all = final.validation == "all"
            scores = f"out-of-fold scores of {FOLDS} additional training runs" if is_all else "val-B alone"
            yield f"threshold: from {scores}, instead of val-A and val-B"


def train_with_val_a(
    experiment: Experiment, context: RunContext, folder: Path, on_epoch: Callable[[EpochRecord], None]
) -> FinalTraining:
    """Train as a trial does, in a folder; with the study's images and threads, to the same metrics bit by bit."""
    epochs: list[EpochRecord] = []

    def collect(record: EpochRecord) -> None:
        epochs.append(record)
        on_epoch(record)

    result = run_trial(experiment, context, trial_dir=folder, on_epoch=collect)
    assert result is not None, "without should_stop, a trial runs to its end"
    assert result.threshold is not None, "`train` refuses an experiment that trains a generator alone"
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


def train_without_val_a(
    experiment: Experiment, context: RunContext, fits: Mapping[str, Prepared], folder: Path, note: Callable[[str], None]
) -> FinalTraining:
    """Run the fits, each in a subfolder; the images of `context` are those of `used_images`."""
    settings, task = experiment.settings, task_of(experiment.settings)
    epochs, positive = fixed_epochs(settings), context.prepared.positive
    total = sum(epochs * images.steps_per_epoch(settings) for images in fits.values())
    before = 0
    unseen: list[Validated] = []

    def log_epoch(name: str, record: FittedEpoch) -> None:
        note(f"{name}: epoch {record.epoch:3d} of {epochs}, train loss {record.train_loss:.4f}")

    for name, images in fits.items():
        on_progress = _of_all(context.on_progress, name, before=before, total=total)
        before += epochs * images.steps_per_epoch(settings)
        own = replace(context, prepared=images, on_progress=on_progress)
        note(f"{name}: training on {sum(images.train_counts):,} images of {images.train_patients:,} patients")
        side, fitted = images.side("val_a"), experiment
        if not len(side.rows):
            # Without unseen images to compare with, its generator is not tested; the folds have tested generators like it.
            fitted = experiment.model_copy(update={"settings": without_gates(settings)})
        records, inputs = fit_trial(
            fitted, own, folder / name.replace(" ", "-"), epochs=epochs, on_epoch=partial(log_epoch, name)
        )
        if len(side.rows):
            results = inputs.results(inputs.val_a)
            unseen.append(Validated(labels=side.labels, results=results, patients=side.patients))
            value = task.score(side.labels, results, positive=positive)
            note(f"{name}: {settings.metric} {value:.4f} on the {len(side.rows):,} images that it has not seen")
    validated = Validated(
        labels=np.concatenate([one.labels for one in unseen]),
        results=np.concatenate([one.results for one in unseen]),
        patients=tuple(chain.from_iterable(one.patients for one in unseen)),
    )
    value = task.score(validated.labels, validated.results, positive=positive)
    return FinalTraining(
        network=inputs.whole(),
        input_format=inputs.network.form,
        prepared=context.prepared,
        epochs=records,
        best_epoch=epochs,
        val_b_score=value if len(fits) == 1 else None,
        out_of_fold_score=value if len(fits) > 1 else None,
        threshold=task.threshold(validated.labels, validated.results, positive),
        validated=validated,
    )


def _of_all(on_progress: Progress, name: str, *, before: int, total: int) -> Progress:
    """Count training steps across all fits, so that the time left is that of all; name the fit of other work."""

    def report(what: str, done: int, of: int) -> None:
        if what == TRAINING_STEPS:
            on_progress(what, before + done, total)
        else:
            on_progress(f"{name}: {what}", done, of)

    return report
