"""One trial, from an experiment to its value. It knows neither Ray nor W&B.

    generator -> synthetic images -> training set -> network -> val-A after each epoch -> val-B once

`trial_epochs` is a generator that yields a record after each epoch and returns a `TrialResult`. It can be closed after any
epoch; started again, it yields the finished epochs once more and resumes. `run_trial` runs it to its end.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path

import numpy as np

from xraytune.base.artifacts import artifacts_of, discard
from xraytune.base.errors import ArtifactError, Problem, TrialError
from xraytune.base.files import append_jsonl, read_jsonl, write_array, write_json, write_text
from xraytune.base.records import Compute, EpochRecord, TrialResult
from xraytune.data.prepare import Prepared, RunContext
from xraytune.nets.checkpoint import intact_epochs, load_best
from xraytune.nets.train import NetworkTraining, train_network
from xraytune.space.settings import Experiment, GeneratorSettings
from xraytune.stats.classification import Labels
from xraytune.synth.generator_quality import QUALITY_FILE
from xraytune.synth.memorisation_gate import refuse_memorised
from xraytune.synth.quality import report_pool
from xraytune.synth.sources import POOL_STAGE, generator_of, pool_reader, train_networks
from xraytune.synth.synthesize import generator_need, generator_paths
from xraytune.trial.inputs import TrialInputs
from xraytune.trial.task import Results, task_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """Images, such as val-A followed by val-B: labels, int64 [N]; a network's results, [N, C]; the patient of each image."""

    labels: Labels
    results: Results
    patients: tuple[str, ...]


def run_trial(
    experiment: Experiment, context: RunContext, *, trial_dir: Path, on_epoch: Callable[[EpochRecord], None]
) -> TrialResult:
    """Run a trial, from its last checkpoint if there is one.

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


def trial_epochs(
    experiment: Experiment, context: RunContext, trial_dir: Path
) -> Generator[EpochRecord, None, TrialResult]:
    """Yield the epochs of a trial, each after it was written to `epochs.jsonl`; see `run_trial`."""
    if not task_of(experiment.settings).trains_network:
        return (yield from _generator_epochs(experiment, context, trial_dir))
    started = time.monotonic()
    prepared, task = context.prepared, task_of(experiment.settings)
    train_own_generator(experiment, context)
    if experiment.parameters.has_synthetic_images and not (trial_dir / QUALITY_FILE).exists():
        write_json(trial_dir / QUALITY_FILE, {"version": 1, **asdict(report_pool(experiment, context))})
    inputs = TrialInputs(experiment, context)  # may refuse the pool
    log, checkpoint_dir = trial_dir / "epochs.jsonl", trial_dir / "checkpoint"
    finished = intact_epochs(checkpoint_dir)
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
    write_array(trial_dir / "val_b.npy", val_b_results, is_recorded=True)
    return TrialResult(
        value=best.val_score,
        best_epoch=best.epoch,
        epochs=len(records),
        val_b_score=task.score(val_b, val_b_results, positive=prepared.positive),
        threshold=task.threshold(validated.labels, validated.results, prepared.positive),
        seconds=time.monotonic() - started,
    )


def _training(
    experiment: Experiment, context: RunContext, inputs: TrialInputs, checkpoint_dir: Path
) -> NetworkTraining:
    settings = experiment.settings
    return NetworkTraining(
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
    """Train a trial's generator, if it has one."""
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


def _generator_epochs(
    experiment: Experiment, context: RunContext, trial_dir: Path
) -> Generator[EpochRecord, None, TrialResult]:
    """Like `trial_epochs`, in a search for the generator itself, which trains no classifier.

    Epoch e of E trains the generator to round(steps * e / E) steps, and scores its pool by the KID minus its floor. Each
    epoch's generator is an artifact that continues the previous one; of those that it has trained, the trial keeps the best
    and the last in the cache. `quality.json` describes the best.
    """
    prepared, compute, cache = context.prepared, context.compute, context.cache
    started, rank = time.monotonic(), experiment.settings.objective.rank
    stages, log = experiment.generator_stages, trial_dir / "epochs.jsonl"
    networks = [
        [path.name for path in generator_paths(generator_of(stage), prepared, compute, cache).values()]
        for stage in stages
    ]
    records, own = _finished(log, networks), dict[int, Experiment]()

    def best() -> EpochRecord:
        return min(records, key=lambda record: rank(record.val_score))  # the first of equals

    yield from records
    for epoch, stage in enumerate(stages[len(records) :], len(records) + 1):
        begun, generator = time.monotonic(), generator_of(stage)
        if generator_need(generator, prepared, compute, cache):
            own[epoch] = stage
        train_networks(stage, context)
        found = report_pool(stage, context)
        if found.quality is None:
            raise TrialError(Problem(found.note))
        refuse_memorised(stage, context, pool_reader(stage, context))
        kid = found.quality.kid
        record = EpochRecord(
            epoch=epoch,
            steps=generator.steps,
            train_loss=None,
            val_loss=None,
            val_score=kid,
            best_val_score=min([kid, *(one.val_score for one in records)], key=rank),
            lr=None,
            seconds=time.monotonic() - begun,
        )
        records.append(record)
        if best() is record:
            write_json(trial_dir / QUALITY_FILE, {"version": 1, **asdict(found)})
        append_jsonl(log, {"version": 1, **asdict(record), "networks": networks[epoch - 1]})
        for number in own.keys() - {epoch, best().epoch}:
            _discard_generator(generator_of(own.pop(number)), prepared, compute, cache)
        yield record
    context.on_generator(stages[best().epoch - 1], context)
    return TrialResult(
        value=best().val_score,
        best_epoch=best().epoch,
        epochs=len(records),
        val_b_score=None,
        threshold=None,
        seconds=time.monotonic() - started,
    )


def _finished(log: Path, networks: Sequence[list[str]]) -> list[EpochRecord]:
    """Return the finished epochs; if they are of other networks, as after an upgrade of torch, none, and empty the log."""
    rows = read_jsonl(log)
    if [row["networks"] for row in rows] != networks[: len(rows)]:
        write_text(log, "")
        return []
    return [EpochRecord(**{field.name: row[field.name] for field in fields(EpochRecord)}) for row in rows]


def _discard_generator(settings: GeneratorSettings, prepared: Prepared, compute: Compute, cache: Path) -> None:
    """Remove a trained generator and its pool from the cache."""
    own = generator_paths(settings, prepared, compute, cache).values()
    names = {path.name for path in own}
    pools = [path for path, inputs in artifacts_of(cache, POOL_STAGE) if inputs.get("generator") in names]
    for path in (*pools, *own):  # the generator last, as in `clean`
        discard(path)
