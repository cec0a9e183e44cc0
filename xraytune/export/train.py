"""The final training: one experiment, from its images to a model bundle, in this very process.

It is a trial without a search: the same function, and with the study's images and thread count the same numbers.
Interrupted at any point, the same command goes on: what it has done lies in a work folder of the cache, at the fingerprint
of the experiment and its images.
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
from xraytune.config.settings import Experiment, Settings, extensions_of
from xraytune.errors import ArtifactError, Problem
from xraytune.export.bundle import write_bundle
from xraytune.files import explained_disk_errors, make_folder, new_folder, require_new, require_writable, sha256_of
from xraytune.lease import HeldError, held
from xraytune.metrics.threshold import THRESHOLD_RULE, ThresholdRule
from xraytune.mix.plan import require_extra_images
from xraytune.pipeline.artifacts import artifact_path, releases
from xraytune.pipeline.inputs import build_inputs
from xraytune.pipeline.model import require_two_classes
from xraytune.pipeline.prepare import Prepared, prepare
from xraytune.pipeline.trial import run_trial, validate
from xraytune.records import Compute, EpochRecord, Json, Progress, TrialResult, ignore_progress
from xraytune.search.inputs import inputs_of_trials, read_inputs
from xraytune.search.study import StudyFolder, damage_explained

TRAIN_STAGE = "train-1.work"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a final training ended with.

    Attributes:
        path: The model bundle.
        arm: Of the training mix.
        val_auroc: On val-A.
        val_b_auroc: On val-B.
        positive: Of two classes, the one that an image is called from the threshold on; else None.
        threshold: Its probability there.
        threshold_rule: The rule that set it, as in `bundle.json`.
        validation_images: Images of val-A and val-B, which it was set on.
        validation_patients: Patients on them.
        best_epoch: Whose network was kept.
        epochs: Epochs trained.
        seconds: Wall time of this run of the training.
        equals_trial: Whether val-A and val-B AUROC are those of the exported trial, to the bit, as they are on the CPU that
            it ran on; None where the study is not here or has no such figures, or other images or settings were asked for.
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

    def to_json(self) -> dict[str, Json]:
        """The record as JSON values."""
        return asdict(self) | {"path": str(self.path)}


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
    """Train the experiment of a file and write the model bundle; everything is checked before anything is trained.

    Args:
        config: A YAML file in which nothing is left to choose, such as `export` writes; of a space, the first line of its
            `points_to_evaluate`.
        out: Where the bundle appears, whole.
        data: A data folder instead of the file's.
        weights_dir: A folder of official weight files, for machines without a network.
        overrides: `key=value` lines that replace the file's.
        cache: The artifact cache; by default the one beside the exported trial's studies, or `cache`.
        skip_broken: Leave broken images out, and say which.
        on_epoch: Told each epoch, those of an interrupted run again.
        on_progress: Told how far the preparation, the GAN and the training steps are.
        note: Told what a person should know.

    Raises:
        ConfigError: The file, or `out` exists.
        DataError: The images.
        MachineError: Weights, GPUs or disk.
        StudyError: The study that the file was exported from is damaged.
        TrialError: A loss that is not finite.
        ArtifactError: The same training runs already, or its checkpoint is damaged.
    """
    require_new(out)
    space = load_space(config, overrides, data=data, weights_dir=weights_dir)
    experiment = space.experiment()
    settings = experiment.settings
    if space.searched:
        chosen = ", ".join(f"{name} {value}" for name, value in space.points_to_evaluate[0].items())
        note(f"{config} is a space: this trains the first line of its points_to_evaluate ({chosen})")
    study = _study(settings, note)
    cache = (cache or (Path("cache") if study is None else study.default_cache)).resolve()
    require_writable(cache)
    require_two_classes(space)
    weights_sha256 = _weights_sha256(experiment)
    prepared, warnings = prepare(settings, cache, skip_broken=skip_broken, on_progress=on_progress)
    for warning in warnings:
        note(warning)
    parameters = experiment.parameters
    require_extra_images([parameters.synthetic_ratio] * (parameters.source != "none"), prepared.side("train").rows.size)
    folders = replace(inputs_of_trials([parameters]), weights=frozenset())
    extra = [*read_inputs(folders, settings, prepared, cache).values()]
    study = _of_these_images(study, prepared, note)
    recorded = None if overrides or study is None else _recorded(settings, study)
    compute = _compute(settings, study, note)
    pin(compute)
    training = _Training(experiment=experiment, prepared=prepared, compute=compute, cache=cache)
    work = training.work(space.identity(), weights_sha256, extra)
    note(f"training: {settings.budget.max_epochs} epochs of {prepared.steps_per_epoch(settings)} steps")
    with _claimed(work):
        epochs, result = training.run(work, on_epoch, on_progress)
        training.bundle(work, out, overrides, epochs, result, on_progress)
        shutil.rmtree(work)
    validation = [image.patient for image in prepared.images if image.side != "train"]
    return Trained(
        path=out,
        arm=experiment.parameters.arm,
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
        equals_trial=None if recorded is None else recorded == (result.value, result.val_b_auroc),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """What is trained, on what, and where its artifacts lie."""

    experiment: Experiment
    prepared: Prepared
    compute: Compute
    cache: Path

    def work(self, space: dict[str, Json], weights_sha256: str | None, extra: list[str]) -> Path:
        """The work folder: its name follows from all that the bits of this training depend on.

        `space` is its identity, which leaves out where things lie: a training goes on after its folders moved.
        """
        inputs: dict[str, Any] = {"space": space, "weights": weights_sha256}
        inputs |= {"images": self.prepared.fingerprint, "compute": asdict(self.compute)}
        inputs["releases"] = releases("torch", "torchvision")
        if extra:
            inputs["extra"] = extra
        if others := extensions_of(self.experiment.parameters.backbone, self.experiment.parameters.source):
            inputs["extensions"] = others
        return artifact_path(self.cache, TRAIN_STAGE, inputs)

    def run(
        self, work: Path, on_epoch: Callable[[EpochRecord], None], on_progress: Progress
    ) -> tuple[list[EpochRecord], TrialResult]:
        """All epochs, those of an interrupted run included, and what they came to."""
        epochs: list[EpochRecord] = []

        def on_result(record: EpochRecord) -> None:
            epochs.append(record)
            on_epoch(record)

        result = run_trial(
            self.experiment,
            self.prepared,
            trial_dir=work,
            cache=self.cache,
            compute=self.compute,
            on_epoch=on_result,
            on_progress=on_progress,
        )
        assert result is not None, "nothing asks it to stop"
        return epochs, result

    def bundle(
        self,
        work: Path,
        out: Path,
        overrides: Sequence[str],
        epochs: list[EpochRecord],
        result: TrialResult,
        on_progress: Progress,
    ) -> None:
        """Write the whole network with the weights of the best epoch; the loop may have trained its head alone."""
        trial_inputs = build_inputs(
            self.experiment, self.prepared, cache=self.cache, compute=self.compute, on_progress=on_progress
        )
        load_best(work / "checkpoint", trial_inputs.trained)
        with new_folder(out) as folder:
            write_bundle(
                folder,
                out,
                experiment=self.experiment,
                overrides=overrides,
                prepared=self.prepared,
                classifier=trial_inputs.classifier(),
                input_format=trial_inputs.form,
                epochs=epochs,
                result=result,
                validated=validate(trial_inputs, self.prepared, self.compute),
                compute=self.compute,
            )


def _study(settings: Settings, note: Callable[[str], None]) -> StudyFolder | None:
    """The study that the file was exported from, where it lies on this disk."""
    if settings.exported_from is None:
        return None
    folder = StudyFolder(settings.exported_from.study)
    if not folder.space_path.is_file():
        note(f"the study that this was exported from is not here: {folder.path}")
        return None
    return folder


def _of_these_images(study: StudyFolder | None, prepared: Prepared, note: Callable[[str], None]) -> StudyFolder | None:
    """The study, if its numbers can be repeated on these images."""
    if study is None or study.prepared().fingerprint == prepared.fingerprint:
        return study
    note(f"the images or their split are not those of the study {study.path.name}: its numbers will not be repeated")
    return None


def _weights_sha256(experiment: Experiment) -> str | None:
    parameters = experiment.parameters
    weights = find_weights(parameters.backbone, parameters.weights, experiment.settings.weights_dir)
    return None if weights is None else sha256_of(weights, "file of tensors")


def _compute(settings: Settings, study: StudyFolder | None, note: Callable[[str], None]) -> Compute:
    """The study's, so that the numbers are the trial's; without one, what its trials would be given here."""
    if study is not None:
        recorded = study.compute()
        if recorded.device == "cpu" or gpu_count():
            return recorded
        note("the study was searched on a GPU, and torch sees none here: its numbers will be repeated roughly")
    return choose_compute(gpus=gpu_share(settings.resources), threads=settings.resources.cpus_per_trial)


def _recorded(settings: Settings, study: StudyFolder) -> tuple[float, float] | None:
    """The exported trial's AUROCs on val-A and val-B; None of one that ASHA stopped and `confirm` trained to its end."""
    assert settings.exported_from is not None, "there is a study"
    trial = settings.exported_from.trial
    with damage_explained(study.rows_path):
        rows = (row for row in study.rows() if row["number"] == trial and row["status"] == "complete")
        return next(((row["value"], row["val_b_auroc"]) for row in rows), None)


@contextmanager
def _claimed(work: Path) -> Iterator[None]:
    """Hold a work folder: two processes in one would write each other's log."""
    with explained_disk_errors(work):
        make_folder(work)
    try:
        with held(work / ".lock"):
            yield
    except HeldError as error:
        fix = "wait for it, or end it (Ctrl-C there); the same command then goes on"
        what = f"this very training runs already: {error.owner or 'another process'}"
        raise ArtifactError(Problem(what, work, fix)) from None
