"""How many trials fit on the nodes, as Ray places them, and what a trial holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.extension_files import write_blend
from xraytune.base.records import Node
from xraytune.search.loop import count_slots, reserve
from xraytune.space.allocation import Allocation, Share, allocation_of
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.parameters import Parameters
from xraytune.space.search_settings import GeneratorResources, Resources
from xraytune.space.settings import Experiment, Settings
from xraytune.study.trial import Failure, OpenTrial

SETTINGS = Settings.model_validate({"name": "any", "data": {"path": "any"}})
EXPERIMENT = Experiment(settings=SETTINGS, parameters=Parameters())
OUT_OF_MEMORY: Failure = {"epochs": 0, "steps": 0, "cause": "memory"}


def allocation(gpus: float, cpus: int = 1) -> Allocation:
    """The resources of trials as in a space."""
    resources = Resources(gpus_per_trial=gpus, cpus_per_trial=cpus)
    return allocation_of(SETTINGS.with_values({"resources": resources}), has_gpu=True)


def reserved(allocation: Allocation, nodes: Sequence[Node], *failures: Failure) -> OpenTrial:
    """A trial with what it holds, after some failures."""
    trial = OpenTrial(number=0, label="", experiment=EXPERIMENT, failures=[*failures])
    reserve(allocation, nodes, trial)
    return trial


def placed(shares: Sequence[float], gpu_count: int) -> int:
    """The number of shares that Ray places.

    A share of a GPU is placed on the fullest GPU with room for it, a whole GPU on a free one.
    """
    free = [10_000] * gpu_count
    for count, share in enumerate(shares):
        units = int(share * 10_000)
        fitting = [number for number, left in enumerate(free) if left >= units]
        if not fitting:
            return count
        free[min(fitting, key=free.__getitem__)] -= units
    return len(shares)


@pytest.mark.parametrize(
    ("resources", "has_gpu", "expected"),
    [
        ({}, False, (1, 0.0)),
        ({}, True, (1, 1.0)),
        ({"cpus_per_trial": 4}, False, (4, 0.0)),
        ({"gpus_per_trial": 0.3}, True, (1, 0.3333)),
    ],
)
def test_a_trial_has_a_part_of_a_gpu_that_leaves_nothing_over_or_whole_ones(
    resources: dict[str, Any], has_gpu: bool, expected: tuple[int, float]
) -> None:
    settings = SETTINGS.with_values({"resources": Resources(**resources)})

    found = allocation_of(settings, has_gpu=has_gpu).trial

    assert (found.cpus, found.gpus) == expected


@pytest.mark.parametrize("gpu_count", [1, 4, 8])
@pytest.mark.parametrize(("share", "per_gpu"), [(0.125, 8.0), (0.3, 3.0), (0.7, 1.0), (1, 1.0)])
def test_as_many_trials_are_counted_as_ray_places(
    gpu_count: int, share: float, per_gpu: float
) -> None:
    resources = allocation(share)
    nodes = [Node(cpus=64, gpus=gpu_count), Node(cpus=64, gpus=0)]

    slots = count_slots(resources, nodes)

    trial = reserved(resources, nodes)
    gpus = trial.resources["GPU"]
    assert slots == int(gpu_count * per_gpu) == placed([gpus] * (slots + 1), gpu_count)
    assert trial.slots == 1
    assert share <= gpus


def test_what_a_trial_holds_is_on_one_machine() -> None:
    """Not the cores of two, or the GPU of one and the cores of another."""
    on_cpu = Allocation(trial=Share(cpus=2, gpus=0.0))
    small = Node(cpus=1, gpus=0)
    large = Node(cpus=5, gpus=0)

    assert count_slots(on_cpu, [small, large, Node(cpus=3, gpus=0)]) == 3
    assert count_slots(on_cpu, [small, small]) == 0
    gpu = Node(cpus=3, gpus=1)
    cores = Node(cpus=8, gpus=0)
    assert count_slots(allocation(1, cpus=2), [gpu, cores]) == 1


@pytest.mark.parametrize(("share", "slots"), [(0.25, 8), (1, 2)])
def test_an_extension_that_trains_on_two_gpus_holds_their_slots(
    tmp_path: Path, share: float, slots: int
) -> None:
    """Once it is trained, its trial holds a share of one."""
    resources = Resources(gpus_per_trial=share, generator=GeneratorResources(gpus=2))
    settings = SETTINGS.with_values({"resources": resources})
    two_gpus = [Node(cpus=16, gpus=2)]

    EXTENSIONS.register([write_blend(tmp_path)])
    own = Experiment(settings=settings, parameters=Parameters(source="blend"))
    of_space = allocation_of(settings, has_gpu=True)
    trial = OpenTrial(number=0, label="", experiment=own, trains_generator=True)

    reserve(of_space, two_gpus, trial)
    assert (trial.trains_alone, trial.resources["GPU"], trial.slots) == (True, 2.0, slots)

    trial.trains_generator = False
    reserve(of_space, two_gpus, trial)
    assert (trial.trains_alone, trial.resources["GPU"], trial.slots) == (False, share, 1)


def test_a_trial_that_ran_out_of_memory_shares_none() -> None:
    """With the same number of threads, its results are those of a trial that does."""
    nodes = [Node(cpus=1, gpus=1), Node(cpus=5, gpus=1)]

    on_cpu = reserved(Allocation(trial=Share(cpus=2, gpus=0.0)), nodes, OUT_OF_MEMORY)
    assert (on_cpu.resources, on_cpu.slots) == ({"CPU": 5.0}, 2)
    on_gpu = reserved(allocation(0.3), nodes, OUT_OF_MEMORY)
    assert (on_gpu.resources, on_gpu.slots) == ({"CPU": 1.0, "GPU": 1.0}, 3)
