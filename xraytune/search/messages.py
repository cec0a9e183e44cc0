"""Everything that the search, Ray's process and the workers say to each other: a closed set of records with one encoding.

    worker -> search    EpochEnded, GeneratorTrained, TrialEnded, TrialFailed, MachineStopped
    search -> driver    LookAtNodes, RunTrials
    driver -> search    RayStarted, RayNotStarted, NodesSeen, and while trials run:
                        SlotFree -> StartTrial, NoTrial;  TrialReported -> Decision;  TrialLost -> Decision;
                        RunEnded

On its way, a message is JSON text, which Tune and the pipe pass on as it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict

from xraytune.base.records import EpochRecord, TrialResult
from xraytune.study.suggestion import Cause


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EpochEnded(_Message):
    """An epoch of a trial has ended."""

    record: EpochRecord

    def __str__(self) -> str:
        record = self.record
        scores = f"val-A {record.val_score:.4f} (best {record.best_val_score:.4f})"
        return f"epoch {record.epoch}: {scores}, training loss {record.train_loss:.4f}"


class GeneratorTrained(_Message):
    """The generator of a trial is trained; the rest of the trial can run."""

    def __str__(self) -> str:
        return "its generator is trained"


class TrialEnded(_Message):
    """A trial is complete."""

    result: TrialResult

    def __str__(self) -> str:
        return f"complete, val-A {self.result.value:.4f} in epoch {self.result.best_epoch}"


class TrialFailed(_Message):
    """A trial failed."""

    reason: str
    cause: Cause

    def __str__(self) -> str:
        return f"failed: {self.reason}"


class MachineStopped(_Message):
    """The machine of a trial lacks something, such as disk space or the study."""

    reason: str

    def __str__(self) -> str:
        return self.reason


TrialMessage: TypeAlias = EpochEnded | GeneratorTrained | TrialEnded | TrialFailed | MachineStopped
"""What a trial reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The CPU cores and GPUs of one node."""

    cpus: float
    gpus: float


class RayStarted(_Message):
    """Ray runs; `dashboard` is its address, "" if there is none; `warning` is about what this Ray lacks."""

    dashboard: str
    nodes: tuple[Node, ...]
    warning: str = ""


class RayNotStarted(_Message):
    """Ray failed to start, or a cluster is unavailable or refuses this machine for want of a token."""

    why: Literal["failed", "unavailable", "refused"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What trials need of a node: resources as Ray takes them, folders to write to, that of the images, versions."""

    resources: dict[str, float]
    folders: tuple[str, ...]
    data: str
    releases: dict[str, str]


class LookAtNodes(_Message):
    """Look at each node with room for a trial, once there is one."""

    needs: Needs


class NodesSeen(_Message):
    """The `environment` of a node, and the problems of all."""

    environment: dict[str, Any]
    problems: tuple[str, ...] = ()


class RunTrials(_Message):
    """Run trials with Tune until there are no more; `scratch` is its folder."""

    scratch: str
    reuse_actors: bool
    needs: Needs | None = None


class SlotFree(_Message):
    """Tune has room for a trial on these nodes; `left_out` says why others are avoided from now on."""

    nodes: tuple[Node, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The arguments of a worker: the folders, the trial, and the study's lock with its token.

    `label` is the trial's name in the dashboard and in trackers, `gpu_share` the GPUs that it holds. Without `every_epoch`,
    only the last epoch of each second is reported.
    """

    study: str
    cache: str
    number: int
    only_generator: bool = False
    every_epoch: bool = True
    label: str
    gpu_share: float
    lock: str
    token: str


class StartTrial(_Message):
    """Start a trial in the `process` of this name, with `resources` as Ray takes them."""

    job: Job
    process: str
    resources: dict[str, float]


class NoTrial(_Message):
    """There is no trial to start now, or none any more."""

    is_done: bool


class TrialReported(_Message):
    """A trial has sent a message, which is still encoded, from a `node`; others can run it."""

    number: int
    message: str
    node: str = ""
    other_nodes: int = 0


class TrialLost(_Message):
    """The process of a trial has ended without a message, or has to, since its node leaves."""

    number: int
    out_of_memory: bool = False
    node_leaves: bool = False


class Decision(_Message):
    """Whether the trial continues."""

    continues: bool


class RunEnded(_Message):
    """Tune has ended."""


Order: TypeAlias = LookAtNodes | RunTrials
Reply: TypeAlias = RayStarted | RayNotStarted | NodesSeen
Question: TypeAlias = SlotFree | TrialReported | TrialLost
Answer: TypeAlias = StartTrial | NoTrial | Decision
Message: TypeAlias = TrialMessage | Order | Reply | Question | Answer | RunEnded
_KINDS: dict[str, type[_Message]] = {kind.__name__: kind for kind in get_args(Message)}


def encode(message: Message) -> str:
    """Return a message as JSON text."""
    return json.dumps([type(message).__name__, message.model_dump()])


def decode(text: str | bytes) -> Any:
    """Return the message of a text; the receiver knows which ones to expect."""
    name, content = json.loads(text)
    return _KINDS[name].model_validate(content)


def send(connection: Connection, message: Message) -> None:
    """Write a message."""
    connection.send_bytes(encode(message).encode())


def receive(connection: Connection) -> Any:
    """Read a message; raise EOFError if the other process is gone."""
    return decode(connection.recv_bytes())
