"""Send runs to experiment trackers without letting a tracker affect the tracked work.

All calls to a tracker, even the import of its library, happen in one daemon thread, so a tracker that fails or hangs
causes one warning and nothing else: the metrics are in `epochs.jsonl` anyway.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from PIL import Image

from xraytune.config.settings import ObjectiveName
from xraytune.records import EpochRecord, Json

_logger = logging.getLogger(__name__)
_SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRET_CHARACTERS = 6  # a shorter value is not a secret, and occurs in many words
_CREDENTIALS_IN_URL = re.compile(r"//[^/\s]+@")

RunStatus = Literal["complete", "pruned", "failed", "unfinished"]


def without_secrets(text: str) -> str:
    """Mask the values of secret environment variables, and passwords in URLs."""
    for name, value in os.environ.items():
        if len(value) >= _SECRET_CHARACTERS and _SECRET_NAMES.search(name):
            text = text.replace(value, "***")
    return _CREDENTIALS_IN_URL.sub("//***@", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """A run: a trial, or finished work that is sent at once.

    Attributes:
        study_identity: Distinguishes studies of the same name.
        key: Distinguishes the runs of a kind in a study, for example by the number of a trial.
        parameters: The configuration, by dotted name.
        metric: The objective; scores are named after it.
        folder: Trackers write to subfolders of it.
    """

    kind: Literal["trial", "train", "confirm", "report"] = "trial"
    study: str
    study_identity: str
    key: int | str = ""
    label: str
    parameters: Mapping[str, Json] = field(default_factory=dict)
    metric: ObjectiveName = "val_auroc"
    folder: Path

    @property
    def run_id(self) -> str:
        """The ID of the run, which is the same after a restart."""
        key = self.key if self.kind == "trial" else f"{self.kind} {self.key}"
        return hashlib.sha256(f"{self.study}\n{self.study_identity}\n{key}".encode()).hexdigest()[:16]

    @property
    def group(self) -> str:
        """The group of the study's runs."""
        return f"{self.study} {self.study_identity[:6]}"

    def named(self, values: Mapping[str, Json]) -> dict[str, Json]:
        """Name scores after their metric: `val_score` becomes `val_auroc`, `val_dice` or `gan_kid`; drop missing values."""
        score = self.metric.removeprefix("val_")
        known = {name: value for name, value in values.items() if value is not None}
        return {name.replace("val_score", self.metric).replace("score", score): value for name, value in known.items()}


class Tracker:
    """A run in one tracker, which may fail or hang. Subclasses call the tracker only in the thread.

    `samples` draws the sample grid after the first epoch. Only `finish` waits, for at most `finish_seconds`. At most
    `most_waiting` messages are queued; others are dropped.
    """

    name: ClassVar[str]
    fix: ClassVar[str]

    def __init__(
        self,
        run: TrackedRun,
        *,
        samples: Callable[[], Image.Image] | None = None,
        finish_seconds: float = 15.0,
        most_waiting: int = 1000,
    ) -> None:
        self.tracked, self._samples = run, samples
        self._finish_seconds, self._most_waiting = finish_seconds, most_waiting
        self._best: dict[str, Json] = {}
        self._calls = queue.SimpleQueue[Callable[[], object] | None]()
        self._warned = threading.Lock()  # acquired once, never released
        self._abandoned, self._ended = threading.Event(), threading.Event()
        self._post(self._start)
        # A daemon, so that the process can exit during a call that never returns.
        threading.Thread(target=self._work, name=self.name, daemon=True).start()

    def _start(self) -> None: ...
    def _send(self, values: dict[str, Json], epoch: int) -> None: ...
    def _send_samples(self, samples: Callable[[], Image.Image]) -> None: ...
    def _end(self, summary: dict[str, Json], *, is_failed: bool) -> None: ...

    def log(self, record: EpochRecord) -> None:
        """Send an epoch; trackers skip those that the run has from before a restart."""
        if record.val_score == record.best_val_score != self._best.get("value"):
            self._best = {"value": record.best_val_score, "best_epoch": record.epoch}
        if samples := self._samples:
            self._samples = None
            self._post(partial(self._send_samples, samples))
        self._post(partial(self._send, self.tracked.named(asdict(record)), record.epoch))

    def finish(self, status: RunStatus, outcome: Mapping[str, Json] | None = None) -> None:
        """End the run with its status, best value and other results; further calls do nothing."""
        summary = self.tracked.named({**self._best, **(outcome or {}), "status": status})
        self._calls.put(partial(self._end, summary, is_failed=status in {"failed", "unfinished"}))
        self._calls.put(None)
        if not self._ended.wait(self._finish_seconds):
            self._abandoned.set()
            self._warn(f"it did not answer within {self._finish_seconds:g} s")

    def _post(self, call: Callable[[], object]) -> None:
        """Queue a call for the thread."""
        if self._calls.qsize() < self._most_waiting:
            self._calls.put(call)
        else:
            self._warn(f"it does not keep up: messages beyond {self._most_waiting} are dropped")

    def _work(self) -> None:
        try:
            while (call := self._calls.get()) is not None and not self._abandoned.is_set():
                call()
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever the tracker raises must not affect the run
            self._warn(f"{type(error).__name__}: {error}")
        finally:
            self._ended.set()

    def _warn(self, text: str) -> None:
        if self._warned.acquire(blocking=False):
            reason, is_trial = without_secrets("; ".join(text.splitlines())), self.tracked.kind == "trial"
            unharmed = "the trial continues" if is_trial else "all results are in their files"
            note = "metrics are in epochs.jsonl; " * is_trial + self.fix
            _logger.warning("%s failed, %s: %s (%s)", self.name, unharmed, reason, note)
