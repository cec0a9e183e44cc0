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
from typing import Annotated, Literal, Self

import numpy as np
import safetensors.torch
from pydantic import Field, ValidationError, model_validator
from torch import nn

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
from xraytune.errors import ArtifactError, ConfigError, Problem
from xraytune.export.final import FinalTraining
from xraytune.files import read_bytes, read_json, sha256_of, write_json, write_text
from xraytune.metrics.shift import ClassSample, class_samples, summarise
from xraytune.metrics.threshold import ThresholdRule
from xraytune.models.inputs import InputFormat
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
_LARGEST_SIDE_PX = 1024
_MOST_SCORES = 1000
_INVALID = "this file is not valid in this version of xraytune"
_TRAIN_AGAIN = "train the model again with this version"
_FIX = "train the model again, or copy the whole folder again"


class ValidationScores(Model):
    """Images of one class on val-A and val-B together.

    `scores` are probabilities of the positive class, ascending; more than 1,000 are summarized by 1,000 quantiles.
    """

    images: Annotated[int, Field(ge=1)]
    patients: Annotated[int, Field(ge=1)]
    scores: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]

    def sample(self) -> ClassSample:
        """Return a sample for comparison with the same class in another folder."""
        return ClassSample(scores=np.array(self.scores), images=self.images, patients=self.patients)


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


class BundleRecord(Model):
    """The content of `bundle.json`; scores, threshold and `best_epoch` are those of `FinalTraining`.

    Attributes:
        class_names: In the order of the network's outputs; for a segmenter, only `image`.
        positive: The positive class; None for a segmenter.
        validation: With two classes, the scores that set the threshold, by class; else None.
        input_format: How decoded pixels become the network's input.
        loss: Training loss; `bce` has one output neuron.
        train_fingerprint: Fingerprint of the training images.
        test_fingerprint: Fingerprint of the sealed test folder; None if there was none.
        group_regex: Regular expression that reads patients from file names; None: the rules for public data sets.
        study: The study that the configuration was exported from, relative to the bundle.
        overrides: `--set` options of the training.
        packages: Package versions, and those of extensions such as `backbone tiny_net`.
    """

    version: Literal[1] = 1
    task: TaskName
    class_names: tuple[str, ...]
    positive: str | None
    threshold: float
    threshold_rule: ThresholdRule
    validation: dict[str, ValidationScores] | None
    input_format: InputFormat
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

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        names, form = self.class_names, self.input_format
        has_classes = len(names) > 1 and len({*names}) == len(names) and self.positive in names
        has_masks = names == ("image",) and self.positive is None
        if not (has_masks if self.task == "segmentation" else has_classes):
            raise ValueError("class_names: not valid for this task")
        if has_masks and (self.backbone not in ENCODERS or form.image_size_px % ENCODER_STRIDE_PX):
            raise ValueError("backbone: cannot be the encoder of a U-Net at this image size")
        if self.validation is not None and {*self.validation} != {*names}:
            raise ValueError("validation: needs scores of each class")
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
        return self.record.class_names.index(self.positive_name)

    @property
    def positive_name(self) -> str:
        """A classifier's positive class."""
        assert self.record.positive is not None, "a segmenter has none"
        return self.record.positive

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
            raise ArtifactError(Problem(_INVALID, file, _TRAIN_AGAIN)) from error

    def experiment(self) -> Experiment:
        """Return the experiment that was trained."""
        file = self.path / _CONFIG
        try:
            return load_space(file).experiment()
        except ConfigError as error:
            raise ArtifactError(Problem(_INVALID, file, _TRAIN_AGAIN)) from error

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
        return network.to(compute.device).eval()


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
    try:
        record = BundleRecord.model_validate_json(read_bytes(path / _RECORD, "JSON file"))
    except ValidationError as error:
        first = error.errors()[0]
        if (first["loc"], first["type"]) == (("backbone",), "literal_error"):
            what = f"the backbone {first['input']!r} is not part of xraytune, and no installed package provides it"
            raise ArtifactError(Problem(what, path / _RECORD, f"install its package, or {_TRAIN_AGAIN}")) from error
        raise ArtifactError(Problem(_INVALID, path / _RECORD, _TRAIN_AGAIN)) from error
    return Bundle(path=path, record=record, model_sha256=expected[_MODEL])
