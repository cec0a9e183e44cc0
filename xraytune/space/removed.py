"""Settings of earlier versions.

Dropped where they mean what is always done today, else refused with what to use instead.

Studies, trials and generators store all their settings, so they hold these as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Removed:
    """A setting or parameter that was removed.

    Attributes:
        instead: The message to a user who writes it.
        today: The values that mean what is always done today; with one of these, it is dropped.
        is_limit: Whether it changed no trial. A study may have stored any value of it; in another
            file, it is refused.
    """

    instead: str
    today: tuple[Any, ...] = ()
    is_limit: bool = False


_PIPELINE = (
    "use source: folder with the images of another program (examples/folder_from_pipeline.py)"
)
_ARCHITECTURE = "gan.architecture decides"
REMOVED: Mapping[str, Removed] = {
    # Settings
    "version": Removed("omit it", (1,)),
    "prompts": Removed(_PIPELINE, ({},)),
    "pretrained_on": Removed("see docs/spaces.md#backbones-and-weights", is_limit=True),
    "objective.specificity": Removed("it is 0.9", (0.9, None)),
    "budget.gpu_hours": Removed("use budget.hours or budget.trials", is_limit=True),
    "resources.hang_minutes": Removed("end a trial that hangs by hand", is_limit=True),
    "resources.generator": Removed("a generator has resources.gpus_per_trial", is_limit=True),
    "exported_from.patients": Removed("omit it", is_limit=True),
    **dict.fromkeys(
        (
            *("final.backbone", "final.weights", "final.weight_decay"),
            *("final.batch_size", "final.early_stop_epochs"),
        ),
        Removed("change it in the file of `xraytune export`", (None,)),
    ),
    "data.split.val": Removed("move the images of val/ to train/ or test/", ("merge",)),
    "data.table.side.val": Removed("list them in side.train", (None,)),
    "data.table.separator": Removed("write | between labels", ("|",)),
    "data.table.disagree": Removed("settle the rows of an image in the table", ("first",)),
    "data.shift.resolution_px": Removed("use blur_px", (None,)),
    "data.shift.invert": Removed("use contrast: -1", (False,)),
    "data.shift.seed": Removed("omit it", (0,)),
    "resources.retries": Removed("omit it: a trial is retried twice", is_limit=True),
    "quality.backbone": Removed("quality is measured with the trial's own backbone", (None,)),
    "quality.weights": Removed("quality is measured with the trial's own weights", is_limit=True),
    "confirm.min_patients": Removed(
        "omit it: it is 300, or any number with test: unused", is_limit=True
    ),
    "tracking.wandb.mode": Removed("set the environment variable WANDB_MODE", is_limit=True),
    "exported_from.synthetic": Removed("omit it", is_limit=True),
    "exported_from.changes": Removed("omit it", is_limit=True),
    # Parameters
    **dict.fromkeys(("diffusion", "pipeline"), Removed(_PIPELINE, (None,))),
    "batch_norm": Removed("statistics are always those of the training mix", ("mix",)),
    "gan.conditional": Removed("one network is trained for all classes", (True,)),
    "gan.loss": Removed(_ARCHITECTURE, ("hinge", "bce")),
    "gan.spectral_norm": Removed(_ARCHITECTURE, (True, False)),
    "gan.beta1": Removed(_ARCHITECTURE, (0, 0.5)),
    "gan.beta2": Removed(_ARCHITECTURE, (0.99, 0.999)),
    "gan.diffaugment": Removed(_ARCHITECTURE, (True, False)),
    "gan.ema_half_life_images": Removed(_ARCHITECTURE, (10_000, None)),
}
REMOVED_VALUES: Mapping[str, str] = {
    **dict.fromkeys(("diffusion", "pipeline"), f"it was removed: {_PIPELINE}"),
    "replace": "it was removed: use mixing: additive or pretrain",
}
"""What to do about values that were removed."""


def is_dropped(name: str, value: object) -> bool:
    """Return whether a setting, by dotted name, was removed and may be left out with this value."""
    removed = REMOVED.get(name)
    return removed is not None and (removed.is_limit or value in removed.today)


def explain_removed(name: str) -> str:
    """Return what to use instead of a removed setting, by its dotted name.

    "" if there was none of this name.
    """
    return f"it was removed: {REMOVED[name].instead}" if name in REMOVED else ""
