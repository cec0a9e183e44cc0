"""The tasks of studies; `task_of` returns the task of a study's settings."""

from collections.abc import Mapping
from dataclasses import replace

from xraytune.space.settings import Settings
from xraytune.space.task_settings import TaskName
from xraytune.tasks.masks import Masks
from xraytune.tasks.task import Findings, Task

TASKS: Mapping[TaskName, Task] = {
    "classification": Task(),
    "findings": Findings(),
    "segmentation": Masks(),
}


def task_of(settings: Settings) -> Task:
    """Return the task of a study, with the score of its objective."""
    return replace(TASKS[settings.task], objective=settings.objective)
