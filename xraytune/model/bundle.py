"""Write a model bundle (`model/load.py`) with its model card, `README.md`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from xraytune.base.files import markdown, sha256_of, write_json, write_text
from xraytune.base.records import Compute, EpochRecord
from xraytune.base.tensors import save_state
from xraytune.data.decoding import InputFormat
from xraytune.data.prepare import Prepared, write_prepared
from xraytune.model.bundle_record import BundleRecord, CardMetric, TrainedOn
from xraytune.model.load import (
    BUNDLE_FILES,
    CONFIG_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    NETWORK_PARAMETERS,
    RECORD_FILE,
    SPLIT_FILE,
)
from xraytune.space.load import experiment_to_yaml
from xraytune.space.paths import relative_path
from xraytune.space.settings import Experiment, TaskName, extensions_of
from xraytune.stats.breakdown import class_breakdown
from xraytune.stats.classification import ScoredImages, reported_metrics, scored_findings
from xraytune.stats.intervals import measure
from xraytune.stats.segmentation import measure_means
from xraytune.stats.threshold import balanced_threshold
from xraytune.trial.run import Validated

_PACKAGES = ("xraytune", "torch", "torchvision", "numpy", "pillow")
NETWORK_PACKAGES: Mapping[TaskName, tuple[str, ...]] = {
    "classification": ("torch", "torchvision"),
    "findings": ("torch", "torchvision"),
    "segmentation": ("torch", "torchvision", "segmentation-models-pytorch"),
}
"""The packages that the network and its results depend on."""
_OF_TRAINING = ("threshold", "input_format", "val_score", "val_b_score", "best_epoch")
_REPLICATES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTraining:
    """A trained network, whole even if only its head was trained, and what its validation found.

    Attributes:
        val_score: On val-A, as `val_b_score` on val-B.
        threshold: The probability from which an image of two classes is positive, or a pixel
        belongs to the mask.
        validated: The images of val-A and then val-B.
    """

    network: nn.Module
    input_format: InputFormat
    prepared: Prepared
    epochs: Sequence[EpochRecord]
    best_epoch: int
    val_score: float
    val_b_score: float
    threshold: float
    validated: Validated


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
        class_names=prepared.outputs,
        positive=None
        if prepared.has_masks or prepared.findings
        else prepared.class_names[prepared.positive],
        thresholds=finding_thresholds(prepared, training.validated),
        **parameters.model_dump(include=NETWORK_PARAMETERS),
        **{name: getattr(training, name) for name in _OF_TRAINING},
        arm=parameters.arm,
        trained_on=trained_on,
        train_fingerprint=prepared.train_fingerprint,
        test_fingerprint=prepared.test_fingerprint,
        group_regex=settings.data.split.group_regex,
        study=None if origin is None else relative_path(origin.study, final_path),
        trial=None if origin is None else origin.trial,
        overrides=tuple(overrides),
        compute=compute,
        packages={name: version(name) for name in packages}
        | extensions_of(parameters.backbone, parameters.source),
        metrics=card_metrics(prepared, training.threshold, training.validated),
    )
    unused = None if record.thresholds else {"thresholds"}
    write_text(folder / RECORD_FILE, record.model_dump_json(indent=2, exclude=unused) + "\n")
    header = f"The experiment of this model, arm {parameters.arm}. Paths are relative to this file."
    write_text(folder / CONFIG_FILE, experiment_to_yaml(experiment, final_path, header))
    write_prepared(prepared, folder / SPLIT_FILE)
    rows = [{"version": 1, **asdict(epoch)} for epoch in training.epochs]
    for row in rows:
        del row["seconds"]
    write_text(
        folder / "epochs.jsonl", "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows)
    )
    save_state(training.network.state_dict(), folder / MODEL_FILE)
    checksums = {name: sha256_of(folder / name) for name in BUNDLE_FILES}
    write_json(folder / MANIFEST_FILE, {"version": 1, "files": checksums})
    return record


def finding_thresholds(prepared: Prepared, validated: Validated) -> dict[str, float]:
    """Return the threshold of each finding for balanced accuracy on the validation images; 0.5 if all or none have it."""
    thresholds = {}
    for number, name in enumerate(prepared.findings):
        is_known = validated.labels[:, number] >= 0
        has_it, scores = (
            validated.labels[is_known, number] == 1,
            validated.results[is_known, number],
        )
        thresholds[name] = (
            balanced_threshold(has_it, scores) if len({*has_it.tolist()}) == 2 else 0.5
        )
    return thresholds


def card_metrics(
    prepared: Prepared, threshold: float, validated: Validated
) -> tuple[CardMetric, ...]:
    """Return the metrics of the model card, computed from the results on the validation images."""
    labels, results, patients = validated.labels, validated.results, validated.patients
    size_px = prepared.image_size_px
    if prepared.has_masks:
        means = measure_means({"dice": results[:, 0]}, patients, replicates=_REPLICATES, seed=0)
        name = f"mean Dice at {size_px} x {size_px} px"
        return (
            CardMetric(
                name=name, value=means.value_of("dice"), interval=means.intervals.get("dice")
            ),
        )
    scored = ScoredImages(labels, results, positive=prepared.positive, threshold=threshold)
    measured = measure(scored, patients, replicates=_REPLICATES, seed=0)
    positive = prepared.class_names[prepared.positive] if scored.class_count == 2 else None
    shown = []
    for metric in reported_metrics(0 if prepared.findings else scored.class_count, "card"):
        label = (
            f"{metric.label} (mean over findings)"
            if prepared.findings
            else metric.of(metric.label, positive)
        )
        shown.append((label, metric.name, measured))
    if prepared.findings:
        each = class_breakdown(scored, patients, replicates=_REPLICATES, seed=0)
        for number, of_finding in zip(scored_findings(labels), each, strict=True):
            shown.append((f"AUROC ({prepared.findings[number]})", "auroc", of_finding))
    return tuple(
        CardMetric(name=name, value=of.metrics[key], interval=of.intervals.get(key))
        for name, key, of in shown
    )


def write_card(
    folder: Path, record: BundleRecord, experiment: Experiment, training: FinalTraining
) -> None:
    """Write the card as Markdown, from `templates/card.md`. It holds no path, time or date, and may be edited."""
    used, patients = record.trained_on, training.validated.patients
    sides = Counter(
        image.side.replace("_a", "-A").replace("_b", "-B") for image in training.prepared.images
    )
    environment = Environment(
        loader=PackageLoader("xraytune.model"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: markdown(value) if isinstance(value, str) else value,
    )
    text = environment.get_template("card.md").render(
        record=record,
        settings=experiment.settings,
        parameters=experiment.parameters,
        unused_images=used.of_images - used.images - used.kept_images,
        sides=", ".join(f"{count:,} {side}" for side, count in sorted(sides.items())),
        epochs=len(training.epochs),
        validated=(len(patients), len({*patients})),
    )
    write_text(folder / "README.md", text)
