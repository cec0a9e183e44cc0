"""The small records that cross layers. Each is frozen; arrays never travel in them, paths do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic_core import to_jsonable_python

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

Progress: TypeAlias = Callable[[str, int, int], None]
"""`on_progress(what, done, total)`: called from long work, as often as it likes; the screen decides what to draw."""

ShouldStop: TypeAlias = Callable[[], bool]


def ignore_progress(what: str, done: int, total: int) -> None:
    """The `Progress` of a caller who does not want to know."""


def never_stop() -> bool:
    """The `ShouldStop` of a caller who wants the whole run."""
    return False


def to_json(record: object) -> dict[str, Any]:
    """Return a dataclass as a JSON object: nested records as objects, tuples as lists, paths and enums as text.

    Properties are left out; add them with `to_json(record) | {"name": record.name}`.
    """
    content: dict[str, Any] = to_jsonable_python(record)
    return content


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Where numbers are made. Bits depend on all three, so artifacts made by a network carry it in their fingerprint.

    Attributes:
        device: A torch device, "cpu" or "cuda" ("cuda" is the first visible one).
        threads: CPU threads of a process, pinned.
        precision: Type of matrix products under autocast; losses, metrics and averages are float32 at least.
    """

    device: str
    threads: int
    precision: Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """What a trial reports after each epoch (`budget.steps_per_epoch` optimiser steps).

    Attributes:
        epoch: 1-based.
        steps: Optimiser steps so far.
        train_loss: Mean over the epoch's steps.
        val_loss: Mean cross entropy on val-A, in nats.
        val_auroc: On val-A; more than two classes: macro one-vs-rest.
        best_val_auroc: The best `val_auroc` so far: the value of the trial.
        lr: Learning rate of the epoch's last step.
        seconds: Wall time of the epoch, validation included.
    """

    epoch: int
    steps: int
    train_loss: float
    val_loss: float
    val_auroc: float
    best_val_auroc: float
    lr: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What a trial that ran to its end is worth.

    Attributes:
        value: Its best val-A AUROC.
        best_epoch: The epoch of that value, whose network is kept.
        epochs: Epochs trained.
        val_b_auroc: The kept network on val-B.
        threshold: Two classes: called positive from this probability on, for balanced accuracy; set on val-A and val-B
            together (`metrics/threshold.py`).
        seconds: Wall time of this run of the trial, GAN included.
    """

    value: float
    best_epoch: int
    epochs: int
    val_b_auroc: float
    threshold: float
    seconds: float
