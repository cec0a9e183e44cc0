"""How many trials fit on a node's GPUs, and what a trial holds: what the search counts is what Ray can place."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from xraytune.base.errors import MachineError
from xraytune.base.records import Node
from xraytune.nets.compute import Allocation, Share, allocation_of
from xraytune.search.slots import count_slots, hold
from xraytune.space.settings import Resources, Settings


def allocation(gpus: float, cpus: int = 1) -> Allocation:
    """The resources of trials as in a space."""
    resources = Resources(gpus_per_trial=gpus, cpus_per_trial=cpus)
    settings = Settings.model_validate({"name": "any", "data": {"path": "any"}})
    return allocation_of(settings.model_copy(update={"resources": resources}), has_gpu=True)


def placed(shares: Sequence[float], gpu_count: int) -> int:
    """The number of shares that Ray places: a part of a GPU on the fullest one that has room, whole ones on free ones."""
    free = [10_000] * gpu_count
    for count, share in enumerate(shares):
        parts = [1.0] * int(share) if share > 1 else [share]
        assert sum(parts) == pytest.approx(share), "Ray refuses more than one GPU and a fraction"
        for part in parts:
            units = int(part * 10_000)
            fitting = [number for number, left in enumerate(free) if left >= units]
            if not fitting:
                return count
            free[min(fitting, key=free.__getitem__)] -= units
    return len(shares)


@pytest.mark.parametrize("gpu_count", [1, 4, 8])
@pytest.mark.parametrize(
    ("share", "per_gpu"), [(0.125, 8.0), (0.3, 3.0), (0.7, 1.0), (1, 1.0), (1.5, 0.5)]
)
def test_as_many_trials_are_counted_as_ray_places(
    gpu_count: int, share: float, per_gpu: float
) -> None:
    resources, nodes = allocation(share), [Node(cpus=64, gpus=gpu_count), Node(cpus=64, gpus=0)]
    if gpu_count * per_gpu < 1:
        with pytest.raises(MachineError, match="no machine has"):
            count_slots(resources, nodes)
        return

    slots = count_slots(resources, nodes)

    each = hold(resources, nodes)
    gpus = each.resources["GPU"]
    assert slots == gpu_count * per_gpu == placed([gpus] * (slots + 1), gpu_count)
    assert each.slots == 1
    assert share <= gpus


def test_what_a_trial_holds_is_on_one_machine() -> None:
    """Not the cores of two, or the GPU of one and the cores of another, for which it would wait forever."""
    on_cpu = Allocation(trial=Share(cpus=2, gpus=0.0))
    small, large = Node(cpus=1, gpus=0), Node(cpus=5, gpus=0)

    assert count_slots(on_cpu, [small, large, Node(cpus=3, gpus=0)]) == 3
    with pytest.raises(MachineError, match="has the 2 CPU cores and 0 GPUs"):
        count_slots(on_cpu, [small, small])
    assert hold(on_cpu, [small, large], times=4).resources == {"CPU": 5.0}

    gpu, cores = Node(cpus=3, gpus=1), Node(cpus=8, gpus=0)
    shared = allocation(0.125, cpus=2)
    assert count_slots(allocation(1, cpus=2), [gpu, cores]) == 1
    assert hold(shared, [cores, gpu], times=2).resources == {"CPU": 3.0, "GPU": 0.25}
