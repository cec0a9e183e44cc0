"""`xraytune confirm` runs the confirmation of a study; `xraytune audit` evaluates a folder of synthetic images."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from xraytune.base.records import Progress, ignore_progress
from xraytune.cli import console, options
from xraytune.cli.search import log_dashboard
from xraytune.present.tables import Section, shown_path

if TYPE_CHECKING:
    from xraytune.audit import Audit
    from xraytune.confirm.record import Confirmation
    from xraytune.search.callbacks import Callbacks


def confirm(
    study: options.StudyArgument,
    test: Annotated[
        Path | None,
        Option(
            metavar="SOURCE",
            help="Test images for the verdict, if the study's data has none: class folders (segmentation: images/ and "
            "masks/) or a data file (YAML).",
        ),
    ] = None,
    data: options.MovedData = None,
    weights_dir: options.WeightsDir = None,
    finalists: Annotated[
        int | None, Option(min=1, metavar="N", help="Number of best mixes to test; overrides the study's setting.")
    ] = None,
    replicates: Annotated[
        int | None,
        Option(min=2, metavar="N", help="Number of trainings of each mix and control; overrides the study's setting."),
    ] = None,
    yes: options.Yes = False,
    cache: options.Cache = None,
    address: options.Address = None,
    reason: options.Reason = "",
    as_json: options.AsJson = False,
) -> None:
    """Test the best mixes against matched and tuned controls, with new seeds, on patients that no trial has seen."""
    from xraytune.confirm.run import confirm

    with ConfirmScreen(ask=not (yes or as_json)) as screen:
        confirmation = confirm(
            study,
            test=test,
            finalists=finalists,
            replicates=replicates,
            data=data,
            weights_dir=weights_dir,
            cache=cache,
            address=address,
            reason=reason,
            callbacks=screen.callbacks,
            before_test=screen.before_test,
        )
    console.show_result(confirmation, show_verdict, as_json=as_json)


@dataclass(slots=True)
class ConfirmScreen:
    """Show the progress of a confirmation; `ask` before accessing test images, if there is a terminal."""

    ask: bool = False
    _drawing: ExitStack = field(default_factory=ExitStack)
    _bars: Progress = ignore_progress

    def __enter__(self) -> ConfirmScreen:
        self._bars = self._drawing.enter_context(console.progress())
        return self

    def __exit__(self, *error: object) -> None:
        self._drawing.close()

    @property
    def callbacks(self) -> Callbacks:
        """The screen as the callbacks of `confirm`."""
        from xraytune.search.callbacks import Callbacks

        return Callbacks(
            note=console.event,
            on_start=lambda _, dashboard: log_dashboard(dashboard),
            on_progress=lambda what, done, total: self._bars(what, done, total),
        )

    def before_test(self) -> None:
        """Ask whether to access the test images, and exit if they are to stay sealed."""
        if not self.ask:
            return
        self._drawing.close()
        if not console.agreed("All replicates are trained. Access the test images now?"):
            console.write("the test images stay sealed; run the same command again to access them")
            raise Exit
        self._bars = self._drawing.enter_context(console.progress())


def show_verdict(confirmation: Confirmation) -> None:
    """Print the verdict, the comparisons behind it, and where it is written."""
    from xraytune.present.verdict import verdict_section

    console.show_section(verdict_section(confirmation))
    study = shown_path(confirmation.study)
    console.write(f"all results: {study}/confirm/verdict.json; text for a paper: {study}/confirm/methods.md")
    console.propose("report", study)
    console.propose("export", study, "-o", "best.yaml", when="then")


def audit(
    real: options.DataSource,
    synthetic: Annotated[
        Path, Argument(metavar="SYNTHETIC", help="Synthetic images, in class folders named like the real ones.")
    ],
    quick: Annotated[
        bool, Option("--quick", help="Only measure the images; no training, and the test folder stays sealed.")
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
    from xraytune.audit import audit

    with ConfirmScreen(ask=not (yes or as_json)) as screen:
        result = audit(
            real,
            synthetic,
            quick=quick,
            weights_dir=weights_dir,
            overrides=overrides or (),
            studies=studies,
            cache=cache,
            skip_broken=skip_broken,
            callbacks=screen.callbacks,
            before_test=screen.before_test,
        )
    console.show_result(result, _show_audit, as_json=as_json)


def _show_audit(result: Audit) -> None:
    """Print the measured figures, the verdict if there is one, and where they are written."""
    from xraytune.present.verdict import verdict_section

    copies = result.report.copies or "no more images than by chance are near a training image"
    quality = result.report.quality or result.report.note
    notes = [f"Copies: {copies}; {result.identical:,} are byte-identical to one.", f"Quality: {quality}."]
    section = verdict_section(result.verdict) if result.verdict else Section(tone="strong")
    tone = "bad" if result.report.copies else section.tone
    console.show_section(replace(section, lead=result.headline, tone=tone, notes=[*notes, *section.notes]))
    folder = shown_path(result.study)
    if result.verdict:
        console.write(f"report: {folder}/report.html; all figures: {folder}/audit.json")
