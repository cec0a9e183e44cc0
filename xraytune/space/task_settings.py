"""What each task accepts, and the objective of a study."""

from collections.abc import Mapping
from typing import Literal

from xraytune.base.records import frozen
from xraytune.space.contract import Change, refuses
from xraytune.space.strict_model import StrictModel

TaskName = Literal["classification", "findings", "segmentation"]
ObjectiveName = Literal["val_auroc", "val_auprc", "val_sensitivity", "val_dice"]


@frozen
class TaskRules:
    """The values that a task accepts.

    Attributes:
        objectives: The objectives of the task; the first is the default.
        unused_sources: The sources of extra images that the task cannot use.
        unused: The parameters that have no effect.
        has_classes: Whether an image has one of several classes.
    """

    objectives: tuple[ObjectiveName, ...]
    unused_sources: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    has_classes: bool = True


TASK_RULES: Mapping[TaskName, TaskRules] = {
    "classification": TaskRules(objectives=("val_auroc", "val_auprc", "val_sensitivity")),
    "findings": TaskRules(
        objectives=("val_auroc", "val_auprc"),
        unused_sources=("statistics",),
        unused=("head", "loss"),
        has_classes=False,
    ),
    "segmentation": TaskRules(
        objectives=("val_dice",),
        unused_sources=("statistics",),
        unused=("balance", "head", "loss", "imbalance", "dropout"),
        has_classes=False,
    ),
}
CLASS_TASKS = tuple(name for name, rules in TASK_RULES.items() if rules.has_classes)
OBJECTIVE_NAMES: Mapping[ObjectiveName, str] = {
    "val_auroc": "AUROC",
    "val_auprc": "AUPRC",
    "val_sensitivity": "sensitivity",
    "val_dice": "Dice",
}
"""The display name of each objective."""
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "mlflow": ("mlflow-skinny", "sqlalchemy"),
    "segmentation": ("segmentation-models-pytorch",),
    "timm": ("timm",),
}
"""The further packages that a task, tracker or backbone needs, by name of the extra."""


class Objective(StrictModel):
    """The validation metric that the search maximises."""

    metric: ObjectiveName = "val_auroc"
    """Classification: `val_auroc` (default), `val_auprc` or `val_sensitivity`, the highest
    sensitivity at any threshold with a specificity of at least .9. Findings: `val_auroc` (default)
    or `val_auprc`, means over the findings. Segmentation: `val_dice`, the mean over images."""


@refuses("objective.metric", "task")
def _score_task(metric: ObjectiveName, task: TaskName) -> Change:
    """A task has its own objectives."""
    objectives = TASK_RULES[task].objectives
    return {} if metric in objectives else {"objective.metric": objectives[0]}


@refuses("objective.metric", "class_count", instead="val_auprc")
def _find_sensitivity(metric: str, class_count: int) -> bool:
    """Sensitivity is that of two classes."""
    return metric == "val_sensitivity" and class_count != 2
