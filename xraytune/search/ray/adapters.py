"""Tune's searcher and scheduler, which hold no logic: whoever has the work decides, and they say it in Tune's words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from xraytune.search.journal import Asked
from xraytune.search.work import Answer, Work


class DirectedSearcher(Searcher):
    """Hands Tune the trials, no more than fit at once.

    Args:
        work: Decides.
        concurrent: Trials at once.
        config: From a trial to its Tune config, with `number` in it.
    """

    def __init__(self, work: Work, *, concurrent: int, config: Callable[[Asked], dict[str, Any]]) -> None:
        super().__init__()
        self._work, self._concurrent, self._config = work, concurrent, config
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        """The config of the next trial; None: not now; FINISHED: there are no more."""
        if self._work.running >= self._concurrent:
            return None
        match self._work.next():
            case Answer.WAIT:
                return None
            case Answer.DONE:
                return str(Searcher.FINISHED)
            case asked:
                self._numbers[trial_id] = asked.number
                return self._config(asked)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tune gave up on a trial whose process was lost again and again."""
        del result
        if error:
            self._work.lost(self._numbers[trial_id])

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Nothing in Tune's own space is searched."""
        del metric, mode, config, spec
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study folder is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study folder is the truth."""


class DirectedScheduler(FIFOScheduler):
    """Asks about every message of a trial, whatever Tune thinks of it."""

    def __init__(self, work: Work) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._work = work

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Continue or stop, as it was answered."""
        del tune_controller
        goes_on = self._work.hear(trial.config["number"], json.loads(result["message"]))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)
