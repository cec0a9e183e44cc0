"""How busy the trial queue keeps 1 to 64 slots, with the stage times of a real search replayed in simulated time.

`slots.json` holds the times of README's search on two cores: for each number of generator steps, the seconds needed from the
previous number; for each trial, the steps of its generator (0: none) and its own seconds without it. The queue is real; only
the clock is simulated. No schedule ends before the longest chain of a generator and a trial, nor before the total
slot-seconds divided by the number of slots. The figure is the larger of these bounds divided by the time taken.

This search is too short for more than two slots: its generators alone form a chain of six minutes. It is therefore also
replayed with 40 trials per slot, drawn from the same times, and about one generator per 40 trials, as in a search on so many
slots.
"""

from __future__ import annotations

import heapq
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.figures import Figure, figure
from xraytune.config.settings import Budget, DataSettings, Experiment, GeneratorSettings, Parameters, Settings
from xraytune.search.messages import Status, TrialSuggestion
from xraytune.search.study import StudyFolder
from xraytune.search.trial_queue import TrialQueue

_SLOTS, _TRIALS_PER_SLOT, _GENERATOR_SLOTS, _BAR = (1, 2, 4, 8, 16, 32, 64), 40, 2, ">= 0.85"
_RECORDED = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
_GENERATORS: dict[int, float] = dict(_RECORDED["generators"])


class _Trial(NamedTuple):
    generator: int
    steps: int
    seconds: float


def measure() -> Iterator[Figure]:
    """Replay the recorded trials, then as many as the slots need; the bar is for the least busy number of slots."""
    recorded = [_Trial(0, steps, seconds) for steps, seconds in _RECORDED["trials"]]
    for what, studies in (
        (f"README's {len(recorded)} trials", [(slots, recorded) for slots in _SLOTS]),
        (f"{_TRIALS_PER_SLOT} trials per slot", [(slots, _drawn(recorded, slots)) for slots in _SLOTS]),
    ):
        busy = {slots: _limit(trials, slots) / _replay(trials, slots) for slots, trials in studies}
        for slots in (2, 64):
            yield figure(f"slots: {what} on {slots} slots, bound / time taken", busy[slots], "share")
        yield figure(
            f"slots: {what} on {_SLOTS[0]} to {_SLOTS[-1]} slots, lowest bound / time taken",
            min(busy.values()),
            "share",
            _BAR,
        )


def _drawn(recorded: Sequence[_Trial], slots: int) -> list[_Trial]:
    dice = np.random.default_rng(slots)
    count = _TRIALS_PER_SLOT * slots
    rows, generators = dice.integers(len(recorded), size=count), dice.integers(slots, size=count)
    return [recorded[row]._replace(generator=one) for row, one in zip(rows.tolist(), generators.tolist(), strict=True)]


def _generator_slots(slots: int) -> int:
    return min(_GENERATOR_SLOTS, slots)


def _limit(trials: Sequence[_Trial], slots: int) -> float:
    """Return the larger of the longest chain and the mean work per slot: no schedule is faster."""
    used = {(trial.generator, trial.steps) for trial in trials if trial.steps}
    total = sum(trial.seconds for trial in trials)
    chains = [trial.seconds for trial in trials]
    for generator in {one for one, _ in used}:
        steps = max(steps for one, steps in used if one == generator)
        seconds = sum(_GENERATORS[one] for one in _GENERATORS if one <= steps)
        total += seconds * _generator_slots(slots)
        chains.append(seconds + max(one.seconds for one in trials if (one.generator, one.steps) == (generator, steps)))
    return max(*chains, total / slots)


class _Queue(TrialQueue):
    """A queue of the recorded trials, drawn one by one as by a sampler."""

    def __init__(self, folder: StudyFolder, trials: Sequence[_Trial], slots: int) -> None:
        self._trials, self._drawn = trials, 0
        self._settings = Settings(name="slots", data=DataSettings(path=folder.path), budget=Budget(trials=len(trials)))
        self.trained = defaultdict[int, set[int]](set)
        super().__init__(folder, (), generator_need=self._need, retries=0)
        self.generator_slots = _generator_slots(slots)

    def seconds(self, suggestion: TrialSuggestion) -> float:
        """Return the seconds of a trial's next stage."""
        trial = self._trials[suggestion.number]
        if not suggestion.only_generator:
            return trial.seconds
        before = self.trained[trial.generator]
        return sum(s for steps, s in _GENERATORS.items() if steps <= trial.steps and steps > max(before, default=0))

    def _need(self, gan: GeneratorSettings | None) -> str | None:
        return None if gan is None or gan.steps in self.trained[gan.seed] else str(gan.seed)

    @property
    def _has_more(self) -> bool:
        return self._drawn < len(self._trials)

    def _new_trial(self) -> TrialSuggestion:
        trial = self._trials[self._drawn]
        self._drawn += 1
        gan = {"steps": trial.steps, "seed": trial.generator}
        parameters = {"source": "gan", "synthetic_ratio": 0.5, "gan": gan} if trial.steps else {}
        return TrialSuggestion(number=self._drawn - 1, parameters=Parameters.model_validate(parameters))

    def _experiment(self, suggestion: TrialSuggestion) -> Experiment:
        return Experiment(settings=self._settings, parameters=suggestion.parameters)

    def _record(self, number: int, status: Status, outcome: dict[str, Any]) -> None:
        assert status == "complete", (number, outcome)


def _replay(trials: Sequence[_Trial], slots: int) -> float:
    """Return the seconds until all trials have ended."""
    with tempfile.TemporaryDirectory() as name:
        queue, now = _Queue(StudyFolder(Path(name)), trials, slots), 0.0
        ends: list[tuple[float, int, TrialSuggestion]] = []
        while True:
            while isinstance(suggestion := queue.next_trial(slots), TrialSuggestion):
                heapq.heappush(ends, (now + queue.seconds(suggestion), suggestion.number, suggestion))
            if suggestion == "done":
                return now
            now, number, ended = heapq.heappop(ends)
            if ended.only_generator:
                queue.trained[trials[number].generator].add(trials[number].steps)
                queue.on_result(number, {"generator": "trained"})
            else:
                result = {"value": 0.5, "best_epoch": 1, "epochs": 1, "val_b_score": 0.5, "threshold": 0.5}
                queue.on_result(number, {"ended": result | {"seconds": trials[number].seconds}})
