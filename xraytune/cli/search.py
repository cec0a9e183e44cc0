"""`xraytune headroom` measures what a search could gain; `xraytune search` runs it and shows its progress."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from xraytune.base.errors import counted
from xraytune.cli import console, options
from xraytune.present.tables import duration, shown_path

if TYPE_CHECKING:
    from xraytune.search.callbacks import Callbacks
    from xraytune.study.row import TrialRow
    from xraytune.study.status import StudyView
    from xraytune.study.trial import Trial


def search(
    space: options.SpaceFile,
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    studies: options.Studies = Path("studies"),
    cache: options.Cache = None,
    address: options.Address = None,
    skip_broken: options.SkipBroken = False,
    as_json: options.AsJson = False,
) -> None:
    """Search a space of augmentation mixes. Run the same command again to resume."""
    from xraytune.search.run import search

    with SearchScreen() as callbacks:
        view = search(
            space,
            data=data,
            weights_dir=weights_dir,
            overrides=overrides or (),
            studies=studies,
            cache=cache,
            address=address,
            skip_broken=skip_broken,
            callbacks=callbacks,
        )
    console.show_result(view, show_search, as_json=as_json)


def headroom(
    space: options.SpaceFile,
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure, before a search, how much even perfect images could gain: two minutes with a frozen backbone.

    Real images of other patients stand in for synthetic ones, at each ratio of the space and, if the backbone is
    frozen, for several numbers of patients. If they gain less than the margin of `confirm`, no generator can help. The
    test folder stays sealed.
    """
    from xraytune.confirm.headroom import headroom
    from xraytune.present.headroom import headroom_frame

    with console.progress() as on_progress:
        measured = headroom(
            space,
            data=data,
            weights_dir=weights_dir,
            overrides=overrides or (),
            cache=cache or Path("cache"),
            skip_broken=skip_broken,
            on_progress=on_progress,
            note=console.event,
        )
    console.show_result(measured, lambda result: console.show(*headroom_frame(result)), as_json=as_json)
    if not as_json:
        console.propose(*("search", "--space", space), data=data, weights_dir=weights_dir, overrides=overrides or ())
        others = ("--data", "OTHER_XRAYS", "--set", "gan.steps=6000", "-o", "generator")
        console.propose(
            *("generator", "train", "--space", "gan_ratio_cpu", *others),
            weights_dir=weights_dir,
            when="or first, for a generator of other patients",
        )


def show_search(view: StudyView) -> None:
    """Print how the search ended, its arms, and the next command."""
    from xraytune.present.trials import arms_frame, heading

    console.show(*heading(view), *arms_frame(view))
    trained = [trial.parameters for trial in view.trials if trial.status in ("complete", "pruned")]
    is_confirmable = any(parameters.has_synthetic_images for parameters in trained)
    study = shown_path(view.path)
    if is_confirmable:
        console.propose("confirm", study)
    console.propose("export", study, "-o", "best.yaml", when="without a verdict" if is_confirmable else "next")


def log_dashboard(address: str) -> None:
    """Log the address of Ray's dashboard, if any, and how to log in."""
    if address:
        ray = shown_path(Path(sys.executable).with_name("ray"))
        token = f"if it asks for a token: `{quote(str(ray))} get-auth-token` prints it"
        console.event(f"Ray dashboard: {address} ({token})")


class SearchScreen:
    """Show a search: bars during preparation, then a live table; without a terminal, log lines."""

    def __enter__(self) -> Callbacks:
        from xraytune.search.callbacks import Callbacks

        self._drawing = ExitStack()
        return Callbacks(
            note=console.event,
            on_start=self._on_start,
            on_trial_start=self._on_trial_start,
            on_trial_end=self._on_trial_end,
            on_progress=self._drawing.enter_context(console.progress()),
        )

    def __exit__(self, *error: object) -> None:
        self._drawing.close()

    def _on_start(self, study: Path, dashboard: str) -> None:
        from xraytune.present.trials import live_frame, summary_line
        from xraytune.study.folder import StudyFolder
        from xraytune.study.status import StudyWatcher

        self._drawing.close()
        watcher = StudyWatcher(StudyFolder(study))
        console.event(f"study {shown_path(study)} (Ctrl-C stops it; run the same command again to resume)")
        log_dashboard(dashboard)
        shown = f"Ray dashboard: {dashboard}" if dashboard else ""
        self._drawing.enter_context(
            console.watching(lambda: live_frame(watcher.look(), dashboard=shown), lambda: summary_line(watcher.look()))
        )

    def _on_trial_start(self, suggestion: Trial) -> None:
        from xraytune.trial.mix import mix_label

        if not console.is_live():
            what = "trains its generator first" if suggestion.only_generator else "started"
            console.event(f"#{suggestion.number} {what}: {mix_label(suggestion.parameters)}")

    def _on_trial_end(self, row: TrialRow) -> None:
        if row.value is None:
            console.event(f"#{row.number} failed: {row.reason.splitlines()[0]}")
        elif not console.is_live():
            ended = f"{row.status} after {counted(row.epochs, 'epoch')}, {duration(row.seconds)}"
            console.event(f"#{row.number} {ended}: val-A {row.value:.3f}")
