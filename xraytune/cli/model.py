"""Commands on single models: `train`, `evaluate`, `predict` and `model summary`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from xraytune.base.errors import join_names
from xraytune.cli import console, options
from xraytune.cli.console import Cell, Column, Frame, Row, Table, numbers

if TYPE_CHECKING:
    from xraytune.model.evaluate import Evaluation
    from xraytune.model.mask_evaluation import MaskEvaluation
    from xraytune.model.train import Trained
    from xraytune.stats.segmentation import MaskMetrics

METRIC_LABELS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "calibration error",
}
_MASK_LABELS = {"dice": "Dice", "iou": "IoU", "hd95_px": "HD95 (pixels)"}
_OF_POSITIVE = ("auprc", "sensitivity", "specificity", "ppv", "npv", "f1")
_BY_CLASS = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv")
_MOST_CONFUSED = 5


def train(
    config: options.ConfigFile,
    out: Annotated[Path, Option("--out", "-o", metavar="MODEL", help="Folder to create.")],
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    as_json: options.AsJson = False,
) -> None:
    """Train the final model, without Ray, and write it with a model card. Run the same command again to resume."""
    from xraytune.model.train import train

    with console.progress() as on_progress:
        trained = train(
            config,
            out=out,
            data=data,
            weights_dir=weights_dir,
            overrides=overrides or (),
            cache=cache,
            skip_broken=skip_broken,
            on_epoch=lambda one: console.event(
                f"epoch {one.epoch:3d}  train loss {one.train_loss:.4f}  val-A loss {one.val_loss:.4f}  "
                f"val-A score {one.val_score:.4f}"
            ),
            on_progress=on_progress,
            note=console.event,
        )
    console.show_result(trained, show_training, as_json=as_json)


def show_training(trained: Trained, *, next_step: bool = True) -> None:
    """Print the metrics of a trained model and the next command."""
    scores = f"val-A {trained.metric} {trained.val_score:.3f}, val-B {trained.metric} {trained.val_b_score:.3f}"
    console.write(f"{trained.path}: arm {trained.arm}, epoch {trained.best_epoch} of {trained.epochs}, {scores}")
    data = trained.trained_on
    patients = f"{data.patients:,} of {data.of_patients:,} patients"
    console.write(f"trained on {data.images:,} of {data.of_images:,} images, {patients}")
    if trained.positive:
        threshold = f"threshold for {trained.positive}: {trained.threshold:.3f}"
        images = f"{trained.validation_images:,} images of {trained.validation_patients:,} patients"
        console.write(f"{threshold}, for balanced accuracy on val-A and val-B ({images})")
    if trained.equals_trial:
        console.write("metrics are bit-identical to those of the exported trial", "good")
    elif trained.equals_trial is False:
        console.write("metrics differ from those of the exported trial: other hardware or package versions", "busy")
    if next_step:
        console.write_command(f"xraytune evaluate {quote(str(trained.path))} --data FOLDER", "next: ")


def evaluate(
    model: options.ModelArgument,
    data: Annotated[
        Path,
        Option(
            metavar="SOURCE",
            help="Folder with one subfolder per class (for a segmenter, images/ and masks/), or data file (YAML), whose "
            "test images are used.",
        ),
    ],
    out: Annotated[
        Path | None,
        Option("--out", "-o", metavar="OUT", help="Folder to create: predictions, tables (CSV, JSON) and a figure."),
    ] = None,
    by: Annotated[
        list[str] | None,
        Option(metavar="COLUMN", help="Also report subgroups by this column of the patient table; repeatable."),
    ] = None,
    reason: options.Reason = "",
    skip_broken: options.SkipBroken = False,
    at_sensitivity: options.AtSensitivity = None,
    as_json: options.AsJson = False,
) -> None:
    """Evaluate a model on labelled images or pairs, with 95 % confidence intervals over patients."""
    from xraytune.model.evaluate import evaluate

    with console.progress() as on_progress:
        found = evaluate(
            model,
            data=data,
            out=out,
            by=by or (),
            skip_broken=skip_broken,
            reason=reason,
            sensitivity=at_sensitivity,
            on_progress=on_progress,
        )
    console.show_json(found.to_json()) if as_json else show_evaluation(found)


def show_evaluation(found: Evaluation | MaskEvaluation) -> None:
    """Print the metrics, with warnings that matter for their interpretation."""
    from xraytune.model.evaluate import Evaluation

    if isinstance(found, Evaluation):
        count, by_class = sum(found.class_counts.values()), _by_name(found.class_counts)
        images = f"{count} images ({by_class}) of {found.patients} patients"
        parts, files = _classes(found), "predictions.csv, evaluation.png and the data of its panels"
    else:
        images = f"{found.metrics.images} images of {found.metrics.patients} patients"
        parts, files = _masks(found), "per_image.csv, evaluation.png"
    console.show(Cell(f"{found.model} on {found.data}: {images}", "strong"), *_warnings(found), *parts)
    if found.out:
        console.write(f"\n{found.out}: metrics.json, {files}")


def _by_name(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _classes(found: Evaluation) -> Iterator[Cell | str | Table]:
    if found.shift:
        yield from (Cell(warning, "busy") for warning in found.shift.warnings)
    yield _metrics(found)
    if found.threshold is None:
        yield _class_table(found)
    if len(found.class_counts) <= _MOST_CONFUSED:
        names = [*found.class_counts]
        rows: list[Row] = [
            (Cell(name, "dim"), *(f"{count} ({count / sum(row):.0%})" for count in row))
            for name, row in zip(names, found.confusion, strict=True)
        ]
        title = "Confusion matrix: true classes in rows, predicted classes in columns"
        yield Table(["", *numbers(*names)], rows, title)
    if found.patients != sum(found.class_counts.values()):
        yield from _patient_level(found)
    for column in found.subgroups:
        yield from _subgroups(column, found)


def _masks(found: MaskEvaluation) -> Iterator[Cell | str | Table]:
    metrics = found.metrics
    intervals = metrics.intervals
    rows = [(label, *_with_interval(getattr(metrics, key), intervals, key)) for key, label in _MASK_LABELS.items()]
    yield Table(["", *numbers("mean"), "95 % interval"], rows)
    if metrics.empty_predictions:
        yield Cell(f"empty predictions: {metrics.empty_predictions} (Dice 0, HD95 undefined)", "busy")
    worst = [(one.file, *(_number(getattr(one, name), name) for name in _MASK_LABELS)) for one in found.worst]
    columns = (Column("", flexible=True), *numbers(*_MASK_LABELS.values()))
    yield Table(columns, worst, "The images with the lowest Dice")
    for name, values in found.subgroups.items():
        yield _mask_subgroups(name, values)


def _mask_subgroups(column: str, values: Mapping[str, MaskMetrics]) -> Table:
    rows: list[Row] = []
    for value, one in values.items():
        dice, hd95_px = _with_interval(one.dice, one.intervals, "dice"), _number(one.hd95_px, "hd95_px")
        rows.append((value, f"{one.images}", f"{one.patients}", f"{one.empty_predictions}", *dice, hd95_px))
    counts, hd95 = numbers("images", "patients", "empty", "Dice"), numbers(_MASK_LABELS["hd95_px"])
    return Table(["", *counts, "95 % interval", *hd95], rows, f"By {column} (exploratory)")


def _warnings(found: Evaluation | MaskEvaluation) -> list[Cell]:
    warnings = [Cell(f"left out: {image.file}: {image.reason}", "bad") for image in found.broken]
    if found.opened_test:
        first = "the first access by this model or its study"
        times = first if found.test_access == 1 else f"access number {found.test_access}"
        warnings.append(Cell(f"these are the test images of the model's own data: {times} was logged", "busy"))
    if found.known_patients:
        images, patients = found.images_of_known_patients, found.known_patients
        known = (
            f"{images} of these images belong to {patients} patient{'s' * (patients > 1)} in the model's own training or "
            f"validation set ({found.known_images} are the same files): the metrics are optimistically biased"
        )
        warnings.append(Cell(known, "bad"))
    return warnings


def _metrics(found: Evaluation) -> Table:
    from xraytune.model.evaluate import AT_THRESHOLD

    labels = dict(METRIC_LABELS)
    if found.threshold is None:
        labels = {key: labels[key] for key in labels if key not in _BY_CLASS}
        labels = {"auroc": "AUROC (macro)", "auprc": "AUPRC (macro)"} | labels | {"f1": "F1 (macro)"}
    else:
        labels |= {key: f"{labels[key]} ({found.positive})" for key in _OF_POSITIVE}
    values = asdict(found.metrics)
    name = "most probable class" if found.threshold is None else f"threshold {found.threshold:.3f}"
    rows: list[Row] = []
    for key, label in labels.items():
        half = [_number(getattr(found.at_half, key)) if key in AT_THRESHOLD else ""] if found.at_half else []
        shown = Cell(label, "strong" if key == "auroc" else "plain")
        rows.append([shown, *_with_interval(values[key], found.intervals, key), *half])
    at_half = numbers("threshold 0.5") if found.at_half else []
    return Table(["", *numbers(name), "95 % interval", *at_half], rows)


def _number(value: float | None, name: str = "") -> str:
    return "undefined" if value is None else format(value, ".1f" if name == "hd95_px" else ".3f")


def _with_interval(value: float | None, intervals: Mapping[str, tuple[float, float]], name: str) -> tuple[str, str]:
    return _number(value, name), " to ".join(_number(end, name) for end in intervals.get(name, ()))


def _class_table(found: Evaluation) -> Table:
    """Show each class, with the intervals in a second line."""
    rows: list[Row] = []
    for name, one in found.classes.items():
        ends = ([f"{end:.2f}".removeprefix("0") for end in one.intervals.get(key, ())] for key in _BY_CLASS)
        rows.append((Cell(name, "strong"), *(_number(getattr(one, key)) for key in _BY_CLASS)))
        rows.append([Cell(text, "dim") for text in (f"{one.images} images", *map("-".join, ends))])
    columns = [Column("", flexible=True), *numbers(*(METRIC_LABELS[key] for key in _BY_CLASS))]
    return Table(columns, rows, "Each class against the others, with 95 % intervals")


def _patient_level(found: Evaluation) -> Frame:
    by_patient = found.patient_level
    if by_patient.metrics is None:
        missing = [name for name, count in by_patient.class_counts.items() if not count]
        return ["", Cell(f"no metrics by patient: no patient has only {join_names(missing)} images", "busy")]
    rows = []
    for key in ("auroc", "accuracy") if found.threshold is None else ("auroc", "sensitivity", "specificity"):
        label = METRIC_LABELS[key] + (f" ({found.positive})" if key in _OF_POSITIVE else "")
        rows.append((label, *_with_interval(getattr(by_patient.metrics, key), by_patient.intervals, key)))
    title = "By patient: the mean probability of each patient's images"
    left_out = f"left out, with images of several classes: {join_names(by_patient.left_out, 5)}"
    table = Table(["", *numbers(""), ""], rows, title)
    return [table, Cell(left_out, "busy")] if by_patient.left_out else [table]


def _subgroups(column: str, found: Evaluation) -> Frame:
    names, is_binary = [*found.class_counts], found.threshold is not None
    rates = ("sensitivity", "specificity") if is_binary else ()
    rows: list[Row] = []
    notes = []
    for one in found.subgroups[column]:
        auroc = _with_interval(one.auroc, one.intervals, "auroc")
        shares = ["" if (value := getattr(one, name)) is None else _number(value) for name in rates]
        rows.append((one.value, f"{one.images}", f"{one.patients}", *auroc, *shares))
        if one.compared_with is not None:
            notes.append(Cell(f"{one.value} is compared with all {names[one.compared_with]} images", "dim"))
    about = f", sensitivity and specificity of {found.positive}" if is_binary else ""
    columns = ["", *numbers("images", "patients", "AUROC"), "95 % interval", *numbers(*rates)]
    return [Table(columns, rows, f"By {column}{about} (exploratory)"), *notes]


def predict(
    model: options.ModelArgument,
    images: Annotated[Path, Argument(metavar="FOLDER", help="Folder of images, or one image.")],
    out: Annotated[
        Path, Option("--out", "-o", metavar="OUT", help="CSV file to write; for a segmenter, folder to create.")
    ],
    skip_broken: options.SkipBroken = False,
    at_sensitivity: options.AtSensitivity = None,
    as_json: options.AsJson = False,
) -> None:
    """Write the class probabilities of images to a CSV file, or their masks and overlays to a folder."""
    from xraytune.model.predict import Predicted, predict

    with console.progress() as on_progress:
        predicted = predict(
            model,
            images,
            out=out,
            skip_broken=skip_broken,
            sensitivity=at_sensitivity,
            on_progress=on_progress,
        )
    if as_json:
        console.show_json(predicted)
        return
    for image in predicted.broken:
        console.log(f"left out: {image.file}: {image.reason}", "bad")
    if isinstance(predicted, Predicted):
        rule = f" (threshold for {predicted.positive}: {predicted.threshold:.3f})" if predicted.positive else ""
        text = f"{predicted.images} images, predicted {_by_name(predicted.counts)}{rule}"
    else:
        empty = f" ({predicted.empty} empty)" if predicted.empty else ""
        text = f"{predicted.images} masks{empty}, mean area {predicted.area:.0%} of the image"
        text += "; masks/, overlays/ and predictions.csv"
    console.write(f"{predicted.path}: {text}")


def summary(
    config: options.ConfigFile,
    data: options.Data = None,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Print the layers of an experiment's network, with output shapes, parameter counts and memory."""
    from xraytune.trial.model import model_summary

    found = model_summary(config, data=data, overrides=overrides or ())
    if as_json:
        console.show_json(found)
        return
    total, trained = found.total_params, found.trainable_params
    rows: list[Row] = []
    for number, one in enumerate(found.layers, 1):
        mark = Cell("yes", "good") if one.is_trained else Cell("no", "dim")
        rows.append((f"{one.kind}-{number}", f"{[*one.output_shape]}", f"{one.params:,}", mark if one.params else ""))
    console.show(
        Cell(f"{config}: {len(found.layers)} layers", "strong"),
        Cell(f"input batch: {list(found.input_shape)} float32", "dim"),
        Table(("layer", "output shape", *numbers("parameters"), "trained"), rows),
        console.facts(
            ("parameters", f"{total:,}"),
            ("trainable", f"{trained:,}"),
            ("frozen", f"{total - trained:,}"),
            ("memory: input batch", f"{found.input_mebibytes:,.2f} MiB"),
            ("memory: outputs, gradients", f"{found.activations_mebibytes:,.2f} MiB, if none were freed"),
            ("memory: parameters", f"{found.params_mebibytes:,.2f} MiB"),
        ),
    )
