"""Optional tracking with Weights & Biases: one run per trial, grouped by study. Only this file imports wandb.

A resumed trial continues its run, whose ID depends only on the study and the trial number. Without a key the run is
written to the trial's folder, for `wandb sync`. A final model, a confirmation and a report are separate runs.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image

from xraytune.config.settings import WandbSettings
from xraytune.records import EpochRecord, Json
from xraytune.tracking.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    import wandb

_HOSTS = ("https://api.wandb.ai", "https://api.forge.coreweave.com")
_PUBLISH_SECONDS = 120.0


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


def publish(
    settings: WandbSettings,
    run: TrackedRun,
    summary: Mapping[str, Json],
    *,
    epochs: Iterable[EpochRecord] = (),
    table: Sequence[Mapping[str, Json]] = (),
    page: Path | None = None,
    model: Path | None = None,
) -> None:
    """Send finished work as a run, with curves, a table, a page or a model bundle; wait for up to two minutes."""
    tracker = WandbRun(settings, run, finish_seconds=_PUBLISH_SECONDS)
    for epoch in epochs:
        tracker.log(epoch)
    tracker._post(partial(tracker._attach, table, page, model))
    tracker.finish("complete", summary)


class WandbRun(Tracker):
    """A run in W&B."""

    name = "W&B"
    fix = "without a network or a key set `tracking: {wandb: {mode: offline}}`, and run `wandb sync` later"

    _run: wandb.Run  # set by `_start`; used only in the thread

    def __init__(self, settings: WandbSettings, run: TrackedRun, **options: Any) -> None:
        self._settings = settings
        super().__init__(run, **options)

    def _start(self) -> None:
        # No reports about W&B's own failures: they need a network, and delay the exit.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.pop("WANDB_SERVICE", None)  # of another process, whose end would end this run
        import wandb

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
            group=self.tracked.group,
            job_type=self.tracked.kind,
            name=self.tracked.label,
            id=self.tracked.run_id,
            resume="allow",
            mode="online" if is_online(self._settings) else "offline",
            dir=str(self.tracked.folder),
            config={**self.tracked.parameters, "study": self.tracked.study, self.tracked.kind: self.tracked.key},
        )
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")

    def _send(self, values: dict[str, Json], epoch: int) -> None:
        if epoch >= self._run.starting_step:
            # Without `commit` W&B holds an epoch back until the next one.
            self._run.log(values, step=epoch, commit=True)

    def _send_samples(self, samples: Callable[[], Image.Image]) -> None:
        import wandb

        if self._run.starting_step == 0:
            caption = "by class: real images on the left, extra ones on the right"
            self._run.log({"epoch": 0, "samples": wandb.Image(samples(), caption=caption)}, step=0, commit=True)

    def _attach(self, table: Sequence[Mapping[str, Json]], page: Path | None, model: Path | None) -> None:
        import wandb

        if table:
            rows = [list(row.values()) for row in table]
            self._run.log({"differences": wandb.Table(columns=list(table[0]), data=rows)})
        if page:
            self._run.log({"report": wandb.Html(page.read_text("utf-8"), inject=False, data_is_not_path=True)})
        if model:
            card = (model / "README.md").read_text("utf-8")
            artifact = wandb.Artifact(self.tracked.study, type="model", description=card)
            # With these options, files are not copied to the home directory.
            artifact.add_dir(str(model), policy="immutable", skip_cache=True)
            self._run.log_artifact(artifact)

    def _end(self, summary: dict[str, Json], *, is_failed: bool) -> None:
        import wandb

        self._run.summary.update(summary)
        self._run.finish(exit_code=int(is_failed))
        wandb.teardown()
