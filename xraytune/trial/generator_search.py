"""One trial of a search for a generator, which trains no network: epochs are shares of the generator's steps.

Epoch e of E trains the generator to round(steps * e / E) steps, and scores its pool by the KID minus its floor. Each epoch's
generator is an artifact that continues the previous one; of those that it has trained, the trial keeps the best and the last
in the cache. `quality.json` describes the best.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from xraytune.base.artifacts import artifacts_of, discard
from xraytune.base.errors import Problem, TrialError
from xraytune.base.files import append_jsonl, read_jsonl, write_json, write_text
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.data.prepare import RunContext
from xraytune.space.settings import Experiment
from xraytune.synth.generator_quality import QUALITY_FILE, PoolReport
from xraytune.synth.memorisation_gate import refuse_memorised
from xraytune.synth.quality import report_pool
from xraytune.synth.sources import POOL_STAGE, generator_of, pool_reader, train_networks
from xraytune.synth.synthesize import generator_need, generator_paths


def generator_epochs(
    experiment: Experiment, context: RunContext, trial_dir: Path
) -> Generator[EpochRecord, None, TrialResult]:
    """Yield the epochs of a trial, each after it was written to `epochs.jsonl`, the finished ones first."""
    started, rank = time.monotonic(), experiment.settings.objective.rank
    stages, log = experiment.generator_stages, trial_dir / "epochs.jsonl"
    networks = [[path.name for path in _networks(stage, context)] for stage in stages]
    records = _finished(log, networks)
    yield from records
    trained = dict[int, Experiment]()  # by this process, and not yet removed
    for epoch, stage in enumerate(stages[len(records) :], len(records) + 1):
        begun, generator = time.monotonic(), generator_of(stage)
        if generator_need(generator, context.prepared, context.compute, context.cache):
            trained[epoch] = stage
        report, kid = _train_and_measure(stage, context)
        scores = [*(record.val_score for record in records), kid]
        record = EpochRecord(
            epoch=epoch,
            steps=generator.steps,
            val_score=kid,
            best_val_score=min(scores, key=rank),
            seconds=time.monotonic() - begun,
        )
        records.append(record)
        best_epoch = scores.index(record.best_val_score) + 1  # the first of equals
        if best_epoch == epoch:
            write_json(trial_dir / QUALITY_FILE, {"version": 1, **asdict(report)})
        append_jsonl(log, {"version": 1, **asdict(record), "networks": networks[epoch - 1]})
        for number in trained.keys() - {epoch, best_epoch}:
            _discard_generator(trained.pop(number), context)
        yield record
    best = min(records, key=lambda record: rank(record.val_score))
    context.on_generator(stages[best.epoch - 1], context)
    return TrialResult(
        value=best.val_score,
        best_epoch=best.epoch,
        epochs=len(records),
        seconds=time.monotonic() - started,
    )


def _finished(log: Path, networks: Sequence[list[str]]) -> list[EpochRecord]:
    """Return the finished epochs; if they are of other networks, as after an upgrade of torch, none, and empty the log."""
    rows = read_jsonl(log)
    if [row["networks"] for row in rows] != networks[: len(rows)]:
        write_text(log, "")
        return []
    return [EpochRecord(**{field.name: row[field.name] for field in fields(EpochRecord)}) for row in rows]


def _train_and_measure(stage: Experiment, context: RunContext) -> tuple[PoolReport, float]:
    """Train a generator and return the report and the KID of its pool; TrialError if the pool is refused or unmeasured."""
    train_networks(stage, context)
    report = report_pool(stage, context)
    if report.quality is None:
        raise TrialError(Problem(report.note))
    refuse_memorised(stage, context, pool_reader(stage, context))
    return report, report.quality.kid


def _discard_generator(stage: Experiment, context: RunContext) -> None:
    """Remove a trained generator and its pool from the cache, the generator last."""
    networks = _networks(stage, context)
    names = {path.name for path in networks}
    pools = [path for path, inputs in artifacts_of(context.cache, POOL_STAGE) if inputs.get("generator") in names]
    for path in (*pools, *networks):
        discard(path)


def _networks(stage: Experiment, context: RunContext) -> list[Path]:
    """Return the artifacts of a generator's networks."""
    return [*generator_paths(generator_of(stage), context.prepared, context.compute, context.cache).values()]
