"""Train the final model: on the train side alone, or on validation images as well.

    keep    as a trial: val-A chooses the epoch, val-A and val-B set the threshold
    val_a   on train and val-A, for a fixed number of epochs; val-B sets the threshold
    all     on all images, for a fixed number of epochs; three more trainings, each without a third of the patients, score
            every image by a network that has not seen its patient, and these out-of-fold scores set the threshold

Each training has a generator of its own, which sees the images of that training only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from torch import nn

from xraytune.config.settings import Experiment, Settings, Validation, without_gates
from xraytune.errors import DataError, Problem
from xraytune.metrics.threshold import ThresholdRule
from xraytune.mix.plan import plan_mix
from xraytune.models.checkpoint import load_best
from xraytune.models.inputs import InputFormat
from xraytune.models.train import TRAINING_STEPS
from xraytune.pipeline.inputs import TrialInputs, build_inputs
from xraytune.pipeline.prepare import Prepared, PreparedImage, SideName
from xraytune.pipeline.task import task_of
from xraytune.pipeline.trial import Validated, fit_epochs, run_trial, validate
from xraytune.records import Compute, EpochRecord, FittedEpoch, Progress, split_unit
from xraytune.seeding import derive_seed

FOLDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One training of a fixed number of epochs.

    Attributes:
        name: `fold 1 of 3` ..., or `final model`.
        prepared: What it trains on is on the train side, and what it does not see, if anything, on val-A.
    """

    name: str
    prepared: Prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What the validation of a final training found.

    Attributes:
        val_score: On val-A; None if the network was trained on it.
        val_b_score: On val-B; None if the network was trained on it.
        out_of_fold_score: On all images, each scored by a network that has not seen its patient; None without folds.
        threshold: The probability from which an image of two classes is positive, or a pixel belongs to the mask.
        threshold_rule: The images that set it.
        best_epoch: The epoch whose network was kept.
        epochs: Epochs trained.
        validated: The images that the network, or one of the folds, was validated on. In `keep` val-A and then val-B.
    """

    val_score: float | None
    val_b_score: float | None
    out_of_fold_score: float | None
    threshold: float
    threshold_rule: ThresholdRule
    best_epoch: int
    epochs: int
    validated: Validated


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTraining:
    """A trained network, whole even if only its head was trained; `prepared` has the sides that images were used for."""

    network: nn.Module
    input_format: InputFormat
    prepared: Prepared
    epochs: Sequence[EpochRecord] | Sequence[FittedEpoch]
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Folders, device and callbacks of a final training."""

    folder: Path
    cache: Path
    compute: Compute
    on_epoch: Callable[[EpochRecord], None]
    on_progress: Progress
    on_generator: Callable[[Prepared], None]
    note: Callable[[str], None]


def used_images(prepared: Prepared, validation: Validation) -> Prepared:
    """Return the images on the sides that the final training uses them for."""
    trained: dict[Validation, tuple[SideName, ...]] = {
        "keep": ("train",),
        "val_a": ("train", "val_a"),
        "all": ("train", "val_a", "val_b"),
    }
    return _with_sides(prepared, lambda image: "train" if image.side in trained[validation] else image.side)


def fits_of(prepared: Prepared, validation: Validation, seed: int) -> tuple[Fit, ...]:
    """Return the trainings without val-A, the final one last; none for `keep`.

    Raises:
        DataError: Too few patients of a class for the folds.
    """
    if validation == "keep":
        return ()
    used = used_images(prepared, validation)
    final = Fit(name="final model", prepared=_with_sides(used, lambda image: _unseen(image.side != "train")))
    if validation == "val_a":
        return (final,)
    fold_of = _folds(used, seed)

    def without(fold: int) -> Prepared:
        return _with_sides(used, lambda image: _unseen(fold_of[image.patient] == fold))

    return (*(Fit(name=f"fold {fold + 1} of {FOLDS}", prepared=without(fold)) for fold in range(FOLDS)), final)


def _unseen(is_unseen: bool) -> SideName:
    return "val_a" if is_unseen else "train"


def _with_sides(prepared: Prepared, side_of: Callable[[PreparedImage], SideName]) -> Prepared:
    return replace(prepared, images=tuple(replace(image, side=side_of(image)) for image in prepared.images))


def _folds(prepared: Prepared, seed: int) -> dict[str, int]:
    """Return the fold of each patient. Patients of the same classes are dealt out in a seeded order."""
    labels: dict[str, set[int]] = {}
    for image in prepared.images:
        labels.setdefault(image.patient, set()).add(image.label)
    ordered = sorted(labels, key=lambda name: (sorted(labels[name]), derive_seed(seed, "fold", name), name))
    fold_of = {name: rank % FOLDS for rank, name in enumerate(ordered)}
    for label, class_name in enumerate(prepared.class_names):
        own = [name for name in ordered if label in labels[name]]
        if len({fold_of[name] for name in own}) < FOLDS:
            of_class = f" of {class_name}" if len(prepared.class_names) > 1 else ""
            what = f"the {len(own)} patients{of_class} are too few for {FOLDS} folds"
            raise DataError(Problem(what, "final.validation: all", "use keep or val_a, or add patients"))
    return fold_of


def fixed_epochs(settings: Settings) -> int:
    """Return the epochs of a training without val-A."""
    epochs = settings.final.epochs if settings.final else None
    return min(epochs or settings.budget.max_epochs, settings.budget.max_epochs)


def changes_of(experiment: Experiment, used: Prepared) -> tuple[str, ...]:
    """Return what differs from the exported trial, one line each; `used` as from `used_images`."""
    settings, final = experiment.settings, experiment.settings.final
    if final is None:
        return ()
    changes: list[str] = []
    if final.trial_images and final.trial_images != sum(used.train_counts):
        changes += _more_images(experiment, used, final.trial_images, final.trial_patients)
    if final.validation != "keep":
        most, images = settings.budget.max_epochs, "val-B alone"
        if final.validation == "all":
            images = f"out-of-fold scores of {FOLDS} further trainings"
        changes.append(f"epochs: {fixed_epochs(settings)}, fixed, instead of the best of {most} on val-A")
        changes += [] if used.has_masks else [f"threshold: from {images}, instead of val-A and val-B"]
    return tuple(changes)


def _more_images(experiment: Experiment, used: Prepared, images: int, patients: int | None) -> Iterator[str]:
    """Yield what more images than the trial's change."""
    settings, parameters, counts = experiment.settings, experiment.parameters, used.train_counts
    of_patients = f" of {patients:,} patients" if patients else ""
    yield f"training images: {sum(counts):,} of {_patients(used):,} patients (trial: {images:,}{of_patients})"
    if parameters.source != "none":
        extra, before = (len(plan_mix(one, parameters)) for one in (counts, [images]))
        yield f"extra images: {extra:,} (trial: {before:,}), at the same ratio of {parameters.synthetic_ratio:g}"
    of_trial = settings.budget.steps_per_epoch or max(8, -(-images // 32))
    yield f"steps per epoch: {used.steps_per_epoch(settings):,} (trial: {of_trial:,})"
    if generator := parameters.generator:
        yield f"{generator.noun}: trained anew on these images, for the same {generator.steps:,} steps"


def _patients(prepared: Prepared) -> int:
    return len({*prepared.side("train").patients})


def train_with_val_a(experiment: Experiment, prepared: Prepared, work: Work) -> FinalTraining:
    """Train as a trial does; with the study's images and threads, to the same metrics bit by bit."""
    epochs: list[EpochRecord] = []

    def collect(record: EpochRecord) -> None:
        epochs.append(record)
        work.on_epoch(record)

    result = run_trial(
        experiment,
        prepared,
        trial_dir=work.folder,
        cache=work.cache,
        compute=work.compute,
        on_epoch=collect,
        on_progress=work.on_progress,
        on_generator=lambda _: work.on_generator(prepared),
    )
    assert result is not None, "without should_stop, a trial runs to its end"
    assert result.threshold is not None, "`train` refuses an experiment that trains a generator alone"
    inputs = build_inputs(experiment, prepared, cache=work.cache, compute=work.compute, on_progress=work.on_progress)
    load_best(work.folder / "checkpoint", inputs.trained)
    scores = Scores(
        val_score=result.value,
        val_b_score=result.val_b_score,
        out_of_fold_score=None,
        threshold=result.threshold,
        threshold_rule=_rule("calibrated_val_a_val_b", prepared),
        best_epoch=result.best_epoch,
        epochs=result.epochs,
        validated=validate(inputs, prepared),
    )
    return _trained(inputs, prepared, epochs, scores)


def train_without_val_a(experiment: Experiment, prepared: Prepared, fits: Sequence[Fit], work: Work) -> FinalTraining:
    """Run the fits; `prepared` is that of `used_images`."""
    task = task_of(experiment.settings)
    epochs, positive, has_folds = fixed_epochs(experiment.settings), prepared.positive, len(fits) > 1
    steps = [epochs * fit.prepared.steps_per_epoch(experiment.settings) for fit in fits]
    unseen: list[Validated] = []
    for number, fit in enumerate(fits):
        on_progress = _of_all(work.on_progress, fit.name, before=sum(steps[:number]), total=sum(steps))
        records, inputs = _run(experiment, fit, epochs, replace(work, on_progress=on_progress))
        side = fit.prepared.side("val_a")
        if len(side.rows):
            results = inputs.results("val_a")
            unseen.append(Validated(labels=side.labels, results=results, patients=side.patients))
            value = task.score(side.labels, results, positive=positive)
            work.note(
                f"{fit.name}: {experiment.settings.metric} {value:.4f} on the {len(side.rows):,} images that it has not seen"
            )
    validated = Validated(
        labels=np.concatenate([one.labels for one in unseen]),
        results=np.concatenate([one.results for one in unseen]),
        patients=tuple(chain.from_iterable(one.patients for one in unseen)),
    )
    value = task.score(validated.labels, validated.results, positive=positive)
    scores = Scores(
        val_score=None,
        val_b_score=None if has_folds else value,
        out_of_fold_score=value if has_folds else None,
        threshold=task.threshold(validated.labels, validated.results, positive),
        threshold_rule=_rule("calibrated_out_of_fold" if has_folds else "calibrated_val_b", prepared),
        best_epoch=epochs,
        epochs=epochs,
        validated=validated,
    )
    return _trained(inputs, prepared, records, scores)


def _rule(of_classes: ThresholdRule, prepared: Prepared) -> ThresholdRule:
    return "fixed" if prepared.has_masks else of_classes


def _trained(
    inputs: TrialInputs, prepared: Prepared, epochs: Sequence[EpochRecord] | Sequence[FittedEpoch], scores: Scores
) -> FinalTraining:
    return FinalTraining(
        network=inputs.whole(),
        input_format=inputs.network.form,
        prepared=prepared,
        epochs=epochs,
        scores=scores,
    )


def _run(experiment: Experiment, fit: Fit, epochs: int, work: Work) -> tuple[list[FittedEpoch], TrialInputs]:
    """Run one fit; return its epochs, and its inputs with the trained network."""
    images, patients = sum(fit.prepared.train_counts), _patients(fit.prepared)
    work.note(f"{fit.name}: training on {images:,} images of {patients:,} patients")
    if not len(
        fit.prepared.side("val_a").rows
    ):  # no unseen images to compare with; the folds have tested generators like it
        experiment = experiment.model_copy(update={"settings": without_gates(experiment.settings)})
    training = fit_epochs(
        experiment,
        fit.prepared,
        epochs=epochs,
        trial_dir=work.folder / fit.name.replace(" ", "-"),
        cache=work.cache,
        compute=work.compute,
        on_progress=work.on_progress,
        on_generator=lambda _: work.on_generator(fit.prepared),
    )
    records: list[FittedEpoch] = []
    while True:
        try:
            records.append(next(training))
        except StopIteration as end:
            inputs: TrialInputs = end.value
            return records, inputs
        work.note(f"{fit.name}: epoch {records[-1].epoch:3d} of {epochs}, train loss {records[-1].train_loss:.4f}")


def _of_all(on_progress: Progress, name: str, *, before: int, total: int) -> Progress:
    """Count training steps across all fits, so that the time left is that of all; name other work after its fit."""

    def report(what: str, done: int, of: int) -> None:
        if what == TRAINING_STEPS:
            on_progress(what, before + done, total)
        else:
            work, unit = split_unit(what)
            on_progress(f"{work}, {name}" + (f" ({unit.strip()})" if unit else ""), done, of)

    return report
