"""What trials compute on, and the resources of a space."""

import os
import subprocess
import sys

import pytest

from xraytune.nets.compute import allocation_of
from xraytune.space.settings import Settings


def settings(**resources: object) -> Settings:
    return Settings.model_validate({"name": "any", "data": {"path": "any"}, "resources": resources})


@pytest.mark.parametrize(
    ("resources", "has_gpu", "expected"),
    [
        ({}, False, (1, 0.0)),
        ({}, True, (1, 1.0)),
        ({"cpus_per_trial": 4}, False, (4, 0.0)),
        ({"gpus_per_trial": 0.3}, True, (1, 0.3333)),
        ({"gpus_per_trial": 1.2}, True, (1, 2.0)),
    ],
)
def test_a_trial_has_a_part_of_a_gpu_that_leaves_nothing_over_or_whole_ones(
    resources: dict[str, object], has_gpu: bool, expected: tuple[int, float]
) -> None:
    found = allocation_of(settings(**resources), has_gpu=has_gpu).trial

    assert (found.cpus, found.gpus) == expected


def test_bfloat16_is_off_on_a_cpu_that_torch_is_told_to_use_as_an_older_one() -> None:
    code = "from xraytune.nets.compute import choose_compute as choose; print(choose(gpus=0, threads=1).precision)"

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "avx2"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "float32\n"
