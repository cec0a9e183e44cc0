"""The mix plan: exact counts, fair shares, and larger ratios that only add."""

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from xraytune.space.parameters import Parameters
from xraytune.synth.mix import mix_label, plan_mix

counts = st.lists(st.integers(1, 60), min_size=2, max_size=5)
ratios = st.floats(0.05, 4.0)
balances = st.sampled_from(["natural", "equal"])


def mixed(ratio: float, balance: str = "natural", **more: object) -> Parameters:
    return Parameters.model_validate(
        {"source": "gan", "synthetic_ratio": ratio, "balance": balance, "batch_size": 64} | more
    )


@given(counts, ratios, balances)
def test_the_extra_images_are_ratio_times_the_real_ones(
    real: list[int], ratio: float, balance: str
) -> None:
    assert len(plan_mix(real, mixed(ratio, balance))) == int(ratio * sum(real) + 0.5)


@given(counts, ratios, ratios, balances)
def test_a_smaller_ratio_has_the_first_extra_images_of_a_larger_one(
    real: list[int], one: float, other: float, balance: str
) -> None:
    """A search over ratios compares amounts, not different images."""
    small, large = (
        plan_mix(real, mixed(ratio, balance)).tolist() for ratio in sorted([one, other])
    )

    assert small == large[: len(small)]


@given(counts, ratios)
def test_equal_balance_fills_the_smallest_class_first(real: list[int], ratio: float) -> None:
    totals = Counter(dict(enumerate(real)))

    for label in plan_mix(real, mixed(ratio, "equal")).tolist():
        assert totals[label] == min(totals.values())
        totals[label] += 1


def test_a_pool_of_given_size_has_the_same_images_at_any_ratio() -> None:
    """A step still shows as many as the ratio says."""
    for ratio in (0.5, 4.0):
        mix = mixed(ratio, pool_size=500)
        planned = plan_mix([30, 10], mix)
        assert planned.tolist() == plan_mix([30, 10], mixed(12.5)).tolist()
        assert mix.extra_per_step == ratio * mix.batch_size
    assert mixed(1.0, source="duplicate", pool_size=500).pool_size is None


def test_a_mix_is_named_by_its_source_ratio_steps_and_augmentation() -> None:
    def label(**values: object) -> str:
        return mix_label(Parameters.model_validate(values))

    assert label() == Parameters().arm == "real_only"
    assert label(augmentation="affine") == "affine"
    assert (
        label(source="duplicate", synthetic_ratio=0.5, augmentation="flip")
        == "duplicate r=0.5 +flip"
    )
    assert label(source="gan", synthetic_ratio=0.5, gan={"steps": 2000}) == "gan r=0.5 (2000 steps)"
    assert label(source="duplicate", synthetic_weight=0.1) == "duplicate r=1 weight=0.1"
    assert label(source="duplicate", mixing="pretrain") == "duplicate r=1 pretrain"
    assert label(source="folder", folder={"path": Path("made/by_gan")}) == "folder by_gan r=1"
