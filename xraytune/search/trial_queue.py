"""Who waits for a free slot and who runs, so that each GAN is trained once.

A trial whose GAN another one is training waits until that GAN is there; meanwhile those that do not need it run, so nothing
can deadlock.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from xraytune.config.settings import Parameters
from xraytune.errors import Problem, TrialError
from xraytune.limits import likely_shortage
from xraytune.search.messages import HANG_FILE, Cause, TrialSuggestion

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


GanNeeds: TypeAlias = Callable[[Parameters], str | None]
"""From a trial's settings to the lineage of the GAN that has yet to be trained for it; None where there is nothing."""


class TrialQueue:
    """Trials in order.

    Args:
        gan_need: Looks it up, each time anew: a GAN may have been finished since.
        waiting: To be run, the first first.

    Attributes:
        waiting: Likewise.
        running: By number.
    """

    def __init__(self, gan_need: GanNeeds, waiting: Iterable[TrialSuggestion]) -> None:
        self.waiting = deque(waiting)
        self.running: dict[int, TrialSuggestion] = {}
        self._gan_need = gan_need
        self._lineages: dict[int, str] = {}  # of the GANs that running trials began with training

    def take(self) -> TrialSuggestion | None:
        """The first that need not wait any longer, out of the queue; None: there is none."""
        free = next((suggestion for suggestion in self.waiting if not self.must_wait(suggestion)), None)
        if free is not None:
            self.waiting.remove(free)
        return free

    def must_wait(self, suggestion: TrialSuggestion) -> bool:
        """Whether another trial is training the GAN that this one needs, or a longer or shorter run of it."""
        needed = self._gan_need(suggestion.parameters)
        if needed is None:
            return False
        return any(
            lineage == needed and self._gan_need(self.running[number].parameters)
            for number, lineage in self._lineages.items()
        )

    def start(self, suggestion: TrialSuggestion) -> None:
        """It runs from now on."""
        self.running[suggestion.number] = suggestion
        if lineage := self._gan_need(suggestion.parameters):
            self._lineages[suggestion.number] = lineage

    def end(self, number: int) -> TrialSuggestion:
        """It runs no more."""
        self._lineages.pop(number, None)
        return self.running.pop(number)

    def start_over(self) -> None:
        """All that ran waits again, before all others."""
        self.waiting.extendleft([self.end(number) for number in reversed(tuple(self.running))])
