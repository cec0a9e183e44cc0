"""Train the final model: one experiment, from its images to a model bundle, in this process.

On the images of an exported trial, this is that trial without a search, and its metrics are
bit-identical. An interrupted training resumes from its work folder in the cache, which is named by
a hash of the experiment and its images.
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
from xraytune.data.images import ImageIndex
from xraytune.data.pixels import stored_files
from xraytune.data.prepare import Prepared, RunContext
from xraytune.model.bundle import FinalTraining, write_bundle, write_card
from xraytune.nets.checkpoint import load_best
from xraytune.nets.compute import allocation_of, gpu_count, pin
from xraytune.nets.weights import find_weights
from xraytune.search.wandb import WandbRun
from xraytune.space.domains import Value
from xraytune.space.fields import flat_values, parameter_fields
from xraytune.space.load import SEARCH_ONLY, refuse_unused
from xraytune.space.paths import PATHS
from xraytune.space.settings import Experiment, Settings, extensions_of
from xraytune.space.shipped import describe_space
from xraytune.study.folder import StudyFolder
from xraytune.study.inputs import inputs_of_trials, read_inputs, require_same_inputs
from xraytune.study.row import ended_rows
from xraytune.synth.mix import plan_mix
from xraytune.synth.synthesize import copy_file
from xraytune.tasks import TASKS
from xraytune.tasks.bundle_record import TrainedOn
from xraytune.trial.prepare import open_space, prepare_space
from xraytune.trial.run import run_trial
from xraytune.trial.samples import save_generator_grid
from xraytune.trial.training import TrialTraining

TRAIN_STAGE = "train-1"
SAMPLES = "samples.png"
"""In the bundle of a model trained with generated images: some of them, next to real ones."""
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
        equals_trial: Whether both scores are those of the exported trial, to the bit; None if its
            study is missing or has no such scores, or if images or settings differ.
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
    """Train the experiment of a file and write the model bundle.

    All inputs are checked before the training.

    With `tracking.wandb`, then send the curves and the bundle to W&B; if that fails, only warn.

    Args:
        config: Study, whose best configuration is exported for this; or YAML file of an experiment,
            e.g. from `export`; of a search space, the first entry of `points_to_evaluate`.
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
        StudyError: The study of the exported trial is damaged, or its images have other patients or
            labels now.
        TrialError: The loss is not finite.
        ArtifactError: The same training is already running, or its checkpoint is damaged.
    """
    started = time.monotonic()
    require_new(out)
    with _space_file(config, note) as file:
        space = open_space(file, overrides, data=data, weights_dir=weights_dir)
    point = space.first_point()
    refuse_unused(
        overrides,
        "train",
        _UNUSED | dict.fromkeys(parameter_fields().keys() - point.keys(), "omit it"),
    )
    if space.searched:
        chosen = ", ".join(f"{name} {value}" for name, value in space.points_to_evaluate[0].items())
        first = f"the first entry of its points_to_evaluate ({chosen})"
        note(f"{config} is a search space: training {first}")
    experiment = space.experiment()
    settings = experiment.settings
    parameters = experiment.parameters

    origin = settings.exported_from
    study = StudyFolder(origin.study) if origin else None
    if study and not study.space_path.is_file():
        note(f"the study of the exported trial does not exist here: {study.path}")
        study = None
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
    weights = find_weights(parameters.backbone, parameters.weights, settings.weights_dir)
    contents = [sha256_of(weights) if weights else None]
    if study and weights:
        require_same_inputs(study, {weights: str(contents[0])})
    inputs = {given for given in inputs_of_trials([parameters]) if given[0] in PATHS}
    contents += read_inputs(inputs, settings, prepared, cache, mixes=[parameters]).values()

    # Whether this repeats the exported trial. One that ASHA stopped and `confirm` completed has no
    # scores of its own.
    repeated = None
    trial = None
    if study and origin and origin.is_exact:
        if study.prepared().fingerprint == prepared.fingerprint:
            repeated = study
            trial = ended_rows(study.rows_path).get(origin.trial)
        else:
            differ = f"the images or their split differ from those of study {study.path.name}"
            note(f"{differ}: so will the metrics")
    benefit = ""
    if study and origin:
        from xraytune.model.best import describe_benefit  # Optuna reads the journal

        benefit = describe_benefit(study, origin.trial)
    compute = _compute(settings, repeated, note)
    pin(compute)

    trained_on = _trained_on(experiment, prepared, index, cache, study)
    note(_sentence(trained_on, settings))
    for change in trained_on.changes:
        note(f"  {change}")
    steps = prepared.steps_per_epoch(settings)
    note(f"training: {counted(settings.budget.max_epochs, 'epoch')} of {steps:,} steps")
    depends_on: dict[str, Any] = {
        "space": space.identity(),
        "images": prepared.fingerprint,
        "steps_per_epoch": steps,
        "contents": contents,
        "compute": asdict(compute),
        "releases": releases(*TASKS[settings.task].packages),
        "extensions": extensions_of(parameters.backbone, parameters.source),
    }
    work = start_work(cache, TRAIN_STAGE, depends_on)
    samples: list[Path] = []

    def show_samples(experiment: Experiment, context: RunContext) -> None:
        samples.append(save_generator_grid(experiment, context, work / "samples"))
        where = f"{samples[-1]} (at the end: {out / SAMPLES})"
        note(f"the generator has been trained; its images next to real ones: {where}")

    context = RunContext(
        prepared=prepared,
        cache=cache,
        compute=compute,
        on_progress=on_progress,
        on_generator=show_samples,
    )
    with _locked(work):
        training = _train_final(experiment, context, work, on_epoch)
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
            write_card(folder, record, experiment, training, benefit)
            for grid in samples[-1:]:
                copy_file(grid, folder / SAMPLES)
        shutil.rmtree(work)
    if settings.tracking.wandb:
        run = WandbRun(
            settings.tracking.wandb,
            settings.objective.metric,
            (settings.name, study.identity() if study else work.name),
            kind="train",
            key=work.name,
            name=f"{settings.name} final {parameters.arm}",
            config={**flat_values(parameters, out), "arm": parameters.arm},
            dir=str(out.parent),
        )
        for epoch in training.epochs:
            run.log(epoch)
        results = {
            "status": "complete",
            "value": training.val_score,
            "val_b_score": training.val_b_score,
            "threshold": training.threshold,
        }
        run.finish(results, model=out)

    equals_trial = None
    if trial and trial.status == "complete" and not overrides:
        scores = (training.val_score, training.val_b_score)
        equals_trial = (trial.value, trial.val_b_score) == scores
    test_folder = settings.data.path / "test"
    return Trained(
        path=out,
        arm=parameters.arm,
        trained_on=trained_on,
        metric=settings.metric,
        val_score=training.val_score,
        val_b_score=training.val_b_score,
        test_folder=test_folder if test_folder.is_dir() else None,
        positive=record.positive if len(prepared.class_names) == 2 else None,
        threshold=training.threshold,
        validation_images=len(training.validated.labels),
        validation_patients=len({*training.validated.patients}),
        best_epoch=training.best_epoch,
        epochs=len(training.epochs),
        seconds=time.monotonic() - started,
        equals_trial=equals_trial,
    )


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


def _trained_on(
    experiment: Experiment,
    prepared: Prepared,
    index: ImageIndex,
    cache: Path,
    study: StudyFolder | None,
) -> TrainedOn:
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
        changes=tuple(_changes_of(experiment, prepared, study)),
    )


def _sentence(data: TrainedOn, settings: Settings) -> str:
    """Return what the model is trained on, in words."""
    patients = f"{data.patients:,} of {data.of_patients:,} patients"
    text = f"training on {data.images:,} of {data.of_images:,} images ({patients})"
    if data.kept_images:
        kept = f"{data.kept_images:,} images of {data.kept_patients:,} patients"
        text += f"; {kept} are kept for validation"
    left_out = data.of_images - data.images - data.kept_images
    if left_out:
        limit = settings.data.train_patients
        text += f", {left_out:,} are left out by data.train_patients: {limit}"
    return text


def _changes_of(
    experiment: Experiment, prepared: Prepared, study: StudyFolder | None
) -> Iterator[str]:
    """Yield what differs from the exported trial, one line each; its settings only if its study is here."""
    parameters = experiment.parameters
    origin = experiment.settings.exported_from
    if origin is None or origin.images is None:
        return
    if study:
        before = _final_values(study.experiment(origin.trial))
        for name, value in _final_values(experiment).items():
            if value != before.get(name):
                yield f"{name}: {value} (trial: {before.get(name)})"
    gan = parameters.gan
    size_px = experiment.settings.data.image_size
    if gan and gan.image_size < size_px and experiment.resolution_px is None:
        enlarged = f"{gan.image_size} px, enlarged to {size_px} px"
        yield f"images of the GAN: {enlarged}; real images are not matched to them"
    counts = prepared.train_counts
    if origin.images == sum(counts):
        return
    now = f"{sum(counts):,} of {prepared.train_patients:,} patients"
    yield f"training images: {now} (trial: {origin.images:,} images)"
    if parameters.source != "none":
        extra = len(plan_mix(counts, parameters))
        before = len(plan_mix([origin.images], parameters))
        ratio = parameters.synthetic_ratio
        yield f"extra images: {extra:,} (trial: {before:,}), at the same ratio of {ratio:g}"
    if gan:
        yield f"GAN: trained anew on these images, for the same {gan.steps:,} steps"


def _final_values(experiment: Experiment) -> dict[str, Value]:
    """Return what `final` may change, by dotted name."""
    settings = experiment.settings
    return {
        "data.image_size": settings.data.image_size,
        "budget.max_epochs": settings.budget.max_epochs,
        **flat_values(experiment.parameters),
    }


def _train_final(
    experiment: Experiment,
    context: RunContext,
    folder: Path,
    on_epoch: Callable[[EpochRecord], None],
) -> FinalTraining:
    """Train as a trial does, in a folder.

    With the study's images and threads, to the same metrics bit by bit.
    """
    epochs: list[EpochRecord] = []

    def collect(record: EpochRecord) -> None:
        epochs.append(record)
        on_epoch(record)

    result = run_trial(experiment, context, trial_dir=folder, on_epoch=collect)
    training = TrialTraining(experiment, context)
    load_best(folder / "checkpoint", training.trained)
    return FinalTraining(
        network=training.whole(),
        input_format=training.network.form,
        prepared=context.prepared,
        epochs=epochs,
        best_epoch=result.best_epoch,
        val_score=result.value,
        val_b_score=result.val_b_score,
        threshold=result.threshold,
        validated=training.validated(),
    )


def _compute(settings: Settings, study: StudyFolder | None, note: Callable[[str], None]) -> Compute:
    """Return the study's, for the same metrics as the trial.

    Otherwise this machine's, with all cores for a final model.
    """
    if study is not None:
        recorded = study.compute()
        if recorded.device == "cpu" or gpu_count():
            return recorded
        without = "the study ran on a GPU, but torch finds none here"
        note(f"{without}: metrics will differ slightly from the trial")
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
