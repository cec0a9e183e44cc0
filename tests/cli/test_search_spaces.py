"""The space files that come with the project."""

from pathlib import Path

import pytest

from xraytune.config.load import load_space
from xraytune.export.demo import QUICK

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"


@pytest.mark.parametrize("file", sorted(SPACES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_space_file_is_right_and_compares_the_gan_with_both_controls(file: Path) -> None:
    space = load_space(file)

    assert space.settings.name == file.stem.replace("_", "-")
    assert set(space.combinations("source")) == {("none",), ("duplicate",), ("gan",)}


def test_the_small_search_asks_for_enough_mixes_to_answer_the_question() -> None:
    space = load_space(SPACES / "gan_ratio_cpu.yaml")

    ratios = {ratio for source, ratio in space.combinations("source", "synthetic_ratio") if source == "gan"}
    assert space.settings.budget.trials >= 16
    assert len(ratios) >= 3
    assert len({steps for (steps,) in space.combinations("gan.steps") if steps}) >= 2


def test_the_quick_demo_is_a_smaller_search_of_the_same_space() -> None:
    whole, quick = load_space(SPACES / "demo.yaml"), load_space(SPACES / "demo.yaml", QUICK.overrides)

    assert quick.searched == whole.searched
    assert quick.settings.budget.trials < whole.settings.budget.trials
