"""Optional tracking with Weights & Biases: one run per trial, grouped by study. Only this file imports wandb.

A resumed trial continues its run, whose ID depends only on the study and the trial number. Runs
that cannot be sent are written to the trial's folder, for `wandb sync`. A final model is a run of
its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xraytune.base.records import EpochRecord, Json
from xraytune.space.settings import ObjectiveName, WandbSettings
from xraytune.study.row import TrialStatus

if TYPE_CHECKING:
    import wandb

_logger = logging.getLogger(__name__)
_INIT_SECONDS = 15.0
_FINISH_SECONDS = (
    8.0  # Tune kills a process that is still busy ten seconds after the end of its trial
)
_PUBLISH_SECONDS = 120.0
_OUTER_RUN = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE")
"""Variables of a run or a sweep in which the search was started: all trials would become that run."""


def enabled(settings: WandbSettings | None) -> WandbSettings | None:
    """Return the settings of the runs; None without any, or if WANDB_MODE or WANDB_DISABLED turns W&B off."""
    is_off = os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on")
    return None if is_off or os.environ.get("WANDB_MODE") == "disabled" else settings


def note_on_outer_run(settings: WandbSettings | None) -> str:
    """Return a note if the search was started in a W&B run or sweep, of which its trials are no part; else ""."""
    names = [name for name in _OUTER_RUN[:2] if os.environ.get(name)]
    if not names or enabled(settings) is None:
        return ""
    return f"{' and '.join(names)}: ignored, each trial is a W&B run of its own"


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


def name_scores(values: Mapping[str, Any], metric: ObjectiveName) -> dict[str, Any]:
    """Name scores after their metric: `val_score` becomes `val_auroc` or `val_dice`."""
    score = metric.removeprefix("val_")
    return {
        name.replace("val_score", metric).replace("score", score): value
        for name, value in values.items()
    }


def publish(
    settings: WandbSettings,
    tracked: TrackedRun,
    summary: Mapping[str, Json],
    *,
    epochs: Iterable[EpochRecord],
    model: Path,
) -> None:
    """Send a final training as a run, with its curves and the model bundle; wait for up to two minutes."""
    run = WandbRun(settings, tracked, finish_seconds=_PUBLISH_SECONDS)
    for epoch in epochs:
        run.log(epoch)
    run.finish("complete", summary, model=model)


class WandbRun:
    """A run in W&B. A failure there costs one warning and the rest of the run; the metrics are in `epochs.jsonl`."""

    _run: wandb.Run | None = None

    def __init__(
        self,
        settings: WandbSettings,
        tracked: TrackedRun,
        *,
        finish_seconds: float = _FINISH_SECONDS,
    ) -> None:
        self._tracked = tracked
        self._best: dict[str, Json] = {}
        for name in _OUTER_RUN:
            os.environ.pop(name, None)
        with self._surviving():
            try:
                self._run = _start(settings, tracked, finish_seconds)
            except Exception as error:  # noqa: BLE001  whatever W&B raises without a network or a key
                _warn("this run is written offline, for `wandb sync`", error)
                _teardown()  # its process still has the run
                offline = settings.model_copy(update={"mode": "offline"})
                self._run = _start(offline, tracked, finish_seconds)
            self._run.define_metric("epoch")
            self._run.define_metric("*", step_metric="epoch")

    def log(self, record: EpochRecord) -> None:
        """Send an epoch, unless the run has it from before a restart."""
        if record.val_score == record.best_val_score != self._best.get("value"):
            self._best = {"value": record.best_val_score, "best_epoch": record.epoch}
        with self._surviving():
            if self._run and record.epoch >= self._run.starting_step:
                # Without `commit` W&B holds an epoch back until the next one.
                values = name_scores(asdict(record), self._tracked.metric)
                self._run.log(values, step=record.epoch, commit=True)

    def log_samples(self, grid: Path) -> None:
        """Send the picture of the trial's generator, before the first epoch."""
        with self._surviving():
            if self._run and self._run.starting_step == 0:
                import wandb

                caption = "by class: training images on the left, generated ones on the right"
                picture = wandb.Image(str(grid), caption=caption)
                self._run.log({"epoch": 0, "samples": picture}, step=0, commit=True)

    def finish(
        self, status: TrialStatus, outcome: Mapping[str, Json], *, model: Path | None = None
    ) -> None:
        """End the run with its status, best value and other results, and a model bundle as an artifact."""
        with self._surviving():
            if self._run:
                if model:
                    _attach_model(self._run, self._tracked.study, model)
                summary = {**self._best, **outcome, "status": status}
                self._run.summary.update(name_scores(summary, self._tracked.metric))
                self._run.finish(exit_code=int(status in ("failed", "unfinished")))
                _teardown()
        self._run = None

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """Let no failure of W&B affect the training."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever W&B raises
            self._run = None
            _warn("its metrics are in epochs.jsonl", error)


def _start(settings: WandbSettings, tracked: TrackedRun, finish_seconds: float) -> wandb.Run:
    import wandb

    mode = settings.mode
    if mode == "auto":
        is_online = os.environ.get("WANDB_MODE", "online") == "online" and wandb.login(prompt=False)
        mode = "online" if is_online else "offline"
    return wandb.init(
        project=settings.project,
        group=tracked.group,
        job_type=tracked.kind,
        name=tracked.label,
        id=tracked.run_id,
        resume="allow",
        mode=mode,
        dir=str(tracked.folder),
        config={**tracked.parameters, "study": tracked.study, tracked.kind: tracked.key},
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=_INIT_SECONDS,
            finish_timeout=finish_seconds,
            stop_fn=lambda: (
                None
            ),  # by default "stop run" on the page is Ctrl-C in the middle of a step
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        ),
    )


def _attach_model(run: wandb.Run, study: str, model: Path) -> None:
    import wandb

    artifact = wandb.Artifact(
        study, type="model", description=(model / "README.md").read_text("utf-8")
    )
    # With these options, files are not copied to the home directory.
    artifact.add_dir(str(model), policy="immutable", skip_cache=True)
    run.log_artifact(artifact)


def _warn(what: str, error: Exception) -> None:
    _logger.warning("W&B failed (%s: %s); no result is lost: %s", type(error).__name__, error, what)


def _teardown() -> None:
    """End W&B's own process, so that the file of a run is whole."""
    import wandb

    wandb.teardown()
