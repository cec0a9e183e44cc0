"""The bootstrap beside the interval."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from xraytune.confirm.comparison import gather, hillis_interval
from xraytune.confirm.resampling import bootstrap_interval
from xraytune.metrics.placements import StructuralComponents, structural_components
from xraytune.seeding import numpy_generator

Floats = NDArray[np.float64]


def replicates(gan_seeds: int, patients: int, seeds_sd: float) -> tuple[Floats, Floats]:
    generator = numpy_generator(1, "replicates")
    aurocs = 0.9 + generator.normal(0, seeds_sd, (2, gan_seeds, 2))
    components = generator.normal(0, 0.02 / np.sqrt(patients), (2, 1, 1, patients))
    components -= components.mean(axis=-1, keepdims=True)
    return aurocs, np.broadcast_to(components, (2, gan_seeds, 2, patients))


def test_it_repeats_with_the_seed() -> None:
    aurocs, components = replicates(5, 50, 0.01)

    first = bootstrap_interval(aurocs, components, replicates=700, seed=1)

    assert bootstrap_interval(aurocs, components, replicates=700, seed=1) == first
    assert bootstrap_interval(aurocs, components, replicates=700, seed=2) != first


def test_an_interval_that_was_told_is_told_again_by_the_next_version() -> None:
    observed = replicates(5, 50, 0.01)

    usual, few = bootstrap_interval(*observed, seed=1), bootstrap_interval(*observed, replicates=700, seed=1)

    assert (usual.low, usual.high) == pytest.approx((-0.0751675816353703, 0.061806986429671626), rel=1e-9)
    assert (few.low, few.high) == pytest.approx((-0.0749898588837036, 0.06556896094489213), rel=1e-9)


def test_every_gan_seed_is_drawn() -> None:
    """Without a patient who matters, the means of two seeds drawn from two lie between the seeds' own differences."""
    aurocs = np.array([[[0.90], [0.80]], [[0.85], [0.85]]])

    check = bootstrap_interval(aurocs, np.zeros((2, 2, 1, 9)), seed=1)

    assert (check.low, check.high) == pytest.approx((-0.05, 0.05))


def test_a_patient_who_speaks_for_an_arm_pulls_it_up_when_drawn_more_often() -> None:
    """One patient of twenty carries the difference: drawn twice or three times it grows, and never falls as far."""
    components = np.zeros((2, 2, 1, 20))
    components[0] = np.where(np.arange(20) == 0, 0.019, -0.001)

    check = bootstrap_interval(np.full((2, 2, 1), 0.9), components, seed=1)

    assert check.high > 1.5 * -check.low


@pytest.mark.slow
def test_swapped_arms_flip_the_sign_and_the_same_arm_twice_is_zero() -> None:
    aurocs, components = replicates(5, 50, 0.01)

    one = bootstrap_interval(aurocs, components, seed=1)
    other = bootstrap_interval(aurocs[::-1], components[::-1], seed=1)
    same = bootstrap_interval(aurocs[[0, 0]], components[[0, 0]], seed=1)

    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert (same.low, same.high) == (0, 0)


@pytest.mark.parametrize("seeds_sd", [0.0, 0.02])
@pytest.mark.slow
def test_with_many_seeds_and_patients_it_is_the_interval_at_the_estimate(seeds_sd: float) -> None:
    aurocs, components = replicates(60, 400, seeds_sd)

    check = bootstrap_interval(aurocs, components, seed=1)

    found = gather(aurocs, components, effective_patients=400)
    interval = hillis_interval(
        difference=float(np.asarray(found.difference)),
        mean_square=float(np.asarray(found.seed_variance)) / 2,
        excess_covariance=float(np.asarray(found.patient_variance)) / 2,
        readers=60,
    )
    assert check.high - check.low == pytest.approx(interval.high - interval.low, rel=0.06)
    assert (check.low, check.high) == pytest.approx(
        (interval.low, interval.high), abs=0.05 * (interval.high - interval.low)
    )


@pytest.mark.slow
def test_drawn_influences_stand_for_ranking_the_drawn_patients_again() -> None:
    """Two models, each as if two seeds had made it to the bit, so that patients alone matter."""
    generator = numpy_generator(1, "scores")
    labels = np.arange(300) % 2
    scores = generator.normal(0, 1, 300) + generator.normal(0, 0.5, (2, 300)) + 1.5 * labels
    patients = [f"p{number:03d}" for number in range(300)]

    def measured(kept: NDArray[np.int64]) -> StructuralComponents:
        chosen = scores[:, kept]
        return structural_components(labels[kept], np.stack([-chosen, chosen], axis=2), patients, positive=1)

    whole = measured(np.arange(300))
    again = [measured(generator.integers(0, 300, 300)).aurocs @ [1, -1] for _ in range(1000)]

    check = bootstrap_interval(
        np.repeat(whole.aurocs, 2).reshape(2, 2, 1),
        np.repeat(whole.components, 2, axis=0).reshape(2, 2, 1, 300),
        seed=1,
    )

    low, high = np.quantile(again, [0.025, 0.975])
    assert (check.low, check.high) == pytest.approx((low, high), abs=0.1 * (high - low))
