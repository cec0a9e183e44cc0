"""A trial of a search for the generator itself. It trains no classifier; an epoch is a share of the generator's steps.

    epoch e of E: train the generator to round(steps * e / E) steps -> pool -> memorisation gate -> KID minus its floor

Each epoch's generator is an artifact that continues the previous one. Of the generators that a trial has trained, it keeps
the best and the last in the cache; `quality.json` describes the best. An epoch is finished once it is in `epochs.jsonl`,
with the fingerprints of its networks.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from xraytune.config.settings import Experiment, GeneratorSettings
from xraytune.errors import Problem, TrialError
from xraytune.files import append_jsonl, read_jsonl, write_json, write_text
from xraytune.metrics.generator_quality import QUALITY_FILE
from xraytune.pipeline.artifacts import artifacts_of, discard
from xraytune.pipeline.memorisation import refuse_memorised
from xraytune.pipeline.pools import POOL_STAGE, generator_of, pool_reader, train_networks
from xraytune.pipeline.prepare import Prepared, RunContext
from xraytune.pipeline.quality import report_pool
from xraytune.pipeline.synthesize import generator_need, generator_paths
from xraytune.records import Compute, EpochRecord, TrialResult


def generator_epochs(
    experiment: Experiment, context: RunContext, trial_dir: Path
) -> Generator[EpochRecord, None, TrialResult]:
    """Yield the epochs of a trial, each once it is in `epochs.jsonl`; see `trial.run_trial`."""
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
