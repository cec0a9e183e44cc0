"""The functions that a search or a confirmation calls as it proceeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

from xraytune.base.records import EpochRecord, Note, Progress, frozen, ignore_progress
from xraytune.data.images import ImageIndex
from xraytune.data.prepare import SplitData
from xraytune.space.space import Space
from xraytune.study.row import TrialRow
from xraytune.study.trial import OpenTrial


def _ignore(*_: object) -> None:
    pass


@frozen
class RunsView:
    """The runs of a confirmation at one moment.

    Attributes:
        what: Name of the runs, such as `replicates`.
        ended, waiting: Number of runs that have ended, and of runs that have not started.
        running: What each running run does, by its label.
        seconds_left: Estimated time left; None until a run has ended.
    """

    what: str
    ended: int
    running: Mapping[str, str]
    waiting: int
    seconds_left: float | None

    @property
    def is_done(self) -> bool:
        """Whether all runs have ended."""
        return not (self.running or self.waiting)


@frozen
class Callbacks:
    """Functions that a search or a confirmation calls as it proceeds; each does nothing by default.

    Attributes:
        note: Called with a line that the user should see.
        on_prepared: Called before a new search creates its study, with its space, its images,
            their index, and the artifact cache.
        on_start: Called when Ray runs, with the study's folder and the address of Ray's dashboard
            ("" if there is none).
        on_trial_start: Called when a trial starts or resumes.
        on_epoch: Called with a trial's number and its record after each new epoch.
        on_trial_end: Called with the trial's row of `trials.jsonl`.
        on_runs: Called once a second while the runs of a confirmation are trained, and whenever one
            ends.
        on_progress: Called with the progress of a confirmation's runs, and of everything else, such
            as decoding.
        before_test: Called after all training of a confirmation, before test images are scored for
            the first time, at most once; an exception leaves them sealed.
    """

    note: Note = _ignore
    on_prepared: Callable[[Space, SplitData, ImageIndex, Path], None] = _ignore
    on_start: Callable[[Path, str], None] = _ignore
    on_trial_start: Callable[[OpenTrial], None] = _ignore
    on_epoch: Callable[[int, EpochRecord], None] = _ignore
    on_trial_end: Callable[[TrialRow], None] = _ignore
    on_runs: Callable[[RunsView], None] = _ignore
    on_progress: Progress = ignore_progress
    before_test: Callable[[], None] = _ignore

    def combine(self, other: Callbacks) -> Callbacks:
        """Return callbacks that call these functions, and then those of the other record.

        Examples:
            >>> with api.show_search() as shown:  # doctest: +SKIP
            ...     mine = api.Callbacks(on_trial_end=lambda row: print(row.value))
            ...     api.search("gan_ratio_cpu", callbacks=shown.combine(mine))
        """

        def call_both(name: str) -> Callable[..., None]:
            def call(*arguments: object) -> None:
                getattr(self, name)(*arguments)
                getattr(other, name)(*arguments)

            return call

        return Callbacks(**{field.name: call_both(field.name) for field in fields(Callbacks)})


NO_CALLBACKS = Callbacks()
