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
from shlex import quote
from typing import Any

from xraytune.base.artifacts import in_use, releases, work_path
from xraytune.base.cores import cpu_count
from xraytune.base.errors import ArtifactError, ConfigError, Problem
from xraytune.base.files import explain_disk_errors, make_folder, new_folder, require_new, require_writable, sha256_of
from xraytune.base.lease import LeaseHeldError, hold
from xraytune.base.records import Compute, EpochRecord, Progress, ignore_progress
from xraytune.data.index import find_class_names
from xraytune.data.pixels import stored_files
from xraytune.data.prepare import Prepared, RunContext, prepare_index
from xraytune.model.bundle import NETWORK_PACKAGES, write_bundle, write_card
from xraytune.model.bundle_record import TrainedOn
from xraytune.model.final import changes_of, train_final
from xraytune.nets.compute import allocation_of, gpu_count, pin
from xraytune.nets.weights import find_weights
from xraytune.search.wandb import TrackedRun, publish
from xraytune.space.fields import flat_values
from xraytune.space.load import load_space
from xraytune.space.rules import check_images
from xraytune.space.settings import Experiment, Settings, extensions_of
from xraytune.space.space import Space, require_extensions
from xraytune.study.folder import StudyFolder
from xraytune.study.inputs import inputs_of_trials, read_inputs
from xraytune.study.row import ended_trials
from xraytune.synth.extra_folder import store_folder
from xraytune.synth.synthesize import copy_file
from xraytune.trial.mix import require_enough
from xraytune.trial.samples import save_generator_grid
from xraytune.trial.task import task_of

TRAIN_STAGE = "train-1"
SAMPLES = "samples.png"
"""In the bundle of a model that was trained with generated images: some of them, next to real ones."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Summary of a final training; scores and threshold are those of `FinalTraining`.

    Attributes:
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
        config: YAML file of an experiment, e.g. from `export`; of a search space, the first entry of `points_to_evaluate`.
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
        StudyError: The study of the exported trial is damaged.
        TrialError: The loss is not finite.
        ArtifactError: The same training is already running, or its checkpoint is damaged.
    """
    started = time.monotonic()
    require_new(out)
    space = load_space(config, overrides, data=data, weights_dir=weights_dir)
    for text in space.notes:
        note(text)
    require_extensions(space)
    experiment = space.experiment()
    if experiment.settings.objective.is_of_generator:
        what = "this file describes a generator (objective.metric: gan_kid); `train` trains a classifier or segmenter"
        raise ConfigError(Problem(what, config, f"xraytune generator train --space {quote(str(config))} -o gan"))
    settings, parameters = experiment.settings, experiment.parameters
    if space.searched:
        chosen = ", ".join(f"{name} {value}" for name, value in space.points_to_evaluate[0].items())
        note(f"{config} is a search space: training the first entry of its points_to_evaluate ({chosen})")
    study = StudyFolder(settings.exported_from.study) if settings.exported_from else None
    if study and not study.space_path.is_file():
        note(f"the study of the exported trial does not exist here: {study.path}")
        study = None
    cache = (cache or (Path("cache") if study is None else study.default_cache)).resolve()
    require_writable(cache)
    check_images(space.at(space.first_point()), class_count=len(find_class_names(settings.data)))
    weights = find_weights(parameters.backbone, parameters.weights, settings.weights_dir)
    weights_sha256 = sha256_of(weights, "file of tensors") if weights else None
    index = task_of(settings).read_index(settings.data, on_progress=on_progress)
    prepared, warnings = prepare_index(index, settings.data, cache, skip_broken=skip_broken, on_progress=on_progress)
    for warning in warnings:
        note(warning)
    steps_per_epoch, epochs = prepared.steps_per_epoch(settings), settings.budget.max_epochs
    total_steps = epochs * steps_per_epoch
    check_images(space.at(space.first_point()), training_images=sum(prepared.train_counts), total_steps=total_steps)
    contents = [weights_sha256, *_extra_images(experiment, prepared, cache)]
    repeated = study if study and _is_trial(settings, study, prepared, note) else None
    recorded = _recorded(settings, repeated) if repeated and not overrides else None
    compute = _compute(settings, repeated, note)
    pin(compute)
    files = {*stored_files(cache / prepared.pixels).files}
    patients = [image.patient for image in index.images if image.file in files]
    kept = [image.patient for image in prepared.images if image.side != "train"]
    trained_on = TrainedOn(
        images=sum(prepared.train_counts),
        patients=prepared.train_patients,
        kept_images=len(kept),
        kept_patients=len({*kept}),
        of_images=len(patients),
        of_patients=len({*patients}),
        changes=tuple(changes_of(experiment, prepared)),
    )
    note(_sentence(trained_on, settings))
    for change in trained_on.changes:
        note(f"  {change}")
    work_folder = _work_folder(space, prepared, compute, contents, cache)
    note(f"training: {epochs} epoch{'s' * (epochs != 1)} of {steps_per_epoch:,} steps")
    grids: list[Path] = []

    def show_samples(of: Experiment, its_context: RunContext) -> None:
        grids.append(save_generator_grid(of, its_context, work_folder / "samples"))
        note(f"the generator has been trained; its images next to real ones: {grids[-1]} (at the end: {out / SAMPLES})")

    context = RunContext(
        prepared=prepared, cache=cache, compute=compute, on_progress=on_progress, on_generator=show_samples
    )
    with _locked(work_folder), in_use(cache):
        training = train_final(experiment, context, work_folder, on_epoch)
        with new_folder(out) as folder:
            record = write_bundle(
                folder,
                out,
                experiment=experiment,
                overrides=overrides,
                training=training,
                trained_on=trained_on,
                compute=compute,
            )
            write_card(folder, record, experiment, training)
            if grids:
                copy_file(grids[-1], folder / SAMPLES)
        shutil.rmtree(work_folder)
    if settings.tracking.wandb:
        run = TrackedRun(
            kind="train",
            study=settings.name,
            study_identity=study.identity() if study else work_folder.name,
            key=work_folder.name,
            label=f"{settings.name} final {parameters.arm}",
            parameters={**flat_values(parameters, out), "arm": parameters.arm},
            metric=settings.objective.metric,
            folder=out.parent,
        )
        summary = {"value": training.val_score, "val_b_score": training.val_b_score, "threshold": training.threshold}
        publish(settings.tracking.wandb, run, summary, epochs=training.epochs, model=out)
    return Trained(
        path=out,
        arm=record.arm,
        trained_on=trained_on,
        metric=settings.metric,
        val_score=training.val_score,
        val_b_score=training.val_b_score,
        positive=record.positive if len(record.class_names) == 2 else None,
        threshold=training.threshold,
        validation_images=len(training.validated.labels),
        validation_patients=len({*training.validated.patients}),
        best_epoch=training.best_epoch,
        epochs=len(training.epochs),
        seconds=time.monotonic() - started,
        equals_trial=recorded and recorded == (training.val_score, training.val_b_score),
    )


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
    """Return the content of the folder of extra images, if any; DataError if it has too few."""
    settings, parameters = experiment.settings, experiment.parameters
    folders, _ = inputs_of_trials([parameters])
    contents = list(read_inputs((folders, set()), settings, prepared, cache).values())
    if parameters.folder:
        images, _ = store_folder(parameters.folder.path, prepared, settings.data, cache=cache)
        require_enough([image.label for image in images], parameters, prepared)
    return contents


def _is_trial(settings: Settings, study: StudyFolder, prepared: Prepared, note: Callable[[str], None]) -> bool:
    """Return whether this is the exported trial again: the same images on the same sides."""
    searched = study.prepared()
    if searched.fingerprint == prepared.fingerprint:
        return True
    name = study.path.name
    if settings.final is None:
        note(f"the images or their split differ from those of study {name}: metrics will differ from the trial")
    elif not {(image.sha256, image.label) for image in searched.images} <= {
        (i.sha256, i.label) for i in prepared.images
    }:
        note(f"images of study {name} are missing here or have changed")
    return False


def _compute(settings: Settings, study: StudyFolder | None, note: Callable[[str], None]) -> Compute:
    """Return the study's, for the same metrics as the trial; otherwise this machine's, with all cores for a final model."""
    if study is not None:
        recorded = study.compute()
        if recorded.device == "cpu" or gpu_count():
            return recorded
        note("the study ran on a GPU, but torch finds none here: metrics will differ slightly from the trial")
    compute = allocation_of(settings, has_gpu=gpu_count() > 0).compute()
    return replace(compute, threads=cpu_count(), generator_threads=cpu_count()) if settings.final else compute


def _recorded(settings: Settings, study: StudyFolder) -> tuple[float | None, float | None] | None:
    """Return the scores of the exported trial on val-A and val-B; None if ASHA stopped it and `confirm` completed it."""
    assert settings.exported_from is not None, "there is a study"
    row = ended_trials(study).get(settings.exported_from.trial)
    return (row.value, row.val_b_score) if row and row.status == "complete" else None


def _work_folder(
    space: Space, prepared: Prepared, compute: Compute, contents: Sequence[str | None], cache: Path
) -> Path:
    """Return the folder of this training, named by a hash of everything that its metrics depend on."""
    parameters = space.experiment().parameters
    inputs: dict[str, Any] = {
        "space": space.identity(),
        "images": prepared.fingerprint,
        "contents": contents,
        "compute": asdict(compute),
        "releases": releases(*NETWORK_PACKAGES[space.settings.task]),
        "extensions": extensions_of(parameters.backbone, parameters.source),
    }
    return work_path(cache, TRAIN_STAGE, inputs)


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    with explain_disk_errors(work):
        make_folder(work)
    try:
        with hold(work / ".lock"):
            yield
    except LeaseHeldError as error:
        what = f"the same training is already running: {error.owner or 'in another process'}"
        fix = "wait for it, or stop it with Ctrl-C and run the same command again to resume"
        raise ArtifactError(Problem(what, work, fix)) from None
