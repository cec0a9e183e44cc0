"""How long a search takes, and the warning before one that takes hours without a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest

from xraytune.search.run import expected_trials
from xraytune.space.cost import Machine, Work, describe_time, smaller_search
from xraytune.space.load import load_space

TWO_CORES = Machine(cores=2)


def work_of(name: str) -> Work:
    space = load_space(Path(name))
    return Work(
        settings=space.settings,
        trainings=expected_trials(space),
        train_images=700,
        epoch_steps=22,
        held_out_images=500,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gan_ratio", "findings_ratio", "gan_segmentation"])
def test_a_search_that_needs_a_gpu_proposes_a_smaller_one(name: str) -> None:
    large, small = (work_of(each).seconds(TWO_CORES) for each in (name, "gan_ratio_cpu"))

    assert "without --space, " in smaller_search(large, TWO_CORES)
    assert smaller_search(small, TWO_CORES) == ""


@pytest.mark.slow
def test_gpus_share_a_large_search() -> None:
    work = work_of("gan_ratio")
    one, eight = (work.seconds(Machine(cores=16, gpus=gpus)) for gpus in (1, 8))

    assert eight < one / 2 < work.seconds(Machine(cores=16)) / 4


def test_a_confirmation_trains_its_generators_in_each_replicate() -> None:
    work = work_of("gan_ratio_cpu")
    five = replace(work, replicates=5)

    assert five.generators == 5 * work.generators
    assert five.seconds(TWO_CORES) > 2 * work.seconds(TWO_CORES)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (20, "a minute"),
        (150, "2 minutes"),
        (7100, "118 minutes"),
        (3e4, "8 hours"),
        (3e5, "3 days"),
    ],
)
def test_an_estimate_has_one_unit(seconds: float, words: str) -> None:
    assert describe_time(seconds) == words
