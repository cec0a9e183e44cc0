"""A trial that waits or runs, the arguments of its process, and the messages of its process.

The journal creates the trials of a search, and the search keeps them. A run of a confirmation is a
trial, too. Ray passes these records between processes unchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict

from xraytune.base.records import EpochRecord, TrialResult, frozen
from xraytune.space.settings import Experiment, GanSettings, Parameters
from xraytune.study.folder import StudyFolder
from xraytune.synth.generator_inputs import with_features

Cause: TypeAlias = Literal["settings", "memory", "fault", "lost"]
"""Why a trial failed: because of its settings, so that a retry would fail again (`settings`), for
want of memory (`memory`), by another error (`fault`), or because its process was lost (`lost`)."""


class Failure(TypedDict):
    """A failed attempt at a trial: the last epoch that the trial had reported, and the cause."""

    epochs: int
    cause: Cause


@dataclass(slots=True, kw_only=True)
class Trial:
    """A trial that has not ended.

    Attributes:
        number: Number of the trial in the study.
        label: Name of the trial in the dashboard and in trackers, without the study's name: `#7 gan
            r=0.5 (500 steps)`, or `gan #12, replicate 1`.
        experiment: Settings of the trial.
        epochs: The last epoch that the trial has reported.
        failures: Failed attempts at the trial.
        trains_generator: Whether the trial's generator was not trained yet when it started.
        resources: Cores and GPUs that the trial holds while it runs, by Ray's names.
        slots: Number of slots that the trial occupies while it runs.
        started: Time of the last start, by `time.monotonic`.
        seconds: How long the trial ran in this search before its last start.
    """

    number: int
    label: str
    experiment: Experiment
    epochs: int = 0
    failures: list[Failure] = field(default_factory=list)
    trains_generator: bool = False
    resources: Mapping[str, float] = field(default_factory=dict)
    slots: int = 1
    started: float = 0.0
    seconds: float = 0.0

    @property
    def parameters(self) -> Parameters:
        """The trial's parameters."""
        return self.experiment.parameters

    @property
    def generator_inputs(self) -> tuple[GanSettings | None, int | None, int]:
        """The arguments of `generator_need` on which it depends whether a generator is trained."""
        settings = self.experiment.settings
        gan = self.parameters.gan
        if gan:
            gan = with_features(gan, settings.weights_dir)
        return gan, self.experiment.draw, settings.data.image_size


@frozen
class Job:
    """The arguments of a worker.

    Attributes:
        study: The study or, in a confirmation, the folder of its runs.
        label: The trial's name in the dashboard and in trackers.
        resources: The cores and GPUs that the trial holds, by Ray's names.
        every_epoch: Whether every epoch is reported, instead of only the last one of each second.
    """

    study: StudyFolder
    cache: Path
    number: int
    every_epoch: bool = True
    label: str
    resources: Mapping[str, float]


@frozen
class TrialFailed:
    """The message that an attempt at a trial failed.

    The cause `machine` means that the machine lacks something, such as disk space or the study.
    """

    reason: str
    cause: Cause | Literal["machine"]


LOST = TrialFailed(reason="its process was lost (killed, or its node)", cause="lost")
OUT_OF_MEMORY = TrialFailed(reason="its process was killed: out of memory", cause="memory")
"""The messages, made by the search, of processes that ended without one."""

TrialMessage: TypeAlias = EpochRecord | TrialResult | TrialFailed
"""A message of a trial: an epoch, or a result or a failure at its end."""
