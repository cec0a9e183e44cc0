"""Settings of earlier versions.

Dropped where they mean what is always done today, else refused with what to use instead.

Studies, trials and generators store all their settings, so they hold these as well.
"""

from collections.abc import Mapping
from typing import Any

_PIPELINE = (
    "use source: folder with the images of another program (examples/folder_from_pipeline.py)"
)
_ARCHITECTURE = "gan.architecture decides"
_FINAL = "change it in the file of `xraytune export`"
REMOVED_LIMITS: Mapping[str, str] = {
    "pretrained_on": "see docs/spaces.md#backbones-and-weights",
    "budget.gpu_hours": "use budget.hours or budget.trials",
    "resources.hang_minutes": "end a trial that hangs by hand",
    "resources.generator": "a generator has resources.gpus_per_trial",
    "resources.retries": "omit it: a trial is retried twice",
    "quality.weights": "quality is measured with the trial's own weights",
    "confirm.min_patients": "omit it: it is 300, or any number with test: unused",
    "tracking.wandb.mode": "set the environment variable WANDB_MODE",
    "exported_from.patients": "omit it",
    "exported_from.synthetic": "omit it",
    "exported_from.changes": "omit it",
}
"""Removed settings that changed no trial, and what to do instead.

A study may have stored any value of them; in another file, they are refused.
"""
_REMOVED: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    # Settings
    "version": ("omit it", (1,)),
    "prompts": (_PIPELINE, ({},)),
    "objective.specificity": ("it is 0.9", (0.9, None)),
    "final.backbone": (_FINAL, (None,)),
    "final.weights": (_FINAL, (None,)),
    "final.weight_decay": (_FINAL, (None,)),
    "final.batch_size": (_FINAL, (None,)),
    "final.early_stop_epochs": (_FINAL, (None,)),
    "data.split.val": ("move the images of val/ to train/ or test/", ("merge",)),
    "data.table.side.val": ("list them in side.train", (None,)),
    "data.table.separator": ("write | between labels", ("|",)),
    "data.table.disagree": ("settle the rows of an image in the table", ("first",)),
    "data.shift.resolution_px": ("use blur_px", (None,)),
    "data.shift.invert": ("use contrast: -1", (False,)),
    "data.shift.seed": ("omit it", (0,)),
    "quality.backbone": ("quality is measured with the trial's own backbone", (None,)),
    # Parameters
    "diffusion": (_PIPELINE, (None,)),
    "pipeline": (_PIPELINE, (None,)),
    "batch_norm": ("statistics are always those of the training mix", ("mix",)),
    "gan.conditional": ("one network is trained for all classes", (True,)),
    "gan.loss": (_ARCHITECTURE, ("hinge", "bce")),
    "gan.spectral_norm": (_ARCHITECTURE, (True, False)),
    "gan.beta1": (_ARCHITECTURE, (0, 0.5)),
    "gan.beta2": (_ARCHITECTURE, (0.99, 0.999)),
    "gan.diffaugment": (_ARCHITECTURE, (True, False)),
    "gan.ema_half_life_images": (_ARCHITECTURE, (10_000, None)),
}
"""Other removed settings and parameters: what to do instead, and which values mean what is always
done today; with one of these, it is dropped."""
REMOVED_VALUES: Mapping[str, str] = {
    "diffusion": f"it was removed: {_PIPELINE}",
    "pipeline": f"it was removed: {_PIPELINE}",
    "replace": "it was removed: use mixing: additive or pretrain",
}
"""What to do about values that were removed."""


def is_dropped(name: str, value: object) -> bool:
    """Return whether a setting, by dotted name, was removed and may be left out with this value."""
    _, today = _REMOVED.get(name, ("", ()))
    return name in REMOVED_LIMITS or value in today


def drop_removed(given: Any, prefix: str = "") -> Any:
    """Return settings, in nested mappings, without those that were removed and may be left out."""
    if not isinstance(given, dict):
        return given
    return {
        name: drop_removed(value, f"{prefix}{name}.")
        for name, value in given.items()
        if not is_dropped(f"{prefix}{name}", value)
    }


def explain_removed(name: str) -> str:
    """Return what to use instead of a removed setting, by its dotted name.

    "" if there was none of this name.
    """
    instead, _ = _REMOVED.get(name, (REMOVED_LIMITS.get(name), ()))
    return f"it was removed: {instead}" if instead else ""
