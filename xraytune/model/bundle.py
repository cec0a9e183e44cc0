"""Write a model bundle (`model/load.py`) with its model card, `README.md`."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from xraytune.base.files import markdown, sha256_of, write_json, write_text
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.base.tensors import save_state
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
from xraytune.trial.training import TrialTraining

_PACKAGES = ("xraytune", "torch", "torchvision", "numpy", "pillow")


def write_bundle(
    folder: Path,
    final_path: Path,
    *,
    experiment: Experiment,
    overrides: Sequence[str],
    prepared: Prepared,
    training: TrialTraining,
    epochs: Sequence[EpochRecord],
    result: TrialResult,
    trained_on: TrainedOn,
    benefit: str,
) -> BundleRecord:
    """Write a bundle to `folder`, which will be moved to `final_path`.

    Paths inside are relative to that. The card, `README.md`, holds no path, time or date, and may
    be edited; `benefit` is that of the synthetic images.
    """
    settings = experiment.settings
    parameters = experiment.parameters
    origin = settings.exported_from
    task = TASKS[settings.task]
    validated = training.validated()
    has_classes = not (prepared.has_masks or prepared.findings)
    packages = sorted({*_PACKAGES, *task.packages})
    record = BundleRecord(
        task=settings.task,
        class_names=prepared.outputs,
        positive=prepared.class_names[prepared.positive] if has_classes else None,
        threshold=result.threshold,
        thresholds=task.thresholds(prepared, validated),
        input_format=training.network.form,
        **parameters.model_dump(include=NETWORK_PARAMETERS),
        arm=parameters.arm,
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
        compute=training.compute,
        packages={name: version(name) for name in packages}
        | extensions_of(parameters.backbone, parameters.source),
        metrics=task.card_metrics(prepared, result.threshold, validated),
    )
    unused = None if record.thresholds else {"thresholds"}
    write_text(folder / RECORD_FILE, record.model_dump_json(indent=2, exclude=unused) + "\n")
    header = f"The experiment of this model, arm {parameters.arm}. Paths are relative to this file."
    write_text(folder / CONFIG_FILE, experiment_to_yaml(experiment, final_path, header))
    write_prepared(prepared, folder / SPLIT_FILE)
    rows = [{"version": 1, **asdict(epoch)} for epoch in epochs]
    for row in rows:
        del row["seconds"]
    write_text(folder / "epochs.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    save_state(training.whole().state_dict(), folder / MODEL_FILE)
    checksums = {name: sha256_of(folder / name) for name in BUNDLE_FILES}
    write_json(folder / MANIFEST_FILE, {"version": 1, "files": checksums})

    environment = Environment(
        loader=PackageLoader("xraytune.model"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: markdown(value) if isinstance(value, str) else value,
    )
    card = environment.get_template("card.md").render(
        record=record,
        benefit=benefit,
        settings=settings,
        parameters=parameters,
        sides=Counter(image.side for image in prepared.images),
        epochs=len(epochs),
    )
    write_text(folder / "README.md", card)
    return record
