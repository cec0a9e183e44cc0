"""Run trials with Ray Tune, started afresh each time: no state of Tune's is ever restored.

What a search has done lies in its study folder; a start takes the unfinished trials from there and goes on.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from xraytune.config.settings import Resources
from xraytune.errors import MachineError, Problem, StudyError, XraytuneError
from xraytune.pipeline.compute import cpu_count
from xraytune.search.journal import Asked
from xraytune.search.study import StudyFolder
from xraytune.search.work import Work

# Ray reads these when it is imported or started: no log files, tables or snapshots of Tune's own.
_LEAN = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `_ended_in_order` listens, and tells Tune
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_OBJECT_STORE_BYTES = 200 * 2**20  # trials exchange paths, not arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What Ray offers: its dashboard's address ("" where there is none), CPU cores and GPUs."""

    dashboard: str
    cpus: float
    gpus: float


@contextmanager
def ray_started(address: str | None) -> Iterator[Cluster]:
    """A Ray of our own on this machine, or a connection to a cluster; ended with the block.

    Raises:
        MachineError: No cluster answers at `address`.
    """
    os.environ.update(_LEAN)
    import ray

    local = {
        "address": "local",  # a bare init() would wait for a dead cluster whose address an earlier run left behind
        "num_cpus": cpu_count(),
        "object_store_memory": _OBJECT_STORE_BYTES,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
    }
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        context = ray.init(
            **({"address": address} if address else local), logging_level=logging.CRITICAL, log_to_driver=False
        )
    except ConnectionError as error:
        fix = "start it (`ray start --head`) or leave --address out to use this machine alone"
        raise MachineError(Problem(f"no Ray cluster answers: {error}", address or "local", fix)) from error
    except Exception as error:  # Ray raises bare exceptions where one of its processes does not start in time
        first_line = str(error).strip().partition("\n")[0]
        fix = "run the same command again, when the machine is less busy; `xraytune doctor` looks for what is missing"
        raise MachineError(Problem(f"Ray did not start: {first_line}", "Ray", fix)) from error
    try:
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield Cluster(
            dashboard=f"http://{context.dashboard_url}" if context.dashboard_url else "",
            cpus=resources.get("CPU", 0.0),
            gpus=resources.get("GPU", 0.0),
        )
    finally:
        ray.shutdown()


def slots(resources: Resources, gpu_share: float, cluster: Cluster) -> int:
    """Trials that run at once.

    Raises:
        MachineError: Not even one fits.
    """
    by_cpu = int(cluster.cpus / resources.cpus_per_trial)
    by_gpu = int(cluster.gpus / gpu_share + 1e-9) if gpu_share else by_cpu
    if min(by_cpu, by_gpu) == 0:
        needed = f"a trial needs {resources.cpus_per_trial} CPU cores and {gpu_share:g} GPUs"
        what = f"{needed}; Ray has {cluster.cpus:g} and {cluster.gpus:g}"
        raise MachineError(Problem(what, "resources", "lower resources.cpus_per_trial or gpus_per_trial"))
    return min(by_cpu, by_gpu, resources.concurrent or by_cpu)


def run_trials(
    work: Work,
    folder: StudyFolder,
    *,
    label: Callable[[Asked], str],
    cache: Path,
    resources: Resources,
    gpu_share: float,
    cluster: Cluster,
    reuse_actors: bool = False,
) -> None:
    """Run trials until there are no more.

    Args:
        work: Says which.
        folder: Holds each trial's `config.json`, the split and the environment.
        label: What the dashboard calls a trial.
        cache: The artifact cache.
        resources: Of one trial.
        gpu_share: GPUs of one trial.
        cluster: What there is.
        reuse_actors: Let a process run one trial after another. It then keeps the name of its first one, and each
            further trial starts seconds sooner.

    Raises:
        XraytuneError: What `work` raised, such as a full disk, or Tune stopped early.
        KeyboardInterrupt: Ctrl-C or SIGTERM; running trials stay unfinished and go on at the next start.
    """
    from ray import tune

    from xraytune.search.ray.actor import TrialActor
    from xraytune.search.ray.adapters import DirectedScheduler, DirectedSearcher

    def config(asked: Asked) -> dict[str, Any]:
        return {
            "study": str(folder.path),
            "cache": str(cache),
            "number": asked.number,
            "label": label(asked),
            "gpu_share": gpu_share,
        }

    scratch = folder.path / ".tune"
    searcher = DirectedSearcher(work, concurrent=slots(resources, gpu_share, cluster), config=config)
    with _ended_in_order(work) as signals, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Tune's own, about features that are not used
        try:
            tune.run(
                TrialActor,
                name="tune",
                storage_path=str(scratch),
                num_samples=-1,
                search_alg=searcher,
                scheduler=DirectedScheduler(work),
                resources_per_trial={"cpu": resources.cpus_per_trial, "gpu": gpu_share},
                max_failures=resources.retries,
                raise_on_failed_trial=False,
                reuse_actors=reuse_actors,
                trial_name_creator=lambda trial: trial.config["label"],
                trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}-{trial.trial_id}",
                verbose=0,
            )
        except tune.TuneError as error:
            # Tune raises its own error with the traceback as text; what `work` raised is its context.
            if isinstance(error.__context__, XraytuneError):
                raise error.__context__ from None
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if signals:
        raise KeyboardInterrupt
    if not work.is_done:
        fix = "the same command goes on"
        raise StudyError(Problem("Ray Tune stopped before all trials had ended", folder.path, fix))


@contextmanager
def _ended_in_order(work: Work) -> Iterator[list[int]]:
    """On Ctrl-C, or SIGTERM as queues send it, let Tune end its run; a second one ends it at once. Gives the signals."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        work.note(f"{signal.Signals(number).name}: ending in order, which takes some seconds")
        signal.raise_signal(signal.SIGUSR1)  # Tune's own word for: stop after this step

    for number in numbers:
        signal.signal(number, end)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
