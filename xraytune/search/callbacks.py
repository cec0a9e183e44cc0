"""The functions that a search or a confirmation calls as it proceeds."""

from collections.abc import Callable
from pathlib import Path

from xraytune.base.records import EpochRecord, Progress, frozen, ignore_progress
from xraytune.data.images import ImageIndex
from xraytune.data.prepare import SplitData
from xraytune.space.space import Space
from xraytune.study.row import TrialRow
from xraytune.study.trial import Trial


def _ignore(*_: object) -> None:
    pass


@frozen
class Callbacks:
    """Functions that a search or a confirmation calls as it proceeds; each does nothing by default.

    Attributes:
        note: Called with a line that the user should see.
        on_prepared: Called before a new search creates its study, with its space, its images, their
            index, and the cache.
        on_start: Called when Ray runs, with the study's folder and the address of Ray's dashboard
            ("" if there is none).
        on_trial_start: Called when a trial starts or resumes.
        on_epoch: Called with a trial's number and its record after each new epoch.
        on_trial_end: Called with the trial's row of `trials.jsonl`.
        on_progress: Called with the progress of everything else, such as decoding, and of a
            confirmation's runs.
    """

    note: Callable[[str], None] = _ignore
    on_prepared: Callable[[Space, SplitData, ImageIndex, Path], None] = _ignore
    on_start: Callable[[Path, str], None] = _ignore
    on_trial_start: Callable[[Trial], None] = _ignore
    on_epoch: Callable[[int, EpochRecord], None] = _ignore
    on_trial_end: Callable[[TrialRow], None] = _ignore
    on_progress: Progress = ignore_progress


NO_CALLBACKS = Callbacks()
