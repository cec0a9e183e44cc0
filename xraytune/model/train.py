"""Train the final model: one experiment, from its images to a model bundle, in this process.

On the images of an exported trial, this is that trial without a search, and its metrics are bit-identical. An interrupted
training resumes from its work folder in the cache, which is named by a hash
of the experiment and its images.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xraytune.base.artifacts import releases, start_work
from xraytune.base.cores import cpu_count
from xraytune.base.errors import ArtifactError, Problem, counted
from xraytune.base.files import explain_disk_errors, make_folder, new_folder, require_new, sha256_of
from xraytune.base.locks import LockHeldError, hold
from xraytune.base.records import Compute, EpochRecord, Progress, ignore_progress
from xraytune.data.index import ImageIndex
from xraytune.data.pixels import stored_files
from xraytune.data.prepare import Prepared, RunContext
from xraytune.model.bundle import NETWORK_PACKAGES, write_bundle, write_card
from xraytune.model.bundle_record import TrainedOn
from xraytune.model.final import FinalTraining, changes_of, train_final
from xraytune.nets.compute import allocation_of, gpu_count, pin
from xraytune.nets.weights import find_weights
from xraytune.search.wandb import TrackedRun, enabled, publish
from xraytune.space.fields import flat_values, parameter_fields
from xraytune.space.load import SEARCH_ONLY, refuse_unused
from xraytune.space.paths import PATHS
from xraytune.space.settings import Experiment, Settings, extensions_of
from xraytune.space.shipped import describe_space
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder
from xraytune.study.inputs import inputs_of_trials, read_inputs, require_same_inputs
from xraytune.study.row import ended_trials
from xraytune.synth.synthesize import copy_file
from xraytune.trial.prepare import open_space, prepare_space
from xraytune.trial.samples import save_generator_grid

TRAIN_STAGE = "train-1"
SAMPLES = "samples.png"
"""In the bundle of a model that was trained with generated images: some of them, next to real ones."""
_UNUSED = {
    **SEARCH_ONLY,
    "resources.cpus_per_trial": "omit it: all cores are used",
    "final.image_size": "set data.image_size instead",
    "final.max_epochs": "set budget.max_epochs instead",
    "final": "set the parameter itself, without `final.`",
}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Summary of a final training; scores and threshold are those of `FinalTraining`.

    Attributes:
        test_folder: `test/` of its data folder; None if there is none.
        positive: The positive class of two; None with more classes.
        validation_images: The number of images that set the threshold.
        equals_trial: Whether both scores are those of the exported trial, to the bit; None if its study is missing or has no
            such scores, or if images or settings differ.
    """

    path: Path
    arm: str
    trained_on: TrainedOn
    metric: str
    val_score: float
    val_b_score: float
    test_folder: Path | None
    positive: str | None
    threshold: float
    validation_images: int
    validation_patients: int
    best_epoch: int
    epochs: int
    seconds: float
    equals_trial: bool | None


def train(
    config: Path,
    *,
    out: Path,
    data: Path | None = None,
    weights_dir: Path | None = None,
    overrides: Sequence[str] = (),
    cache: Path | None = None,
    skip_broken: bool = False,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
    on_progress: Progress = ignore_progress,
    note: Callable[[str], None] = _logger.info,
) -> Trained:
    """Train the experiment of a file and write the model bundle. All inputs are checked before the training.

    With `tracking.wandb`, then send the curves and the bundle to W&B; if that fails, only warn.

    Args:
        config: Study, whose best configuration is exported for this; or YAML file of an experiment, e.g. from `export`; of
            a search space, the first entry of `points_to_evaluate`.
        out: Folder to create.
        data: Image folder, or data file (YAML); overrides the file's.
        weights_dir: Folder of official weight files, for machines without network access.
        overrides: `key=value` settings that override the file's.
        cache: Artifact cache; default: the one of the exported trial's study, or `cache`.
        skip_broken: Leave out broken images.
        on_epoch: Called after each epoch, on resuming also for the earlier ones.
        on_progress: Called with the progress of preparation, generator and training steps.
        note: Called with messages for the user.

    Raises:
        ConfigError: The file is invalid, or `out` exists.
        DataError: The images are invalid.
        MachineError: Weights, GPUs or disk space are missing.
        StudyError: The study of the exported trial is damaged, or its images have other patients or labels now.
        TrialError: The loss is not finite.
        ArtifactError: The same training is already running, or its checkpoint is damaged.
    """
    started = time.monotonic()
    require_new(out)
    with _space_file(config, note) as file:
        space = open_space(file, overrides, data=data, weights_dir=weights_dir)
    point = space.first_point()
    refuse_unused(overrides, "train", _UNUSED | dict.fromkeys(parameter_fields().keys() - point.keys(), "omit it"))
    if space.searched:
        chosen = ", ".join(f"{name} {value}" for name, value in space.points_to_evaluate[0].items())
        note(f"{config} is a search space: training the first entry of its points_to_evaluate ({chosen})")
    study = _study_of_trial(space.settings, note)
    cache = (cache or (Path("cache") if study is None else study.default_cache)).resolve()
    prepared, index = prepare_space(
        space.at(point),
        cache,
        recorded=study.prepared() if study else None,
        is_complete=False,
        skip_broken=skip_broken,
        note=note,
        on_progress=on_progress,
    )
    plan = _plan(space, study, prepared, index, cache, note)
    samples: list[Path] = []

    def show_samples(experiment: Experiment, context: RunContext) -> None:
        samples.append(save_generator_grid(experiment, context, plan.work_folder / "samples"))
        note(
            f"the generator has been trained; its images next to real ones: {samples[-1]} (at the end: {out / SAMPLES})"
        )

    context = RunContext(
        prepared=prepared, cache=cache, compute=plan.compute, on_progress=on_progress, on_generator=show_samples
    )
    with _locked(plan.work_folder):
        training = train_final(plan.experiment, context, plan.work_folder, on_epoch)
        _write(plan, training, out, overrides, samples[-1:])
        shutil.rmtree(plan.work_folder)
    _publish(plan, training, out)
    repeats_trial = plan.trial_scores is not None and not overrides
    return _trained(plan, prepared, training, out, repeats_trial=repeats_trial, seconds=time.monotonic() - started)


@contextmanager
def _space_file(config: Path, note: Callable[[str], None]) -> Iterator[Path]:
    """Yield the file of the experiment; of a study, a temporary one with its best configuration."""
    if not config.is_dir():
        note(describe_space(config))
        yield config
        return
    from xraytune.model.best import export  # Optuna reads the journal

    with TemporaryDirectory() as folder:
        exported = export(config, out=Path(folder) / "final.yaml")
        note(exported.sentence)
        if exported.synthetic:
            note(f"the benefit of its synthetic images is {exported.synthetic}")
        yield exported.path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is trained, on which images, and where; `study` and `trial_scores` are those of the exported trial, if known."""

    experiment: Experiment
    study: StudyFolder | None
    trial_scores: tuple[float | None, float | None] | None
    trained_on: TrainedOn
    compute: Compute
    work_folder: Path


def _plan(
    space: Space,
    study: StudyFolder | None,
    prepared: Prepared,
    index: ImageIndex,
    cache: Path,
    note: Callable[[str], None],
) -> _Plan:
    """Compare the images with those of the exported trial, pin the process, and say what will be trained."""
    experiment = space.experiment()
    settings, parameters = experiment.settings, experiment.parameters
    weights = find_weights(parameters.backbone, parameters.weights, settings.weights_dir)
    contents = [sha256_of(weights) if weights else None, *_extra_images(experiment, prepared, cache)]
    if study and weights:
        require_same_inputs(study, {weights: str(contents[0])})
    origin = settings.exported_from
    repeated = None
    if study and origin and origin.is_exact:
        repeated = study if study.prepared().fingerprint == prepared.fingerprint else None
        if repeated is None:
            note(f"the images or their split differ from those of study {study.path.name}: so will the metrics")
    # A trial that ASHA stopped and `confirm` completed has no scores of its own.
    trial = ended_trials(repeated).get(origin.trial) if repeated and origin else None
    compute = _compute(settings, repeated, note)
    pin(compute)
    trained_on = _trained_on(experiment, prepared, index, cache)
    note(_sentence(trained_on, settings))
    for change in trained_on.changes:
        note(f"  {change}")
    depends_on: dict[str, Any] = {
        "space": space.identity(),
        "images": prepared.fingerprint,
        "steps_per_epoch": prepared.steps_per_epoch(settings),
        "contents": contents,
        "compute": asdict(compute),
        "releases": releases(*NETWORK_PACKAGES[settings.task]),
        "extensions": extensions_of(parameters.backbone, parameters.source),
    }
    note(f"training: {counted(settings.budget.max_epochs, 'epoch')} of {prepared.steps_per_epoch(settings):,} steps")
    return _Plan(
        experiment=experiment,
        study=study,
        trial_scores=(trial.value, trial.val_b_score) if trial and trial.status == "complete" else None,
        trained_on=trained_on,
        compute=compute,
        work_folder=start_work(cache, TRAIN_STAGE, depends_on),
    )


def _study_of_trial(settings: Settings, note: Callable[[str], None]) -> StudyFolder | None:
    """Return the study that the configuration was exported from; None without one, or if it is not here."""
    if settings.exported_from is None:
        return None
    study = StudyFolder(settings.exported_from.study)
    if study.space_path.is_file():
        return study
    note(f"the study of the exported trial does not exist here: {study.path}")
    return None


def _trained_on(experiment: Experiment, prepared: Prepared, index: ImageIndex, cache: Path) -> TrainedOn:
    """Count training images, images kept for validation, and all that could be decoded."""
    files = {*stored_files(cache / prepared.pixels)[0]}
    patients = [image.patient for image in index.images if image.file in files]
    kept = [image.patient for image in prepared.images if image.side != "train"]
    return TrainedOn(
        images=sum(prepared.train_counts),
        patients=prepared.train_patients,
        kept_images=len(kept),
        kept_patients=len({*kept}),
        of_images=len(patients),
        of_patients=len({*patients}),
        changes=tuple(changes_of(experiment, prepared)),
    )


def _write(plan: _Plan, training: FinalTraining, out: Path, overrides: Sequence[str], samples: Sequence[Path]) -> None:
    """Write the bundle with its card, and the samples of the generator, if any."""
    with new_folder(out) as folder:
        record = write_bundle(
            folder,
            out,
            experiment=plan.experiment,
            overrides=overrides,
            training=training,
            trained_on=plan.trained_on,
            compute=plan.compute,
        )
        write_card(folder, record, plan.experiment, training)
        for grid in samples:
            copy_file(grid, folder / SAMPLES)


def _trained(
    plan: _Plan, prepared: Prepared, training: FinalTraining, out: Path, *, repeats_trial: bool, seconds: float
) -> Trained:
    validated, is_binary = training.validated, len(prepared.class_names) == 2
    test_folder = plan.experiment.settings.data.path / "test"
    return Trained(
        path=out,
        arm=plan.experiment.parameters.arm,
        trained_on=plan.trained_on,
        metric=plan.experiment.settings.metric,
        val_score=training.val_score,
        val_b_score=training.val_b_score,
        test_folder=test_folder if test_folder.is_dir() else None,
        positive=prepared.class_names[prepared.positive] if is_binary else None,
        threshold=training.threshold,
        validation_images=len(validated.labels),
        validation_patients=len({*validated.patients}),
        best_epoch=training.best_epoch,
        epochs=len(training.epochs),
        seconds=seconds,
        equals_trial=plan.trial_scores == (training.val_score, training.val_b_score) if repeats_trial else None,
    )


def _publish(plan: _Plan, training: FinalTraining, out: Path) -> None:
    """Send the curves and the bundle to W&B, with `tracking.wandb`."""
    settings, parameters = plan.experiment.settings, plan.experiment.parameters
    if (tracking := enabled(settings.tracking.wandb)) is None:
        return
    run = TrackedRun(
        kind="train",
        study=settings.name,
        study_identity=plan.study.identity() if plan.study else plan.work_folder.name,
        key=plan.work_folder.name,
        label=f"{settings.name} final {parameters.arm}",
        parameters={**flat_values(parameters, out), "arm": parameters.arm},
        metric=settings.objective.metric,
        folder=out.parent,
    )
    summary = {"value": training.val_score, "val_b_score": training.val_b_score, "threshold": training.threshold}
    publish(tracking, run, summary, epochs=training.epochs, model=out)


def _sentence(data: TrainedOn, settings: Settings) -> str:
    """Return what the model is trained on, in words."""
    patients = f"{data.patients:,} of {data.of_patients:,} patients"
    text = f"training on {data.images:,} of {data.of_images:,} images ({patients})"
    if data.kept_images:
        text += f"; {data.kept_images:,} images of {data.kept_patients:,} patients are kept for validation"
    if left_out := data.of_images - data.images - data.kept_images:
        text += f", {left_out:,} are left out by data.train_patients: {settings.data.train_patients}"
    return text


def _extra_images(experiment: Experiment, prepared: Prepared, cache: Path) -> list[str]:
    """Return the content of the folder or the generator of extra images, if any; DataError if it has too few."""
    parameters = experiment.parameters
    inputs = {given for given in inputs_of_trials([parameters]) if given[0] in PATHS}
    return [*read_inputs(inputs, experiment.settings, prepared, cache, mixes=[parameters]).values()]


def _compute(settings: Settings, study: StudyFolder | None, note: Callable[[str], None]) -> Compute:
    """Return the study's, for the same metrics as the trial; otherwise this machine's, with all cores for a final model."""
    if study is not None:
        recorded = study.compute()
        if recorded.device == "cpu" or gpu_count():
            return recorded
        note("the study ran on a GPU, but torch finds none here: metrics will differ slightly from the trial")
    compute = allocation_of(settings, has_gpu=gpu_count() > 0).compute()
    if settings.exported_from is not None and settings.exported_from.is_exact:
        return compute
    return replace(compute, threads=cpu_count())


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    with explain_disk_errors(work):
        make_folder(work)
    try:
        with hold(work / ".lock"):
            yield
    except LockHeldError as error:
        what = f"the same training is already running: {error.owner or 'in another process'}"
        fix = "wait for it, or stop it with Ctrl-C and run the same command again to resume"
        raise ArtifactError(Problem(what, work, fix)) from None
