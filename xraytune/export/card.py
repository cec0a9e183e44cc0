"""The model card of a bundle, `README.md`: what the model predicts, its data, training, metrics, limits and use."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from xraytune.config.settings import Experiment
from xraytune.export.bundle import BundleRecord
from xraytune.export.final import FOLDS, Scores
from xraytune.files import write_text
from xraytune.metrics.classification import classification_metrics
from xraytune.metrics.intervals import patient_bootstrap

_REPLICATES = 1000
_THRESHOLD_IMAGES = {
    "calibrated_val_a_val_b": "val-A and val-B, which it was not trained on",
    "calibrated_val_b": "val-B, which it was not trained on",
    "calibrated_out_of_fold": f"all images, out-of-fold: each was scored by one of {FOLDS} networks trained like this "
    "one, but without its patient",
}
_OPTIMISM = {
    "calibrated_val_a_val_b": "Val-A also chose the epoch and guided the search, so these figures are slightly optimistic",
    "calibrated_val_b": "Val-B also chose the configuration among the trials, so these figures are slightly optimistic",
    "calibrated_out_of_fold": "The search chose the configuration on some of these images, so these figures are "
    "slightly optimistic",
}
_OPTIMISM_WITHOUT_SEARCH = {
    "calibrated_val_a_val_b": "Val-A also chose the epoch, so these figures are slightly optimistic"
}
_TRAINABLE = {"all": "all layers", "head": "head only", "last_stage": "last stage and head"}


def write_card(folder: Path, record: BundleRecord, experiment: Experiment, scores: Scores) -> None:
    """Write the card as Markdown. It holds no path, time or date, and may be edited."""
    parts: tuple[str, ...] = (
        _title(record, experiment),
        _data(record, experiment),
        _training(record, experiment, scores),
    )
    parts += (_metrics(record, scores), _limits(record, experiment), _use(record))
    write_text(folder / "README.md", "\n\n".join(parts) + "\n")


def _title(record: BundleRecord, experiment: Experiment) -> str:
    names, positive = record.class_names, ""
    if len(names) == 2:
        positive = f" The positive class is {record.positive}."
    what = f"Predicts the probabilities of {' and '.join(names)} from one chest X-ray.{positive}"
    return f"# {experiment.settings.name}: {' or '.join(names)}\n\n{what} Research software, not a medical device."


def _data(record: BundleRecord, experiment: Experiment) -> str:
    used, size = record.trained_on, experiment.settings.data.image_size
    unused = used.of_images - used.images - used.kept_images
    rows = [
        ("trained on", f"{_count(used.images, used.patients)}"),
        ("kept for validation", _count(used.kept_images, used.kept_patients) if used.kept_images else "none"),
        ("out of", f"{_count(used.of_images, used.of_patients)} in the data folder, not counting test images"),
        ("input", f"grey, {size} x {size} px ({record.input_format.resize})"),
    ]
    if unused:
        rows.insert(2, ("not used (`data.train_patients`)", f"{unused:,} images"))
    return f"## Data\n\n{_table(rows)}\n\nNo patient is on two sides. `split.json` lists every image."


def _training(record: BundleRecord, experiment: Experiment, scores: Scores) -> str:
    parameters = experiment.parameters
    images = "real images only"
    if parameters.source != "none":
        images = f"real images, and {parameters.synthetic_ratio:g} per real image of source `{parameters.source}`"
    rows = [
        (
            "network",
            f"{parameters.backbone}, {_TRAINABLE[parameters.trainable]}, weights {_weights(parameters.weights)}",
        ),
        ("images", images),
        ("augmentation", f"strength {parameters.classical} of 3" if parameters.classical else "none"),
        ("optimizer", f"{parameters.optimizer}, learning rate {parameters.lr:.2g}, {parameters.schedule}"),
        ("epochs", f"{scores.epochs}; the network of epoch {scores.best_epoch} is kept"),
    ]
    text = f"## Training\n\n{_table(rows)}"
    if record.trial is not None:
        text += f"\n\nThe configuration is that of trial {record.trial} of a search (`bundle.json` names its study)."
    if record.trained_on.changes:
        text += " Changed against the trial:\n\n" + "\n".join(f"- {line}" for line in record.trained_on.changes)
    return text


def _weights(name: str) -> str:
    return name if "/" not in name else "from a file"


def _metrics(record: BundleRecord, scores: Scores) -> str:
    validated, positive = scores.validated, record.class_names.index(record.positive)
    found = asdict(
        classification_metrics(validated.labels, validated.results, positive=positive, threshold=scores.threshold)
    )
    intervals = patient_bootstrap(
        validated.labels,
        validated.results,
        validated.patients,
        positive=positive,
        threshold=scores.threshold,
        replicates=_REPLICATES,
        seed=0,
    )
    names = {
        "auroc": "AUROC",
        "auprc": "AUPRC",
        "balanced_accuracy": "balanced accuracy",
        "sensitivity": f"sensitivity ({record.positive})",
        "specificity": f"specificity ({record.positive})",
    }
    head = "| metric | value | 95 % interval |\n|---|---|---|\n"
    rows = [
        f"| {label} | {found[name]:.3f} | {intervals[name][0]:.3f} to {intervals[name][1]:.3f} |"
        for name, label in names.items()
    ]
    about = (
        f"On {_count(len(validated.labels), len({*validated.patients}))}: {_THRESHOLD_IMAGES[scores.threshold_rule]}."
    )
    rule = "The most probable class is predicted."
    if len(record.class_names) == 2:
        rule = (
            f"An image is classified as {record.positive} from a probability of {scores.threshold:.3f}, which was set on "
            "these images for balanced accuracy."
        )
    optimism = (
        _OPTIMISM[scores.threshold_rule] if record.study else _OPTIMISM_WITHOUT_SEARCH.get(scores.threshold_rule, "")
    )
    limits = f"{optimism}. Intervals resample patients." if optimism else "Intervals resample patients."
    if scores.val_score is not None and scores.val_b_score is not None:
        limits = f"AUROC {scores.val_score:.3f} on val-A and {scores.val_b_score:.3f} on val-B. {limits}"
    return f"## Validation\n\n{about} {rule}\n\n{head}" + "\n".join(rows) + f"\n\n{limits}"


def _limits(record: BundleRecord, experiment: Experiment) -> str:
    lines = [
        "Evaluate it on images of the hospital where it is to be used, before anything else: other scanners, patients and "
        "prevalences change its scores and the right threshold.",
        "It knows only these classes, and gives any image a probability of each.",
    ]
    if record.study is not None:
        final = experiment.settings.final
        count = f"the {final.trial_images:,} training" if final and final.trial_images else "the training"
        lines.append(
            f"A verdict of `xraytune confirm` is about training on {count} images of the search, with several seeds. "
            "It is no verdict on this model."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _use(record: BundleRecord) -> str:
    commands = "    xraytune predict MODEL IMAGES -o predictions.csv\n    xraytune evaluate MODEL --data FOLDER"
    folders = " and ".join(f"`{name}/`" for name in record.class_names)
    return (
        "## Use\n\n"
        f"{commands}\n\nMODEL is this folder, IMAGES a folder of X-rays or one file, and FOLDER has {folders}, or is a data "
        f"file. Made with xraytune {record.packages['xraytune']}; `xraytune train --config MODEL/config.yaml -o COPY` "
        "trains it again."
    )


def _count(images: int, patients: int) -> str:
    return f"{images:,} images of {patients:,} patients"


def _table(rows: list[tuple[str, str]]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {text.replace('|', chr(92) + '|')} |" for name, text in rows)
