"""`xraytune headroom` measures what a search could gain.

`xraytune search` runs it and shows its progress.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from xraytune.base.errors import counted
from xraytune.base.tables import duration, shown_path
from xraytune.cli import console, options
from xraytune.cli.command import Options, calls

if TYPE_CHECKING:
    from xraytune.confirm.headroom import Headroom
    from xraytune.search.callbacks import Callbacks
    from xraytune.study.row import TrialRow
    from xraytune.study.status import StudyView
    from xraytune.study.trial import Trial


@contextmanager
def follow_search() -> Iterator[Callbacks]:
    """Show a search while the block runs.

    Bars, and then a live table; without a terminal, log lines.

    Examples:
        >>> import xraytune
        >>> with xraytune.show_search() as callbacks:  # doctest: +SKIP
        ...     study = xraytune.run_search("gan_ratio_cpu", data="chest_xray", callbacks=callbacks)
    """
    from xraytune.present.trials import live_frame, summary_line
    from xraytune.search.callbacks import Callbacks
    from xraytune.study.folder import StudyFolder
    from xraytune.study.status import StudyWatcher

    with ExitStack() as drawing:

        def on_start(study: Path, dashboard: str) -> None:
            drawing.close()
            watcher = StudyWatcher(StudyFolder(study))
            console.event(
                f"study {shown_path(study)} (Ctrl-C stops it; run the same command again to resume)"
            )
            log_dashboard(dashboard)
            shown = f"Ray dashboard: {dashboard}" if dashboard else ""
            drawing.enter_context(
                console.watching(
                    lambda: live_frame(watcher.look(), dashboard=shown),
                    lambda: summary_line(watcher.look()),
                )
            )

        yield Callbacks(
            note=console.event,
            on_start=on_start,
            on_trial_start=_log_start,
            on_trial_end=_log_end,
            on_progress=drawing.enter_context(console.progress()),
        )


@contextmanager
def _show_callbacks(_: Options) -> Iterator[Options]:
    with follow_search() as callbacks:
        yield {"callbacks": callbacks}


def _log_start(suggestion: Trial) -> None:
    from xraytune.synth.mix import mix_label

    if not console.is_live():
        what = "trains its generator first" if suggestion.trains_generator else "started"
        console.event(f"#{suggestion.number} {what}: {mix_label(suggestion.parameters)}")


def _log_end(row: TrialRow) -> None:
    if row.value is None:
        console.event(f"#{row.number} failed: {row.reason.splitlines()[0]}")
    elif not console.is_live():
        ended = f"{row.status} after {counted(row.epochs, 'epoch')}, {duration(row.seconds or 0.0)}"
        console.event(f"#{row.number} {ended}: val-A {row.value:.3f}")


def log_dashboard(address: str) -> None:
    """Log the address of Ray's dashboard, if any, and how to log in."""
    if address:
        ray = shown_path(Path(sys.executable).with_name("ray"))
        token = f"if it asks for a token: `{quote(str(ray))} get-auth-token` prints it"
        console.event(f"Ray dashboard: {address} ({token})")


def show_search(view: StudyView) -> None:
    """Print how the search ended, its arms, and the next command."""
    from xraytune.present.trials import arms_frame, heading

    console.show(*heading(view), *arms_frame(view))
    trained = [trial.parameters for trial in view.trials if trial.status in ("complete", "pruned")]
    is_confirmable = any(parameters.has_synthetic_images for parameters in trained)
    study = shown_path(view.path)
    if is_confirmable:
        console.propose("confirm", study)
    console.propose(
        "export", study, "-o", "best.yaml", when="without a verdict" if is_confirmable else "next"
    )


@calls("run_search", show_search, screen=_show_callbacks)
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


def _show_headroom(measured: Headroom) -> None:
    from xraytune.present.headroom import headroom_frame

    console.show(*headroom_frame(measured))


def _propose_search(_: Headroom, given: Options) -> None:
    console.propose("search", "--space", given["space"], given=given)
    others = ("--data", "OTHER_XRAYS", "--set", "gan.steps=4000", "-o", "generator")
    console.propose(
        *("generator", "train", "--space", "gan_ratio_cpu", *others),
        given={"weights_dir": given.get("weights_dir")},
        when="or first, for a generator of other patients",
    )


@calls("measure_headroom", _show_headroom, propose=_propose_search)
def headroom(
    space: options.SpaceFile,
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure, before a search, how much even perfect images could gain.

    Takes two minutes with a frozen backbone.

    Real images of other patients stand in for synthetic ones, at each ratio of the space. If they
    gain less than the margin of `confirm`, no generator can help. The test folder stays sealed.
    """
