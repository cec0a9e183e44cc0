"""Write a model bundle (`pipeline/bundle.py`) with its model card, `README.md`, and verify it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from xraytune.config.load import experiment_to_yaml, load_space
from xraytune.config.paths import relative_path
from xraytune.config.settings import Experiment, TaskName, Validation, extensions_of
from xraytune.data.masks import read_mask, square_mask
from xraytune.errors import ConfigError, DataError, Problem, join_names
from xraytune.export.final import FOLDS, FinalTraining
from xraytune.export.predict import ImageFiles, map_outputs
from xraytune.files import sha256_of, write_json, write_text
from xraytune.metrics.classification import classification_metrics
from xraytune.metrics.intervals import patient_bootstrap
from xraytune.metrics.segmentation import mean_with_interval
from xraytune.metrics.shift import class_samples, summarise
from xraytune.metrics.threshold import ThresholdRule
from xraytune.pipeline.bundle import (
    BUNDLE_FILES,
    CONFIG_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    NETWORK_PARAMETERS,
    RECORD_FILE,
    SPLIT_FILE,
    Bundle,
    BundleRecord,
    CardMetric,
    TrainedOn,
    open_bundle,
)
from xraytune.pipeline.predictor import ValidationScores, not_valid
from xraytune.pipeline.prepare import Prepared, missing_images, read_prepared, write_prepared
from xraytune.pipeline.task import task_of
from xraytune.pipeline.trial import Validated
from xraytune.records import Compute, Progress, ignore_progress
from xraytune.tensors import save_state

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
_OF_TRAINING = ("threshold", "input_format", "val_score", "val_b_score", "out_of_fold_score", "best_epoch")
_REPLICATES = 1000
_MOST_SCORES = 1000
TOLERANCE = 0.001
"""One in the last digit that the model card shows."""


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
        threshold_rule="fixed" if prepared.has_masks else _THRESHOLD_RULES[trained_on.validation],
        validation=_validation(prepared, training.validated),
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
        packages={name: version(name) for name in packages} | extensions_of(parameters.backbone, parameters.source),
        metrics=card_metrics(prepared, training.threshold, training.validated),
    )
    write_text(folder / RECORD_FILE, record.model_dump_json(indent=2) + "\n")
    header = f"The experiment of this model, arm {parameters.arm}. Paths are relative to this file."
    write_text(folder / CONFIG_FILE, experiment_to_yaml(experiment, final_path, header))
    write_prepared(prepared, folder / SPLIT_FILE)
    rows = [{"version": 1, **asdict(epoch)} for epoch in training.epochs]
    for row in rows:
        del row["seconds"]
    write_text(folder / "epochs.jsonl", "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows))
    save_state(training.network, folder / MODEL_FILE)
    checksums = {name: sha256_of(folder / name) for name in BUNDLE_FILES}
    write_json(folder / MANIFEST_FILE, {"version": 1, "files": checksums})
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


def write_card(folder: Path, record: BundleRecord, experiment: Experiment, training: FinalTraining) -> None:
    """Write the card as Markdown, from `templates/card.md`. It holds no path, time or date, and may be edited."""
    used, patients = record.trained_on, training.validated.patients
    sides = Counter(image.side.replace("_a", "-A").replace("_b", "-B") for image in training.prepared.images)
    environment = Environment(
        loader=PackageLoader("xraytune.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: text.replace("|", r"\|")
    text = environment.get_template("card.md").render(
        record=record,
        settings=experiment.settings,
        parameters=experiment.parameters,
        unused_images=used.of_images - used.images - used.kept_images,
        sides=", ".join(f"{count:,} {side}" for side, count in sorted(sides.items())),
        epochs=len(training.epochs),
        validated=(len(patients), len({*patients})),
        folds=FOLDS,
    )
    write_text(folder / "README.md", text)


def prepared_of(bundle: Bundle) -> Prepared:
    """Return a bundle's training and validation images."""
    file = bundle.path / SPLIT_FILE
    try:
        return read_prepared(file)
    except ValueError as error:
        raise not_valid(file) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedNumber:
    """A number of the model card, as recorded and as recomputed; `differs` means by more than `TOLERANCE`."""

    name: str
    recorded: float
    recomputed: float
    differs: bool


def verify(model: Path, *, data: Path, on_progress: Progress = ignore_progress) -> tuple[VerifiedNumber, ...]:
    """Verify the checksums of a bundle, and recompute its scores, threshold, metrics and intervals.

    Args:
        model: Model bundle.
        data: The image folder or data file that the model was trained on; it may have moved.
        on_progress: Called with progress.

    Raises:
        ArtifactError: The bundle is missing or damaged.
        ConfigError: The numbers are out-of-fold, from networks that are not in the bundle.
        DataError: Images are missing or have changed.
    """
    bundle = open_bundle(model)
    prepared, form = prepared_of(bundle), bundle.record.input_format
    kept = [image for side in ("val_a", "val_b") for image in prepared.images if image.side == side]
    if not kept:
        what = "the checksums match, but the card's numbers are out-of-fold, from networks that are not in the bundle"
        raise ConfigError(Problem(what, model, "score it on other images with `xraytune evaluate`"))
    settings = load_space(model / "config.yaml", data=data).experiment().settings
    index = task_of(settings).read_index(settings.data, on_progress=on_progress)
    if missing := missing_images(prepared, index.images):
        what = f"{len(missing)} of {len(prepared.images)} images are missing or have changed: {join_names(missing, 3)}"
        raise DataError(Problem(what, data, "give the data folder that the model was trained on"))
    by_file = {image.file: image for image in index.images}

    def result(file: str, output: NDArray[Any]) -> NDArray[Any]:
        if not prepared.has_masks:
            return output
        true = square_mask(read_mask(index.root, by_file[file].masks), form.image_size_px, form.resize) > 0
        found = output >= bundle.record.threshold
        return np.array([2 * (found & true).sum() / (found.sum() + true.sum())])

    files = [image.file for image in kept]
    given = ImageFiles(root=index.root, files=files, skip_broken=False, on_progress=on_progress)
    results, _ = map_outputs(bundle.predictor(), given, result, title="computing the model's numbers")
    labels = np.array([image.label for image in kept], dtype=np.int64)
    patients = tuple(image.patient for image in kept)
    validated = Validated(labels=labels, results=np.stack(results), patients=patients)
    return tuple(
        VerifiedNumber(name=name, recorded=old, recomputed=new, differs=not abs(old - new) <= TOLERANCE)
        for name, old, new in _numbers(bundle, validated)
    )


def _numbers(bundle: Bundle, again: Validated) -> Iterator[tuple[str, float, float]]:
    """Yield the name of each number, its recorded value and its recomputed value."""
    record, prepared, task = bundle.record, prepared_of(bundle), task_of(bundle.experiment().settings)
    end = len(prepared.side("val_a").rows)
    sides = (("val-A", record.val_score, slice(end)), ("val-B", record.val_b_score, slice(end, None)))
    for name, score, side in sides:
        if score is not None:
            value = task.score(again.labels[side], again.results[side], positive=prepared.positive)
            yield f"score on {name}", score, value
    threshold = task.threshold(again.labels, again.results, prepared.positive)
    yield "threshold", record.threshold, threshold
    for old, new in zip(record.metrics, card_metrics(prepared, threshold, again), strict=False):
        yield old.name, old.value, new.value
        for name, low, high in zip(("low", "high"), old.interval or (), new.interval or (), strict=False):
            yield f"{old.name}, {name}", low, high
