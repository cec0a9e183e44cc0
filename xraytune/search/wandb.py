"""Optional tracking with Weights & Biases: one run per trial, grouped by study. Only this file imports wandb.

A resumed trial continues its run, whose ID depends only on the study and the trial number. Without a key the run is
written to the trial's folder, for `wandb sync`. A final model is a run of its own.

All calls to W&B, even the import of its library, happen in one daemon thread, so a failure or a hang there causes one
warning and nothing else: the metrics are in `epochs.jsonl` anyway.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xraytune.base.records import EpochRecord, Json
from xraytune.space.settings import ObjectiveName, WandbSettings

if TYPE_CHECKING:
    import wandb

_logger = logging.getLogger(__name__)
_HOSTS = ("https://api.wandb.ai", "https://api.forge.coreweave.com")
_PUBLISH_SECONDS = 120.0
_FIX = "without a network or a key set `tracking: {wandb: {mode: offline}}`, and run `wandb sync` later"
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


def enabled(settings: WandbSettings | None) -> WandbSettings | None:
    """Return the settings of the runs; None without any, or if WANDB_MODE or WANDB_DISABLED turns W&B off."""
    is_off = os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on")
    return None if is_off or os.environ.get("WANDB_MODE") == "disabled" else settings


def is_online(settings: WandbSettings) -> bool:
    """Return whether runs are uploaded; `auto` does so if there is a key and WANDB_MODE does not say otherwise."""
    if settings.mode == "auto":
        return has_key() and os.environ.get("WANDB_MODE", "online") == "online"
    return settings.mode == "online"


def has_key() -> bool:
    """Return whether W&B would find a key in the environment or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    from requests.utils import get_netrc_auth  # comes with wandb

    return any(map(get_netrc_auth, (os.environ.get("WANDB_BASE_URL", ""), *_HOSTS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """A run: a trial, or a final training.

    Attributes:
        study_identity: Distinguishes studies of the same name.
        key: Distinguishes the runs of a kind in a study, for example by the number of a trial.
        parameters: The configuration, by dotted name.
        metric: The objective; scores are named after it.
        folder: W&B writes to a subfolder of it.
    """

    kind: Literal["trial", "train"] = "trial"
    study: str
    study_identity: str
    key: int | str
    label: str
    parameters: Mapping[str, Json]
    metric: ObjectiveName
    folder: Path

    @property
    def run_id(self) -> str:
        """The ID of the run, which is the same after a restart."""
        text = f"{self.study}\n{self.study_identity}\n{self.kind} {self.key}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def group(self) -> str:
        """The group of the study's runs."""
        return f"{self.study} {self.study_identity[:6]}"

    def named(self, values: Mapping[str, Json]) -> dict[str, Json]:
        """Name scores after their metric: `val_score` becomes `val_auroc` or `val_dice`."""
        score = self.metric.removeprefix("val_")
        return {name.replace("val_score", self.metric).replace("score", score): value for name, value in values.items()}


def publish(
    settings: WandbSettings, run: TrackedRun, summary: Mapping[str, Json], *, epochs: Iterable[EpochRecord], model: Path
) -> None:
    """Send a final training as a run, with its curves and the model bundle; wait for up to two minutes."""
    tracker = WandbRun(settings, run, finish_seconds=_PUBLISH_SECONDS)
    for epoch in epochs:
        tracker.log(epoch)
    tracker.attach_model(model)
    tracker.finish("complete", summary)


class WandbRun:
    """A run in W&B, which may fail or hang. Only `finish` waits, for at most `finish_seconds`."""

    _wandb: Any  # the library, like its run set by `_start`; used only in the thread
    _run: wandb.Run

    def __init__(self, settings: WandbSettings, run: TrackedRun, *, finish_seconds: float = 15.0) -> None:
        self._settings, self._tracked, self._finish_seconds = settings, run, finish_seconds
        self._best: dict[str, Json] = {}
        self._calls = queue.SimpleQueue[Callable[[], object] | None]()
        self._warned = threading.Lock()  # acquired once, never released
        self._abandoned, self._ended = threading.Event(), threading.Event()
        self._calls.put(self._start)
        # A daemon, so that the process can exit during a call that never returns.
        threading.Thread(target=self._work, name="W&B", daemon=True).start()

    def log(self, record: EpochRecord) -> None:
        """Send an epoch, unless the run has it from before a restart."""
        if record.val_score == record.best_val_score != self._best.get("value"):
            self._best = {"value": record.best_val_score, "best_epoch": record.epoch}
        self._calls.put(partial(self._send, self._tracked.named(asdict(record)), record.epoch))

    def log_samples(self, grid: Path) -> None:
        """Send the picture of the trial's generator, before the first epoch."""
        self._calls.put(partial(self._send_samples, grid))

    def attach_model(self, model: Path) -> None:
        """Send a model bundle as an artifact."""
        self._calls.put(partial(self._send_model, model))

    def finish(self, status: RunStatus, outcome: Mapping[str, Json] | None = None) -> None:
        """End the run with its status, best value and other results; further calls do nothing."""
        summary = self._tracked.named({**self._best, **(outcome or {}), "status": status})
        self._calls.put(partial(self._end, summary, is_failed=status in {"failed", "unfinished"}))
        self._calls.put(None)
        if not self._ended.wait(self._finish_seconds):
            self._abandoned.set()
            self._warn(f"it did not answer within {self._finish_seconds:g} s")

    def _work(self) -> None:
        try:
            while (call := self._calls.get()) is not None and not self._abandoned.is_set():
                call()
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever W&B raises must not affect the run
            self._warn(f"{type(error).__name__}: {error}")
        finally:
            self._ended.set()

    def _warn(self, text: str) -> None:
        if self._warned.acquire(blocking=False):
            reason = without_secrets("; ".join(text.splitlines()))
            _logger.warning("W&B failed, and no result is lost: %s (metrics are in epochs.jsonl; %s)", reason, _FIX)

    def _start(self) -> None:
        # No reports about W&B's own failures: they need a network, and delay the exit.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.pop("WANDB_SERVICE", None)  # of another process, whose end would end this run
        import wandb

        self._wandb = wandb
        settings = wandb.Settings(
            silent=True,
            console="off",
            stop_fn=lambda: None,  # by default "stop run" on the page is Ctrl-C in the middle of a step
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        service = getattr(wandb.setup(settings=settings), "_connection", None)
        # The exit hook (private, wandb 0.31) would wait for the upload of everything; `finish` has waited already.
        if unregister_exit_hook := getattr(service, "_cleanup", None):
            unregister_exit_hook()
        self._run = wandb.init(
            project=self._settings.project,
            group=self._tracked.group,
            job_type=self._tracked.kind,
            name=self._tracked.label,
            id=self._tracked.run_id,
            resume="allow",
            mode="online" if is_online(self._settings) else "offline",
            dir=str(self._tracked.folder),
            config={**self._tracked.parameters, "study": self._tracked.study, self._tracked.kind: self._tracked.key},
        )
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")

    def _send(self, values: dict[str, Json], epoch: int) -> None:
        if epoch >= self._run.starting_step:
            # Without `commit` W&B holds an epoch back until the next one.
            self._run.log(values, step=epoch, commit=True)

    def _send_samples(self, grid: Path) -> None:
        if self._run.starting_step == 0:
            caption = "by class: training images on the left, generated ones on the right"
            self._run.log({"epoch": 0, "samples": self._wandb.Image(str(grid), caption=caption)}, step=0, commit=True)

    def _send_model(self, model: Path) -> None:
        card = (model / "README.md").read_text("utf-8")
        artifact = self._wandb.Artifact(self._tracked.study, type="model", description=card)
        # With these options, files are not copied to the home directory.
        artifact.add_dir(str(model), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def _end(self, summary: dict[str, Json], *, is_failed: bool) -> None:
        self._run.summary.update(summary)
        self._run.finish(exit_code=int(is_failed))
        self._wandb.teardown()
