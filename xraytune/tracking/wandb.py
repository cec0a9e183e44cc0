"""Weights & Biases on request: one run for each trial, grouped by study; the only file that imports wandb.

A run has the same id each time, so that a resumed trial goes on in it. Without a key it is written to the trial's folder
(`wandb sync` uploads it). Everything that touches wandb, its import included, happens in one daemon thread: a W&B that
fails, hangs or is logged out is said once in the log and harms nothing, since the numbers are in `epochs.jsonl`.
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

from xraytune.config.load import experiment_to_json
from xraytune.config.settings import Experiment, WandbSettings
from xraytune.records import EpochRecord, Json

_HOSTS = ("https://api.wandb.ai", "https://api.forge.coreweave.com")
_SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRET_CHARACTERS = 6  # shorter values are no secrets, and stand in many a word
_CREDENTIALS_IN_URL = re.compile(r"//[^/\s]+@")


def is_online(settings: WandbSettings) -> bool:
    """Whether runs go to the server: as the settings say, or with `auto` where there is a key and nobody said offline."""
    if settings.mode == "auto":
        return has_key() and os.environ.get("WANDB_MODE", "online") == "online"
    return settings.mode == "online"


def has_key() -> bool:
    """Whether W&B would find a key: in the environment, or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc").expanduser()
    hosts = [os.environ.get("WANDB_BASE_URL", ""), *_HOSTS]
    with suppress(OSError, ValueError, netrc.NetrcParseError):
        logins = netrc.netrc(file).hosts
        return any(logins.get(urlsplit(url).netloc, ("", "", ""))[2] for url in hosts)
    return False


def without_secrets(text: str) -> str:
    """The text without the values of secret environment variables, and without passwords in addresses."""
    for name, value in os.environ.items():
        if len(value) >= _SECRET_CHARACTERS and _SECRET_NAMES.search(name):
            text = text.replace(value, "***")
    return _CREDENTIALS_IN_URL.sub("//***@", text)


class Background:
    """Makes calls in a thread of its own.

    Args:
        name: Of the thread.
        say: Told what went wrong, once.
        most_waiting: Calls that may wait; more are dropped.
    """

    def __init__(self, name: str, *, say: Callable[[str], None], most_waiting: int = 1000) -> None:
        self._say = say
        self._has_said = threading.Lock()  # taken once, and kept
        self._calls: queue.Queue[Callable[[], object] | None] = queue.Queue(most_waiting)
        self._let_go = threading.Event()
        self._ended = threading.Event()
        # A daemon: a process that ends does not wait for a call that never returns.
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def post(self, call: Callable[[], object]) -> None:
        """Have the call made after those before it; returns at once."""
        if self._ended.is_set():
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._say_once(
                f"it does not keep up, and what does not fit among {self._calls.maxsize} messages is dropped"
            )

    def close(self, last: Callable[[], object], seconds: float) -> None:
        """Wait for the calls that were posted, and a last one, but no longer than so many seconds; then let go of them."""
        deadline = time.monotonic() + seconds
        with suppress(queue.Full):
            for call in (last, None):
                if not self._ended.is_set():
                    self._calls.put(call, timeout=max(0.0, deadline - time.monotonic()))
            self._ended.wait(max(0.0, deadline - time.monotonic()))
        self._let_go.set()
        if not self._ended.is_set():
            self._say_once(f"it did not answer within {seconds:g} s, and is waited for no longer")

    def _work(self) -> None:
        try:
            while (call := self._calls.get()) is not None and not self._let_go.is_set():
                call()
        # Whatever a tracker raises, sys.exit included, is its own affair and never the trial's.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            self._say_once(f"{type(error).__name__}: {error}")
        finally:
            self._ended.set()

    def _say_once(self, text: str) -> None:
        if self._has_said.acquire(blocking=False):
            self._say(text)


if TYPE_CHECKING:
    import wandb

_logger = logging.getLogger(__name__)

RunStatus = Literal["complete", "pruned", "failed", "unfinished"]
_FAILED: tuple[RunStatus, ...] = ("failed", "unfinished")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedTrial:
    """What a run is about.

    Attributes:
        experiment: Its parameters are the run's configuration.
        study: The study's name.
        study_identity: Tells studies of one name from each other.
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
        """The run's id, the same at each start."""
        return hashlib.sha256(f"{self.study}\n{self.study_identity}\n{self.number}".encode()).hexdigest()[:16]

    @property
    def group(self) -> str:
        """What the runs of the study share: its name, and enough of its identity."""
        return f"{self.study} {self.study_identity[:6]}"

    @property
    def config(self) -> dict[str, Json]:
        """Parameters by dotted name, paths relative to the trial's folder; the arm and the study."""
        parameters = experiment_to_json(self.experiment, self.folder)["parameters"]
        assert isinstance(parameters, dict), "parameters have names"
        return {**parameters, "arm": self.experiment.parameters.arm, "study": self.study, "trial": self.number}


class WandbRun:
    """The W&B run of one trial. No call waits but `finish`.

    Args:
        settings: Project and mode.
        trial: What the run is about.
        samples: Draws the sample grid, in W&B's thread, once the trial has ended an epoch.
        finish_seconds: How long `finish` waits for W&B.
        most_waiting: Messages that may wait for W&B; more are dropped.
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
        self._run: wandb.Run | None = None  # of the thread
        self._thread = Background("wandb", say=_say, most_waiting=most_waiting)
        self._thread.post(self._start)

    def log(self, record: EpochRecord) -> None:
        """Send one epoch; one that is in the run already, from before a restart, is passed over."""
        if record.val_auroc == record.best_val_auroc != self._best.get("value"):
            self._best = {"value": record.best_val_auroc, "best_epoch": record.epoch}
        if samples := self._samples:
            self._samples = None
            self._thread.post(lambda: self._send_samples(samples))
        self._thread.post(lambda: self._send(record))

    def finish(self, status: RunStatus, outcome: Mapping[str, Json] | None = None) -> None:
        """End the run with its status, its best value and what else came out; once, however often it is asked."""
        summary = {**self._best, **(outcome or {}), "status": status}
        self._thread.close(lambda: self._end(summary, exit_code=int(status in _FAILED)), self._finish_seconds)

    def _start(self) -> None:
        # No reports about W&B's own failures: they need a network, and at exit they wait for it.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.pop("WANDB_SERVICE", None)  # of another process, which would take its runs along when it ends
        import wandb

        quiet = wandb.Settings(silent=True, console="off")
        _leave_at_exit(wandb.setup(settings=quiet))
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
                stop_fn=_go_on,
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
            # Committed at once: W&B else holds an epoch back until the next one comes.
            self._run.log(asdict(record), step=record.epoch, commit=True)

    def _send_samples(self, samples: Callable[[], Image.Image]) -> None:
        import wandb

        assert self._run is not None, "started before"
        if self._run.starting_step == 0:
            caption = "one row for each class: real images on the left, extra ones on the right"
            image = wandb.Image(samples(), caption=caption)
            self._run.log({"epoch": 0, "samples": image}, step=0, commit=True)

    def _end(self, summary: Mapping[str, Json], *, exit_code: int) -> None:
        import wandb

        assert self._run is not None, "started before"
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=exit_code)
        wandb.teardown()


def _leave_at_exit(library: object) -> None:
    """Take back the hook that lets a process end only after W&B's service has uploaded everything, however long.

    `finish` has waited for it as long as it may. The service ends by itself when its process is gone. The hook is private
    to wandb (0.31: `sdk/lib/service/service_connection.py`); a test sees whether a process still ends without it.
    """
    take_back = getattr(getattr(library, "_connection", None), "_cleanup", None)
    if take_back is not None:
        take_back()


def _go_on() -> None:
    """What a click on "stop run" does: nothing; W&B's own answer is Ctrl-C in the middle of a step."""


def _say(text: str) -> None:
    said = without_secrets("; ".join(text.splitlines()))
    fix = "without a network or a key: `tracking: {wandb: {mode: offline}}`, and `wandb sync` later"
    _logger.warning("W&B failed, the trial goes on: %s (its numbers are in epochs.jsonl; %s)", said, fix)
