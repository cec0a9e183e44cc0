"""Who waits for a free slot and who runs, so that each GAN is trained once.

A trial whose GAN another one is training waits until that GAN is there; meanwhile those that do not need it run, so nothing
can deadlock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from xraytune.config.settings import Parameters
from xraytune.search.work import TrialSuggestion

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
