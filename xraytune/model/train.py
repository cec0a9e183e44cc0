"""Train the final model: one experiment, from its images to a model bundle, in this process.

If a trial was exported exactly, training on the same images repeats the trial without a search, and
the metrics are bit-identical. An interrupted training resumes from its work folder in the cache,
which is named by a hash of the experiment and its images.
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

from xraytune.base.artifacts import releases, start_folder
from xraytune.base.cores import cpu_count
from xraytune.base.errors import ArtifactError, ConfigError, StudyError, counted
from xraytune.base.files import StrPath, copy_file, new_folder, require_new
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
from xraytune.data.images import ImageIndex
from xraytune.data.pixels import stored_files
from xraytune.data.prepare import RunContext, SplitData
from xraytune.model.bundle import TrainedNetworks, write_bundle
from xraytune.model.export import describe_benefit, export
from xraytune.nets.checkpoint import finished_epochs, load_best
from xraytune.nets.compute import compute_here, gpu_count, pin
from xraytune.search.trackers import begin_tracking
from xraytune.search.tracking import TrackedRun
from xraytune.space.domains import Value
from xraytune.space.fields import PARAMETERS, flat_values
from xraytune.space.load import SEARCH_ONLY, refuse_unused
from xraytune.space.paths import PATHS
from xraytune.space.recorded import require_same_code
from xraytune.space.settings import Experiment, Settings, extensions_of
from xraytune.space.shipped import describe_space
from xraytune.space.sources import SOURCES
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder
from xraytune.study.start import (
    inputs_of_trials,
    read_inputs,
    require_same_inputs,
)
from xraytune.synth.mix import plan_mix
from xraytune.tasks import TASKS
from xraytune.tasks.bundle_record import BundleRecord, TrainedOn
from xraytune.tasks.ensemble import average_networks
from xraytune.trial.prepare import open_space, prepare_space, require_inputs
from xraytune.trial.run import run_trial
from xraytune.trial.samples import save_generator_grid
from xraytune.trial.training import TrialTraining

TRAIN_STAGE = "train-1"
SAMPLES = "samples.png"
"""The file with generated images next to real ones, in the bundle of a model trained with them."""
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
        members: Number of networks to train, with consecutive seeds from the seed of the file; the
            model predicts the mean of their probabilities.
        data: Image folder, or data file (YAML); overrides the file's.
        weights_dir: Folder of official weight files, for machines without network access.
        overrides: `key=value` settings that override the file's.
        cache: Artifact cache; by default, the cache of the exported trial's study, or `cache`.
        skip_broken: Leave out broken images.
        extensions: Generators that the space names: `FILE.py:CLASS`, or the class itself.
        on_epoch: Called after each epoch of each network, and after resuming also for the earlier
            epochs.
        on_progress: Called with the progress of preparation, generator and training steps.
        note: Called with messages for the user.

    Raises:
        ConfigError: The file is invalid, `out` exists, `members` is below 1, or neither or both of
            `study` and `config` are given.
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
    SOURCES.register(extensions)
    space = _open_experiment(
        Path(config_or_study), overrides, data=data, weights_dir=weights_dir, note=note
    )
    experiment = space.experiment()
    settings = experiment.settings
    origin = _find_study(experiment, note)
    if origin:
        require_same_code(origin.path, [experiment.parameters.source])
    cache = Path(cache or ("cache" if origin is None else origin.default_cache)).resolve()
    require_inputs(settings, [experiment.parameters])
    prepared, index = prepare_space(
        space,
        cache,
        recorded=origin.prepared() if origin else None,
        is_complete=False,
        skip_broken=skip_broken,
        note=note,
        on_progress=on_progress,
    )
    contents = _read_contents(experiment, origin, prepared, cache)
    compute = _choose_compute(settings, origin, prepared, note)
    pin(compute)

    trained_on = _count_images(experiment, prepared, index, cache, origin)
    steps = prepared.steps_per_epoch(settings)
    _announce(trained_on, settings, steps, note)

    # The same training, started again, finds its checkpoints in the same folder.
    depends_on: dict[str, Any] = {
        "experiment": experiment.identity(),
        "members": members,
        "images": prepared.fingerprint,
        "steps_per_epoch": steps,
        "contents": contents,
        "compute": asdict(compute),
        "releases": releases(*TASKS[settings.task].packages),
        "extensions": extensions_of(experiment.parameters.backbone, experiment.parameters.source),
    }
    work = start_folder(cache, f"{TRAIN_STAGE}.work", depends_on)

    context = RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=on_progress)

    def show_samples(member: Experiment) -> None:
        if member.settings.seed == settings.seed:  # all networks share the generator
            grid = save_generator_grid(member, context, work / "samples")
            where = f"{grid} (at the end: {out / SAMPLES})"
            note(f"the generator has been trained; its images next to real ones: {where}")

    exported = settings.exported_from
    benefit = ""
    if origin and exported:
        benefit = describe_benefit(origin, exported.trial, experiment.parameters)
    try:
        with hold(work / ".lock"):
            trained = _train_networks(
                experiment, context, work, members, on_epoch, show_samples, note
            )
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
                for grid in (work / "samples").glob("*.png"):
                    copy_file(grid, folder / SAMPLES)
            shutil.rmtree(work)
    except LockHeldError as error:
        what = f"the same training is already running: {error.owner or 'in another process'}"
        fix = "wait for it, or stop it with Ctrl-C and run the same command again to resume"
        raise ArtifactError(what, work, fix) from None

    _send_to_trackers(experiment, origin, trained, out, key=work.name)
    folders = subfolders(settings.data.path) if settings.data.path.is_dir() else ()
    test_folders = [folder for folder in folders if part_named(folder.name) == "test"]
    return Trained(
        path=out,
        record=record,
        metric=settings.metric,
        test_folder=test_folders[0] if test_folders else None,
        epochs=len(trained.epochs[0]),
        seconds=time.monotonic() - started,
    )


def _open_experiment(
    config_or_study: Path,
    overrides: Sequence[str],
    *,
    data: StrPath | None,
    weights_dir: StrPath | None,
    note: Callable[[str], None],
) -> Space:
    """Return the space of a single point, of a file or of what `export` chooses in a study."""
    with TemporaryDirectory() as temporary:
        file = config_or_study
        if config_or_study.is_dir():
            exported = export(config_or_study, out=Path(temporary) / "final.yaml")
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
    return space.at(point)


def _find_study(experiment: Experiment, note: Callable[[str], None]) -> StudyFolder | None:
    """Return the study of the exported trial, if there is one and it is here."""
    origin = experiment.settings.exported_from
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


def _announce(
    trained_on: TrainedOn, settings: Settings, steps: int, note: Callable[[str], None]
) -> None:
    """Say how many images and steps the training has, and how it differs from the trial."""
    note(
        f"training on {trained_on.images:,} of {trained_on.of_images:,} images "
        f"({trained_on.patients:,} of {trained_on.of_patients:,} patients); "
        f"{trained_on.kept_images:,} images of {trained_on.kept_patients:,} patients are kept for "
        "validation"
    )
    for change in trained_on.changes:
        note(f"  {change}")
    note(f"training: {counted(settings.budget.max_epochs, 'epoch')} of {steps:,} steps")


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


def _train_networks(
    experiment: Experiment,
    context: RunContext,
    work: Path,
    members: int,
    on_epoch: Callable[[EpochRecord], None],
    show_samples: Callable[[Experiment], None],
    note: Callable[[str], None],
) -> TrainedNetworks:
    """Train one network after the other, each resuming from its folder, and score their average."""
    networks = []
    trained = []
    epochs = []
    results = []
    for number in range(members):
        seed = experiment.settings.seed + number
        settings = experiment.settings.model_copy(update={"seed": seed})
        member = experiment.model_copy(update={"settings": settings})
        if members > 1:
            note(f"network {number + 1} of {members} (seed {seed})")
        folder = work / f"network_{number + 1}"
        checkpoint = folder / "checkpoint"
        result = run_trial(
            member,
            context,
            trial_dir=folder,
            on_epoch=on_epoch,
            on_generator=partial(show_samples, member),
        )
        results.append(result)
        epochs.append(finished_epochs(checkpoint))
        training = TrialTraining(member, context)
        load_best(checkpoint, training.trained)
        trained.append(training.trained)
        networks.append(training.whole())

    training.trained = average_networks(training.task, trained)
    validated = training.validated()
    result = results[0]
    if members > 1:
        count = len(training.val_a.targets)
        labels = validated.labels
        scores = validated.results
        positive = context.prepared.positive
        result = replace(
            result,
            value=training.task.score(labels[:count], scores[:count], positive=positive),
            val_b_score=training.task.score(labels[count:], scores[count:], positive=positive),
            threshold=training.task.threshold(labels, scores, positive),
        )
    return TrainedNetworks(
        networks=networks,
        epochs=epochs,
        result=result,
        validated=validated,
        input_format=training.network.form,
    )


def _count_images(
    experiment: Experiment,
    prepared: SplitData,
    index: ImageIndex,
    cache: Path,
    study_folder: StudyFolder | None,
) -> TrainedOn:
    """Count the images that a model is trained on, out of the images that could be decoded."""
    decoded = {*stored_files(cache / prepared.pixels)[0]}
    patients = [image.patient for image in index.images if image.file in decoded]
    held_out = [image.patient for image in prepared.images if image.side != "train"]
    return TrainedOn(
        images=sum(prepared.train_counts),
        patients=prepared.train_patient_count,
        kept_images=len(held_out),
        kept_patients=len({*held_out}),
        of_images=len(patients),
        of_patients=len({*patients}),
        changes=tuple(_changes_of(experiment, prepared, study_folder)),
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
