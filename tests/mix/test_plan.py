"""The mix plan: exact counts, fair shares, and larger ratios that only add."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraytune.config.settings import FolderSettings, Parameters
from xraytune.mix.plan import MixPlan, plan_mix

counts = st.lists(st.integers(1, 60), min_size=2, max_size=5)
ratios = st.floats(0.05, 4.0)
balances = st.sampled_from(["natural", "equal"])


def mixed(ratio: float, balance: str = "natural", **more: object) -> Parameters:
    return Parameters.model_validate(
        {"source": "gan", "synthetic_ratio": ratio, "balance": balance, "batch_size": 64} | more
    )


def images(plan: MixPlan) -> list[tuple[int, int]]:
    return list(zip(plan.extra_labels.tolist(), plan.extra_ordinals.tolist(), strict=True))


@given(counts, ratios, balances)
def test_the_extra_images_are_ratio_times_the_real_ones(real: list[int], ratio: float, balance: str) -> None:
    plan = plan_mix(real, mixed(ratio, balance))

    assert len(images(plan)) == int(ratio * sum(real) + 0.5)


@pytest.mark.slow
@given(counts, ratios, balances)
def test_each_class_gets_its_first_images_each_once(real: list[int], ratio: float, balance: str) -> None:
    plan = plan_mix(real, mixed(ratio, balance))

    for label, count in enumerate(plan.extra_counts(len(real))):
        assert sorted(plan.extra_ordinals[plan.extra_labels == label]) == list(range(count))


@pytest.mark.slow
@given(counts, ratios, ratios, balances)
def test_a_smaller_ratio_has_the_first_extra_images_of_a_larger_one(
    real: list[int], one: float, other: float, balance: str
) -> None:
    """A search over ratios compares amounts, not different images."""
    small, large = (images(plan_mix(real, mixed(ratio, balance))) for ratio in sorted([one, other]))

    assert small == large[: len(small)]


@pytest.mark.slow
@given(counts, st.integers(1, 4))
def test_natural_shares_are_exact_at_whole_ratios(real: list[int], ratio: int) -> None:
    plan = plan_mix(real, mixed(float(ratio)))

    assert plan.extra_counts(len(real)) == tuple(ratio * count for count in real)


@pytest.mark.slow
@given(counts, ratios)
def test_natural_shares_stay_within_one_image_of_the_real_shares_for_two_classes(real: list[int], ratio: float) -> None:
    plan = plan_mix(real[:2], mixed(ratio))

    extra = plan.extra_counts(2)
    assert all(abs(extra[c] - sum(extra) * real[c] / sum(real[:2])) <= 1 for c in (0, 1))


@given(counts, ratios)
def test_equal_gives_to_the_smallest_class_first(real: list[int], ratio: float) -> None:
    plan = plan_mix(real, mixed(ratio, "equal"))

    totals = Counter(dict(enumerate(real)))
    for label in plan.extra_labels.tolist():
        assert totals[label] == min(totals.values())
        totals[label] += 1


def test_a_case_by_hand() -> None:
    plan = plan_mix([2, 6], mixed(0.5, batch_size=8))

    assert (plan.real_per_step, plan.extra_per_step) == (8, 4)
    assert images(plan) == [(1, 0), (0, 0), (1, 1), (1, 2)]


def test_a_single_extra_image_is_the_first_one_of_the_larger_class() -> None:
    assert images(plan_mix([3, 7], mixed(0.1))) == [(1, 0)]


@pytest.mark.parametrize(("ratio", "real_per_step", "extra_per_step"), [(1.0, 16, 16), (3.0, 8, 24), (0.25, 26, 6)])
def test_matching_total_divides_the_batch(ratio: float, real_per_step: int, extra_per_step: int) -> None:
    plan = plan_mix([40, 60], mixed(ratio, mixing="replace", batch_size=32))

    assert (plan.real_per_step, plan.extra_per_step) == (real_per_step, extra_per_step)


def test_no_source_has_no_extra_images() -> None:
    plan = plan_mix([40, 60], Parameters(source="none", synthetic_ratio=2.0))

    assert (plan.extra_per_step, len(plan.extra_labels)) == (0, 0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"source": "gan", "synthetic_ratio": 0.0}, "give a ratio above 0"),
        ({"source": "duplicate", "mixing": "replace"}, "use mixing: additive"),
        ({"source": "gan", "synthetic_ratio": 0.01, "batch_size": 8}, "rounds to no extra image"),
        ({"source": "gan", "synthetic_ratio": 40.0, "batch_size": 8, "mixing": "replace"}, "no real image"),
        ({"source": "folder"}, "folder.path"),
        ({"source": "gan", "balance": "equal", "match_resolution": "off"}, "match_resolution"),
    ],
)
def test_a_mix_that_is_not_what_it_says_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Parameters.model_validate(values)


def test_settings_that_a_source_does_not_use_are_dropped() -> None:
    """Two trials that train the same have the same settings."""
    plain = Parameters(source="none")
    with_leftovers = Parameters.model_validate(
        {"source": "none", "synthetic_ratio": 2.0, "balance": "equal", "gan": {"steps": 5}, "folder": {"path": "x"}}
        | {"folder": FolderSettings.model_validate_json('{"path": "x"}')}
    )

    assert with_leftovers == plain


def test_plans_are_arrays_of_whole_numbers() -> None:
    plan = plan_mix([3, 5], mixed(1.0))

    assert plan.extra_labels.dtype == plan.extra_ordinals.dtype == np.int64
