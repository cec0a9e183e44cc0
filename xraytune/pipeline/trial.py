"""One trial, from an experiment to its value. It knows neither Ray nor W&B.

    generator -> synthetic images -> training set -> network -> val-A after each epoch -> val-B once

`trial_epochs` is a generator that yields a record after each epoch and returns a `TrialResult`. It can be closed after any
epoch; started again, it yields the finished epochs once more and resumes. `run_trial` runs it to its end.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from xraytune.config.settings import Experiment
from xraytune.errors import ArtifactError
from xraytune.files import append_jsonl, read_jsonl, write_array, write_json, write_text
from xraytune.metrics.classification import Labels
from xraytune.metrics.generator_quality import QUALITY_FILE
from xraytune.models.checkpoint import intact_epochs, load_best
from xraytune.models.train import Training, fit_network, train_network
from xraytune.pipeline.generator_trial import generator_epochs
from xraytune.pipeline.inputs import TrialInputs
from xraytune.pipeline.pools import train_networks
from xraytune.pipeline.prepare import Prepared, RunContext
from xraytune.pipeline.quality import report_pool
from xraytune.pipeline.task import Results, task_of
from xraytune.records import EpochRecord, FittedEpoch, ShouldStop, TrialResult, never_stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """Images, such as val-A followed by val-B: labels, int64 [N]; a network's results, [N, C]; the patient of each image."""

    labels: Labels
    results: Results
    patients: tuple[str, ...]


def run_trial(
    experiment: Experiment,
    context: RunContext,
    *,
    trial_dir: Path,
    on_epoch: Callable[[EpochRecord], None],
    should_stop: ShouldStop = never_stop,
) -> TrialResult | None:
    """Run a trial, from its last checkpoint if there is one; None if `should_stop` ended it.

    Raises:
        TrialError: A loss is not finite, or the generator copies its training images.
        DataError: Extra images are missing or broken.
        MachineError: Weights are missing, or the disk is full.
        ArtifactError: The pixels of `prepared` are not in the cache, see `restore_pixels`; or the best network is damaged.
    """
    epochs = trial_epochs(experiment, context, trial_dir)
    while True:
        try:
            on_epoch(next(epochs))
        except StopIteration as end:
            result: TrialResult = end.value
            return result
        if should_stop():
            epochs.close()
            return None


def trial_epochs(
    experiment: Experiment, context: RunContext, trial_dir: Path
) -> Generator[EpochRecord, None, TrialResult]:
    """Yield the epochs of a trial, each after it was written to `epochs.jsonl`; see `run_trial`."""
    if experiment.settings.objective.is_of_generator:
        return (yield from generator_epochs(experiment, context, trial_dir))
    started = time.monotonic()
    prepared, task = context.prepared, task_of(experiment.settings)
    train_own_generator(experiment, context)
    if experiment.parameters.has_synthetic_images and not (trial_dir / QUALITY_FILE).exists():
        write_json(trial_dir / QUALITY_FILE, {"version": 1, **asdict(report_pool(experiment, context))})
    inputs = TrialInputs(experiment, context)  # may refuse the pool
    log, checkpoint_dir = trial_dir / "epochs.jsonl", trial_dir / "checkpoint"
    finished = intact_epochs(checkpoint_dir, EpochRecord)
    logged = len(read_jsonl(log))
    if logged > len(finished):  # the checkpoint was lost: these epochs are trained again, and may round differently
        write_text(log, "")
        logged = 0
    training = _training(experiment, context, inputs, checkpoint_dir)
    records = []
    for record in chain(finished, train_network(training, inputs.validate)):
        if record.epoch > logged:
            append_jsonl(log, {"version": 1, **asdict(record)})
        records.append(record)
        yield record

    try:
        load_best(checkpoint_dir, inputs.trained)
    except ArtifactError:
        shutil.rmtree(checkpoint_dir)  # a retry trains the same epochs again
        raise
    best = max(records, key=lambda record: record.val_score)  # of equals the first, whose network was kept
    validated = validate(inputs, prepared)
    val_b = inputs.val_b.labels
    val_b_results = validated.results[-len(val_b) :]
    write_array(trial_dir / "val_b.npy", val_b_results)
    return TrialResult(
        value=best.val_score,
        best_epoch=best.epoch,
        epochs=len(records),
        val_b_score=task.score(val_b, val_b_results, positive=prepared.positive),
        threshold=task.threshold(validated.labels, validated.results, prepared.positive),
        seconds=time.monotonic() - started,
    )


def fit_trial(
    experiment: Experiment,
    context: RunContext,
    trial_dir: Path,
    *,
    epochs: int,
    on_epoch: Callable[[FittedEpoch], None],
) -> tuple[list[FittedEpoch], TrialInputs]:
    """Train without validation; return all epochs, and the inputs with the network of the last one.

    Its generator is new, too. Images of val-A, if any, serve only as unseen images in the test for copies; without them,
    `quality.allow_memorised` must be set. Resumes, and raises, as `run_trial` does.
    """
    train_own_generator(experiment, context)
    inputs = TrialInputs(experiment, context)
    checkpoint_dir = trial_dir / "checkpoint"
    finished = intact_epochs(checkpoint_dir, FittedEpoch)
    training = _training(experiment, context, inputs, checkpoint_dir)
    records = []
    for record in chain(finished, fit_network(training, epochs)):
        records.append(record)
        on_epoch(record)
    return records, inputs


def _training(experiment: Experiment, context: RunContext, inputs: TrialInputs, checkpoint_dir: Path) -> Training:
    settings = experiment.settings
    return Training(
        parameters=experiment.parameters,
        network=inputs.trained,
        batch=inputs.batch,
        loss=task_of(settings).loss,
        norm_batches=inputs.norm_batches,
        max_epochs=settings.budget.max_epochs,
        steps_per_epoch=context.prepared.steps_per_epoch(settings),
        seed=settings.seed,
        compute=context.compute,
        checkpoint_dir=checkpoint_dir,
        on_progress=context.on_progress,
    )


def train_own_generator(experiment: Experiment, context: RunContext) -> None:
    """Train a trial's generator, and the segmenter that labels its images, if the cache lacks them."""
    if experiment.parameters.generator is not None:
        train_networks(experiment, context)
        context.on_generator(experiment, context)


def validate(inputs: TrialInputs, prepared: Prepared) -> Validated:
    """Return the results of the current network on val-A and then val-B."""
    return Validated(
        labels=np.concatenate([inputs.val_a.labels, inputs.val_b.labels]),
        results=np.concatenate([inputs.results(inputs.val_a), inputs.results(inputs.val_b)]),
        patients=prepared.side("val_a").patients + prepared.side("val_b").patients,
    )
