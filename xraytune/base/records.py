"""Progress of long-running work, and small frozen records that cross layers.

Records hold paths instead of arrays, and are encoded by `to_json`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, dataclass_transform

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

Class = TypeVar("Class")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def frozen(record: type[Class]) -> type[Class]:
    """Make a class a record: a frozen dataclass with slots, whose fields are given by name."""
    return dataclass(frozen=True, slots=True, kw_only=True)(record)


Progress: TypeAlias = Callable[[str, int, int], None]
"""`on_progress(what, done, total)`, which long-running work calls.

`what` is in the user's words, and may end with a unit in brackets: "decoding images", "training the
GAN (steps)".
"""


def ignore_progress(what: str, done: int, total: int) -> None:
    """A no-op `Progress`."""


Note: TypeAlias = Callable[[str], None]
"""`note(text)`, which is called with a line that the user should see."""


def ignore_note(text: str) -> None:
    """A no-op `Note`."""


def progress_text(what: str, done: int, total: int) -> str:
    """Return progress as text, such as `training the GAN: 500 of 1,500 steps`."""
    work, _, unit = what.removesuffix(")").partition(" (")
    return f"{work}: {done:,} of {total:,} {unit}".rstrip()


def to_json(record: object, folder: Path | None = None) -> dict[str, Any]:
    """Return a dataclass as a JSON object; parameters that are paths are relative to `folder`.

    Nested records become objects, tuples become lists, paths and enums become text. Properties are
    left out; add them with `to_json(record) | {"name": record.name}`.
    """
    from pydantic_core import to_jsonable_python  # a fifth of the time of `--help`

    content: dict[str, Any] = to_jsonable_python(record, context=folder)
    return content


def name_scores(values: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Name scores after their metric: `val_score` becomes `val_auroc` or `val_dice`."""
    score = metric.removeprefix("val_")
    return {
        name.replace("val_score", metric).replace("score", score): value
        for name, value in values.items()
    }


@frozen
class Node:
    """The CPU cores and GPUs of one node."""

    cpus: float
    gpus: float


@frozen
class Compute:
    """Device, threads and precision, which are part of fingerprints, since results depend on them.

    Attributes:
        device: `cuda` is the first visible GPU.
        threads: The number of CPU threads of the process.
        precision: Precision of matrix products under autocast; losses, metrics and averages are at
            least float32.
    """

    device: Literal["cpu", "cuda"]
    threads: int
    precision: Literal["float32", "bfloat16"]


@frozen
class EpochRecord:
    """One epoch of a trial: `budget.steps_per_epoch` optimizer steps.

    Attributes:
        epoch: 1-based.
        steps: Optimizer steps so far.
        train_loss: Mean training loss over the epoch's steps.
        val_loss: Mean loss on val-A: cross-entropy in nats; of masks, its sum with the Dice loss.
        val_score: The study's objective on val-A.
        best_val_score: The best `val_score` so far, which is the value of the trial.
        lr: Learning rate of the epoch's last step.
        seconds: Wall time, including validation.
    """

    epoch: int
    steps: int
    train_loss: float
    val_loss: float
    val_score: float
    best_val_score: float
    lr: float
    seconds: float


@frozen
class TrialResult:
    """The result of a complete trial.

    Attributes:
        value: Best objective on val-A.
        best_epoch: The epoch with this value, whose network is kept.
        epochs: The number of epochs trained.
        val_b_score: The kept network's objective on val-B.
        threshold: With two classes, the probability from which an image is classified as positive;
            chosen on val-A and val-B together (`stats/threshold.py`).
    """

    value: float
    best_epoch: int
    epochs: int
    val_b_score: float
    threshold: float
