"""A model bundle: a folder with everything needed to use a trained network, and to reproduce it.

    bundle.json         classes, input format, threshold, validation metrics, origin, package versions
    config.yaml         the experiment, for `xraytune train`
    split.json          which image was on which side of the split
    epochs.jsonl        metrics of each epoch
    model.safetensors   the whole network, including pretrained layers
    manifest.json       SHA-256 of these files
    README.md           the model card, see card.py

No file contains a time or duration, so two trainings of one experiment write the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor, nn

from xraytune.compute import compute_like, pin
from xraytune.config.backbone_names import BACKBONES, ENCODER_STRIDE_PX, ENCODERS, BackboneName, size_problem
from xraytune.config.load import experiment_to_yaml, load_space
from xraytune.config.paths import absolute_path, relative_path
from xraytune.config.settings import (
    Experiment,
    HeadName,
    LossName,
    Model,
    Parameters,
    TaskName,
    Validation,
    extensions_of,
)
from xraytune.cores import cpu_count
from xraytune.errors import ArtifactError, ConfigError, Problem
from xraytune.export.final import FinalTraining
from xraytune.export.predictor import ModelRecord, Pixels, Predictor, ValidationScores, not_valid, read_record
from xraytune.files import read_bytes, read_json, sha256_of, write_json, write_text
from xraytune.metrics.classification import Floats, classification_metrics
from xraytune.metrics.intervals import Interval, patient_bootstrap
from xraytune.metrics.segmentation import mean_with_interval
from xraytune.metrics.shift import class_samples, summarise
from xraytune.metrics.threshold import ThresholdRule
from xraytune.models.classifier import Classifier
from xraytune.models.grad_cam import grad_cam
from xraytune.models.inputs import normalise, to_unit
from xraytune.models.segmenter import mask_probabilities
from xraytune.models.train import predict_probabilities
from xraytune.models.weights import load_tensors
from xraytune.pipeline.prepare import Prepared, read_prepared, write_prepared
from xraytune.pipeline.task import TASKS
from xraytune.pipeline.trial import Validated
from xraytune.records import Compute
from xraytune.tensors import UNREADABLE, save_state

_RECORD = "bundle.json"
_CONFIG = "config.yaml"
_MODEL = "model.safetensors"
_SPLIT = "split.json"
_MANIFEST = "manifest.json"
_FILES = (_RECORD, _CONFIG, _SPLIT, "epochs.jsonl", _MODEL)
_PACKAGES = ("xraytune", "torch", "torchvision", "numpy", "pillow")
NETWORK_PACKAGES: Mapping[TaskName, tuple[str, ...]] = {
    "classification": ("torch", "torchvision"),
    "segmentation": ("torch", "torchvision", "segmentation-models-pytorch"),
}
"""The packages that the network and its results depend on."""
_THRESHOLD_RULES: Mapping[Validation, ThresholdRule] = {
    "keep": "calibrated_val_a_val_b",
    "val_a": "calibrated_val_b",
    "all": "calibrated_out_of_fold",
}
"""The images that set a classifier's threshold."""
_REPLICATES = 1000
_LARGEST_SIDE_PX = 1024
_MOST_SCORES = 1000
_FIX = "train the model again, or copy the whole folder again"


class TrainedOn(Model):
    """The images that a model was trained on, and their patients.

    Attributes:
        kept_images: Images kept for validation.
        of_images: Images of the data folder without `test/`.
        validation: What was kept, see `FinalSettings`.
        changes: What differs from the exported trial, one line each.
    """

    images: int
    patients: int
    kept_images: int
    kept_patients: int
    of_images: int
    of_patients: int
    validation: Validation
    changes: tuple[str, ...]


class CardMetric(Model):
    """A metric on the validation images, with its 95 % interval over patients, or None if that is undefined."""

    name: str
    value: float
    interval: Interval | None


class BundleRecord(ModelRecord):
    """The content of `bundle.json`; scores, threshold and `best_epoch` are those of `FinalTraining`.

    Attributes:
        loss: Training loss; `bce` has one output neuron.
        train_fingerprint: Fingerprint of the training images.
        test_fingerprint: Fingerprint of the sealed test folder; None if there was none.
        group_regex: Regular expression that reads patients from file names; None: the rules for public data sets.
        study: The study that the configuration was exported from, relative to the bundle.
        overrides: `--set` options of the training.
        packages: Package versions, and those of extensions such as `backbone tiny_net`.
        metrics: The metrics of the model card; empty in older bundles.
    """

    backbone: Annotated[BackboneName, BACKBONES]
    input_channels: Literal[1, 3]
    head: HeadName
    loss: LossName
    arm: str
    val_score: float | None
    val_b_score: float | None
    out_of_fold_score: float | None
    best_epoch: int
    trained_on: TrainedOn
    train_fingerprint: str
    test_fingerprint: str | None
    group_regex: str | None
    study: str | None
    trial: int | None
    overrides: tuple[str, ...]
    compute: Compute
    packages: dict[str, str]
    metrics: tuple[CardMetric, ...] = ()

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        form, has_masks = self.input_format, self.task == "segmentation"
        if has_masks and (self.backbone not in ENCODERS or form.image_size_px % ENCODER_STRIDE_PX):
            raise ValueError("backbone: cannot be the encoder of a U-Net at this image size")
        if form.image_size_px > _LARGEST_SIDE_PX or size_problem(self.backbone, form.image_size_px):
            raise ValueError("input_format: unsupported image size")
        if form.resolution_px is not None and form.resolution_px < 1:
            raise ValueError("input_format: invalid resolution")
        if {len(form.mean), len(form.std)} != {self.input_channels}:
            raise ValueError("input_format: needs one mean and std per channel")
        if self.compute.device not in ("cpu", "cuda"):
            raise ValueError("compute: unknown device")
        if self.study is not None and "\0" in self.study:
            raise ValueError("study: not a path")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose checksums match; `model_sha256` is that of `model.safetensors`, which identifies the model."""

    path: Path
    record: BundleRecord
    model_sha256: str

    @property
    def positive(self) -> int:
        """The label of a classifier's positive class."""
        return self.record.class_names.index(self.record.positive_name)

    @property
    def study(self) -> Path | None:
        """Path of the study, unless it was moved; None if the configuration was not exported from one."""
        return None if self.record.study is None else Path(absolute_path(self.record.study, self.path))

    def prepared(self) -> Prepared:
        """Return the training and validation images."""
        file = self.path / _SPLIT
        try:
            return read_prepared(file)
        except ValueError as error:
            raise not_valid(file) from error

    def experiment(self) -> Experiment:
        """Return the experiment that was trained."""
        file = self.path / _CONFIG
        try:
            return load_space(file).experiment()
        except ConfigError as error:
            raise not_valid(file) from error

    def network(self, compute: Compute) -> nn.Module:
        """Return the trained network on the device, in evaluation mode."""
        record, file = self.record, self.path / _MODEL
        parameters = Parameters(
            backbone=record.backbone,
            input_channels=record.input_channels,
            head=record.head,
            loss=record.loss,
            weights="none",
        )
        network = TASKS[record.task].build_network(parameters, len(record.class_names), weights=None, seed=0)
        try:
            load_tensors(network, safetensors.torch.load_file(file))
        except UNREADABLE as error:
            raise ArtifactError(Problem("the file does not match the network in bundle.json", file, _FIX)) from error
        return network.to(compute.device).eval().requires_grad_(False)

    def predictor(self, compute: Compute | None = None) -> Predictor:
        """Return a predictor, by default with the precision of the training, and pin this process to its settings."""
        compute = compute or compute_like(self.record.compute, threads=cpu_count())
        pin(compute)
        network, form = self.network(compute), self.record.input_format
        predict = mask_probabilities if self.record.task == "segmentation" else predict_probabilities

        def inputs(pixels: Pixels) -> Tensor:
            return normalise(to_unit(torch.from_numpy(pixels).to(compute.device), form), form)

        def run(pixels: Pixels) -> NDArray[Any]:
            return predict(network, [inputs(pixels)], compute=compute, error=ArtifactError, where=self.path)

        def maps(pixels: Pixels) -> Floats:
            assert isinstance(network, Classifier), "a segmenter has no classes"
            return grad_cam(network, inputs(pixels))

        has_maps = isinstance(network, Classifier) and not self.record.backbone.startswith("vit")
        return Predictor(record=self.record, run=run, maps=maps if has_maps else None)


def write_bundle(
    folder: Path,
    final_path: Path,
    *,
    experiment: Experiment,
    overrides: Sequence[str],
    training: FinalTraining,
    trained_on: TrainedOn,
    compute: Compute,
) -> BundleRecord:
    """Write a bundle to `folder`, which will be moved to `final_path`; paths inside are relative to that."""
    settings, parameters = experiment.settings, experiment.parameters
    prepared = training.prepared
    origin = settings.exported_from
    packages = sorted({*_PACKAGES, *NETWORK_PACKAGES[settings.task]})
    record = BundleRecord(
        task=settings.task,
        class_names=prepared.class_names,
        positive=None if prepared.has_masks else prepared.class_names[prepared.positive],
        threshold=training.threshold,
        threshold_rule="fixed" if prepared.has_masks else _THRESHOLD_RULES[trained_on.validation],
        validation=_validation(prepared, training.validated),
        input_format=training.input_format,
        backbone=parameters.backbone,
        input_channels=parameters.input_channels,
        head=parameters.head,
        loss=parameters.loss,
        arm=parameters.arm,
        val_score=training.val_score,
        val_b_score=training.val_b_score,
        out_of_fold_score=training.out_of_fold_score,
        best_epoch=training.best_epoch,
        trained_on=trained_on,
        train_fingerprint=prepared.train_fingerprint,
        test_fingerprint=prepared.test_fingerprint,
        group_regex=settings.data.split.group_regex,
        study=None if origin is None else relative_path(origin.study, final_path),
        trial=None if origin is None else origin.trial,
        overrides=tuple(overrides),
        compute=compute,
        packages={name: version(name) for name in packages} | extensions_of(parameters.backbone, parameters.source),
        metrics=card_metrics(prepared, training.threshold, training.validated),
    )
    write_text(folder / _RECORD, record.model_dump_json(indent=2) + "\n")
    header = f"The experiment of this model, arm {parameters.arm}. Paths are relative to this file."
    write_text(folder / _CONFIG, experiment_to_yaml(experiment, final_path, header))
    write_prepared(prepared, folder / _SPLIT)
    epochs = [asdict(epoch) for epoch in training.epochs]
    rows = [{"version": 1, **{name: epoch[name] for name in epoch if name != "seconds"}} for epoch in epochs]
    write_text(folder / "epochs.jsonl", "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows))
    save_state(training.network, folder / _MODEL)
    write_json(folder / _MANIFEST, {"version": 1, "files": {name: sha256_of(folder / name) for name in _FILES}})
    return record


def _validation(prepared: Prepared, validated: Validated) -> dict[str, ValidationScores] | None:
    if len(prepared.class_names) != 2:
        return None
    scores = validated.results[:, prepared.positive]
    samples = class_samples(prepared.class_names, validated.labels, scores, validated.patients)
    return {
        name: ValidationScores(
            images=one.images, patients=one.patients, scores=tuple(summarise(one.scores, _MOST_SCORES).tolist())
        )
        for name, one in samples.items()
    }


def card_metrics(prepared: Prepared, threshold: float, validated: Validated) -> tuple[CardMetric, ...]:
    """Return the metrics of the model card, computed from the results on the validation images."""
    labels, results, patients = validated.labels, validated.results, validated.patients
    size_px = prepared.image_size_px
    if prepared.has_masks:
        dice, interval = mean_with_interval(results[:, 0], patients, replicates=_REPLICATES, seed=0)
        assert dice is not None, "Dice is always defined"
        return (CardMetric(name=f"mean Dice at {size_px} x {size_px} px", value=dice, interval=interval),)
    rule: dict[str, Any] = {"positive": prepared.positive, "threshold": threshold}
    found = asdict(classification_metrics(labels, results, **rule))
    intervals = patient_bootstrap(labels, results, patients, **rule, replicates=_REPLICATES, seed=0)
    positive = prepared.class_names[prepared.positive]
    names = {"auroc": "AUROC", "auprc": "AUPRC", "balanced_accuracy": "balanced accuracy"}
    names |= {name: f"{name} ({positive})" for name in ("sensitivity", "specificity")}
    return tuple(CardMetric(name=names[key], value=found[key], interval=intervals.get(key)) for key in names)


def open_bundle(path: Path) -> Bundle:
    """Open a bundle and verify its checksums.

    Raises:
        ArtifactError: This is not a bundle, or some of its files are missing or damaged.
    """
    if not (path / _MANIFEST).exists():
        fix = "give a folder created by `xraytune train`"
        raise ArtifactError(Problem(f"not a model bundle: {_MANIFEST} is missing", path, fix))
    try:
        expected = dict(read_json(path / _MANIFEST)["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(Problem("the file is damaged", path / _MANIFEST, _FIX)) from error
    problems = []
    for file in (path / name for name in _FILES):
        if not file.exists():
            problems.append(Problem("the file is missing", file, _FIX))
        elif sha256_of(file, "file of tensors") != expected.get(file.name):
            problems.append(Problem("the file is damaged: its SHA-256 differs from the manifest", file, _FIX))
    if problems:
        raise ArtifactError(*problems)
    record = read_record(BundleRecord, read_bytes(path / _RECORD, "JSON file"), path / _RECORD)
    return Bundle(path=path, record=record, model_sha256=expected[_MODEL])
