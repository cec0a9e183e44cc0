"""Train the final model, from its images to a model bundle, in this process.

The settings of a file and those of its `final` are candidates. The one that scores higher on the
same patients is trained on all patients (`model/folds.py`). If a trial was exported exactly,
training on the same images repeats the trial without a search, and the metrics are bit-identical.
An interrupted training resumes from its work folder in the cache, which is named by a hash of the
candidates and their images.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xraytune.base.artifacts import discard, releases, start_folder
from xraytune.base.errors import ArtifactError, ConfigError, StudyError, counted
from xraytune.base.files import StrPath, copy_file, new_folder, require_new
from xraytune.base.locks import LockHeldError, hold
from xraytune.base.records import (
    EpochRecord,
    Json,
    Note,
    Progress,
    frozen,
    ignore_progress,
    to_json,
)
from xraytune.data.folders import part_folders
from xraytune.data.prepare import RunContext, SplitData
from xraytune.model.bundle import TrainedNetworks, write_bundle
from xraytune.model.candidates import (
    CANDIDATES,
    Candidate,
    choose_final_compute,
    find_study,
    open_candidates,
    prepare_candidates,
)
from xraytune.model.folds import Listeners, cross_validate, refit
from xraytune.nets.compute import configure_torch
from xraytune.search.trackers import Trackers
from xraytune.search.tracking import TrackedRun
from xraytune.space.data_settings import DataSettings
from xraytune.space.domains import Value
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.fields import flat_values
from xraytune.space.load import is_data_file
from xraytune.space.settings import Experiment
from xraytune.study.folder import StudyFolder
from xraytune.synth.mix import plan_mix
from xraytune.tasks import TASKS
from xraytune.tasks.bundle_record import BundleRecord, TrainedOn
from xraytune.trial.samples import save_generator_grid

_STAGE = "train-1"
_SAMPLES = "samples.png"
"""The file with generated images next to real ones, in the bundle of a model trained with them."""
_logger = logging.getLogger(__name__)


@frozen
class Trained:
    """Summary of a final training.

    Attributes:
        path: Folder of the model.
        record: The record of the bundle, with scores, threshold and training images.
        metric: Name of the scores, such as AUROC.
        test_data: The test images of the data as `evaluate` takes them: their folder or, with a
            label table, the data file; None if there are none, or the file is not known.
        epochs: The number of epochs that the first network was trained for.
        seconds: Wall time of the call.
    """

    path: Path
    record: BundleRecord
    metric: str
    test_data: Path | None
    epochs: int
    seconds: float

    def to_json(self) -> dict[str, Json]:
        """Return the summary as a JSON object, with the fields of the record at the top level."""
        content = to_json(self)
        return {**content.pop("record"), **content}


def train(
    study: StrPath | None = None,
    *,
    config: StrPath | None = None,
    out: StrPath,
    members: int = 1,
    data: StrPath | None = None,
    weights_dir: StrPath | None = None,
    overrides: Sequence[str] = (),
    cache: StrPath | None = None,
    skip_broken: bool = False,
    extensions: Sequence[str | type] = (),
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
    on_progress: Progress = ignore_progress,
    note: Note = _logger.info,
) -> Trained:
    """Train the experiment of a file and write the model bundle.

    All inputs are checked before the training. With `tracking`, the bundle and the first network's
    curves are sent to the trackers at the end; if that fails, the training has not failed.

    Args:
        study: Study, whose best configuration is exported and trained.
        config: YAML file of an experiment in place of a study, for example from `export`. If it is
            a search space, the first entry of `points_to_evaluate` is trained.
        out: Folder to create.
        members: Number of networks of the model, each of which leaves out other patients; the model
            predicts the mean of their probabilities.
        data: Image folder, or data file (YAML); overrides the file's.
        weights_dir: Folder of official weight files, for machines without network access.
        overrides: `key=value` settings that override the file's.
        cache: Artifact cache; by default, the cache of the exported trial's study, or `cache`.
        skip_broken: Leave out broken images.
        extensions: Your own code that the space names: `FILE.py:CLASS`, or the class itself.
        on_epoch: Called after each epoch of each network, and after resuming also for the earlier
            epochs.
        on_progress: Called with the progress of preparation, generator and training steps.
        note: Called with messages for the user.

    Raises:
        ConfigError: The file is invalid, `out` exists, `members` is below 1 or too many for the
            patients, or neither or both of `study` and `config` are given.
        DataError: The images are invalid.
        MachineError: Weights, GPUs or disk space are missing.
        StudyError: There is no such study, that of the exported trial is damaged, its images have
            other patients or labels now, or the code of its generator changed.
        TrialError: The loss is not finite.
        ArtifactError: The same training is already running, or its checkpoint is damaged.
    """
    started = time.monotonic()
    out = Path(out)
    source = _choose_source(study, config)
    require_new(out)
    if members < 1:
        raise ConfigError(f"cannot train {members} networks", "--members", "give 1 or more")

    # Everything is checked before the first step: settings, packages, images and other inputs.
    EXTENSIONS.register(extensions)
    spaces = open_candidates(source, overrides, data=data, weights_dir=weights_dir, note=note)
    settings = spaces[0].settings
    origin = find_study(settings, note)
    default_cache = "cache" if origin is None else origin.default_cache
    cache = Path(cache or default_cache).resolve()
    identity = origin.environment()["identity"] if origin else None
    candidates = [
        *prepare_candidates(
            spaces,
            origin,
            cache,
            members=members,
            skip_broken=skip_broken,
            note=note,
            on_progress=on_progress,
        )
    ]
    prepared = candidates[0].folds[0]
    compute = choose_final_compute(settings, origin, prepared, note)
    configure_torch(compute)
    test_data = _find_test_data(settings.data, data, prepared)
    context = RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=on_progress)
    on_generator = partial(_show_samples, out, note)
    listeners = Listeners(on_epoch=on_epoch, on_generator=on_generator, note=note)

    with _work_folder(candidates, context, members) as work:
        number, trained = _train_best(candidates, context, work, listeners)
        best = candidates[number]
        context = replace(context, prepared=best.final_images)
        trained_on = _count_images(best, context.prepared, trained, origin)
        _note_images(trained_on, note)
        if best.is_refit:
            trained = refit(best.experiment, context, trained, work / "all", listeners)
        with new_folder(out) as folder:
            record = write_bundle(
                folder,
                out,
                experiment=best.experiment,
                overrides=overrides,
                context=context,
                trained=trained,
                trained_on=trained_on,
                benefit=best.benefit,
            )
            for grid in work.glob(f"candidate_{number}/samples/*.png"):
                copy_file(grid, folder / _SAMPLES)

    # The study and the images may be gone by now.
    _send_to_trackers(best.experiment, identity or work.name, trained, out, key=work.name)
    return Trained(
        path=out,
        record=record,
        metric=settings.metric,
        test_data=test_data,
        epochs=len(trained.epochs[0]),
        seconds=time.monotonic() - started,
    )


def _choose_source(study: StrPath | None, config: StrPath | None) -> Path:
    """Return the study or the file of settings to train, one of which must be given."""
    source = config or study
    if source is None or (config and study):
        raise ConfigError(
            "give a study or --config FILE", fix="write e.g. xraytune train studies/NAME -o model"
        )
    if study and not Path(study).exists():
        raise StudyError(
            "there is no such study",
            study,
            "`xraytune status` lists the studies; a file of settings is given with --config",
        )
    return Path(source)


@contextmanager
def _work_folder(
    candidates: Sequence[Candidate], context: RunContext, members: int
) -> Iterator[Path]:
    """Hold the folder with the checkpoints of a training, and remove it in the end.

    The same training, started again, finds it. Raises ArtifactError if it is already running.
    """
    settings = candidates[0].experiment.settings
    depends_on: dict[str, Any] = {
        "candidates": [candidate.identity() for candidate in candidates],
        "members": members,
        "compute": asdict(context.compute),
        "releases": releases(*TASKS[settings.task].packages),
    }
    work = start_folder(context.cache, f"{_STAGE}.work", depends_on)
    try:
        with hold(work / ".lock"):
            yield work
            discard(work)
    except LockHeldError as error:
        raise ArtifactError(
            f"the same training is already running: {error.owner or 'in another process'}",
            work,
            "wait for it, or stop it with Ctrl-C and run the same command again to resume",
        ) from None


def _train_best(
    candidates: Sequence[Candidate], context: RunContext, work: Path, listeners: Listeners
) -> tuple[int, TrainedNetworks]:
    """Train all candidates on their folds; return the number of the best one, and its networks."""
    results = []
    for number, candidate in enumerate(candidates):
        if len(candidates) > 1:
            listeners.note(f"candidate: {CANDIDATES[number]}")
        contexts = [replace(context, prepared=fold) for fold in candidate.folds]
        folder = work / f"candidate_{number}"
        results.append(cross_validate(candidate.experiment, contexts, folder, listeners))
    best = _choose(results, candidates[0].experiment.settings.metric, listeners.note)
    return best, results[best]


def _show_samples(
    out: Path, note: Note, folder: Path, member: Experiment, context: RunContext
) -> None:
    """Save images of a generator; of several networks, those of the first one's generator."""
    samples = folder / "samples"
    if not [*samples.glob("*.png")]:  # a kill may have left an empty folder
        grid = save_generator_grid(member, context, samples)
        where = f"{grid} (at the end: {out / _SAMPLES})"
        note(f"the generator has been trained; its images next to real ones: {where}")


def _find_test_data(
    settings: DataSettings, given: StrPath | None, prepared: SplitData
) -> Path | None:
    """Return `Trained.test_data`, where `given` is the folder or data file that was given."""
    if prepared.test_fingerprint is None:
        return None
    if settings.table:
        return Path(given) if given and is_data_file(Path(given)) else None
    folders, _ = part_folders(settings.path)
    return folders.get("test")


def _choose(results: Sequence[TrainedNetworks], metric: str, note: Note) -> int:
    """Return which candidate scores highest on val-B, and say why."""
    scores = [trained.result.val_b_score for trained in results]
    best = int(np.argmax(scores))
    if len(scores) > 1:
        folds = counted(len(results[0].epochs), "fold")
        compared = " and ".join(
            f"{score:.3f} with {name}" for score, name in zip(scores, CANDIDATES, strict=True)
        )
        note(f"the final model has {CANDIDATES[best]}: {metric} on val-B ({folds}) is {compared}")
    return best


def _send_to_trackers(
    experiment: Experiment,
    identity: str,
    trained: TrainedNetworks,
    out: Path,
    *,
    key: str,
) -> None:
    """Send the first network's curves, the result and the bundle to all trackers."""
    settings = experiment.settings
    run = TrackedRun(
        metric=settings.objective.metric,
        study=(settings.name, identity),
        parameters=experiment.parameters,
        folder=out.parent,
        kind="train",
        key=key,
        name=f"{settings.name} final {experiment.parameters.arm}",
    )
    trackers = Trackers(settings.tracking, run)
    for epoch in trained.epochs[0]:
        trackers.log(epoch)
    trackers.finish({"status": "complete", **asdict(trained.result)}, model=out)


def _note_images(trained_on: TrainedOn, note: Note) -> None:
    """Note what the model is trained on, and how that differs from the exported trial."""
    note(
        f"training on {trained_on.images:,} of {trained_on.of_images:,} images "
        f"({trained_on.patients:,} of {trained_on.of_patients:,} patients)"
    )
    for change in trained_on.changes:
        note(f"  {change}")


def _count_images(
    candidate: Candidate,
    prepared: SplitData,
    trained: TrainedNetworks,
    origin: StudyFolder | None,
) -> TrainedOn:
    """Count the images that a model is trained on, out of the images that could be decoded."""
    return TrainedOn(
        images=sum(prepared.train_counts),
        patients=prepared.train_patient_count,
        folds=len(trained.epochs),
        validated_images=len(trained.validated.labels),
        validated_patients=len({*trained.validated.patients}),
        of_images=len(candidate.patients),
        of_patients=len({*candidate.patients}),
        changes=tuple(_changes_of(candidate.experiment, prepared, origin)),
    )


def _changes_of(
    experiment: Experiment, prepared: SplitData, origin: StudyFolder | None
) -> Iterator[str]:
    """Yield a line for each difference from the exported trial.

    Settings can only be compared if the study is here.
    """
    parameters = experiment.parameters
    exported = experiment.settings.exported_from
    if exported is None or exported.images is None:
        return
    if origin:
        trial_values = _values_of(origin.experiment(exported.trial))
        for name, value in _values_of(experiment).items():
            if value != trial_values.get(name):
                yield f"{name}: {value} (trial: {trial_values.get(name)})"
    counts = prepared.train_counts
    if exported.images == sum(counts):
        return
    images = f"{sum(counts):,} of {prepared.train_patient_count:,} patients"
    yield f"training images: {images} (trial: {exported.images:,} images)"
    if parameters.source != "none":
        extra = len(plan_mix(counts, parameters))
        trial_images = len(plan_mix([exported.images], parameters))
        yield f"extra images: {extra:,} (trial: {trial_images:,}), at the same ratio"


def _values_of(experiment: Experiment) -> dict[str, Value]:
    settings = experiment.settings
    return {
        "data.image_size": settings.data.image_size,
        "budget.max_epochs": settings.budget.max_epochs,
        **flat_values(experiment.parameters),
    }
