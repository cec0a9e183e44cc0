"""Which trials are tried again, and with how much of a machine."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xraytune.errors import Problem, TrialError
from xraytune.limits import likely_shortage
from xraytune.search.work import HANG_FILE, Cause

_HOPELESS_AFTER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A process of a trial that ended before its trial did.

    Attributes:
        epochs: Epochs that were recorded then.
        cause: Why.
    """

    epochs: int
    cause: Cause


def may_try_again(failures: Sequence[Failure], now: Failure, retries: int) -> bool:
    """Whether a trial that failed is tried again: a fault may pass, and after a new epoch the count begins anew."""
    since = sum(failure.epochs == now.epochs for failure in failures)
    return now.cause != "settings" and since < retries


def share(failures: Sequence[Failure]) -> int:
    """How many times the usual share of a machine a trial gets: twice as much each time it ran out of memory."""
    return int(2 ** sum(failure.cause == "memory" for failure in failures))


def why_lost(trial_dir: Path, *, out_of_memory: bool) -> str:
    """Why the process of a trial ended without a word, as far as it left a trace."""
    hang = trial_dir / HANG_FILE
    if hang.exists() and hang.stat().st_size:
        return f"it hung (traceback: {trial_dir.name}/{HANG_FILE})"
    if out_of_memory:
        return "its process was killed: out of memory"
    limited = f"; {problem.what}" if (problem := likely_shortage()) else ""
    return f"its process was lost (killed, or its node{limited})"


@dataclass(slots=True)
class Ends:
    """How the trials of a start ended, one after the other: where three in a row fail for one reason, so would the others.

    Later than the first three, what may lie in a trial's own settings does not count: it may be a corner of the space.

    Attributes:
        where: Named in the error: the study.
    """

    where: Path
    _count: int = field(default=0, init=False)
    _last: deque[str] = field(default_factory=lambda: deque(maxlen=_HOPELESS_AFTER), init=False)

    def add(self, reason: str = "", *, is_of_machine: bool = False) -> None:
        """Take the reason of a trial that failed, nothing of one that did not.

        Args:
            reason: Why it failed.
            is_of_machine: Whether it has nothing to do with the trial's settings, as far as anybody knows.

        Raises:
            TrialError: Three in a row failed for the same reason.
        """
        self._count += 1
        self._last.append(re.sub(r"\d+", "#", reason.partition("\n")[0]))
        are_first = self._count == _HOPELESS_AFTER
        if reason and self._last.count(self._last[-1]) == _HOPELESS_AFTER and (are_first or is_of_machine):
            which = f"the {'first' if are_first else 'last'} {_HOPELESS_AFTER} trials"
            what = f"{which} all failed for one reason, so no other was begun: {reason}"
            raise TrialError(Problem(what, self.where, "mend that; the same command then goes on"))
