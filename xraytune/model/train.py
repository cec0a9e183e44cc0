"""Train the final model, from its images to a model bundle, in this process.

The settings of a file and those of its `final` are candidates. The one that scores higher on the
same patients is trained on all patients (`model/folds.py`). If a trial was exported exactly,
training on the same images repeats the trial without a search, and the metrics are bit-identical.
An interrupted training resumes from its work folder in the cache, which is named by a hash of the
candidates and their images.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from xraytune.base.artifacts import releases, start_folder
from xraytune.base.cores import cpu_count
from xraytune.base.errors import ArtifactError, ConfigError, StudyError, counted
from xraytune.base.files import StrPath, copy_file, new_folder, require_new, write_text
from xraytune.base.locks import LockHeldError, hold
from xraytune.base.records import (
    Compute,
    EpochRecord,
    Json,
    Progress,
    frozen,
    ignore_progress,
    to_json,
)
from xraytune.data.folders import subfolders
from xraytune.data.guesses import part_named
from xraytune.data.pixels import stored_files
from xraytune.data.prepare import RunContext, SplitData, patients_seen
from xraytune.model.bundle import TrainedNetworks, write_bundle
from xraytune.model.export import describe_benefit, export
from xraytune.model.folds import (
    Listeners,
    cross_validate,
    leave_out,
    train_on_all,
    with_everyone,
)
from xraytune.nets.compute import compute_here, gpu_count, pin
from xraytune.search.trackers import begin_tracking
from xraytune.search.tracking import TrackedRun
from xraytune.space.domains import Value
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.fields import PARAMETERS, flat_values, parameters_from
from xraytune.space.load import SEARCH_ONLY, experiment_to_yaml, refuse_unused
from xraytune.space.parameters import identities_of
from xraytune.space.paths import PATHS
from xraytune.space.recorded import require_same_code
from xraytune.space.settings import Experiment, FinalSettings, Settings
from xraytune.space.shipped import describe_space
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder
from xraytune.study.start import (
    inputs_of_trials,
    read_inputs,
    require_same_inputs,
)
from xraytune.synth.mix import plan_mix
from xraytune.synth.sources.which import mixes_of, seen_by
from xraytune.tasks import TASKS
from xraytune.tasks.bundle_record import BundleRecord, TrainedOn
from xraytune.trial.prepare import open_space, prepare_space, require_inputs
from xraytune.trial.samples import save_generator_grid

TRAIN_STAGE = "train-1"
SAMPLES = "samples.png"
"""The file with generated images next to real ones, in the bundle of a model trained with them."""
_CANDIDATES = ("the trial's settings", "the settings of final")
_logger = logging.getLogger(__name__)


@frozen
class Trained:
    """Summary of a final training.

    Attributes:
        path: Folder of the model.
        record: The record of the bundle, with scores, threshold and training images.
        metric: Name of the scores, such as AUROC.
        test_folder: The folder `test/` of the data; None if there is none.
        epochs: The number of epochs that the first network was trained for.
        seconds: Wall time of the call.
    """

    path: Path
    record: BundleRecord
    metric: str
    test_folder: Path | None
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
    note: Callable[[str], None] = _logger.info,
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
    out = Path(out)
    started = time.monotonic()
    config_or_study = config or study
    if config_or_study is None or (config and study):
        fix = "write e.g. xraytune train studies/NAME -o model"
        raise ConfigError("give a study or --config FILE", fix=fix)
    if study and not Path(study).exists():
        fix = "`xraytune status` lists the studies; a file of settings is given with --config"
        raise StudyError("there is no such study", study, fix)
    require_new(out)
    if members < 1:
        raise ConfigError(f"cannot train {members} networks", "--members", "give 1 or more")

    # Everything is checked before the first step: settings, packages, images and other inputs.
    EXTENSIONS.register(extensions)
    spaces = _open_candidates(
        Path(config_or_study), overrides, data=data, weights_dir=weights_dir, note=note
    )
    settings = spaces[0].settings
    origin = _find_study(settings, note)
    default_cache = "cache" if origin is None else origin.default_cache
    cache = Path(cache or default_cache).resolve()
    candidates = [
        _prepare_candidate(
            space,
            origin,
            cache,
            members=members,
            skip_broken=skip_broken,
            note=note if space is spaces[0] else _logger.debug,
            on_progress=on_progress,
        )
        for space in spaces
    ]
    compute = _choose_compute(settings, origin, candidates[0].folds[0], note)
    pin(compute)

    # The same training, started again, finds its checkpoints in the same folder.
    depends_on: dict[str, Any] = {
        "candidates": [candidate.identity() for candidate in candidates],
        "members": members,
        "compute": asdict(compute),
        "releases": releases(*TASKS[settings.task].packages),
    }
    work = start_folder(cache, f"{TRAIN_STAGE}.work", depends_on)

    def show_samples(folder: Path, member: Experiment, context: RunContext) -> None:
        if not folder.exists():  # of several networks, the generator of the first one is shown
            grid = save_generator_grid(member, context, folder)
            where = f"{grid} (at the end: {out / SAMPLES})"
            note(f"the generator has been trained; its images next to real ones: {where}")

    def listeners(folder: Path) -> Listeners:
        return Listeners(
            on_epoch=on_epoch, on_generator=partial(show_samples, folder / "samples"), note=note
        )

    contexts = [
        [
            RunContext(prepared=fold, cache=cache, compute=compute, on_progress=on_progress)
            for fold in candidate.folds
        ]
        for candidate in candidates
    ]
    folders = [work / f"candidate_{number}" for number, _ in enumerate(candidates, start=1)]
    try:
        with hold(work / ".lock"):
            all_trained = []
            for name, candidate, of_folds, folder in zip(
                _CANDIDATES, candidates, contexts, folders, strict=False
            ):
                if len(candidates) > 1:
                    note(f"candidate: {name}")
                trained = cross_validate(candidate.experiment, of_folds, folder, listeners(folder))
                all_trained.append(trained)
            place = _choose(all_trained, settings.metric, note)
            trained = all_trained[place]
            experiment = candidates[place].experiment
            context = contexts[place][0]
            uses_everyone = _can_use_everyone(experiment)
            if uses_everyone or members > 1:
                context = with_everyone(context)
            trained_on = _count_images(candidates[place], context.prepared, trained, origin)
            _announce(trained_on, note)
            if uses_everyone and members == 1:
                trained = train_on_all(experiment, context, trained, work / "all", listeners(work))
            benefit = ""
            exported = experiment.settings.exported_from
            if origin and exported:
                benefit = describe_benefit(origin, exported.trial, experiment.parameters)
            with new_folder(out) as folder:
                record = write_bundle(
                    folder,
                    out,
                    experiment=experiment,
                    overrides=overrides,
                    context=context,
                    trained=trained,
                    trained_on=trained_on,
                    benefit=benefit,
                )
                for grid in folders[place].glob("samples/*.png"):
                    copy_file(grid, folder / SAMPLES)
            shutil.rmtree(work)
    except LockHeldError as error:
        what = f"the same training is already running: {error.owner or 'in another process'}"
        fix = "wait for it, or stop it with Ctrl-C and run the same command again to resume"
        raise ArtifactError(what, work, fix) from None

    _send_to_trackers(experiment, origin, trained, out, key=work.name)
    parts = subfolders(settings.data.path) if settings.data.path.is_dir() else ()
    test_folders = [folder for folder in parts if part_named(folder.name) == "test"]
    return Trained(
        path=out,
        record=record,
        metric=settings.metric,
        test_folder=test_folders[0] if test_folders else None,
        epochs=len(trained.epochs[0]),
        seconds=time.monotonic() - started,
    )


@frozen
class _Candidate:
    """One of the settings that are compared.

    Attributes:
        folds: The images, once for each network.
        contents: Hashes of the contents of its inputs.
        patients: The patient of each image of the folder that could be decoded, without `test/`.
    """

    experiment: Experiment
    folds: Sequence[SplitData]
    contents: Sequence[Any]
    patients: Sequence[str]

    def identity(self) -> dict[str, Any]:
        """Return everything that its networks depend on, besides this machine."""
        parameters = self.experiment.parameters
        return {
            "experiment": self.experiment.identity(),
            "images": [fold.fingerprint for fold in self.folds],
            "steps_per_epoch": self.folds[0].steps_per_epoch(self.experiment.settings),
            "contents": self.contents,
            "extensions": identities_of(parameters),
        }


def _open_candidates(
    config_or_study: Path,
    overrides: Sequence[str],
    *,
    data: StrPath | None,
    weights_dir: StrPath | None,
    note: Callable[[str], None],
) -> list[Space]:
    """Return the settings of a file, or of what `export` chooses in a study, and those of `final`.

    Each space has a single point. Overrides apply to both.
    """
    with TemporaryDirectory() as temporary:
        file = config_or_study
        if config_or_study.is_dir():
            exported = export(config_or_study, out=Path(temporary) / "best.yaml")
            file = exported.path
            note(exported.sentence)
            if exported.synthetic:
                note(f"the benefit of its synthetic images is {exported.synthetic}")
        else:
            note(describe_space(config_or_study))
        space = open_space(file, overrides, data=data, weights_dir=weights_dir)
        point = space.first_point()
        unused = (*SEARCH_ONLY, "resources.cpus_per_trial", *(PARAMETERS.keys() - point.keys()))
        refuse_unused(overrides, "train", unused)
        refuse_unused(overrides, "train", ("final",), "set the parameter itself, without `final.`")
        if space.searched:
            entry = f"the first entry of its points_to_evaluate: {space.points_to_evaluate[0]}"
            note(f"{config_or_study} is a search space: training {entry}")
        final = space.settings.final
        trial = replace(space, settings=space.settings.with_values({"final": None})).at(point)
        if final is None or is_exact(space.settings):
            return [trial]
        final_file = Path(temporary) / "final.yaml"
        final_experiment = _with_final(trial.experiment(), final)
        write_text(final_file, experiment_to_yaml(final_experiment, final_file.parent))
        changed = open_space(final_file, overrides, data=data, weights_dir=weights_dir)
    is_equal = changed.experiment().identity() == trial.experiment().identity()
    return [trial] if is_equal else [trial, changed.at(changed.first_point())]


def _with_final(experiment: Experiment, final: FinalSettings) -> Experiment:
    values = flat_values(experiment.parameters)
    final_values = {name: value for name, value in final.values().items() if name in values}
    return Experiment(
        settings=final.settings_of(experiment.settings),
        parameters=parameters_from({**values, **final_values}),
    )


def _prepare_candidate(
    space: Space,
    origin: StudyFolder | None,
    cache: Path,
    *,
    members: int,
    skip_broken: bool,
    note: Callable[[str], None],
    on_progress: Progress,
) -> _Candidate:
    """Check the inputs of a candidate, and prepare its images and their folds."""
    experiment = space.experiment()
    settings = experiment.settings
    parameters = experiment.parameters
    if origin:
        require_same_code(origin.path, parameters.extensions)
    require_inputs(settings, [parameters])
    prepared, index = prepare_space(
        space,
        cache,
        recorded=origin.prepared() if origin else None,
        is_complete=False,
        skip_broken=skip_broken,
        note=note,
        on_progress=on_progress,
    )
    folds = [prepared]
    if members > 1 or _can_use_everyone(experiment):
        seen = patients_seen(index.images, seen_by(mixes_of(space)))
        folds = leave_out(prepared, settings.data.split.seed, members, seen)
    decoded = {*stored_files(cache / prepared.pixels)[0]}
    return _Candidate(
        experiment=experiment,
        folds=folds,
        contents=_read_contents(experiment, origin, prepared, cache),
        patients=[image.patient for image in index.images if image.file in decoded],
    )


def _can_use_everyone(experiment: Experiment) -> bool:
    """Return whether a single network is trained on all patients.

    A generator needs patients that it has not seen, among whom its copies stand out.
    """
    return not (is_exact(experiment.settings) or experiment.parameters.has_synthetic_pixels)


def is_exact(settings: Settings) -> bool:
    """Return whether a training repeats its exported trial bit for bit."""
    return settings.exported_from is not None and settings.exported_from.images is None


def _choose(
    all_trained: Sequence[TrainedNetworks], metric: str, note: Callable[[str], None]
) -> int:
    """Return which candidate scores highest on val-B, and say why."""
    scores = [trained.result.val_b_score for trained in all_trained]
    best = int(np.argmax(scores))
    if len(scores) > 1:
        folds = counted(len(all_trained[0].epochs), "fold")
        compared = " and ".join(
            f"{score:.3f} with {name}" for name, score in zip(_CANDIDATES, scores, strict=True)
        )
        note(f"the final model has {_CANDIDATES[best]}: {metric} on val-B ({folds}) is {compared}")
    return best


def _find_study(settings: Settings, note: Callable[[str], None]) -> StudyFolder | None:
    """Return the study of the exported trial, if there is one and it is here."""
    origin = settings.exported_from
    if origin is None:
        return None
    study_folder = StudyFolder(origin.study)
    if study_folder.space_path.is_file():
        return study_folder
    note(f"the study of the exported trial does not exist here: {study_folder.path}")
    return None


def _read_contents(
    experiment: Experiment, study_folder: StudyFolder | None, prepared: SplitData, cache: Path
) -> list[Any]:
    """Return hashes that identify the contents of weights, extensions and other inputs.

    Raises StudyError if the study began with other weights or extensions.
    """
    settings = experiment.settings
    parameters = experiment.parameters
    inputs = inputs_of_trials([parameters])
    if study_folder:
        fixed_inputs = {item for item in inputs if item[0] not in PATHS}
        contents = read_inputs(fixed_inputs, settings, prepared, cache)
        require_same_inputs(study_folder, contents, is_complete=False)
    return [*read_inputs(inputs, settings, prepared, cache, mixes=[parameters]).values()]


def _announce(trained_on: TrainedOn, note: Callable[[str], None]) -> None:
    """Say on how many images the final model is trained, and how it differs from the trial."""
    note(
        f"training on {trained_on.images:,} of {trained_on.of_images:,} images "
        f"({trained_on.patients:,} of {trained_on.of_patients:,} patients)"
    )
    for change in trained_on.changes:
        note(f"  {change}")


def _send_to_trackers(
    experiment: Experiment,
    study_folder: StudyFolder | None,
    trained: TrainedNetworks,
    out: Path,
    *,
    key: str,
) -> None:
    """Send the first network's curves, the result and the bundle to all trackers."""
    settings = experiment.settings
    run = TrackedRun(
        metric=settings.objective.metric,
        study=(settings.name, study_folder.environment()["identity"] if study_folder else key),
        parameters=experiment.parameters,
        folder=out.parent,
        kind="train",
        key=key,
        name=f"{settings.name} final {experiment.parameters.arm}",
    )
    trackers = begin_tracking(settings.tracking, run)
    for epoch in trained.epochs[0]:
        trackers.log(epoch)
    trackers.finish({"status": "complete", **asdict(trained.result)}, model=out)


def _choose_compute(
    settings: Settings,
    study_folder: StudyFolder | None,
    prepared: SplitData,
    note: Callable[[str], None],
) -> Compute:
    """Choose all cores for a final model, or what the study used for an exact copy of a trial."""
    compute = compute_here(settings)
    origin = settings.exported_from
    if origin is None or origin.images is not None:
        return replace(compute, threads=cpu_count())
    if study_folder is None:
        return compute
    if study_folder.prepared().fingerprint != prepared.fingerprint:
        differ = f"the images or their split differ from those of study {study_folder.path.name}"
        note(f"{differ}: so will the metrics")
    recorded = study_folder.compute()
    if recorded.device == "cpu" or gpu_count():
        return recorded
    note("no GPU here, unlike in the study: metrics will differ slightly from the trial")
    return compute


def _count_images(
    candidate: _Candidate,
    prepared: SplitData,
    trained: TrainedNetworks,
    study_folder: StudyFolder | None,
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
        changes=tuple(_changes_of(candidate.experiment, prepared, study_folder)),
    )


def _changes_of(
    experiment: Experiment, prepared: SplitData, study_folder: StudyFolder | None
) -> Iterator[str]:
    """Yield a line for each difference from the exported trial.

    Settings can only be compared if the study is here.
    """
    parameters = experiment.parameters
    origin = experiment.settings.exported_from
    if origin is None or origin.images is None:
        return
    if study_folder:
        trial_values = _values_of(study_folder.experiment(origin.trial))
        for name, value in _values_of(experiment).items():
            if value != trial_values.get(name):
                yield f"{name}: {value} (trial: {trial_values.get(name)})"
    counts = prepared.train_counts
    if origin.images == sum(counts):
        return
    images = f"{sum(counts):,} of {prepared.train_patient_count:,} patients"
    yield f"training images: {images} (trial: {origin.images:,} images)"
    if parameters.source != "none":
        extra = len(plan_mix(counts, parameters))
        of_trial = len(plan_mix([origin.images], parameters))
        yield f"extra images: {extra:,} (trial: {of_trial:,}), at the same ratio"


def _values_of(experiment: Experiment) -> dict[str, Value]:
    settings = experiment.settings
    return {
        "data.image_size": settings.data.image_size,
        "budget.max_epochs": settings.budget.max_epochs,
        **flat_values(experiment.parameters),
    }
