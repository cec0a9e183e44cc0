"""A trial that waits or runs: the arguments, the messages and the files of its process.

The journal creates the trials of a search, and the search keeps them. A run of a confirmation is a
trial, too. Ray passes these records between processes unchanged.

Besides its epochs, a trial reports in these files to `status` and the search:

    progress.json   what the trial does before its first epoch
    samples.json    the sample grid of the trial's generator
    quality.json    quality and memorisation of the trial's synthetic images

A file may be missing, since the trial has not written it yet, or damaged. Its content is then
treated as unknown.
"""

import json
import math
import socket
import time
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, TypedDict

from pydantic import TypeAdapter

from xraytune.base.files import fence_writes, read_json, write_json, write_text
from xraytune.base.records import EpochRecord, TrialResult, frozen
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment
from xraytune.study.folder import DAMAGE, StudyFolder
from xraytune.synth.generator_inputs import Training, training_of
from xraytune.synth.generator_quality import QUALITY_FILE, PoolReport

_ATTEMPT_FILE = ".owner"
"""The file in a trial's folder with a token and the node of the latest attempt."""
_PROGRESS_FILE = "progress.json"
_SAMPLES_FILE = "samples.json"
_WRITE_EVERY_SECONDS = 1.0
_REPORT = TypeAdapter(PoolReport)

Cause: TypeAlias = Literal["settings", "memory", "fault", "lost", "node", "machine"]
"""Why an attempt at a trial failed: because of its settings, so that a retry would fail again
(`settings`), for want of memory (`memory`), by another error (`fault`), because its process was
lost, alone (`lost`) or with its node (`node`), or because the node lacks something, such as disk
space or the study (`machine`), which is no failure of the trial."""


class Failure(TypedDict):
    """A failed attempt at a trial.

    `epochs` is the last epoch that the trial had reported, and `steps` how far its generator's
    training had got.
    """

    epochs: int
    steps: int
    cause: Cause


@dataclass(slots=True, kw_only=True)
class OpenTrial:
    """A trial that has not ended.

    Attributes:
        number: Number of the trial in the study.
        label: Name of the trial in the dashboard and in trackers, without the study's name: `#7 gan
            r=0.5 (500 steps)`, or `gan #12, replicate 1`.
        experiment: Settings of the trial.
        epochs: The last epoch that the trial has reported.
        failures: Failed attempts at the trial.
        trains_generator: Whether the trial's generator was not trained yet when it started.
        trains_alone: Whether the trial only trains its generator, since that holds other resources,
            and waits again for the rest.
        resources: Cores and GPUs that the trial holds while it runs, by Ray's names.
        slots: Number of slots that the trial occupies while it runs.
        placed: When Ray last started the trial, by `time.monotonic`; None while it waits for room.
        seconds: How long the trial ran in this search before it was last placed.
        gpu_seconds: The seconds of the GPUs that it held meanwhile.
    """

    number: int
    label: str
    experiment: Experiment
    epochs: int = 0
    failures: list[Failure] = field(default_factory=list)
    trains_generator: bool = False
    trains_alone: bool = False
    resources: Mapping[str, float] = field(default_factory=dict)
    slots: int = 1
    placed: float | None = None
    seconds: float = 0.0
    gpu_seconds: float = 0.0

    @property
    def parameters(self) -> Parameters:
        """The trial's parameters."""
        return self.experiment.parameters

    @property
    def generator_inputs(self) -> tuple[Training | None, int | None, int]:
        """The arguments of `lineage_to_train` that decide whether a generator is trained."""
        image_size = self.experiment.settings.data.image_size
        return training_of(self.experiment), self.experiment.draw, image_size

    @property
    def generator_length(self) -> float:
        """The length of the training of the trial's generator; 0 if it has none."""
        training = training_of(self.experiment)
        return training.length if training else 0


@frozen
class Job:
    """The arguments of a worker.

    Attributes:
        study_folder: The study or, in a confirmation, the folder of its runs.
        label: The trial's name in the dashboard and in trackers.
        resources: The cores and GPUs that the trial holds, by Ray's names.
        trains_alone: As in `OpenTrial`.
        reports_every_epoch: Whether every epoch is reported, and not only the last of each second.
        nodes_left_out: Ray's identifiers of nodes that must not run the trial.
        has_choice: Whether another node can run the trial if this one computes in another
            precision.
    """

    study_folder: StudyFolder
    cache: Path
    number: int
    reports_every_epoch: bool = True
    label: str
    resources: Mapping[str, float]
    trains_alone: bool = False
    nodes_left_out: tuple[str, ...] = ()
    has_choice: bool = False


@frozen
class TrialFailed:
    """The message that an attempt at a trial failed."""

    reason: str
    cause: Cause


LOST = TrialFailed(reason="its process was lost (killed)", cause="lost")
LOST_WITH_NODE = TrialFailed(
    reason="its node died: it may need more memory than the node has", cause="node"
)
OUT_OF_MEMORY = TrialFailed(reason="its process was killed: out of memory", cause="memory")
"""The messages, made by the search, of processes that ended without one."""


@frozen
class GeneratorTrained:
    """The message that a trial which only trained its generator has done so."""


TrialMessage: TypeAlias = EpochRecord | TrialResult | GeneratorTrained | TrialFailed
"""A message of a trial: an epoch, or a result or a failure at its end."""


class TrialProgress(NamedTuple):
    """The last arguments of a trial's `Progress` callback, and the time that each step takes."""

    what: str
    done: int
    total: int
    step_seconds: float | None = None


_PROGRESS = TypeAdapter(TrialProgress)


@dataclass(slots=True)
class ProgressFile:
    """A `Progress` callback that writes `progress.json` of a trial, at most once a second.

    The pace is that of the later half of the time since the first call about the same work, since
    the first steps take longer.
    """

    trial_dir: Path
    clock: Callable[[], float] = time.monotonic
    _written: float = field(default=-math.inf, init=False)
    _what: str = field(default="", init=False)
    _calls: list[tuple[float, int]] = field(default_factory=list, init=False)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Write the progress."""
        now = self.clock()
        if what != self._what:
            self._what = what
            self._calls = []
        self._calls.append((now, done))
        began = self._calls[0][0]
        middle = bisect_right(self._calls, ((began + now) / 2, total)) - 1
        then, done_then = self._calls[middle]
        step_seconds = (now - then) / (done - done_then) if done > done_then else None
        if now - self._written >= _WRITE_EVERY_SECONDS or done == total:
            self._written = now
            progress = TrialProgress(what, done, total, step_seconds)
            content = json.dumps(progress._asdict())
            write_text(self.trial_dir / _PROGRESS_FILE, f"{content}\n", is_durable=False)


class TakenOverError(Exception):
    """A later attempt at the trial has begun, so this attempt writes nothing more."""


@contextmanager
def attempt(trial_dir: Path) -> Iterator[None]:
    """Begin an attempt at a trial, which ends any earlier one.

    While the block runs, a write of this process raises TakenOverError if a later attempt has begun
    or the trial's folder is gone, and OSError if the storage does not answer.
    """
    token = f"{uuid.uuid4().hex} {socket.gethostname()}"
    write_text(trial_dir / _ATTEMPT_FILE, token, is_durable=False)

    def require_last() -> None:
        last_token = ""
        with suppress(FileNotFoundError):
            last_token = (trial_dir / _ATTEMPT_FILE).read_text(encoding="utf-8")
        if last_token != token:
            raise TakenOverError

    with fence_writes(require_last):
        yield


def read_node(trial_dir: Path) -> str:
    """Return the node of a trial's latest attempt; "" if it is this node or there is none."""
    try:
        node = (trial_dir / _ATTEMPT_FILE).read_text(encoding="utf-8").partition(" ")[2]
    except OSError:
        return ""
    return node if node != socket.gethostname() else ""


def read_progress(trial_dir: Path) -> TrialProgress | None:
    """Return what a trial does before its first epoch; None if it is unknown."""
    with suppress(*DAMAGE):
        return _PROGRESS.validate_python(read_json(trial_dir / _PROGRESS_FILE))
    return None


def write_samples(trial_dir: Path, grid: Path) -> None:
    """Record the sample grid of a trial's generator, which is a file in the study's `samples/`."""
    write_json(trial_dir / _SAMPLES_FILE, {"generator": f"samples/{grid.name}"})


def read_samples(trial_dir: Path) -> str:
    """Return a trial generator's sample grid, relative to the study; "" if there is none yet."""
    with suppress(*DAMAGE):
        return str(read_json(trial_dir / _SAMPLES_FILE)["generator"])
    return ""


def read_pool_report(trial_dir: Path) -> PoolReport | None:
    """Return a trial's report on its synthetic images; None if there is none yet."""
    with suppress(*DAMAGE):
        return _REPORT.validate_python(read_json(trial_dir / QUALITY_FILE))
    return None
