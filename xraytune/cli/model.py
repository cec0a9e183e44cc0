"""Commands on single models: `train`, `evaluate`, `predict` and `model summary`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from xraytune.base.errors import join_names
from xraytune.cli import console, options
from xraytune.present.tables import Cell, Column, Frame, Row, Table, facts, numbers

if TYPE_CHECKING:
    from xraytune.model.class_evaluation import Evaluation
    from xraytune.model.mask_evaluation import MaskEvaluation
    from xraytune.model.train import Trained
    from xraytune.stats.classification import Metric
    from xraytune.stats.intervals import Measured
    from xraytune.stats.segmentation import MaskMetrics

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
    from xraytune.model.class_evaluation import Evaluation

    if isinstance(found, Evaluation):
        images = f"{found.images} images ({_by_name(found.class_counts)}) of {found.patients} patients"
        parts, files = _classes(found), "predictions.csv, evaluation.png and the data of its panels"
    else:
        images = f"{found.images} images of {found.patients} patients"
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
    if found.patients != found.images:
        yield from _patient_level(found)
    for column in found.subgroups:
        yield from _subgroups(column, found)


def _masks(found: MaskEvaluation) -> Iterator[Cell | str | Table]:
    from xraytune.stats.segmentation import MASK_METRICS

    rows = [(metric.label, *_with_interval(found, metric)) for metric in MASK_METRICS]
    yield Table(["", *numbers("mean"), "95 % interval"], rows)
    if found.empty_predictions:
        yield Cell(f"empty predictions: {found.empty_predictions} (Dice 0, HD95 undefined)", "busy")
    worst = [
        (mask.file, *(_number(mask.metrics[metric.name], metric) for metric in MASK_METRICS)) for mask in found.worst
    ]
    columns = (Column("", flexible=True), *numbers(*(metric.label for metric in MASK_METRICS)))
    yield Table(columns, worst, "The images with the lowest Dice")
    for name, values in found.subgroups.items():
        yield _mask_subgroups(name, values)


def _mask_subgroups(column: str, values: Mapping[str, MaskMetrics]) -> Table:
    from xraytune.stats.segmentation import MASK_METRICS

    dice, *_, hd95 = MASK_METRICS
    rows: list[Row] = []
    for value, subgroup in values.items():
        counts = (f"{subgroup.images}", f"{subgroup.patients}", f"{subgroup.empty_predictions}")
        rows.append((value, *counts, *_with_interval(subgroup, dice), _number(subgroup.metrics[hd95.name], hd95)))
    columns = (*numbers("images", "patients", "empty", dice.label), "95 % interval", *numbers(hd95.label))
    return Table(["", *columns], rows, f"By {column} (exploratory)")


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
    from xraytune.stats.classification import reported_metrics

    rows: list[Row] = []
    for metric in reported_metrics(len(found.class_counts)):
        half = []
        if found.at_half:
            half = [_number(found.at_half[metric.name], metric) if metric.at_threshold else ""]
        shown = Cell(_label(metric, found), "strong" if metric.name == "auroc" else "plain")
        rows.append([shown, *_with_interval(found, metric), *half])
    name = "most probable class" if found.threshold is None else f"threshold {found.threshold:.3f}"
    at_half = numbers("threshold 0.5") if found.at_half else []
    return Table(["", *numbers(name), "95 % interval", *at_half], rows)


def _label(metric: Metric, found: Evaluation) -> str:
    """Name a metric, and the class that it is about or that it is an average."""
    if found.threshold is None:
        return f"{metric.label} (macro)" if metric.of_class else metric.label
    return metric.of(metric.label, found.positive)


def _number(value: float | None, metric: Metric) -> str:
    return "undefined" if value is None else f"{value:.{metric.decimals}f}"


def _with_interval(measured: Measured, metric: Metric) -> tuple[str, str]:
    ends = measured.intervals.get(metric.name, ())
    return _number(measured.metrics[metric.name], metric), " to ".join(_number(end, metric) for end in ends)


def _class_table(found: Evaluation) -> Table:
    """Show each class, with the intervals in a second line."""
    from xraytune.stats.classification import CLASS_METRICS

    rows: list[Row] = []
    for name, measured in found.classes.items():
        ends = ([f"{end:.2f}".removeprefix("0") for end in measured.intervals.get(m.name, ())] for m in CLASS_METRICS)
        rows.append((Cell(name, "strong"), *(_number(measured.metrics[m.name], m) for m in CLASS_METRICS)))
        rows.append([Cell(text, "dim") for text in (f"{measured.images} images", *map("-".join, ends))])
    columns = [Column("", flexible=True), *numbers(*(metric.label for metric in CLASS_METRICS))]
    return Table(columns, rows, "Each class against the others, with 95 % intervals")


def _patient_level(found: Evaluation) -> Frame:
    from xraytune.stats.classification import reported_metrics

    by_patient = found.patient_level
    if not by_patient.metrics:
        missing = [name for name, count in by_patient.class_counts.items() if not count]
        return ["", Cell(f"no metrics by patient: no patient has only {join_names(missing)} images", "busy")]
    metrics = reported_metrics(len(found.class_counts), "patients")
    rows = [(_label(metric, found), *_with_interval(by_patient, metric)) for metric in metrics]
    title = "By patient: the mean probability of each patient's images"
    left_out = f"left out, with images of several classes: {join_names(by_patient.left_out, 5)}"
    table = Table(["", *numbers(""), ""], rows, title)
    return [table, Cell(left_out, "busy")] if by_patient.left_out else [table]


def _subgroups(column: str, found: Evaluation) -> Frame:
    from xraytune.stats.classification import reported_metrics

    names, is_binary = [*found.class_counts], found.threshold is not None
    auroc, *rates = reported_metrics(len(names), "subgroups")
    rows: list[Row] = []
    notes = []
    for subgroup in found.subgroups[column]:
        values = (subgroup.metrics[rate.name] for rate in rates)
        shares = ["" if value is None else f"{value:.3f}" for value in values]
        counts = (f"{subgroup.images}", f"{subgroup.patients}")
        rows.append((subgroup.value, *counts, *_with_interval(subgroup, auroc), *shares))
        if subgroup.compared_with is not None:
            notes.append(Cell(f"{subgroup.value} is compared with all {names[subgroup.compared_with]} images", "dim"))
    about = f", sensitivity and specificity of {found.positive}" if is_binary else ""
    columns = ["", *numbers("images", "patients", auroc.label), "95 % interval", *numbers(*(m.label for m in rates))]
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
        facts(
            ("parameters", f"{total:,}"),
            ("trainable", f"{trained:,}"),
            ("frozen", f"{total - trained:,}"),
            ("memory: input batch", f"{found.input_mebibytes:,.2f} MiB"),
            ("memory: outputs, gradients", f"{found.activations_mebibytes:,.2f} MiB, if none were freed"),
            ("memory: parameters", f"{found.params_mebibytes:,.2f} MiB"),
        ),
    )
