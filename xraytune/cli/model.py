"""Commands on single models: `train`, `evaluate` and `predict`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from xraytune.base.errors import ConfigError, Problem
from xraytune.base.records import EpochRecord
from xraytune.cli import console, options
from xraytune.cli.command import Options, calls

if TYPE_CHECKING:
    from xraytune.model.train import Trained
    from xraytune.tasks.evaluation import Evaluation
    from xraytune.tasks.prediction import Predicted


@contextmanager
def _show_epochs(given: Options) -> Iterator[Options]:
    sources = [given[name] for name in ("study", "config") if given.get(name)]
    if len(sources) != 1:
        fix = "write e.g. xraytune train studies/NAME -o model"
        raise ConfigError(Problem("give a study or --config FILE", fix=fix))
    with console.progress() as on_progress:
        yield {
            "config": sources[0],
            "on_progress": on_progress,
            "note": console.event,
            "on_epoch": _log_epoch,
        }


def _log_epoch(epoch: EpochRecord) -> None:
    losses = f"train loss {epoch.train_loss:.4f}  val-A loss {epoch.val_loss:.4f}"
    console.event(f"epoch {epoch.epoch:3d}  {losses}  val-A score {epoch.val_score:.4f}")


def _show_training(trained: Trained) -> None:
    """Print the metrics of a trained model and the next command."""
    record = trained.record
    scores = (
        f"val-A {trained.metric} {record.val_score:.3f}, val-B {trained.metric} "
        f"{record.val_b_score:.3f}"
    )
    epochs = f"epoch {record.best_epoch} of {trained.epochs}"
    console.write(f"{trained.path}: arm {record.arm}, {epochs}, {scores}")
    if record.positive and len(record.class_names) == 2:
        threshold = f"threshold for {record.positive}: {record.threshold:.3f}"
        console.write(f"{threshold}, chosen for balanced accuracy on val-A and val-B")
    console.propose("evaluate", trained.path, given={"data": trained.test_folder or "FOLDER"})


@calls("train", _show_training, screen=_show_epochs)
def train(
    out: Annotated[Path, Option("--out", "-o", metavar="MODEL", help="Folder to create.")],
    study: Annotated[
        Path | None,
        Argument(metavar="STUDY", help="Study whose best configuration to train; or use --config."),
    ] = None,
    config: Annotated[
        Path | None,
        Option(
            "--config", metavar="FILE", help="Experiment file instead, e.g. from `xraytune export`."
        ),
    ] = None,
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    as_json: options.AsJson = False,
) -> None:
    """Train the final model, without Ray, and write it with a model card.

    Run the same command again to resume.

    Given a study, this runs `export` and trains the exported file: the mix that `confirm` found to
    help, or else the simplest one that is about as good as the best, with the settings of `final:`.
    """


def _show_evaluation(evaluation: Evaluation) -> None:
    """Print the metrics, and where the files were written."""
    console.show(*evaluation.lay_out())
    if evaluation.out:
        console.write(f"\n{evaluation.out}: metrics.json, predictions (CSV) and pictures")


@calls("evaluate", _show_evaluation)
def evaluate(
    model: options.ModelArgument,
    data: Annotated[
        Path,
        Option(
            metavar="SOURCE",
            help="Folder with one subfolder per class (for a segmenter, images/ and masks/), "
            "or data file (YAML), whose test images are used.",
        ),
    ],
    out: Annotated[
        Path | None,
        Option(
            "--out",
            "-o",
            metavar="OUT",
            help="Folder to create: predictions, tables (CSV, JSON) and pictures.",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        Option(
            metavar="COLUMN",
            help="Also report subgroups by this column of the patient table; repeatable.",
        ),
    ] = None,
    calibrate_on: Annotated[
        Path | None,
        Option(
            metavar="SOURCE",
            help="First adapt the probabilities and the threshold to these labelled images: "
            "about 50, of the same hospital, of other patients. For two classes.",
        ),
    ] = None,
    reason: options.Reason = "",
    skip_broken: options.SkipBroken = False,
    as_json: options.AsJson = False,
) -> None:
    """Evaluate a model on labelled images or pairs, with 95 % intervals over patients."""


def _show_predicted(predicted: Predicted) -> None:
    for image in predicted.broken:
        console.log(f"left out: {image.file}: {image.reason}", "bad")
    console.write(f"{predicted.path}: {predicted.summary}")


@calls("predict", _show_predicted)
def predict(
    model: options.ModelArgument,
    images: Annotated[Path, Argument(metavar="FOLDER", help="Folder of images, or one image.")],
    out: Annotated[
        Path,
        Option(
            "--out",
            "-o",
            metavar="OUT",
            help="CSV file to write; for a segmenter, folder to create.",
        ),
    ],
    skip_broken: options.SkipBroken = False,
    as_json: options.AsJson = False,
) -> None:
    """Write images' class probabilities to a CSV file, or their masks and overlays to a folder."""
