"""One trial, from an experiment to its value. It knows neither Ray nor W&B.

    generator -> synthetic images -> training set -> network -> val-A after each epoch -> val-B once

`trial_epochs` is a generator that yields a record after each epoch and returns a `TrialResult`. It
can be closed after any epoch; started again, it yields the finished epochs once more and resumes.
`run_trial` runs it to its end.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from xraytune.base.files import append_jsonl, read_jsonl, sync, write_array, write_json, write_text
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.data.prepare import RunContext
from xraytune.nets.checkpoint import finished_epochs, load_best
from xraytune.space.settings import Experiment
from xraytune.synth.generator_quality import QUALITY_FILE
from xraytune.synth.sources.registry import source_of
from xraytune.trial.quality import report_pool
from xraytune.trial.training import TrialTraining


def run_trial(
    experiment: Experiment,
    context: RunContext,
    *,
    trial_dir: Path,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
    on_generator: Callable[[], None] = lambda: None,
) -> TrialResult:
    """Run a trial, from its last checkpoint if there is one.

    `on_epoch` is called after each epoch, and `on_generator` as by `trial_epochs`.

    Raises:
        TrialError: A loss is not finite, or the generator copies its training images.
        DataError: Extra images are missing or broken.
        MachineError: Weights are missing, or the disk is full.
        ArtifactError: The pixels of `prepared` are not in the cache, see `restore_pixels`.
    """
    epochs = trial_epochs(experiment, context, trial_dir, on_generator)
    while True:
        try:
            on_epoch(next(epochs))
        except StopIteration as end:
            result: TrialResult = end.value
            return result


def trial_epochs(
    experiment: Experiment,
    context: RunContext,
    trial_dir: Path,
    on_generator: Callable[[], None] = lambda: None,
) -> Generator[EpochRecord, None, TrialResult]:
    """Yield the epochs of a trial, each once it is logged, and then score the best network.

    `on_generator` is called once the trial's generator is trained, if it has one, and before its
    images are used. The errors are those of `run_trial`.
    """
    prepared = context.prepared
    if experiment.parameters.trains_generator:
        source_of(experiment.parameters).trained(experiment.settings, context)
        on_generator()
    if experiment.parameters.has_synthetic_pixels and not (trial_dir / QUALITY_FILE).exists():
        report = report_pool(experiment, context)
        write_json(trial_dir / QUALITY_FILE, {"version": 1, **asdict(report)})
    training = TrialTraining(experiment, context)  # may refuse the images
    checkpoint_dir = trial_dir / "checkpoint"
    records = []
    for record in _log_epochs(training, checkpoint_dir, trial_dir / "epochs.jsonl"):
        records.append(record)
        yield record
    load_best(checkpoint_dir, training.trained)
    validated = training.validation_results()
    val_b = training.val_b.targets
    val_b_results = validated.results[-len(val_b) :]
    write_array(trial_dir / "val_b.npy", val_b_results, is_recorded=True)
    # If several epochs are equally good, the network of the first one was kept.
    best = max(records, key=lambda record: record.val_score)
    return TrialResult(
        value=best.val_score,
        best_epoch=best.epoch,
        epochs=len(records),
        val_b_score=training.task.score(val_b, val_b_results, positive=prepared.positive),
        threshold=training.task.threshold(validated.labels, validated.results, prepared.positive),
    )


def _log_epochs(training: TrialTraining, checkpoint_dir: Path, log: Path) -> Iterator[EpochRecord]:
    """Yield the finished epochs, then train the others; each is in the log before it is yielded."""
    finished = finished_epochs(checkpoint_dir)
    logged = len(read_jsonl(log))
    if logged > len(finished):
        # The checkpoint was lost: these epochs are trained again, and may round differently.
        write_text(log, "")
        logged = 0
    try:
        for record in chain(finished, training.epochs(checkpoint_dir)):
            if record.epoch > logged:
                # The record need not be durable, since the checkpoint has it, too.
                append_jsonl(log, {"version": 1, **asdict(record)}, is_durable=False)
            yield record
    finally:
        if log.exists():
            sync(log)
