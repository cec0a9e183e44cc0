"""`xraytune confirm` runs the confirmation of a study.

`xraytune audit` evaluates a folder of synthetic images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from xraytune.base.tables import shown_path
from xraytune.cli import console, options
from xraytune.cli.command import Options, calls
from xraytune.cli.search import log_dashboard

if TYPE_CHECKING:
    from xraytune.confirm.record import Confirmation
    from xraytune.present.audit import Audit


@contextmanager
def _show_confirmation(given: Options) -> Iterator[Options]:
    """Show the progress of a confirmation.

    If there is a terminal, ask before it accesses test images.
    """
    from xraytune.search.callbacks import Callbacks

    with ExitStack() as drawing:

        def before_test() -> None:
            drawing.close()
            is_asked = not (given.get("yes") or given.get("as_json"))
            if is_asked and not console.agreed(
                "All replicates are trained. Access the test images now?"
            ):
                console.write("they stay sealed; run the same command again to access them")
                raise Exit

        callbacks = Callbacks(
            note=console.event,
            on_start=lambda _, dashboard: log_dashboard(dashboard),
            on_progress=drawing.enter_context(console.progress()),
        )
        yield {"callbacks": callbacks, "before_test": before_test}


def show_verdict(confirmation: Confirmation) -> None:
    """Print the verdict, the comparisons behind it, and where it is written."""
    from xraytune.present.verdict import verdict_frame

    console.show(*verdict_frame(confirmation))
    study = shown_path(confirmation.study)
    console.write(
        f"all results: {study}/confirm/verdict.json; text for a paper: {study}/confirm/methods.md"
    )
    console.propose("report", study)
    console.propose("export", study, "-o", "best.yaml", when="then")


@calls("confirm_study", show_verdict, screen=_show_confirmation)
def confirm(
    study: options.StudyArgument,
    test: Annotated[
        Path | None,
        Option(
            metavar="SOURCE",
            help="Test images for the verdict, if the study's data has none: "
            "class folders (segmentation: images/ and masks/) or a data file (YAML).",
        ),
    ] = None,
    data: options.MovedData = None,
    weights_dir: options.WeightsDir = None,
    finalists: Annotated[
        int | None,
        Option(
            min=1, metavar="N", help="Number of best mixes to test; overrides the study's setting."
        ),
    ] = None,
    replicates: Annotated[
        int | None,
        Option(
            min=2,
            metavar="N",
            help="Number of trainings of each mix and control; overrides the study's setting.",
        ),
    ] = None,
    yes: options.Yes = False,
    cache: options.Cache = None,
    address: options.Address = None,
    reason: options.Reason = "",
    as_json: options.AsJson = False,
) -> None:
    """Test the best mixes against matched and tuned controls.

    With new seeds, on patients that no trial has seen.
    """


def _show_audit(result: Audit) -> None:
    """Print the measured figures, the verdict if there is one, and where they are written."""
    from xraytune.present.verdict import verdict_frame

    report = result.report
    console.write(result.headline, "bad" if result.faults or report.copies else "strong")
    for fault in result.faults:
        console.write(f"Fault: {fault}")
    copies = report.copies or "no more images than by chance are near a training image"
    console.write(f"Copies: {copies}; {result.identical:,} are byte-identical to one.")
    console.write(f"Quality: {report.quality or report.note}.")
    if result.verdict:
        console.show(*verdict_frame(result.verdict))
        folder = shown_path(result.study)
        console.write(f"report: {folder}/report.html; all figures: {folder}/audit.json")


@calls("run_audit", _show_audit, screen=_show_confirmation)
def audit(
    real: options.DataSource,
    synthetic: Annotated[
        Path,
        Argument(
            metavar="SYNTHETIC", help="Synthetic images, in class folders named like the real ones."
        ),
    ],
    quick: Annotated[
        bool,
        Option(
            "--quick",
            metavar="",
            help="Only measure the images; no training, and the test folder stays sealed.",
        ),
    ] = False,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    studies: options.Studies = Path("studies"),
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
) -> None:
    """Evaluate synthetic images against real ones: copies, realism, and benefit to a classifier."""
