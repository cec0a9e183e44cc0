"""The model card of a bundle, `README.md`: what the model predicts, its data, training, metrics, limits and use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xraytune.config.settings import Experiment, Validation
from xraytune.export.final import FOLDS, FinalTraining
from xraytune.files import write_text
from xraytune.pipeline.bundle import BundleRecord

_VALIDATED_ON: Mapping[Validation, str] = {
    "keep": "val-A and val-B, which it was not trained on",
    "val_a": "val-B, which it was not trained on",
    "all": f"all images, out-of-fold: each was scored by one of {FOLDS} networks trained like this "
    "one, but without its patient",
}
_OPTIMISM: Mapping[Validation, str] = {
    "keep": "Val-A also chose the epoch and guided the search",
    "val_a": "Val-B also chose the configuration among the trials",
    "all": "The search chose the configuration on some of these images",
}
_OPTIMISM_WITHOUT_SEARCH: Mapping[Validation, str] = {"keep": "Val-A also chose the epoch"}
_INTENDED = (
    "Research on chest X-rays like those it was trained on. Not for the diagnosis, triage or treatment of patients."
)
_TRAINABLE = {"all": "all layers", "head": "head only", "last_stage": "last stage and head"}


def write_card(folder: Path, record: BundleRecord, experiment: Experiment, training: FinalTraining) -> None:
    """Write the card as Markdown. It holds no path, time or date, and may be edited."""
    texts = _texts(record)
    parts = (
        f"# {experiment.settings.name}: {texts.title} Research software, not a medical device.",
        f"## Intended use\n\n{_INTENDED}",
        _data(record, experiment, training),
        _training(record, experiment, training, texts.network),
        _validation(record, training, texts, experiment.settings.metric),
        _limits(record, experiment, texts.limit),
        _use(record, texts),
    )
    write_text(folder / "README.md", "\n\n".join(parts) + "\n")


def _data(record: BundleRecord, experiment: Experiment, training: FinalTraining) -> str:
    used, size = record.trained_on, experiment.settings.data.image_size
    sides = Counter(image.side.replace("_a", "-A").replace("_b", "-B") for image in training.prepared.images)
    counts = ", ".join(f"{count:,} {side}" for side, count in sorted(sides.items()))
    unused = used.of_images - used.images - used.kept_images
    rows = [
        ("trained on", f"{_count(used.images, used.patients)}"),
        ("kept for validation", _count(used.kept_images, used.kept_patients) if used.kept_images else "none"),
        ("out of", f"{_count(used.of_images, used.of_patients)} in the data folder, not counting test images"),
        ("split", f"by patient, seed {experiment.settings.data.split.seed}; images: {counts}"),
        ("fingerprint of training images", f"`{record.train_fingerprint}`"),
        ("fingerprint of test images", f"`{record.test_fingerprint or 'none'}`"),
        ("input", f"grey, {size} x {size} px ({record.input_format.resize})"),
    ]
    if unused:
        rows.insert(2, ("not used (`data.train_patients`)", f"{unused:,} images"))
    return f"## Data\n\n{_table(rows)}\n\nNo patient is on two sides. `split.json` lists every image."


def _training(record: BundleRecord, experiment: Experiment, training: FinalTraining, network: str) -> str:
    parameters, images = experiment.parameters, "real images only"
    network += f"{parameters.backbone}, "
    if parameters.source != "none":
        images = f"real images, and {parameters.synthetic_ratio:g} per real image of source `{parameters.source}`"
        images += ", which come first (`mixing: pretrain`)" if parameters.mixing == "pretrain" else ""
    rows = [
        ("network", f"{network}{_TRAINABLE[parameters.trainable]}, weights {_weights(parameters.weights)}"),
        ("images", images),
        ("augmentation", f"strength {parameters.classical} of 3" if parameters.classical else "none"),
        ("optimizer", f"{parameters.optimizer}, learning rate {parameters.lr:.2g}, {parameters.schedule}"),
        ("epochs", f"{len(training.epochs)}; the network of epoch {training.best_epoch} is kept"),
    ]
    text = f"## Training\n\n{_table(rows)}"
    if record.trial is not None:
        text += f"\n\nThe configuration is that of trial {record.trial} of a search (`bundle.json` names its study)."
    if record.trained_on.changes:
        text += " Changed against the trial:\n\n" + "\n".join(f"- {line}" for line in record.trained_on.changes)
    return text


def _weights(name: str) -> str:
    return name if "/" not in name else "from a file"


def _validation(record: BundleRecord, training: FinalTraining, texts: _Texts, metric: str) -> str:
    kept, validated = record.trained_on.validation, training.validated
    about = f"On {_count(len(validated.labels), len({*validated.patients}))}: {_VALIDATED_ON[kept]}."
    head = "| metric | value | 95 % interval |\n|---|---|---|\n"
    ends = ["{:.3f} to {:.3f}".format(*one.interval) if one.interval else "undefined" for one in record.metrics]
    rows = [
        f"| {one.name} | {one.value:.3f} | {interval} |" for one, interval in zip(record.metrics, ends, strict=True)
    ]
    optimism = (_OPTIMISM if record.study else _OPTIMISM_WITHOUT_SEARCH).get(kept, "")
    limits = f"{optimism}, so these figures are slightly optimistic. " if optimism else ""
    limits += "Intervals resample patients."
    if training.val_score is not None and training.val_b_score is not None:
        limits = f"{metric} {training.val_score:.3f} on val-A and {training.val_b_score:.3f} on val-B. {limits}"
    return f"## Validation\n\n{about} {texts.rule}\n\n{head}" + "\n".join(rows) + f"\n\n{limits}"


def _limits(record: BundleRecord, experiment: Experiment, of_task: str) -> str:
    lines = [
        "Evaluate it on images of the hospital where it is to be used, before anything else: other scanners, patients and "
        "prevalences change its scores and the right threshold.",
        of_task,
    ]
    if record.study is not None:
        final = experiment.settings.final
        count = f"the {final.trial_images:,} training" if final and final.trial_images else "the training"
        lines.append(
            f"A verdict of `xraytune confirm` is about training on {count} images of the search, with several seeds. "
            "It is no verdict on this model."
        )
    if (origin := experiment.settings.exported_from) and origin.synthetic:
        lines.append(f"The benefit of the synthetic images of this configuration is {origin.synthetic}.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _use(record: BundleRecord, texts: _Texts) -> str:
    commands = f"    xraytune predict MODEL IMAGES -o {texts.predictions}\n    xraytune evaluate MODEL --data FOLDER"
    folders = " and ".join(f"`{name}/`" for name in texts.folders)
    return (
        "## Use\n\n"
        f"{commands}\n\nMODEL is this folder, IMAGES a folder of X-rays or one file, and FOLDER has {folders}, or is a data "
        f"file. Made with xraytune {record.packages['xraytune']}; `xraytune train --config MODEL/config.yaml -o COPY` "
        "trains it again."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    """The parts of the card that depend on the task."""

    title: str
    network: str
    rule: str
    limit: str
    predictions: str
    folders: Sequence[str]


def _texts(record: BundleRecord) -> _Texts:
    if record.task == "segmentation":
        return _Texts(
            title="masks\n\nPredicts which pixels of a chest X-ray belong to the structure marked in its training masks.",
            network="U-Net with the encoder ",
            rule=f"Pixels with a probability of {record.threshold:g} or more belong to the mask.",
            limit="It predicts a mask for any image, and not necessarily an empty one if the structure is missing.",
            predictions="predictions",
            folders=("images", "masks"),
        )
    names = record.class_names
    what = f"Predicts the probabilities of {' and '.join(names)} from one chest X-ray."
    rule = "The most probable class is predicted."
    if len(names) == 2:
        what += f" The positive class is {record.positive}."
        rule = (
            f"An image is classified as {record.positive} from a probability of {record.threshold:.3f}, which was set on "
            "these images for balanced accuracy."
        )
    return _Texts(
        title=f"{' or '.join(names)}\n\n{what}",
        network="",
        rule=rule,
        limit="It knows only these classes, and gives any image a probability of each.",
        predictions="predictions.csv",
        folders=names,
    )


def _count(images: int, patients: int) -> str:
    return f"{images:,} images of {patients:,} patients"


def _table(rows: list[tuple[str, str]]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {text.replace('|', chr(92) + '|')} |" for name, text in rows)
