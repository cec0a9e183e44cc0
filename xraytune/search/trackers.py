"""The trackers that the settings of a study name."""

from functools import partial

from xraytune.search.mlflow import MlflowRun
from xraytune.search.tensorboard import TensorboardRun
from xraytune.search.tracking import BeginRun, TrackedRun, Trackers
from xraytune.search.wandb import WandbRun
from xraytune.space.search_settings import Tracking


def begin_tracking(settings: Tracking, run: TrackedRun) -> Trackers:
    """Begin a run in all trackers, or resume it."""
    begin: dict[str, BeginRun] = {}
    if settings.wandb:
        begin["W&B"] = partial(WandbRun, settings.wandb)
    if settings.mlflow:
        begin["MLflow"] = partial(MlflowRun, settings.mlflow)
    if settings.tensorboard:
        begin["TensorBoard"] = TensorboardRun
    return Trackers(run, begin)
