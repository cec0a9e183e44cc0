"""Optional tracking with Weights & Biases: one run per trial, grouped by study. Only this file imports wandb.

A resumed trial continues its run, whose id depends on the study and the trial number alone. Without a key the run is
written to the trial's folder, for `wandb sync`. All calls, even the import, happen in one daemon thread, so a W&B that
fails or hangs costs one warning: the metrics are in `epochs.jsonl` anyway.
"""

from __future__ import annotations

import hashlib
import logging
import netrc
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from PIL import Image

from xraytune.config.fields import flat_values
from xraytune.config.settings import Experiment, WandbSettings
from xraytune.records import EpochRecord, Json

if TYPE_CHECKING:
    import wandb

_logger = logging.getLogger(__name__)
_HOSTS = ("https://api.wandb.ai", "https://api.forge.coreweave.com")
_SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRET_CHARACTERS = 6  # a shorter value is not a secret, and occurs in many words
_CREDENTIALS_IN_URL = re.compile(r"//[^/\s]+@")

RunStatus = Literal["complete", "pruned", "failed", "unfinished"]


def is_online(settings: WandbSettings) -> bool:
    """Return whether runs are uploaded; `auto` does so if there is a key and WANDB_MODE does not say otherwise."""
    if settings.mode == "auto":
        return has_key() and os.environ.get("WANDB_MODE", "online") == "online"
    return settings.mode == "online"


def has_key() -> bool:
    """Return whether W&B would find a key in the environment or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc").expanduser()
    hosts = [os.environ.get("WANDB_BASE_URL", ""), *_HOSTS]
    with suppress(OSError, ValueError, netrc.NetrcParseError):
        logins = netrc.netrc(file).hosts
        return any(logins.get(urlsplit(url).netloc, ("", "", ""))[2] for url in hosts)
    return False


def without_secrets(text: str) -> str:
    """Mask the values of secret environment variables, and passwords in URLs."""
    for name, value in os.environ.items():
        if len(value) >= _SECRET_CHARACTERS and _SECRET_NAMES.search(name):
            text = text.replace(value, "***")
    return _CREDENTIALS_IN_URL.sub("//***@", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedTrial:
    """The trial of a run.

    Attributes:
        experiment: Its parameters are the run's configuration.
        study: The study's name.
        study_identity: Distinguishes studies of the same name.
        number: The trial's number in the study.
        label: The run's name, such as `gan-ratio #7 gan r=0.5 (10000 steps)`.
        folder: The trial's folder, in which `wandb/` is written.
    """

    experiment: Experiment
    study: str
    study_identity: str
    number: int
    label: str
    folder: Path

    @property
    def run_id(self) -> str:
        """The same after a restart."""
        return hashlib.sha256(f"{self.study}\n{self.study_identity}\n{self.number}".encode()).hexdigest()[:16]

    @property
    def group(self) -> str:
        """The group of the study's runs."""
        return f"{self.study} {self.study_identity[:6]}"

    @property
    def config(self) -> dict[str, Json]:
        """Parameters by dotted name, with paths relative to the trial's folder; the arm and the study."""
        parameters = flat_values(self.experiment.parameters, self.folder)
        return {**parameters, "arm": self.experiment.parameters.arm, "study": self.study, "trial": self.number}


class WandbRun:
    """The W&B run of one trial. Only `finish` waits.

    Args:
        settings: Project and mode.
        trial: The trial.
        samples: Draws the sample grid, in W&B's thread, after the first epoch.
        finish_seconds: How long `finish` waits for W&B.
        most_waiting: Queue size; further messages are dropped.
    """

    def __init__(
        self,
        settings: WandbSettings,
        trial: TrackedTrial,
        *,
        samples: Callable[[], Image.Image] | None = None,
        finish_seconds: float = 15.0,
        most_waiting: int = 1000,
    ) -> None:
        self._settings, self._trial, self._samples = settings, trial, samples
        self._finish_seconds = finish_seconds
        self._best: dict[str, Json] = {}
        self._run: wandb.Run | None = None  # used in the thread only
        self._calls: queue.Queue[Callable[[], object] | None] = queue.Queue(most_waiting)
        self._warned = threading.Lock()  # acquired once, never released
        self._abandoned, self._ended = threading.Event(), threading.Event()
        self._post(self._start)
        # A daemon: the process need not wait for a call that never returns.
        threading.Thread(target=self._work, name="wandb", daemon=True).start()

    def log(self, record: EpochRecord) -> None:
        """Send an epoch, unless the run has it from before a restart."""
        if record.val_score == record.best_val_score != self._best.get("value"):
            self._best = {"value": record.best_val_score, "best_epoch": record.epoch}
        if samples := self._samples:
            self._samples = None
            self._post(lambda: self._send_samples(samples))
        self._post(lambda: self._send(record))

    def finish(self, status: RunStatus, outcome: Mapping[str, Json] | None = None) -> None:
        """End the run with its status, best value and other results; further calls do nothing."""
        summary = self._named({**self._best, **(outcome or {}), "status": status})
        deadline = time.monotonic() + self._finish_seconds
        with suppress(queue.Full):
            for call in (lambda: self._end(summary, is_failed=status in {"failed", "unfinished"}), None):
                if not self._ended.is_set():
                    self._calls.put(call, timeout=max(0.0, deadline - time.monotonic()))
            self._ended.wait(max(0.0, deadline - time.monotonic()))
        self._abandoned.set()
        if not self._ended.is_set():
            self._warn(f"it did not answer within {self._finish_seconds:g} s")

    def _named(self, values: Mapping[str, Json]) -> dict[str, Json]:
        """Name scores by their metric: `val_score` becomes `val_auroc`, `val_dice` or `gan_kid`; drop missing values."""
        metric = self._trial.experiment.settings.objective.metric
        score = metric.removeprefix("val_")
        known = {name: value for name, value in values.items() if value is not None}
        return {name.replace("val_score", metric).replace("score", score): value for name, value in known.items()}

    def _post(self, call: Callable[[], object]) -> None:
        """Queue a call for the thread."""
        try:
            if not self._ended.is_set():
                self._calls.put_nowait(call)
        except queue.Full:
            self._warn(f"it does not keep up: messages beyond {self._calls.maxsize} are dropped")

    def _work(self) -> None:
        try:
            while (call := self._calls.get()) is not None and not self._abandoned.is_set():
                call()
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever W&B raises must not affect the trial
            self._warn(f"{type(error).__name__}: {error}")
        finally:
            self._ended.set()

    def _warn(self, text: str) -> None:
        if self._warned.acquire(blocking=False):
            reason = without_secrets("; ".join(text.splitlines()))
            fix = "without a network or a key set `tracking: {wandb: {mode: offline}}`, and run `wandb sync` later"
            _logger.warning("W&B failed, the trial continues: %s (metrics are in epochs.jsonl; %s)", reason, fix)

    def _start(self) -> None:
        # No reports about W&B's own failures: they need a network, and delay the exit.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.pop("WANDB_SERVICE", None)  # of another process, whose end would end this run
        import wandb

        _skip_exit_hook(wandb.setup(settings=wandb.Settings(silent=True, console="off")))
        self._run = wandb.init(
            project=self._settings.project,
            group=self._trial.group,
            name=self._trial.label,
            id=self._trial.run_id,
            resume="allow",
            mode="online" if is_online(self._settings) else "offline",
            dir=str(self._trial.folder),
            config=self._trial.config,
            settings=wandb.Settings(
                silent=True,
                console="off",
                stop_fn=lambda: None,  # by default "stop run" on the page is Ctrl-C in the middle of a step
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")

    def _send(self, record: EpochRecord) -> None:
        assert self._run is not None, "started before"
        if record.epoch >= self._run.starting_step:
            # Without `commit` W&B holds an epoch back until the next one.
            self._run.log(self._named(asdict(record)), step=record.epoch, commit=True)

    def _send_samples(self, samples: Callable[[], Image.Image]) -> None:
        import wandb

        assert self._run is not None, "started before"
        if self._run.starting_step == 0:
            caption = "by class: real images on the left, extra ones on the right"
            self._run.log({"epoch": 0, "samples": wandb.Image(samples(), caption=caption)}, step=0, commit=True)

    def _end(self, summary: Mapping[str, Json], *, is_failed: bool) -> None:
        import wandb

        assert self._run is not None, "started before"
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=int(is_failed))
        wandb.teardown()


def _skip_exit_hook(library: object) -> None:
    """Remove the exit hook that waits for W&B's service to upload everything; `finish` has waited already.

    The hook is private (wandb 0.31: `sdk/lib/service/service_connection.py`); a test checks that a process still ends.
    """
    unregister = getattr(getattr(library, "_connection", None), "_cleanup", None)
    if unregister is not None:
        unregister()
