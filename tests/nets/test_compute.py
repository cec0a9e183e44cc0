"""What trials compute on, and the resources of a space."""

import pytest

from xraytune.space.allocation import allocation_of
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
    ],
)
def test_a_trial_has_a_part_of_a_gpu_that_leaves_nothing_over_or_whole_ones(
    resources: dict[str, object], has_gpu: bool, expected: tuple[int, float]
) -> None:
    found = allocation_of(settings(**resources), has_gpu=has_gpu).trial

    assert (found.cpus, found.gpus) == expected
