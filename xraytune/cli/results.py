"""The output of commands: `show_WORK` while a search or a confirmation runs, then `print_COMMAND`.

This file is imported only when a command shows something, so that `--help` is fast. What loads
torch or pandas is imported only where it is used, so that `status` is fast.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypeAlias

from typer import Exit, confirm

from xraytune.base.errors import counted
from xraytune.base.records import EpochRecord
from xraytune.base.tables import Cell, Row, Table, counts_text, duration
from xraytune.cli import console
from xraytune.present.design import outlook_frame
from xraytune.present.studies import StudySummary, compare_studies, studies_frame
from xraytune.present.trials import (
    arms_frame,
    heading,
    live_frame,
    runs_frame,
    runs_summary,
    status_frame,
    summary_line,
)
from xraytune.present.verdict import verdict_frame
from xraytune.search.callbacks import Callbacks, RunsView
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow
from xraytune.study.status import StudyView, StudyWatcher
from xraytune.study.trial import OpenTrial
from xraytune.synth.mix import mix_label

if TYPE_CHECKING:
    from xraytune.audit import Audit
    from xraytune.confirm.curve import Curve
    from xraytune.confirm.outlook import Outlook
    from xraytune.confirm.record import Confirmation
    from xraytune.data.images import ImageIndex
    from xraytune.data.inspect import Inspection
    from xraytune.data.phantom import PhantomSet
    from xraytune.data.prepare import SplitData
    from xraytune.model.export import Exported
    from xraytune.model.extension_check import Promise
    from xraytune.model.generator_folder import GeneratorSample, TrainedGenerator
    from xraytune.model.train import Trained
    from xraytune.space.settings import TaskName
    from xraytune.space.space import Space
    from xraytune.study.clean import Cleaned
    from xraytune.tasks.evaluation import Evaluation
    from xraytune.tasks.prediction import Predicted

Options: TypeAlias = Mapping[str, Any]


@contextmanager
def show_work(accepted: Container[str], options: Options) -> Iterator[Options]:
    """Show the work of a function while it runs; yield callbacks, of which it accepts some."""
    if "before_test" in accepted:
        is_asked = not (options["yes"] or options["as_json"])
        with show_confirmation(is_asked=is_asked) as callbacks:
            yield callbacks
    elif "callbacks" in accepted:
        with show_search() as callbacks:
            yield {"callbacks": callbacks}
    elif "on_progress" in accepted:
        with console.show_progress() as on_progress:
            yield {"on_progress": on_progress, "note": console.event, "on_epoch": _log_epoch}
    else:
        yield {}


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
                    lambda: live_frame(watcher.look(), dashboard=dashboard_line),
                    lambda: summary_line(watcher.look()),
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


def _log_epoch(epoch: EpochRecord) -> None:
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
def show_confirmation(*, is_asked: bool) -> Iterator[Options]:
    """Show the progress of a confirmation: bars, and a live table while it trains.

    If there is a terminal and `is_asked`, the user is asked before test images are accessed.
    """
    with ExitStack() as display:
        screen = _ConfirmationScreen(display, is_asked=is_asked)
        callbacks = Callbacks(
            note=console.event,
            on_start=lambda _, dashboard: _log_dashboard(dashboard),
            on_runs=screen.on_runs,
            on_progress=screen.on_progress,
        )
        yield {"callbacks": callbacks, "before_test": screen.before_test}


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
        if not self._has_table:
            self._display.close()
            self._has_table = True
            self._display.enter_context(
                console.watching(lambda: runs_frame(self._runs), lambda: runs_summary(self._runs))
            )
        if view.is_done:
            self._open_bars()

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


def print_status(view: StudyView, _: Options) -> None:
    """Print the trials of a study."""
    console.show(*status_frame(view))


def print_list_studies(studies: Sequence[StudySummary]) -> None:
    """Print a line for each study, and the command that shows one of them."""
    console.show(*studies_frame(studies))
    console.write_command("xraytune status STUDY", "the trials of one: ")


def print_compared(studies: Sequence[StudySummary]) -> None:
    """Print studies side by side."""
    console.show(compare_studies(studies))


def print_data_inspect(inspection: Inspection, given: Options) -> None:
    """Print the inspection of a folder, and propose a command with the same options."""
    from xraytune.present.inspection import inspection_frame
    from xraytune.space.load import override_of

    console.show(*inspection_frame(given["source"], inspection))
    positive = given["positive"]
    overrides = [override_of("data.positive", positive)] if positive else []
    console.propose("search", given={**given, "data": given["source"], "overrides": overrides})


def print_data_phantom(xrays: PhantomSet, _: Options) -> None:
    """Print what was made."""
    what = ", with a table of findings, data.yaml" if (xrays.path / "data.yaml").exists() else ""
    console.write(
        f"{xrays.path}: {xrays.image_count} phantom X-rays of {xrays.patient_count} patients{what}"
    )


def print_generator_train(trained: TrainedGenerator, given: Options) -> None:
    """Print the generator, its quality, the classifier beside it, and the next command."""
    from xraytune.space.load import override_of

    generator = trained.generator
    if generator:
        settings = generator.settings
        counts = _count_images(generator.class_counts, generator.task)
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
    if generator and len(generator.class_counts) > 1:
        class_settings = ("data.classes", "data.positive")
        overrides = [
            line for line in given.get("overrides") or () if line.startswith(class_settings)
        ]
        overrides.append(override_of("generator.path", trained.path))
        words = ("search", "--space", "other_hospital_cpu")
        console.propose(
            *words,
            given={**given, "data": "OTHER_XRAYS", "overrides": overrides},
            when="next, with X-rays of other patients",
        )


def print_extension_check(promises: Sequence[Promise], given: Options) -> None:
    """Print what an extension keeps of its promises."""
    rows: list[Row] = [
        {
            "promise": promise.name,
            "kept": Cell("yes", "good") if promise.is_kept else Cell("no", "bad"),
            "found, and fix": f"{promise.found}\n{promise.fix}".strip(),
        }
        for promise in promises
    ]
    console.show(Table(rows, str(given["extension"])))


def print_generator_sample(sample: GeneratorSample, _: Options) -> None:
    """Print how many images were generated."""
    counts = _count_images(sample.counts, sample.task)
    console.write(f"{sample.path}: {counts} ({sample.image_size_px} px), with provenance.json")


def _count_images(counts: Mapping[str, int], task: TaskName) -> str:
    if task == "classification":
        return counts_text(counts)
    return f"{sum(counts.values()):,} images with {'masks' if task == 'segmentation' else task}"


def print_plan(outlook: Outlook, given: Options) -> None:
    """Print what a study would do and could tell, what is missing, and the next command."""
    console.show(*outlook_frame(outlook))
    if outlook.design:
        space = ("--space", given["space"]) if given["space"] else ()
        console.propose("search", *space, given=given)
    elif outlook.is_ready:
        console.propose("demo")


def _log_design(space: Space, prepared: SplitData, index: ImageIndex) -> None:
    """Log what the verdict on a starting search could tell, and how long it takes to get it."""
    from xraytune.confirm.design import design_study

    design = design_study(space, prepared, index)
    console.event(f"plan: {design.outlook}")
    console.event(f"plan: {design.time}")


def print_curve(measured: Curve, given: Options) -> None:
    """Print what each arm is worth, and the next command."""
    from xraytune.present.curve import curve_frame

    console.show(*curve_frame(measured))
    if given["out"]:
        console.write(f"{given['out']}: curve.json, curve.png and curve.svg")
    console.propose("search", "--space", given["space"], given=given)


def print_search(view: StudyView, given: Options) -> None:
    """Print how the search ended, its arms, and the next command."""
    console.show(*heading(view), *arms_frame(view))
    when = "next"
    if view.has_finalist:
        extensions = {"extensions": given.get("extensions")}
        console.propose("confirm", view.path, given=extensions)
        when = "without a verdict"
    console.propose("export", view.path, "-o", "best.yaml", when=when)


def print_confirm(confirmation: Confirmation, _: Options) -> None:
    """Print the verdict, its comparisons, and the files with all results."""
    console.show(*verdict_frame(confirmation))
    study = confirmation.study
    console.write(
        f"all results: {study}/confirm/verdict.json; text for a paper: {study}/confirm/methods.md"
    )
    console.propose("report", study)
    console.propose("export", study, "-o", "best.yaml", when="then")


def print_audit(result: Audit, _: Options) -> None:
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


def print_export(exported: Exported, _: Options) -> None:
    """Print the exported trial and the next command."""
    console.write(f"{exported.path}: {exported.sentence}")
    if exported.synthetic:
        console.write(f"the benefit of its synthetic images is {exported.synthetic}")
    console.write_command(exported.command, "next: ")


def print_cache_clean(cleaned: Cleaned, _: Options) -> None:
    """Print what was removed."""
    verb = "would free" if cleaned.is_dry_run else "freed"
    head = (
        f"{verb} {sum(cleaned.removed.values()) / 2**20:,.1f} MiB"
        if cleaned.removed
        else "nothing to remove"
    )
    console.write(head, "good")
    if cleaned.note:
        console.write(f"note: {cleaned.note}", "dim")
    if cleaned.removed:
        rows = [
            {"path": str(path), "MiB": f"{size / 2**20:,.1f}"}
            for path, size in cleaned.removed.items()
        ]
        console.show(Table(rows))


def print_train(trained: Trained, _: Options) -> None:
    """Print the metrics of a trained model and the next command."""
    record = trained.record
    scores = (
        f"val-A {trained.metric} {record.val_score:.3f}, val-B {trained.metric} "
        f"{record.val_b_score:.3f}"
    )
    network = f"epoch {record.best_epoch} of {trained.epochs}"
    if record.members > 1:
        network = f"average of {record.members} networks"
    console.write(f"{trained.path}: arm {record.arm}, {network}, {scores}")
    if record.positive and len(record.class_names) == 2:
        threshold = f"threshold for {record.positive}: {record.threshold:.3f}"
        console.write(f"{threshold}, chosen for balanced accuracy on val-A and val-B")
    console.propose("evaluate", trained.path, given={"data": trained.test_folder or "FOLDER"})


def print_evaluate(evaluation: Evaluation, _: Options) -> None:
    """Print the metrics, and where the files were written."""
    from xraytune.present.evaluation import evaluation_frame

    console.show(*evaluation_frame(evaluation))
    if evaluation.out:
        console.write(f"\n{evaluation.out}: metrics.json, predictions (CSV) and pictures")


def print_predict(predicted: Predicted, _: Options) -> None:
    """Print the predictions in short, and their file; log the images that were left out."""
    for image in predicted.broken:
        console.log(f"left out: {image.file}: {image.reason}", "bad")
    file = f"{predicted.path}: " if predicted.path else ""
    console.write(f"{file}{predicted.summary}")
