"""Write a model bundle (`trial/saved_model.py`) with its model card, `README.md`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from xraytune.base.files import append_jsonl, markdown, sha256_of, write_json, write_text
from xraytune.base.records import EpochRecord, TrialResult, frozen
from xraytune.base.templates import open_templates
from xraytune.base.tensors import save_state
from xraytune.data.decoding import InputFormat
from xraytune.data.prepare import RunContext, write_prepared
from xraytune.space.encoders import RECORD_FILE
from xraytune.space.load import experiment_to_yaml
from xraytune.space.parameters import identities_of
from xraytune.space.paths import relative_path
from xraytune.space.recorded import write_extensions
from xraytune.space.settings import Experiment
from xraytune.synth.donor import MANIFEST_FILE, SPLIT_FILE
from xraytune.tasks import TASKS
from xraytune.tasks.bundle_record import BundleRecord, TrainedOn
from xraytune.tasks.evaluation import Validated
from xraytune.trial.saved_model import (
    CONFIG_FILE,
    EPOCHS_FILE,
    NETWORK_PARAMETERS,
    model_files,
)

_PACKAGES = ("xraytune", "torch", "torchvision", "numpy", "pillow")


@frozen
class TrainedNetworks:
    """The networks of a final training.

    Attributes:
        networks: The whole networks, not only the layers that were trained.
        epochs: The epochs of each network.
        result: The mean scores over the folds, the threshold, and the epochs of the first network.
        validated: The probabilities for images that a network was not trained on.
        input_format: The format of images that the networks expect.
    """

    networks: Sequence[nn.Module]
    epochs: Sequence[Sequence[EpochRecord]]
    result: TrialResult
    validated: Validated
    input_format: InputFormat


def write_bundle(
    folder: Path,
    final_path: Path,
    *,
    experiment: Experiment,
    overrides: Sequence[str],
    context: RunContext,
    trained: TrainedNetworks,
    trained_on: TrainedOn,
    benefit: str,
) -> BundleRecord:
    """Write a bundle to `folder`, which will be moved to `final_path`.

    Paths in its files are relative to `final_path`. The card, `README.md`, has no path, time or
    date, and may be edited; it states the `benefit` of the synthetic images.
    """
    parameters = experiment.parameters
    record = _build_record(experiment, final_path, overrides, context, trained, trained_on)
    write_text(folder / RECORD_FILE, record.model_dump_json(indent=2) + "\n")
    header = f"The experiment of this model, arm {parameters.arm}. Paths are relative to this file."
    write_text(folder / CONFIG_FILE, experiment_to_yaml(experiment, final_path, header))
    write_prepared(context.prepared, folder / SPLIT_FILE)
    write_extensions(folder, parameters.extensions, final_path)
    append_jsonl(folder / EPOCHS_FILE, *_epoch_rows(trained))
    network_files = model_files(record.members)
    for name, network in zip(network_files, trained.networks, strict=True):
        save_state(network.state_dict(), folder / name)
    names = [RECORD_FILE, CONFIG_FILE, SPLIT_FILE, EPOCHS_FILE, *network_files]
    checksums = {name: sha256_of(folder / name) for name in names}
    write_json(folder / MANIFEST_FILE, {"version": 1, "files": checksums})

    templates = open_templates(
        "xraytune.model",
        keep_trailing_newline=True,
        finalize=lambda value: markdown(value) if isinstance(value, str) else value,
    )
    card = templates.get_template("card.md").render(
        record=record,
        benefit=benefit,
        settings=experiment.settings,
        parameters=parameters,
        epochs=trained.result.epochs,
    )
    write_text(folder / "README.md", card)
    return record


def _build_record(
    experiment: Experiment,
    final_path: Path,
    overrides: Sequence[str],
    context: RunContext,
    trained: TrainedNetworks,
    trained_on: TrainedOn,
) -> BundleRecord:
    settings = experiment.settings
    parameters = experiment.parameters
    origin = settings.exported_from
    task = TASKS[settings.task]
    prepared = context.prepared
    result = trained.result
    packages = sorted({*_PACKAGES, *task.packages})
    return BundleRecord(
        task=settings.task,
        class_names=prepared.outputs,
        positive=prepared.class_names[prepared.positive] if task.has_classes else None,
        threshold=result.threshold,
        thresholds=task.thresholds(prepared, trained.validated),
        input_format=trained.input_format,
        **parameters.model_dump(include=NETWORK_PARAMETERS),
        backbone_settings={**parameters.settings_of(parameters.backbone)},
        arm=parameters.arm,
        members=len(trained.networks),
        val_score=result.value,
        val_b_score=result.val_b_score,
        best_epoch=result.best_epoch,
        trained_on=trained_on,
        train_fingerprint=prepared.train_fingerprint,
        test_fingerprint=prepared.test_fingerprint,
        group_regex=settings.data.split.group_regex,
        study=None if origin is None else relative_path(origin.study, final_path),
        trial=None if origin is None else origin.trial,
        overrides=tuple(overrides),
        compute=context.compute,
        packages={name: version(name) for name in packages} | identities_of(parameters),
        metrics=task.reports.card_metrics(prepared, result.threshold, trained.validated),
    )


def _epoch_rows(trained: TrainedNetworks) -> Iterator[dict[str, Any]]:
    """Yield the epochs of each network, without the time that they took."""
    for number, epochs in enumerate(trained.epochs, start=1):
        member = {"network": number} if len(trained.epochs) > 1 else {}
        for epoch in epochs:
            row = {"version": 1, **member, **asdict(epoch)}
            del row["seconds"]
            yield row
