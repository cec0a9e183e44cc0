"""One trial, from an experiment to its value. It knows neither Ray nor W&B.

    generator -> synthetic images -> training set -> network -> val-A after each epoch -> val-B once

`trial_epochs` is a generator that yields a record after each epoch and returns a `TrialResult`. It
can be closed after any epoch; started again, it yields the finished epochs once more and resumes.
`run_trial` runs it to its end.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import numpy as np

from xraytune.base.errors import ArtifactError
from xraytune.base.files import append_jsonl, read_jsonl, sync, write_array, write_json, write_text
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.data.prepare import Prepared, RunContext
from xraytune.nets.checkpoint import finished_epochs, load_best
from xraytune.nets.train import NetworkTraining, train_network
from xraytune.space.settings import Experiment
from xraytune.synth.generator_quality import QUALITY_FILE
from xraytune.synth.quality import report_pool
from xraytune.synth.sources.which import source_of
from xraytune.tasks import task_of
from xraytune.tasks.task import Validated
from xraytune.trial.inputs import TrialInputs


def run_trial(
    experiment: Experiment,
    context: RunContext,
    *,
    trial_dir: Path,
    on_epoch: Callable[[EpochRecord], None],
) -> TrialResult:
    """Run a trial, from its last checkpoint if there is one.

    Raises:
        TrialError: A loss is not finite, or the generator copies its training images.
        DataError: Extra images are missing or broken.
        MachineError: Weights are missing, or the disk is full.
        ArtifactError: The pixels of `prepared` are not in the cache, see `restore_pixels`; or the
        best network is damaged.
    """
    epochs = trial_epochs(experiment, context, trial_dir)
    while True:
        try:
            on_epoch(next(epochs))
        except StopIteration as end:
            result: TrialResult = end.value
            return result


def trial_epochs(
    experiment: Experiment, context: RunContext, trial_dir: Path
) -> Generator[EpochRecord, None, TrialResult]:
    """Yield the epochs of a trial, each after it was written to `epochs.jsonl`, then score the best; see `run_trial`."""
    prepared = context.prepared
    task = task_of(experiment.settings)
    train_own_generator(experiment, context)
    if experiment.parameters.has_synthetic_images and not (trial_dir / QUALITY_FILE).exists():
        write_json(
            trial_dir / QUALITY_FILE, {"version": 1, **asdict(report_pool(experiment, context))}
        )
    inputs = TrialInputs(experiment, context)  # may refuse the pool
    training = training_of(experiment, context, inputs, trial_dir / "checkpoint")
    records = []
    for record in _logged(training, inputs, trial_dir / "epochs.jsonl"):
        records.append(record)
        yield record
    try:
        load_best(training.checkpoint_dir, inputs.trained)
    except ArtifactError:  # a retry trains the same epochs again
        shutil.rmtree(training.checkpoint_dir)
        raise
    validated = validate(inputs, prepared)
    val_b = inputs.val_b.targets
    val_b_results = validated.results[-len(val_b) :]
    write_array(trial_dir / "val_b.npy", val_b_results, is_recorded=True)
    best = max(
        records, key=lambda record: record.val_score
    )  # of equals the first, whose network was kept
    return TrialResult(
        value=best.val_score,
        best_epoch=best.epoch,
        epochs=len(records),
        val_b_score=task.score(val_b, val_b_results, positive=prepared.positive),
        threshold=task.threshold(validated.labels, validated.results, prepared.positive),
    )


def _logged(training: NetworkTraining, inputs: TrialInputs, log: Path) -> Iterator[EpochRecord]:
    """Yield the finished epochs, then train the others; each is in the log before it is yielded."""
    finished = finished_epochs(training.checkpoint_dir)
    logged = len(read_jsonl(log))
    if logged > len(
        finished
    ):  # the checkpoint was lost: these epochs are trained again, and may round differently
        write_text(log, "")
        logged = 0
    try:
        for record in chain(finished, train_network(training, inputs.validate)):
            if record.epoch > logged:
                append_jsonl(
                    log, {"version": 1, **asdict(record)}, durable=False
                )  # the checkpoint has it, too
            yield record
    finally:
        if log.exists():
            sync(log)


def training_of(
    experiment: Experiment, context: RunContext, inputs: TrialInputs, checkpoint_dir: Path
) -> NetworkTraining:
    """Return the training of a trial's network on these inputs, with its checkpoint in a folder."""
    settings = experiment.settings
    return NetworkTraining(
        parameters=experiment.parameters,
        network=inputs.trained,
        draws=inputs.draws,
        load=inputs.load,
        loss=task_of(settings).loss_of(
            experiment.parameters, inputs.real_targets, context.compute.device
        ),
        norm_batches=inputs.norm_batches,
        max_epochs=settings.budget.max_epochs,
        steps_per_epoch=context.prepared.steps_per_epoch(settings),
        seed=settings.seed,
        compute=context.compute,
        checkpoint_dir=checkpoint_dir,
        on_progress=context.on_progress,
    )


def train_own_generator(experiment: Experiment, context: RunContext) -> None:
    """Train a trial's generator, if it has one."""
    source_of(experiment.parameters).train(context)
    if experiment.parameters.gan is not None:
        context.on_generator(experiment, context)


def validate(inputs: TrialInputs, prepared: Prepared) -> Validated:
    """Return the results of the current network on val-A and then val-B."""
    return Validated(
        labels=np.concatenate([inputs.val_a.targets, inputs.val_b.targets]),
        results=np.concatenate([inputs.results(inputs.val_a), inputs.results(inputs.val_b)]),
        patients=prepared.side("val_a").patients + prepared.side("val_b").patients,
    )
