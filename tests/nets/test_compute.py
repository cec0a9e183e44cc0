"""What trials compute on, and the resources of a space."""

import os
import subprocess
import sys

import pytest

from xraytune.base.errors import ConfigError
from xraytune.nets.compute import allocation_of
from xraytune.space.settings import Settings


def settings(**resources: object) -> Settings:
    return Settings.model_validate({"name": "any", "data": {"path": "any"}, "resources": resources})


@pytest.mark.parametrize(
    ("resources", "has_gpu", "trial", "generator"),
    [
        ({}, False, (1, 0.0), (1, 0.0)),
        ({}, True, (1, 1.0), (1, 1.0)),
        ({"cpus_per_trial": 4}, False, (4, 0.0), (4, 0.0)),
        ({"gpus_per_trial": 0.3, "generator": {"gpus": 1.2}}, True, (1, 0.3333), (1, 2.0)),
    ],
)
def test_a_generator_has_the_cores_of_a_trial_and_gpus_of_its_own(
    resources: dict[str, object],
    has_gpu: bool,
    trial: tuple[int, float],
    generator: tuple[int, float],
) -> None:
    """CPU cores and GPUs, of which a process gets a part that leaves nothing over, or whole ones."""
    found = allocation_of(settings(**resources), has_gpu=has_gpu)

    assert (found.trial.cpus, found.trial.gpus) == trial
    assert (found.generator.cpus, found.generator.gpus) == generator


def test_a_generator_without_a_gpu_beside_trials_with_one_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="trials use 1 GPUs, but training their generators uses 0"
    ):
        allocation_of(settings(gpus_per_trial=1, generator={"gpus": 0}), has_gpu=True)


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
