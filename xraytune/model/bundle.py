"""Write a model bundle (`model/load.py`) with its model card, `README.md`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
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
from xraytune.space.settings import Experiment, extensions_of
from xraytune.tasks import TASKS
from xraytune.tasks.bundle_record import BundleRecord, TrainedOn
from xraytune.tasks.task import Validated

_PACKAGES = ("xraytune", "torch", "torchvision", "numpy", "pillow")
_OF_TRAINING = ("threshold", "input_format", "val_score", "val_b_score", "best_epoch")


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
    """Write a bundle to `folder`, which will be moved to `final_path`.

    Paths inside are relative to that.
    """
    settings = experiment.settings
    parameters = experiment.parameters
    prepared = training.prepared
    origin = settings.exported_from
    task = TASKS[settings.task]
    packages = sorted({*_PACKAGES, *task.packages})
    record = BundleRecord(
        task=settings.task,
        class_names=prepared.outputs,
        positive=task.positive_class(prepared),
        thresholds=task.thresholds(prepared, training.validated),
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
        metrics=task.card_metrics(prepared, training.threshold, training.validated),
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


def write_card(
    folder: Path,
    record: BundleRecord,
    experiment: Experiment,
    training: FinalTraining,
    benefit: str,
) -> None:
    """Write the card as Markdown, from `templates/card.md`; `benefit` is that of the synthetic images.

    It holds no path, time or date, and may be edited.
    """
    used = record.trained_on
    patients = training.validated.patients
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
        benefit=benefit,
        settings=experiment.settings,
        parameters=experiment.parameters,
        unused_images=used.of_images - used.images - used.kept_images,
        sides=", ".join(f"{count:,} {side}" for side, count in sorted(sides.items())),
        epochs=len(training.epochs),
        validated=(len(patients), len({*patients})),
    )
    write_text(folder / "README.md", text)
