"""One trial, from an experiment to its value: a plain function that knows neither Ray nor W&B.

    GAN -> pool -> album (what there is) -> streams (what each step draws) -> classifier -> val-A each epoch -> val-B once

`trial_epochs` yields a record after each epoch and returns a `TrialResult`; whoever runs it may close it between two
epochs and start it again later: it yields the same records and goes on. `run_trial` drives it to its end.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from xraytune.classifier.checkpoint import finished_epochs, load_best
from xraytune.classifier.train import predict_probabilities, train_classifier
from xraytune.config.settings import Experiment
from xraytune.errors import ArtifactError
from xraytune.files import append_jsonl, read_jsonl, write_text
from xraytune.metrics.classification import Floats, Labels, auroc
from xraytune.metrics.threshold import balanced_threshold
from xraytune.pipeline.inputs import TrialInputs, build_inputs
from xraytune.pipeline.prepare import Prepared, require_pixels
from xraytune.pipeline.synthesize import network_labels, trained_gan
from xraytune.records import Compute, EpochRecord, Progress, ShouldStop, TrialResult, ignore_progress, never_stop

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """The images of val-A and val-B together, as the kept network scores them.

    Attributes:
        labels: int64 [N].
        probabilities: float64 [N, C].
        patients: The patient of each image.
    """

    labels: Labels
    probabilities: Floats
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
) -> TrialResult | None:
    """Run a trial, from its last checkpoint if it has one; None where `should_stop` ended it.

    Raises:
        TrialError: A loss that is not finite.
        DataError: Extra images that are missing or broken.
        MachineError: Weights that are missing, or a full disk.
    """
    epochs = trial_epochs(
        experiment, prepared, trial_dir=trial_dir, cache=cache, compute=compute, on_progress=on_progress
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
) -> Generator[EpochRecord, None, TrialResult]:
    """The epochs of a trial, one by one; see `run_trial`. Rows of `epochs.jsonl` are written before they are yielded."""
    started = time.monotonic()
    settings, parameters = experiment.settings, experiment.parameters
    require_pixels(settings, prepared, cache, on_progress=on_progress)
    if parameters.gan is not None:
        for label in network_labels(parameters.gan, prepared):
            trained_gan(parameters.gan, label, prepared, compute=compute, cache=cache, on_progress=on_progress)
    trial_inputs = build_inputs(experiment, prepared, cache=cache, compute=compute, on_progress=on_progress)
    val_a, val_b = prepared.side("val_a"), prepared.side("val_b")
    log = trial_dir / "epochs.jsonl"
    checkpoint_dir = trial_dir / "checkpoint"
    finished = _finished(checkpoint_dir)
    logged = len(read_jsonl(log))
    if logged > len(finished):  # the checkpoint was lost: these epochs are trained again, elsewhere to other numbers
        write_text(log, "")
        logged = 0
    further = train_classifier(
        parameters,
        trial_inputs.trained,
        batch=trial_inputs.batch,
        norm_batches=trial_inputs.norm_batches,
        val_batches=trial_inputs.val_a,
        val_labels=val_a.labels,
        positive=prepared.positive,
        max_epochs=settings.budget.max_epochs,
        steps_per_epoch=prepared.steps_per_epoch(settings),
        seed=settings.seed,
        compute=compute,
        checkpoint_dir=checkpoint_dir,
        on_progress=on_progress,
    )
    records = []
    for record in chain(finished, further):
        if record.epoch > logged:
            append_jsonl(log, {"version": 1, **asdict(record)})
        records.append(record)
        yield record
    assert records, "a budget has at least one epoch"
    best = max(records, key=lambda record: record.val_auroc)  # of equals the first, whose network is kept
    try:
        load_best(checkpoint_dir, trial_inputs.trained)
    except ArtifactError:
        shutil.rmtree(checkpoint_dir)  # the next try makes the same numbers again
        raise
    both = validate(trial_inputs, prepared, compute)
    return TrialResult(
        value=best.val_auroc,
        best_epoch=best.epoch,
        epochs=len(records),
        val_b_auroc=auroc(val_b.labels, both.probabilities[len(val_a.labels) :], positive=prepared.positive),
        threshold=balanced_threshold(both.labels == prepared.positive, both.probabilities[:, prepared.positive]),
        seconds=time.monotonic() - started,
    )


def validate(trial_inputs: TrialInputs, prepared: Prepared, compute: Compute) -> Validated:
    """Score val-A and then val-B with the network that `trial_inputs` holds now."""
    sides = prepared.side("val_a"), prepared.side("val_b")
    batches = trial_inputs.val_a(), trial_inputs.val_b()
    return Validated(
        labels=np.concatenate([side.labels for side in sides]),
        probabilities=np.concatenate(
            [predict_probabilities(trial_inputs.trained, one, compute=compute) for one in batches]
        ),
        patients=sum((side.patients for side in sides), ()),
    )


def _finished(checkpoint_dir: Path) -> list[EpochRecord]:
    """The epochs that the checkpoint holds; a damaged one is removed, and the trial makes the same numbers again."""
    try:
        return finished_epochs(checkpoint_dir)
    except ArtifactError as error:
        _logger.warning("%s; the trial starts afresh", error)
        shutil.rmtree(checkpoint_dir)
        return []
