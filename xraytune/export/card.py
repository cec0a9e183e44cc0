"""The model card of a bundle, `README.md`: what the model predicts, its data, training, metrics, limits and use."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from xraytune.config.settings import Experiment
from xraytune.export.final import FOLDS, FinalTraining
from xraytune.files import write_text
from xraytune.pipeline.bundle import BundleRecord


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
