"""A trial that waits or runs, what its process gets, and what that reports.

The journal hands trials out, and the search keeps them; a run of a confirmation is one, too. Ray
passes these records on as they are.
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
"""Why a trial failed: by its settings, so that a retry would fail again, for want of memory, by
another error (`fault`), or because its process was lost."""


class Failure(TypedDict):
    """A failed attempt at a trial: the last epoch that it had reported, and the cause."""

    epochs: int
    cause: Cause


@dataclass(slots=True, kw_only=True)
class Trial:
    """A trial that has not ended.

    Attributes:
        number: Its number in the study.
        label: Its name in the dashboard and in trackers, without that of the study: `#7 gan r=0.5
            (500 steps)`, or `gan #12, replicate 1`.
        epochs: The last epoch that it has reported.
        failures: Its failed attempts.
        trains_generator: Whether its generator was not trained yet when it was started.
        resources: The cores and GPUs that it holds while it runs, by the names of Ray.
        slots: How many slots it occupies while it runs.
        started: When it was last started, by `time.monotonic`.
        seconds: How long it has run in this search, before it was last started.
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
        """Its parameters."""
        return self.experiment.parameters

    @property
    def generator_inputs(self) -> tuple[GanSettings | None, int | None, int]:
        """What decides whether its generator is trained already: see `generator_need`."""
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
        resources: The cores and GPUs that it holds, by the names of Ray.
        every_epoch: Else only the last epoch of each second is reported.
    """

    study: StudyFolder
    cache: Path
    number: int
    every_epoch: bool = True
    label: str
    resources: Mapping[str, float]


@frozen
class TrialFailed:
    """An attempt at a trial failed.

    The cause `machine` means that its machine lacks something, such as disk space or the study.
    """

    reason: str
    cause: Cause | Literal["machine"]


LOST = TrialFailed(reason="its process was lost (killed, or its node)", cause="lost")
OUT_OF_MEMORY = TrialFailed(reason="its process was killed: out of memory", cause="memory")
"""What the search says for a process that ended without a message."""

TrialMessage: TypeAlias = EpochRecord | TrialResult | TrialFailed
"""What a trial reports: an epoch, and at its end a result or a failure."""
