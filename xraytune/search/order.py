"""The order in which waiting trials start: generators that several trials need are trained first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from functools import cache
from typing import TypeAlias

from xraytune.space.settings import GanSettings
from xraytune.study.trial import Trial

GeneratorNeeds: TypeAlias = Callable[[GanSettings | None], str | None]
"""From a trial's generator, if it has one, to its lineage; None if it need not be trained first."""


def in_order(
    waiting: Iterable[Trial], in_training: Collection[str | None], generator_need: GeneratorNeeds
) -> list[Trial]:
    """Return the waiting trials that can start now, the best one first.

    Those that train their generator come before those that need none: the longest chain of runs first, and of a chain
    the shortest run, from which the others continue. Trials whose generator is `in_training` wait.
    """
    need = cache(generator_need)
    ready, chains = list[Trial](), defaultdict[str, list[Trial]](list)
    for trial in waiting:
        lineage = None if trial.has_trained_generator else need(trial.parameters.gan)
        if lineage is None:
            ready.append(trial)
        elif lineage not in in_training:
            chains[lineage].append(trial)
    longest_first = sorted(
        chains.values(), key=lambda chain: max(trial.generator_steps for trial in chain), reverse=True
    )
    shortest_runs = (min(chain, key=lambda trial: trial.generator_steps) for chain in longest_first)
    return [*shortest_runs, *ready]
