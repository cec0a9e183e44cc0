"""Use one trial of a study again, without Ray: compare all its metrics with the recorded ones, or draw from its generator.

`replay` uses the study's settings, images, thread count and artifacts, and a temporary folder. The study is only read, so
a search may be running on it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xraytune.compute import pin, require_device
from xraytune.config.settings import Experiment
from xraytune.errors import ArtifactError, ConfigError, MachineError, Problem, StudyError, join_names
from xraytune.export.best import best_stage
from xraytune.files import explain_disk_errors, make_folder, read_jsonl, require_new, require_writable, temporary_name
from xraytune.models.train import TRAINING_STEPS
from xraytune.pipeline.artifacts import in_use, is_intact
from xraytune.pipeline.generator_folder import GeneratorSample, fill_generator_folder, generator_sample
from xraytune.pipeline.prepare import RunContext, restore_pixels
from xraytune.pipeline.synthesize import generator_paths
from xraytune.pipeline.trial import run_trial
from xraytune.records import EpochRecord, Progress, ignore_progress
from xraytune.search.inputs import inputs_of_trials, read_inputs, require_same_inputs
from xraytune.search.journal import Journal
from xraytune.search.messages import reason_of, traceback_note
from xraytune.search.study import StudyFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedEpoch:
    """One epoch, 1-based. Scores are None if there was no such epoch; `is_identical` compares all values but seconds."""

    epoch: int
    recorded_val_score: float | None
    replayed_val_score: float | None
    is_identical: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A recorded trial compared with its replay; `status` is None if it is running or was interrupted.

    Only a completed trial has scores on val-B, and only a failed one has a failure, the reason as text.
    """

    study: Path
    trial: int
    metric: str
    status: str | None
    epochs: tuple[ReplayedEpoch, ...]
    recorded_val_b_score: float | None
    replayed_val_b_score: float | None
    recorded_failure: str
    replayed_failure: str
    device: str

    @property
    def is_identical(self) -> bool:
        """Whether all metrics and the failure are the recorded ones."""
        return (
            all(epoch.is_identical for epoch in self.epochs)
            and self.recorded_val_b_score == self.replayed_val_b_score
            and self.recorded_failure == self.replayed_failure
        )


def replay(
    study: Path,
    trial: int,
    *,
    data: Path | None = None,
    weights_dir: Path | None = None,
    cache: Path | None = None,
    on_progress: Progress = ignore_progress,
) -> Replay:
    """Run a trial again for its recorded number of epochs; a failed one until it fails.

    Args:
        study: Folder of the study.
        trial: Number of the trial.
        data: New location of the study's images, if they were moved: folder or data file.
        weights_dir: New location of the official weight files, if they were moved.
        cache: Artifact cache of the search; default: the one next to the studies.
        on_progress: Called with the progress of training steps, and of artifacts that are missing in the cache.

    Raises:
        StudyError: There is no such study or trial, it has no epoch yet, or its images or weights changed.
        DataError: A folder of extra images can no longer be used.
        MachineError: The study needs a GPU and there is none, or weights are missing.
    """
    folder = StudyFolder(study.resolve())
    cache = (cache or folder.default_cache).resolve()
    require_writable(cache)
    space = folder.space(data=data, weights_dir=weights_dir)
    journal = Journal(folder.journal_path, space, writable=False)
    if trial not in {known.number for known in journal.trials}:
        fix = f"the study has {len(journal.trials)} trials, numbered from 0"
        raise StudyError(Problem(f"there is no trial {trial}", study, fix))
    status = journal.status(trial)
    recorded = read_jsonl(folder.trial_path(trial) / "epochs.jsonl")
    if not recorded and status != "failed":
        fix = "wait until its first epoch has ended; `xraytune status` shows the progress"
        raise StudyError(Problem(f"trial {trial} has no epoch yet", study, fix))
    experiment = Experiment(settings=space.settings, parameters=journal.parameters(trial))
    prepared, compute = folder.prepared(), folder.compute()
    require_device(compute, folder.path)
    inputs = inputs_of_trials([experiment.parameters])
    require_same_inputs(folder, read_inputs(inputs, space.settings, prepared, cache))
    restore_pixels(space.settings, prepared, cache, on_progress=on_progress)
    pin(compute)

    epochs: list[EpochRecord] = []
    # A completed trial has to stop by itself; one more epoch shows that it does not.
    last_epoch = math.inf if status == "failed" else len(recorded) + (status == "complete")

    def show(what: str, done: int, total: int) -> None:
        recorded_steps = recorded[-1]["steps"] if recorded and what == TRAINING_STEPS else total
        on_progress(what, done, max(done, recorded_steps))

    result, failure = None, ""
    with _temporary_folder(cache) as work, in_use(cache):
        try:
            result = run_trial(
                experiment,
                RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=show),
                trial_dir=work,
                on_epoch=epochs.append,
                should_stop=lambda: len(epochs) >= last_epoch,
            )
        except MachineError:  # never the reason of a failed trial
            raise
        except Exception as error:
            if status != "failed":
                raise
            failure = reason_of(error)
        replayed = read_jsonl(work / "epochs.jsonl")
    row = journal.row(trial) if status else {}
    pairs: Iterator[tuple[dict[str, Any], dict[str, Any]]] = zip_longest(recorded, replayed, fillvalue={})
    reason = row["reason"] if status == "failed" else ""
    return Replay(
        study=study,
        trial=trial,
        metric=space.settings.metric,
        status=status,
        epochs=tuple(
            ReplayedEpoch(
                epoch=epoch,
                recorded_val_score=then.get("val_score"),
                replayed_val_score=now.get("val_score"),
                is_identical={**then, "seconds": 0} == {**now, "seconds": 0},
            )
            for epoch, (then, now) in enumerate(pairs, 1)
        ),
        recorded_val_b_score=row.get("val_b_score"),
        replayed_val_b_score=result.val_b_score if result and status == "complete" else None,
        recorded_failure=reason.removesuffix(traceback_note(folder.trial_path(trial))),
        replayed_failure=failure,
        device=compute.device,
    )


@contextmanager
def _temporary_folder(cache: Path) -> Iterator[Path]:
    """A folder for the block; `clean` recognizes its name after a kill."""
    folder = temporary_name(cache / "replay")
    with explain_disk_errors(folder):
        make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sample_trial_generator(
    study: Path,
    trial: int,
    *,
    count: int,
    out: Path,
    class_name: str | None = None,
    cache: Path | None = None,
    on_progress: Progress = ignore_progress,
) -> GeneratorSample:
    """Draw images from a trial's generator, as `generator_sample` does, without `pool_filter`.

    Without a filter in the trial, the first images are those that it trained on.

    Args:
        study: Folder of the study.
        trial: Number of a trial with a generator.
        count: Number of images.
        out: The folder to create.
        class_name: Draw this class alone; by default the classes have their shares of the training images.
        cache: Artifact cache of the search; default: the one next to the studies.
        on_progress: Called with the number of images drawn.

    Raises:
        StudyError: There is no such study or trial, or a file of it is damaged.
        ConfigError: The trial has no generator, there is no such class, `count` is below 1, or `out` exists.
        ArtifactError: The generator is not in the cache.
    """
    require_new(out)
    folder = StudyFolder(study.resolve())
    experiment = best_stage(folder, folder.experiment(trial), trial)
    settings = experiment.parameters.generator
    if settings is None:
        numbers = sorted(int(config.parent.name) for config in folder.path.glob("trials/*/config.json"))
        with_one = [f"{number}" for number in numbers if folder.experiment(number).parameters.generator]
        fix = f"give one that has: {join_names(with_one)}" if with_one else "no trial of this study has one"
        raise ConfigError(Problem(f"trial {trial} has no generator", study, fix))
    cache = (cache or folder.default_cache).resolve()
    prepared, compute = folder.prepared(), folder.compute()
    context = RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=on_progress)
    for release in reversed(folder.releases()):
        networks = generator_paths(settings, prepared, compute, cache, torch=release["torch"])
        if all(map(is_intact, networks.values())):
            with TemporaryDirectory() as kept:
                fill_generator_folder(Path(kept), networks, experiment, context, torch=release["torch"])
                return generator_sample(
                    Path(kept), count=count, out=out, class_name=class_name, on_progress=on_progress
                )
    fix = f"wait until the search has trained it, or train it again: xraytune replay {study} {trial}"
    raise ArtifactError(Problem(f"the {settings.noun} of trial {trial} is not in the cache", cache, fix))
