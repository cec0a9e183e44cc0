"""Train the networks of a final model so that all patients are used, and validated on.

    folds = leave_out(...)          the images of each fold, on train, val-A and val-B
    trained = cross_validate(...)   a network for each fold, trained as in a trial
    refit(...)                      a single network, for as many epochs as were best in the folds

An ensemble consists of the networks of the folds, so each of its members leaves out other patients.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean

import numpy as np

from xraytune.base.errors import ConfigError, counted
from xraytune.base.records import EpochRecord, Note, frozen
from xraytune.data.prepare import RunContext, SplitData
from xraytune.data.sides import side_sizes
from xraytune.data.split import split_into_folds
from xraytune.model.bundle import TrainedNetworks
from xraytune.nets.checkpoint import finished_epochs, load_best
from xraytune.space.settings import Experiment
from xraytune.tasks.evaluation import Validated
from xraytune.trial.network import TrialNetwork
from xraytune.trial.run import run_trial
from xraytune.trial.training import TrialTraining

_ENOUGH_VALIDATED = 300
"""If val-A and val-B have this many patients, a single network is not cross-validated."""
_FOLDS = 3


@frozen
class Listeners:
    """What is called during the trainings of a final model.

    Attributes:
        on_epoch: After each epoch, and after resuming also for the earlier ones.
        on_generator: Once a generator is trained, with the work folder, its experiment and images.
        note: With messages for the user.
    """

    on_epoch: Callable[[EpochRecord], None]
    on_generator: Callable[[Path, Experiment, RunContext], None]
    note: Note


def leave_out(
    prepared: SplitData, seed: int, members: int, seen_patients: Collection[str]
) -> list[SplitData]:
    """Return the images of each fold; `seen_patients` are always on the train side.

    A single network has one fold, the split of `prepared`, if this has enough patients for
    validation, or there are too few patients for more folds.

    Raises ConfigError if there are too few patients for the members of an ensemble.
    """
    validated = {image.patient for image in prepared.images if image.side != "train"}
    if members == 1 and len(validated) >= _ENOUGH_VALIDATED:
        return [prepared]
    count = members if members > 1 else _FOLDS
    folds = [
        prepared.with_sides(sides)
        for sides in split_into_folds(prepared.images, count, seed, seen_patients=seen_patients)
    ]
    lacking = [side.lacking() for fold in folds for side in side_sizes(fold)]
    if not any(lacking):
        return folds
    if members > 1:
        what = f"too few patients for {members} networks, each of which leaves out other patients"
        raise ConfigError(f"{what}: {max(lacking)} on one side", "--members", "train fewer")
    return [prepared]


def with_all_on_train(prepared: SplitData) -> SplitData:
    """Return the images of a fold, all of them on the train side."""
    return prepared.with_sides(["train"] * len(prepared.images))


def cross_validate(
    experiment: Experiment, contexts: Sequence[RunContext], folder: Path, listeners: Listeners
) -> TrainedNetworks:
    """Train a network on each fold, one after the other, each resuming from its own folder.

    Their seeds are consecutive. The errors are those of `run_trial`.
    """
    if len(contexts) > 1 and experiment.parameters.weights == "none":
        # The networks of an ensemble have one input format, that of all patients.
        everyone = replace(contexts[0], prepared=with_all_on_train(contexts[0].prepared))
        input_format = TrialNetwork(experiment, everyone).input_format
        constants = {
            "parameters.pixel_mean": input_format.mean[0],
            "parameters.pixel_std": input_format.std[0],
        }
        experiment = experiment.with_values(constants)
    networks = []
    epochs = []
    results = []
    validated = []
    for index, context in enumerate(contexts):
        seed = experiment.settings.seed + index
        member = experiment.with_values({"settings.seed": seed})
        if len(contexts) > 1:
            listeners.note(f"network {index + 1} of {len(contexts)} (seed {seed})")
        trial_dir = folder / f"network_{index + 1}"
        result = run_trial(
            member,
            context,
            trial_dir=trial_dir,
            on_epoch=listeners.on_epoch,
            on_generator=partial(listeners.on_generator, folder, member, context),
        )
        results.append(result)
        epochs.append(finished_epochs(trial_dir / "checkpoint"))
        training = TrialTraining(member, context)
        load_best(trial_dir / "checkpoint", training.trained)
        validated.append(training.validation_results())
        networks.append(training.whole_network().cpu())
    labels = np.concatenate([of_fold.labels for of_fold in validated])
    probabilities = np.concatenate([of_fold.results for of_fold in validated])
    positive = contexts[0].prepared.positive
    return TrainedNetworks(
        networks=networks,
        epochs=epochs,
        result=replace(
            results[0],
            value=fmean(result.value for result in results),
            val_b_score=fmean(result.val_b_score for result in results),
            threshold=training.task.threshold(labels, probabilities, positive),
        ),
        validated=Validated(
            labels=labels,
            results=probabilities,
            patients=tuple(chain.from_iterable(fold.patients for fold in validated)),
        ),
        input_format=training.network.input_format,
    )


def refit(
    experiment: Experiment,
    context: RunContext,
    trained: TrainedNetworks,
    folder: Path,
    listeners: Listeners,
) -> TrainedNetworks:
    """Train one network on all patients, for the mean of the folds' best epochs.

    Nobody is left to validate on, so losses, scores and the threshold are those of the folds.
    """
    best_epochs = [
        max(epochs, key=lambda record: record.val_score).epoch for epochs in trained.epochs
    ]
    epoch_count = round(fmean(best_epochs))
    validation = []
    for epoch in range(epoch_count):
        fold_records = [epochs[epoch] for epochs in trained.epochs if epoch < len(epochs)]
        val_loss = fmean(record.val_loss for record in fold_records)
        val_score = fmean(record.val_score for record in fold_records)
        validation.append(replace(fold_records[0], val_loss=val_loss, val_score=val_score))
    steps = context.prepared.steps_per_epoch(experiment.settings)
    listeners.note(f"training on all patients: {counted(epoch_count, 'epoch')} of {steps:,} steps")
    training = TrialTraining(experiment, context, validation=validation)
    records = []
    for record in chain(finished_epochs(folder), training.epochs(folder)):
        records.append(record)
        listeners.on_epoch(record)
    load_best(folder, training.trained)
    return replace(
        trained,
        networks=[training.whole_network()],
        epochs=[records],
        result=replace(trained.result, best_epoch=epoch_count, epochs=epoch_count),
        input_format=training.network.input_format,
    )
