"""`xraytune search --space FILE`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from xraytune.cli import console
from xraytune.cli.options import Address, AsJson, Cache, Data, Overrides, SkipBroken, SpaceFile, Studies, WeightsDir
from xraytune.cli.study_frame import live_frame, summary_line
from xraytune.records import EpochRecord

if TYPE_CHECKING:
    from xraytune.search.messages import TrialSuggestion
    from xraytune.search.run import SearchSummary
    from xraytune.search.study import StudyFolder


def search(
    space: SpaceFile,
    data: Data = None,
    weights_dir: WeightsDir = None,
    overrides: Overrides = None,
    studies: Studies = Path("studies"),
    cache: Cache = None,
    address: Address = None,
    skip_broken: SkipBroken = False,
    as_json: AsJson = False,
) -> None:
    """Search a space of augmentation mixes; the same command again goes on where the last one stopped."""
    from xraytune.search.run import search

    with SearchScreen() as screen:
        summary = search(
            space,
            data=data,
            weights_dir=weights_dir,
            overrides=overrides or (),
            studies=studies,
            cache=cache,
            address=address,
            skip_broken=skip_broken,
            observer=screen,
            on_progress=screen.on_progress,
        )
    if as_json:
        console.show_json(
            {
                "study": str(summary.study),
                "counts": {**summary.counts},
                "best": summary.best,
                "for_export": summary.for_export,
            }
        )
    else:
        show(summary)


def show(summary: SearchSummary, *, next_step: bool = True) -> None:
    """Say what a search ended with, and how to go on."""
    from xraytune.config.fields import parameters_from
    from xraytune.search.controller import mix_label

    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items() if count)
    study = shown_path(summary.study)
    console.say(f"{study}: {counts}")
    for what, row in (("best on val-A", summary.best), ("best on val-B, which export takes", summary.for_export)):
        mix = mix_label(parameters_from(row["parameters"]))
        figures = f"val-A AUROC {row['value']:.3f}, val-B AUROC {row['val_b_auroc']:.3f}"
        console.say(f"{what}: #{row['number']} {mix}, {figures}", "good")
    if next_step:
        console.say_command(f"xraytune export {quote(str(study))} -o best.yaml", "next: ")


def shown_path(path: Path) -> Path:
    """A path as a person would type it: from the current folder, where it lies in it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def tell_dashboard(address: str) -> None:
    """Say where Ray's dashboard is and how to get in; nothing where there is none."""
    if address:
        ray = shown_path(Path(sys.executable).with_name("ray"))
        console.event(
            f"Ray dashboard: {address} (if it asks for a token: `{quote(str(ray))} get-auth-token` prints it)"
        )


class SearchScreen:
    """An `Observer` that shows a search: bars while it prepares, then a live table, or lines in a log."""

    def __enter__(self) -> SearchScreen:
        self._drawing = ExitStack()
        self.on_progress = self._drawing.enter_context(console.progress())
        return self

    def __exit__(self, *error: object) -> None:
        self._drawing.close()

    def note(self, text: str) -> None:
        """A line above what is drawn."""
        console.event(text)

    def opened(self, folder: StudyFolder, dashboard: str, trial_budget: int) -> None:
        """From here on the study is watched."""
        from xraytune.search.status import StudyWatcher

        self._drawing.close()
        watcher = StudyWatcher(folder, trial_budget)
        console.event(f"study {shown_path(folder.path)} (Ctrl-C ends it in order; the same command goes on)")
        tell_dashboard(dashboard)
        self._drawing.enter_context(
            console.watching(
                lambda: live_frame(watcher.look(), dashboard=f"Ray dashboard: {dashboard}" if dashboard else ""),
                lambda: summary_line(watcher.look()),
            )
        )

    def began(self, suggestion: TrialSuggestion) -> None:
        """A line in a log; a terminal shows it in the table."""
        from xraytune.search.controller import mix_label

        if not console.is_live():
            console.event(f"#{suggestion.number} begins: {mix_label(suggestion.parameters)}")

    def epoch(self, number: int, record: EpochRecord) -> None:
        """Nothing: the table and the log's summary say it."""

    def ended(self, row: Mapping[str, Any]) -> None:
        """A line in a log; on a terminal, of a failed trial alone."""
        if row["status"] == "failed":
            console.event(f"#{row['number']} failed: {row['reason'].splitlines()[0]}")
        elif not console.is_live():
            epochs = f"{row['epochs']} epoch{'s' * (row['epochs'] != 1)}"
            took = console.duration(row["seconds"])
            console.event(f"#{row['number']} {row['status']} after {epochs}, {took}: val-A AUROC {row['value']:.3f}")
