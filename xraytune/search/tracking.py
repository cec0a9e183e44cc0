"""What experiment trackers know of a trial, and what they do.

A tracker begins or resumes a run, takes its epochs and its samples, and ends it.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from xraytune.base.records import frozen
from xraytune.space.fields import flat_values
from xraytune.space.parameters import Parameters
from xraytune.space.task_settings import ObjectiveName

TRACKER_FOLDERS = ("wandb", "tensorboard")
"""Folders that trackers write in a trial's folder."""
Values: TypeAlias = dict[str, Any]


@frozen
class TrackedRun:
    """What a tracker knows of a trial or of a final training when it begins.

    Attributes:
        metric: Name of the scores, such as val_auroc.
        study: Name and identity of the study.
        parameters: Settings of the trial.
        folder: Folder of the trial.
        kind: Whether it is a trial or a final training.
        key: What identifies the run among those of its kind in the study.
        name: Name of the run for people.
    """

    metric: ObjectiveName
    study: tuple[str, str]
    parameters: Parameters
    folder: Path
    kind: Literal["trial", "train"] = "trial"
    key: int | str
    name: str

    @property
    def id(self) -> str:
        """What a resumed trial finds its run by."""
        text = "\n".join((*self.study, f"{self.kind} {self.key}"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def config(self) -> Values:
        """The settings by their dotted names, with arm, study and number."""
        values = flat_values(self.parameters, self.folder)
        return values | {"arm": self.parameters.arm, "study": self.study[0], self.kind: self.key}


class Tracker(Protocol):
    """A run that was begun or resumed."""

    def log(self, epoch: int, values: Values) -> None:
        """Send an epoch; a resumed trial sends its earlier ones again, which count once."""

    def log_samples(self, grid: Path) -> None:
        """Send the sample grid of the trial's generator, before the first epoch."""

    def finish(self, summary: Values, model: Path | None) -> None:
        """End the run with its status, scores and other results, and the folder of a model."""
