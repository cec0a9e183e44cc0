"""Tune's searcher and scheduler, which hold no logic: whoever has the work decides, and they say it in Tune's words."""

from __future__ import annotations

import json
import time
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from xraytune.search.ray.link import Link

_RAY_DIES_SECONDS = 0.2
"""Longer than `driver.py` takes to see that a process of Ray's is gone."""


class ControllerSearcher(Searcher):
    """Hands Tune the trials that it is given."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        """The config of the next trial; None: not now; FINISHED: there are no more."""
        del trial_id
        answer = self._link.next()
        return str(Searcher.FINISHED) if answer == "done" else answer

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The scheduler said it."""
        del trial_id, result, error

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Nothing in Tune's own space is searched."""
        del metric, mode, config, spec
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study folder is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study folder is the truth."""


class ControllerScheduler(FIFOScheduler):
    """Asks about every message of a trial, whatever Tune thinks of it."""

    def __init__(self, link: Link) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._link = link

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Continue or stop, as it was answered."""
        del tune_controller
        goes_on = self._link.on_result(trial.config["number"], json.loads(result["message"]))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """The process of a trial is gone; if Ray itself died, this process has ended before it tells so."""
        del tune_controller
        time.sleep(_RAY_DIES_SECONDS)
        self._link.lost(trial.config["number"], out_of_memory="OutOfMemory" in str(trial.get_error() or ""))
