"""The output of commands: `show_WORK` while a search or a confirmation runs, and its result.

This file is imported only when a command shows something, so that `--help` is fast. What loads
torch or pandas is imported only where it is used, so that `status` is fast.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from typer import Exit, confirm

from xraytune.base.errors import Problem, counted
from xraytune.base.files import unused_path
from xraytune.base.records import EpochRecord
from xraytune.base.tables import counts_text, duration
from xraytune.cli import console
from xraytune.confirm.record import read_verdict
from xraytune.present.trials import (
    arms_frame,
    heading,
    live_frame,
    runs_frame,
    runs_summary,
    summary_line,
)
from xraytune.present.verdict import verdict_frame, verdict_sentence
from xraytune.search.callbacks import Callbacks, RunsView
from xraytune.space.recorded import code_places
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow
from xraytune.study.status import StudyView, StudyWatcher
from xraytune.study.trial import OpenTrial
from xraytune.synth.mix import mix_label

if TYPE_CHECKING:
    from xraytune.audit import Audit
    from xraytune.confirm.record import Confirmation
    from xraytune.data.images import ImageIndex
    from xraytune.data.prepare import SplitData
    from xraytune.model.generator_folder import TrainedGenerator
    from xraytune.space.space import Space
    from xraytune.space.task_settings import TaskName
    from xraytune.tasks.bundle_record import BundleRecord


@contextmanager
def show_search() -> Iterator[Callbacks]:
    """Show a search while the block runs: first progress bars, and then a live table.

    Without a terminal, lines are logged instead.

    Examples:
        >>> from xraytune import api
        >>> with api.show_search() as callbacks:  # doctest: +SKIP
        ...     study = api.search("gan_ratio_cpu", data="chest_xray", callbacks=callbacks)
    """
    with ExitStack() as display:

        def on_start(study: Path, dashboard: str) -> None:
            display.close()
            watcher = StudyWatcher(StudyFolder(study))
            console.event(f"study {study} (Ctrl-C stops it; run the same command again to resume)")
            _log_dashboard(dashboard)
            dashboard_line = f"Ray dashboard: {dashboard}" if dashboard else ""
            display.enter_context(
                console.watching(
                    lambda: live_frame(watcher.refresh(), dashboard=dashboard_line),
                    lambda: summary_line(watcher.refresh()),
                )
            )

        yield Callbacks(
            note=console.event,
            on_prepared=_log_design,
            on_start=on_start,
            on_trial_start=_log_start,
            on_trial_end=_log_end,
            on_progress=display.enter_context(console.show_progress()),
        )


def expected_score(record: BundleRecord) -> str:
    """Return the main metric of all validation patients, with its 95 % interval."""
    main = record.metrics[0]
    patients = f"of {counted(record.trained_on.validated_patients, 'validation patient')}"
    if main.value is None or main.interval is None:
        return f"the {main.name} {patients}, which is not known"
    low, high = main.interval
    return f"the {main.name} {patients}: {main.value:.3f} ({low:.3f} to {high:.3f})"


def log_epoch(epoch: EpochRecord) -> None:
    """Log an epoch of `train`."""
    losses = f"train loss {epoch.train_loss:.4f}  val-A loss {epoch.val_loss:.4f}"
    console.event(f"epoch {epoch.epoch:3d}  {losses}  val-A score {epoch.val_score:.4f}")


def _log_start(trial: OpenTrial) -> None:
    if not console.is_live():
        what = "trains its generator first" if trial.trains_generator else "started"
        console.event(f"#{trial.number} {what}: {mix_label(trial.parameters)}")


def _log_end(row: TrialRow) -> None:
    if row.value is None:
        console.event(f"#{row.number} failed: {row.reason.splitlines()[0]}")
    elif not console.is_live():
        text = f"{row.status} after {counted(row.epochs, 'epoch')}, {duration(row.seconds or 0.0)}"
        console.event(f"#{row.number} {text}: val-A {row.value:.3f}")


def _log_dashboard(address: str) -> None:
    """Log the address of Ray's dashboard, if any, and how to log in."""
    if address:
        ray = Path(sys.executable).with_name("ray")
        token = f"if it asks for a token: `{quote(str(ray))} get-auth-token` prints it"
        console.event(f"Ray dashboard: {address} ({token})")


@contextmanager
def show_confirmation(*, is_asked: bool) -> Iterator[Callbacks]:
    """Show the progress of a confirmation: bars, and a live table while it trains.

    If there is a terminal and `is_asked`, the user is asked before test images are accessed.
    """
    with ExitStack() as display:
        screen = _ConfirmationScreen(display, is_asked=is_asked)
        yield Callbacks(
            note=console.event,
            on_start=lambda _, dashboard: _log_dashboard(dashboard),
            on_runs=screen.on_runs,
            on_progress=screen.on_progress,
            before_test=screen.before_test,
        )


class _ConfirmationScreen:
    """What is shown of a confirmation: bars, or the table of the runs that are trained."""

    _runs: RunsView

    def __init__(self, display: ExitStack, *, is_asked: bool) -> None:
        self._display = display
        self._is_asked = is_asked
        self._open_bars()

    def _open_bars(self) -> None:
        self._display.close()
        self._has_table = False
        self._bars = self._display.enter_context(console.show_progress())

    def on_runs(self, view: RunsView) -> None:
        """Show the runs in the table, and bars again once all have ended."""
        self._runs = view
        if view.is_done:
            if self._has_table:
                self._open_bars()
        elif not self._has_table:
            self._display.close()
            self._has_table = True
            self._display.enter_context(
                console.watching(lambda: runs_frame(self._runs), lambda: runs_summary(self._runs))
            )

    def on_progress(self, what: str, done: int, total: int) -> None:
        """Show a bar, unless the table is shown."""
        if not self._has_table:
            self._bars(what, done, total)

    def before_test(self) -> None:
        """Ask whether test images may be accessed; raise Exit if they may not."""
        self._display.close()
        can_ask = self._is_asked and console.is_live() and sys.stdin.isatty()
        question = "All replicates are trained. Access the test images now?"
        if can_ask and not confirm(question, err=True):
            console.write("the test images stay sealed; run the same command again to access them")
            raise Exit
        self._open_bars()


def print_trained_generator(trained: TrainedGenerator) -> None:
    """Print the generator, its quality, and the classifier beside it."""
    generator = trained.generator
    if generator:
        settings = generator.settings
        counts = count_images(generator.class_counts, generator.task)
        what = f"{settings.image_size} px GAN, trained for {settings.steps:,} steps"
        console.write(f"{trained.path}: {what} on {counts}")
        console.write("its images next to real ones: samples.png")
        report = generator.report
        if report:
            features = f"; features of {report.quality.features}" if report.quality else ""
            console.write(f"quality: {report.quality or report.note}{features}")
            if report.copies:
                console.write(f"its images copy training images: {report.copies}")
    donor = trained.donor
    if donor:
        what = "classifier of these images (donor.safetensors), with statistics of their features"
        counts = counts_text(donor.class_counts)
        console.write(f"{what}: AUROC {donor.val_auroc:.3f} on val-A of {counts}")
    console.write("what each file reveals: card.md")


def count_images(counts: Mapping[str, int], task: TaskName) -> str:
    """Return numbers of images as text, by class where there are classes."""
    if task == "classification":
        return counts_text(counts)
    return f"{sum(counts.values()):,} images with {'masks' if task == 'segmentation' else task}"


def _log_design(space: Space, prepared: SplitData, index: ImageIndex, cache: Path) -> None:
    """Log what the verdict on a starting search could tell, and how long it takes to get it."""
    from xraytune.confirm.design import design_study
    from xraytune.trial.baseline import expected_auroc

    auroc = expected_auroc(space, prepared, cache)
    design = design_study(space, prepared, index, auroc=auroc)
    console.event(f"plan: {design.outlook}")
    console.event(f"plan: {design.time}")


def print_search(view: StudyView, address: str | None) -> None:
    """Print how the search ended, its arms, and the next command."""
    console.show(*heading(view), *arms_frame(view))
    propose_next(view, address)


def propose_next(view: StudyView, address: str | None = None) -> None:
    """Print the verdict on a searched study and what to do with it.

    Before `confirm`, print what it will be able to tell, or why it cannot tell anything. A study
    that was searched on the cluster of an `address` is confirmed there, too.
    """
    verdict = read_verdict(StudyFolder(view.path).confirm_path)
    if verdict:
        console.show(verdict_sentence(verdict))
        _propose_report(view.path)
        return
    from xraytune.confirm.design import design_confirmation  # loads torch

    problem = Problem("the search has no complete trial with synthetic images")
    if view.has_finalist:
        design = design_confirmation(view)
        if design.problem is None:
            console.show(f"what `confirm` can tell: {design.outlook}")
            extensions = code_places(view.path, Path.cwd())
            console.propose("confirm", view.path, address=address, extensions=extensions)
            _propose_export(view.path, when="without a verdict")
            return
        problem = design.problem
    console.show(f"there is nothing to confirm: {problem.what}")
    if problem.fix:
        console.show(f"fix: {problem.fix}")
    _propose_export(view.path, when="next, without a verdict")


def print_confirmation(confirmation: Confirmation) -> None:
    """Print the verdict, its comparisons, and the files with all results."""
    console.show(*verdict_frame(confirmation))
    study = confirmation.study
    console.write(
        f"all results: {study}/confirm/verdict.json; text for a paper: {study}/confirm/methods.md"
    )
    _propose_report(study)


def _propose_report(study: Path) -> None:
    console.propose("report", study)
    _propose_export(study, when="then")


def _propose_export(study: Path, *, when: str) -> None:
    console.propose("export", study, "-o", unused_path(Path("best.yaml")), when=when)


def print_audit(result: Audit) -> None:
    """Print the measured figures and, if there is a verdict, the verdict and the report's path."""
    report = result.report
    console.write(result.headline, "bad" if result.faults or report.copies else "strong")
    if result.fix and not result.verdict:
        console.write(f"fix: {result.fix}")
    for fault in result.faults:
        console.write(f"Fault: {fault}")
    copies = (
        report.copies or "no more images are close to a training image than chance would explain"
    )
    console.write(f"Copies: {copies}; {result.identical:,} are byte-identical to one.")
    console.write(f"Quality: {report.quality or report.note}.")
    if result.verdict:
        console.show(*verdict_frame(result.verdict))
        study = result.study
        console.write(f"report: {study}/report.html; all figures: {study}/audit.json")
