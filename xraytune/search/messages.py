"""Everything that the search, Ray's process and the workers say to each other: a closed set of records with one encoding.

    worker -> search    EpochEnded, GeneratorTrained, TrialEnded, TrialFailed, MachineStopped
    search -> driver    LookAtNode, RunTrials
    driver -> search    RayStarted, RayNotStarted, NodeEnvironment, NodeProblem, and while trials run:
                        SlotFree -> StartTrial, NoTrial;  TrialReported -> Decision;  TrialLost -> Decision;
                        StatisticsWanted -> Statistics;  RunEnded

On its way, a message is JSON text, which Tune and the pipe pass on as it is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeAlias, get_args

from pydantic import TypeAdapter

from xraytune.base.records import EpochRecord, TrialResult
from xraytune.study.suggestion import Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEnded:
    """An epoch of a trial has ended and is saved."""

    record: EpochRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorTrained:
    """The generator of a trial is trained; the rest of the trial can run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnded:
    """A trial is complete."""

    result: TrialResult


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFailed:
    """A trial failed."""

    reason: str
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineStopped:
    """The machine of a trial lacks something, such as disk space."""

    reason: str


TrialMessage: TypeAlias = EpochEnded | GeneratorTrained | TrialEnded | TrialFailed | MachineStopped
"""What a trial reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The resources that a trial has used since its last message; cache requests are kind, result and count."""

    gpu_memory_bytes: int
    cache_requests: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The CPU cores and GPUs of one node."""

    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RayStarted:
    """Ray runs; `dashboard` is its address, "" if there is none."""

    dashboard: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RayNotStarted:
    """Ray failed to start, or a cluster is unavailable or refuses this machine for want of a token."""

    why: Literal["failed", "unavailable", "refused"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAtNode:
    """Check a node with these resources free."""

    resources: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEnvironment:
    """The `environment` of the node."""

    environment: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProblem:
    """Why trials cannot run on the node."""

    what: str
    where: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrials:
    """Run trials with Tune until there are no more; `scratch` is its folder."""

    study: str
    scratch: str
    reuse_actors: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFree:
    """Tune has room for a trial on these nodes."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The arguments of a worker: the folders, the trial, and the study's lock with its token.

    `label` is the trial's name in the dashboard and in trackers, `gpu_share` the GPUs that it holds.
    """

    study: str
    cache: str
    number: int
    only_generator: bool = False
    label: str
    gpu_share: float
    lock: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTrial:
    """Start a trial in the `process` of this name, with `resources` as Ray takes them."""

    job: Job
    process: str
    resources: dict[str, float]
    images_per_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTrial:
    """There is no trial to start now, or none any more."""

    is_done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReported:
    """A trial has sent a message, which is still encoded."""

    number: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialLost:
    """The process of a trial has ended without a message."""

    number: int
    out_of_memory: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether the trial continues."""

    continues: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsWanted:
    """Ray's metrics are due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Gauges of `search/ray/metrics.py` by name; some have a value for each state."""

    gauges: dict[str, float | dict[str, float] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """Tune has ended."""


Order: TypeAlias = LookAtNode | RunTrials
Reply: TypeAlias = RayStarted | RayNotStarted | NodeEnvironment | NodeProblem
Question: TypeAlias = SlotFree | TrialReported | TrialLost | StatisticsWanted
Answer: TypeAlias = StartTrial | NoTrial | Decision | Statistics
Message: TypeAlias = TrialMessage | Usage | Order | Reply | Question | Answer | RunEnded


def encode(message: Message) -> str:
    """Return a message as JSON text."""
    return json.dumps([type(message).__name__, asdict(message)])


def decode(text: str | bytes) -> Any:
    """Return the message of a text; the receiver knows which ones to expect."""
    name, content = json.loads(text)
    return _adapter(name).validate_python(content)


def send(connection: Connection, message: Message) -> None:
    """Write a message."""
    connection.send_bytes(encode(message).encode())


def receive(connection: Connection) -> Any:
    """Read a message; raise EOFError if the other process is gone."""
    return decode(connection.recv_bytes())


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter({kind.__name__: kind for kind in get_args(Message)}[name])
