"""Train the final model: one experiment, from its images to a model bundle, in this process.

This is a trial without a search: with the study's images and thread count its metrics are bit-identical. An
interrupted training resumes from its work folder in the cache, which is named by a hash of the experiment and its images.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from xraytune.classifier.checkpoint import load_best
from xraytune.classifier.weights import find_weights
from xraytune.compute import choose_compute, gpu_count, gpu_share, pin
from xraytune.config.load import load_space
from xraytune.config.settings import Settings, extensions_of
from xraytune.config.space import Space
from xraytune.errors import ArtifactError, Problem
from xraytune.export.bundle import write_bundle
from xraytune.files import explain_disk_errors, make_folder, new_folder, require_new, require_writable, sha256_of
from xraytune.lease import LeaseHeldError, hold
from xraytune.metrics.threshold import THRESHOLD_RULE, ThresholdRule
from xraytune.mix.plan import require_extra_images
from xraytune.pipeline.artifacts import artifact_path, releases
from xraytune.pipeline.inputs import build_inputs
from xraytune.pipeline.model import require_two_classes
from xraytune.pipeline.prepare import Prepared, prepare
from xraytune.pipeline.samples import save_gan_grid
from xraytune.pipeline.synthesize import copy_file
from xraytune.pipeline.trial import run_trial, validate
from xraytune.records import Compute, EpochRecord, Progress, ignore_progress
from xraytune.search.inputs import inputs_of_trials, read_inputs
from xraytune.search.study import StudyFolder, damage_explained

TRAIN_STAGE = "train-1.work"
SAMPLES = "samples.png"
"""In the bundle of a model that was trained with GAN images: some of them, beside real ones."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Summary of a final training.

    Attributes:
        positive: The positive class of two; None with more classes.
        threshold: Its probability from which an image is positive.
        validation_images: Number of images of val-A and val-B, which set the threshold.
        best_epoch: The epoch whose network was kept.
        seconds: Wall time of this run.
        equals_trial: Whether both AUROCs are those of the exported trial, to the bit; None if its study is missing or has no
            such AUROCs, or if images or settings differ.
    """

    path: Path
    arm: str
    val_auroc: float
    val_b_auroc: float
    positive: str | None
    threshold: float
    threshold_rule: ThresholdRule
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

    Args:
        config: YAML file of an experiment, e.g. from `export`; of a search space, the first entry of `points_to_evaluate`.
        out: Folder to create.
        data: Image folder; overrides the file's.
        weights_dir: Folder of official weight files, for machines without network access.
        overrides: `key=value` settings that override the file's.
        cache: Artifact cache; default: the one of the exported trial's study, or `cache`.
        skip_broken: Leave out broken images.
        on_epoch: Called after each epoch; on resuming, also for the earlier ones.
        on_progress: Called with the progress of preparation, GAN and training steps.
        note: Called with messages for the user.

    Raises:
        ConfigError: The file is invalid, or `out` exists.
        DataError: The images are invalid.
        MachineError: Weights, GPUs or disk space are missing.
        StudyError: The study of the exported trial is damaged.
        TrialError: The loss is not finite.
        ArtifactError: The same training is already running, or its checkpoint is damaged.
    """
    require_new(out)
    space = load_space(config, overrides, data=data, weights_dir=weights_dir)
    for text in space.notes:
        note(text)
    experiment = space.experiment()
    settings, parameters = experiment.settings, experiment.parameters
    if space.searched:
        chosen = ", ".join(f"{name} {value}" for name, value in space.points_to_evaluate[0].items())
        note(f"{config} is a search space: training the first entry of its points_to_evaluate ({chosen})")
    study = _study(settings, note)
    cache = (cache or (Path("cache") if study is None else study.default_cache)).resolve()
    require_writable(cache)
    require_two_classes(space)
    weights = find_weights(parameters.backbone, parameters.weights, settings.weights_dir)
    weights_sha256 = sha256_of(weights, "file of tensors") if weights else None
    prepared, warnings = prepare(settings, cache, skip_broken=skip_broken, on_progress=on_progress)
    for warning in warnings:
        note(warning)
    require_extra_images([parameters.synthetic_ratio] * (parameters.source != "none"), prepared.side("train").rows.size)
    folders = replace(inputs_of_trials([parameters]), weights=frozenset())
    contents = [weights_sha256, *read_inputs(folders, settings, prepared, cache).values()]
    if study and study.prepared().fingerprint != prepared.fingerprint:
        note(
            f"the images or their split differ from those of study {study.path.name}: metrics will differ from the trial"
        )
        study = None
    recorded = _recorded(settings, study) if study and not overrides else None
    compute = _compute(settings, study, note)
    pin(compute)
    work = _work_folder(space, prepared, compute, contents, cache)
    note(f"training: {settings.budget.max_epochs} epochs of {prepared.steps_per_epoch(settings)} steps")
    epochs: list[EpochRecord] = []
    grids: list[Path] = []

    def show_samples() -> None:
        assert parameters.gan is not None, "called only for a GAN"
        grids.append(save_gan_grid(parameters.gan, prepared, work / "samples", compute=compute, cache=cache))
        note(f"the GAN is trained; its images beside real ones: {grids[0]} (later {out / SAMPLES})")

    def collect(record: EpochRecord) -> None:
        epochs.append(record)
        on_epoch(record)

    with _locked(work):
        result = run_trial(
            experiment,
            prepared,
            trial_dir=work,
            cache=cache,
            compute=compute,
            on_epoch=collect,
            on_progress=on_progress,
            on_gan=show_samples,
        )
        assert result is not None, "without should_stop, a trial runs to its end"
        trial_inputs = build_inputs(experiment, prepared, cache=cache, compute=compute, on_progress=on_progress)
        load_best(work / "checkpoint", trial_inputs.trained)
        with new_folder(out) as folder:
            write_bundle(
                folder,
                out,
                experiment=experiment,
                overrides=overrides,
                prepared=prepared,
                classifier=trial_inputs.classifier(),  # the whole network, even if only its head was trained
                input_format=trial_inputs.network.form,
                epochs=epochs,
                result=result,
                validated=validate(trial_inputs, prepared, compute),
                compute=compute,
            )
            for grid in grids:
                copy_file(grid, folder / SAMPLES)
        shutil.rmtree(work)
    validation = [image.patient for image in prepared.images if image.side != "train"]
    return Trained(
        path=out,
        arm=parameters.arm,
        val_auroc=result.value,
        val_b_auroc=result.val_b_auroc,
        positive=prepared.class_names[prepared.positive] if len(prepared.class_names) == 2 else None,
        threshold=result.threshold,
        threshold_rule=THRESHOLD_RULE,
        validation_images=len(validation),
        validation_patients=len({*validation}),
        best_epoch=result.best_epoch,
        epochs=result.epochs,
        seconds=result.seconds,
        equals_trial=recorded and recorded == (result.value, result.val_b_auroc),
    )


def _study(settings: Settings, note: Callable[[str], None]) -> StudyFolder | None:
    """Return the study of the exported trial, if it exists."""
    if settings.exported_from is None:
        return None
    folder = StudyFolder(settings.exported_from.study)
    if folder.space_path.is_file():
        return folder
    note(f"the study of the exported trial does not exist here: {folder.path}")
    return None


def _compute(settings: Settings, study: StudyFolder | None, note: Callable[[str], None]) -> Compute:
    """Return the study's, for the same metrics as the trial; otherwise as for a trial of a search on this machine."""
    if study is not None:
        recorded = study.compute()
        if recorded.device == "cpu" or gpu_count():
            return recorded
        note("the study ran on a GPU, but torch finds none here: metrics will differ slightly from the trial")
    return choose_compute(gpus=gpu_share(settings.resources), threads=settings.resources.cpus_per_trial)


def _recorded(settings: Settings, study: StudyFolder) -> tuple[float, float] | None:
    """Return the AUROCs of the exported trial on val-A and val-B; None if ASHA stopped it and `confirm` completed it."""
    assert settings.exported_from is not None, "there is a study"
    trial = settings.exported_from.trial
    with damage_explained(study.rows_path):
        rows = (row for row in study.rows() if row["number"] == trial and row["status"] == "complete")
        return next(((row["value"], row["val_b_auroc"]) for row in rows), None)


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
        "releases": releases("torch", "torchvision"),
        "extensions": extensions_of(parameters.backbone, parameters.source),
    }
    return artifact_path(cache, TRAIN_STAGE, inputs)


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
