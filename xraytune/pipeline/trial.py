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
from xraytune.models.checkpoint import finished_epochs, fitted_epochs, intact_epochs, load_best
from xraytune.models.train import fit_network, train_network
from xraytune.pipeline.generator_trial import generator_epochs
from xraytune.pipeline.inputs import TrialInputs, build_inputs
from xraytune.pipeline.labeller import trained_labeller
from xraytune.pipeline.prepare import Prepared
from xraytune.pipeline.quality import report_pool
from xraytune.pipeline.synthesize import network_labels, trained_generator
from xraytune.pipeline.task import Results, task_of
from xraytune.records import (
    Compute,
    EpochRecord,
    FittedEpoch,
    Progress,
    ShouldStop,
    TrialResult,
    ignore_progress,
    never_stop,
)


def _ignore(_: Experiment) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """val-A followed by val-B, with the results of the best network.

    Attributes:
        labels: int64 [N].
        results: float64 [N, C], see `task.Results`.
        patients: The patient of each image.
    """

    labels: Labels
    results: Results
    patients: tuple[str, ...]


def run_trial(
    experiment: Experiment,
    prepared: Prepared,
    *,
    trial_dir: Path,
    cache: Path,
    compute: Compute,
    on_epoch: Callable[[EpochRecord], None],
    should_stop: ShouldStop = never_stop,
    on_progress: Progress = ignore_progress,
    on_generator: Callable[[Experiment], None] = _ignore,
) -> TrialResult | None:
    """Run a trial, from its last checkpoint if there is one; None if `should_stop` ended it.

    `on_generator` is called with the experiment once its generator is trained, before its images are used; never without a
    generator. In a search for the generator itself, it is called at the end; see `generator_trial.py`.

    Raises:
        TrialError: A loss is not finite, or the generator copies its training images.
        DataError: Extra images are missing or broken.
        MachineError: Weights are missing, or the disk is full.
        ArtifactError: The pixels of `prepared` are not in the cache, see `restore_pixels`; or the best network is damaged.
    """
    epochs = trial_epochs(
        experiment,
        prepared,
        trial_dir=trial_dir,
        cache=cache,
        compute=compute,
        on_progress=on_progress,
        on_generator=on_generator,
    )
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
    experiment: Experiment,
    prepared: Prepared,
    *,
    trial_dir: Path,
    cache: Path,
    compute: Compute,
    on_progress: Progress = ignore_progress,
    on_generator: Callable[[Experiment], None] = _ignore,
) -> Generator[EpochRecord, None, TrialResult]:
    """Yield the epochs of a trial, each after it was written to `epochs.jsonl`; see `run_trial`."""
    if experiment.settings.objective.is_of_generator:
        return (
            yield from generator_epochs(
                experiment,
                prepared,
                trial_dir=trial_dir,
                cache=cache,
                compute=compute,
                on_progress=on_progress,
                on_generator=on_generator,
            )
        )
    started = time.monotonic()
    settings, parameters, task = experiment.settings, experiment.parameters, task_of(experiment.settings)

    def report() -> None:
        """Write `quality.json`, even if the pool is refused afterwards."""
        if not (trial_dir / QUALITY_FILE).exists():
            found = report_pool(experiment, prepared, compute=compute, cache=cache, on_progress=on_progress)
            write_json(trial_dir / QUALITY_FILE, {"version": 1, **asdict(found)})

    inputs = _inputs(
        experiment,
        prepared,
        cache=cache,
        compute=compute,
        on_progress=on_progress,
        on_generator=on_generator,
        on_pool=report,
    )

    log, checkpoint_dir = trial_dir / "epochs.jsonl", trial_dir / "checkpoint"
    finished = intact_epochs(checkpoint_dir, finished_epochs)
    logged = len(read_jsonl(log))
    if logged > len(finished):  # the checkpoint was lost: these epochs are trained again, and may round differently
        write_text(log, "")
        logged = 0
    remaining = train_network(
        parameters,
        inputs.trained,
        batch=inputs.batch,
        loss=task.loss,
        norm_batches=inputs.norm_batches,
        validate=inputs.validate,
        max_epochs=settings.budget.max_epochs,
        steps_per_epoch=prepared.steps_per_epoch(settings),
        seed=settings.seed,
        compute=compute,
        checkpoint_dir=checkpoint_dir,
        on_progress=on_progress,
    )
    records = []
    for record in chain(finished, remaining):
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
    val_b = prepared.side("val_b").labels
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


def fit_epochs(
    experiment: Experiment,
    prepared: Prepared,
    *,
    epochs: int,
    trial_dir: Path,
    cache: Path,
    compute: Compute,
    on_progress: Progress = ignore_progress,
    on_generator: Callable[[Experiment], None] = _ignore,
) -> Generator[FittedEpoch, None, TrialInputs]:
    """Yield the epochs of a training without validation, and return its inputs with the network of the last epoch.

    Its generator is new, too. Images of val-A, if any, serve only as unseen images in the test for copies; without them,
    `quality.allow_memorised` must be set. Resumes, and raises, as `run_trial` does.
    """
    settings = experiment.settings
    inputs = _inputs(
        experiment, prepared, cache=cache, compute=compute, on_progress=on_progress, on_generator=on_generator
    )
    checkpoint_dir = trial_dir / "checkpoint"
    yield from intact_epochs(checkpoint_dir, fitted_epochs)
    yield from fit_network(
        experiment.parameters,
        inputs.trained,
        batch=inputs.batch,
        loss=task_of(settings).loss,
        norm_batches=inputs.norm_batches,
        epochs=epochs,
        max_epochs=settings.budget.max_epochs,
        steps_per_epoch=prepared.steps_per_epoch(settings),
        seed=settings.seed,
        compute=compute,
        checkpoint_dir=checkpoint_dir,
        on_progress=on_progress,
    )
    return inputs


def _inputs(
    experiment: Experiment,
    prepared: Prepared,
    *,
    cache: Path,
    compute: Compute,
    on_progress: Progress,
    on_generator: Callable[[Experiment], None],
    on_pool: Callable[[], None] = lambda: None,
) -> TrialInputs:
    """Build a trial's inputs, after its generator, whose progress is reported. `on_pool` is called for synthetic images."""
    generator = experiment.parameters.generator
    if generator is not None:
        for label in network_labels(generator, prepared):
            trained_generator(generator, label, prepared, compute=compute, cache=cache, on_progress=on_progress)
        trained_labeller(experiment, prepared, compute=compute, cache=cache, on_progress=on_progress)
        on_generator(experiment)
    if experiment.parameters.has_synthetic_images:
        on_pool()
    return build_inputs(experiment, prepared, cache=cache, compute=compute, on_progress=on_progress)


def validate(inputs: TrialInputs, prepared: Prepared) -> Validated:
    """Return the results of the current network on val-A and then val-B."""
    sides = prepared.side("val_a"), prepared.side("val_b")
    return Validated(
        labels=np.concatenate([side.labels for side in sides]),
        results=np.concatenate([inputs.results("val_a"), inputs.results("val_b")]),
        patients=sides[0].patients + sides[1].patients,
    )
