"""The forecast: limits, comparison with simulated studies, and independence of the observed differences."""

from __future__ import annotations

import json
from dataclasses import astuple, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import gamma, nct, norm, t  # type: ignore[import-untyped]

from xraytune.base.records import to_json
from xraytune.base.seeding import numpy_generator
from xraytune.confirm.forecast import (
    Design,
    Forecast,
    Spread,
    VerdictChances,
    detection_probability,
    measure_spread,
    probability_equivalent,
    smallest_detectable_difference,
    verdict_chances,
)
from xraytune.stats.placements import AUROC, StructuralComponents, placement_variance
from xraytune.stats.verdict import ControlKind, gather, judge

Floats = NDArray[np.float64]
ROPE = 0.01
ALL_FIVE: tuple[ControlKind, ...] = ("none", "duplicate", "tuned", "tuned", "tuned")
DESIGN = Design(effective_patients=400, gan_seeds=5, score=0.95)


def spread(controls: int, *, seeds: tuple[float, float] = (1e-5, 1e-5)) -> Spread:
    """A typical spread: patient variance .008, half of it common to all differences."""
    return Spread(
        score=0.95,
        effective_patients=1000,
        patients=np.full((controls, controls), 0.004) + 0.004 * np.eye(controls),
        seeds=seeds,
        seeds_by_patients=(0.002, 0.002),
        level=0.02,
        roughness=3.0,
        model=AUROC,
    )


FIVE, ONE = spread(5), spread(1)


def chances(
    design: Design = DESIGN, *, ropes: float = 0, of: Spread = FIVE, kinds: tuple[ControlKind, ...] = ALL_FIVE
) -> VerdictChances:
    return verdict_chances(of, design, kinds, rope=ROPE, true_difference=ropes * ROPE)


def measured(scores: Floats, components: Floats, effective_patients: float) -> StructuralComponents:
    return StructuralComponents(
        scores=scores, components=components, effective_patients=effective_patients, model=AUROC
    )


def replicates(seed: int, difference: float, controls: int = 1) -> tuple[Floats, Floats]:
    """Scores [1 + M, 6, 2] and components [1 + M, 6, 2, 50] of a finalist and its controls."""
    generator = numpy_generator(seed, "replicates")
    shape = (1 + controls, 6, 2)
    aurocs = 0.9 + generator.normal(0, 0.01, (*shape[:2], 1)) + generator.normal(0, 0.01, shape)
    aurocs[0] += difference
    aurocs[1:] -= difference / controls
    components = generator.normal(0, 1, (1 + controls, 1, 1, 50)) + generator.normal(0, 0.5, (*shape, 50))
    return aurocs, components * 0.02 / 50**0.5


@pytest.mark.slow
@pytest.mark.parametrize("ropes", [-3, 0, 1, 2])
def test_the_four_probabilities_sum_to_one_and_are_reproducible(ropes: float) -> None:
    found = chances(ropes=ropes)

    assert found.helps + found.hurts + found.no_better + found.undecided == pytest.approx(1)
    assert min(found.helps, found.hurts, found.no_better, found.undecided) >= 0
    assert chances(ropes=ropes) == found
    assert found.likeliest[1] == max(found.helps, found.hurts, found.no_better, found.undecided)


@pytest.mark.slow
def test_with_very_many_patients_and_seeds_the_verdict_is_right() -> None:
    largest = replace(DESIGN, effective_patients=1e6, gan_seeds=60)

    assert chances(largest, ropes=0).no_better > 0.99
    assert chances(largest, ropes=2).helps > 0.99
    assert chances(largest, ropes=-2).hurts > 0.99
    assert chances(largest, ropes=-2, kinds=ALL_FIVE[:1] * 5).no_better > 0.99, "without duplicates nothing hurts"


@pytest.mark.slow
def test_error_rates_are_kept() -> None:
    assert chances(ropes=1).no_better < 0.06, "an improvement of one ROPE is denied in 5 %"
    assert chances(ropes=0).helps < 0.03
    assert chances(ropes=0).hurts < 0.03


@pytest.mark.slow
def test_if_seeds_vary_more_of_them_raise_the_probability_of_no_better() -> None:
    by_seeds = replace(FIVE, seeds=(1e-4, 1e-4))
    design = replace(DESIGN, effective_patients=5000)

    few, more, most = (chances(replace(design, gan_seeds=count), of=by_seeds).no_better for count in (5, 10, 20))

    assert few + 0.05 < more < most - 0.05


@pytest.mark.slow
def test_if_patients_vary_more_of_them_raise_the_probability_of_no_better() -> None:
    few, more, most = (
        chances(replace(DESIGN, gan_seeds=20, effective_patients=count)).no_better for count in (100, 300, 900)
    )

    assert few + 0.05 < more < most - 0.05


@pytest.mark.slow
def test_helping_is_harder_against_more_controls() -> None:
    pairwise = detection_probability(ONE, DESIGN, true_difference=2 * ROPE)

    assert chances(ropes=2).helps < chances(ropes=2, of=ONE, kinds=ALL_FIVE[:1]).helps - 0.05
    assert chances(ropes=2).helps < pairwise - 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("gan_seeds", "difference"), [(5, 0.0), (4, 0.02), (10, 0.01)])
def test_the_probabilities_of_a_pair_agree_with_simulated_studies(gan_seeds: int, difference: float) -> None:
    """Patients have effects common to all seeds and interactions with each seed; seeds have effects."""
    studies, patients = 2500, 400
    truth = replace(ONE, patients=np.array([[0.008]]), seeds=(2e-5, 0.0), seeds_by_patients=(0.004, 0.0), level=0.0)
    truth = replace(truth, score=0.8, roughness=2.0)  # as normal effects are, where the difference does not change them
    generator = numpy_generator(1, "by hand", gan_seeds)
    verdicts = []
    for _ in range(studies):
        effects = generator.normal(0, 0.008**0.5, (1, patients)) + generator.normal(
            0, 0.004**0.5, (gan_seeds, patients)
        )
        gaps = difference + generator.normal(0, 2e-5**0.5, gan_seeds) + effects.mean(axis=1)
        components = (effects - effects.mean(axis=1, keepdims=True)) / (patients * (patients - 1)) ** 0.5
        aurocs = np.stack([0.8 + gaps / 2, 0.8 - gaps / 2])[:, :, None]
        found = gather(measured(aurocs, np.stack([components, 0 * components])[:, :, None], patients))
        verdicts.append(judge(found, rope=ROPE))

    design = Design(effective_patients=patients, gan_seeds=gan_seeds, score=0.8)
    detected = detection_probability(truth, design, true_difference=difference)
    equivalent = probability_equivalent(truth, design, rope=ROPE, true_difference=difference)
    without_difference = probability_equivalent(truth, design, rope=ROPE)

    assert detected == pytest.approx(np.mean([one.is_better or one.is_worse for one in verdicts]), abs=0.03)
    assert equivalent == pytest.approx(np.mean([one.is_equivalent for one in verdicts]), abs=0.03)
    assert (without_difference == equivalent) == (difference == 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.5, 0.8, 0.9])
def test_smallest_detectable_difference_has_the_requested_power(power: float) -> None:
    difference = smallest_detectable_difference(ONE, DESIGN, power=power)

    assert difference is not None
    assert 0 < difference < 0.1
    assert detection_probability(ONE, DESIGN, true_difference=difference) == pytest.approx(power, abs=0.02)


@pytest.mark.slow
def test_more_patients_detect_smaller_differences() -> None:
    few, many = (
        smallest_detectable_difference(ONE, replace(DESIGN, effective_patients=count)) for count in (100, 1600)
    )

    assert few is not None
    assert many is not None
    assert many < 0.6 * few


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "gan_seeds"), [(10, 2), (140, 5)])
def test_no_difference_is_detectable_near_the_ceiling_with_few_patients(patients: int, gan_seeds: int) -> None:
    """At an AUROC of .99 the finalist can be better by at most .02, too little for so few patients."""
    small = Design(effective_patients=patients, gan_seeds=gan_seeds, score=0.99)

    assert smallest_detectable_difference(ONE, small) is None


def test_perfect_rankings_of_a_few_patients_promise_no_certainty() -> None:
    """Nothing varies on such a val-B; on a test folder of 144 patients something will."""
    aurocs, components = np.ones((6, 5, 2)), np.zeros((6, 5, 2, 20))

    found = measure_spread(measured(aurocs, components, 20))

    assert chances(Design(effective_patients=144, gan_seeds=5, score=0.965), of=found).no_better < 0.9


def test_the_spread_does_not_contain_the_observed_differences() -> None:
    """They would make a forecast repeat the p-value."""
    one, other = (measure_spread(measured(*replicates(1, gap, controls=2), 50)) for gap in (0.0, 0.03))

    for before, after in zip(astuple(one), astuple(other), strict=True):
        assert after == pytest.approx(before)


@pytest.mark.slow
def test_forecast_does_not_depend_on_observed_differences() -> None:
    kinds = ALL_FIVE[:2]
    one, other = (
        chances(of=measure_spread(measured(*replicates(1, gap, controls=2), 50)), kinds=kinds) for gap in (0.0, 0.03)
    )

    assert (one.helps, one.no_better, one.undecided) == pytest.approx(
        (other.helps, other.no_better, other.undecided), abs=0.002
    )


def test_the_spread_of_one_pair_agrees_with_its_evidence() -> None:
    aurocs, components = replicates(3, 0.0)

    found = measure_spread(measured(aurocs, components, 50))

    evidence = gather(measured(aurocs, components, 50))
    assert found.patients[0, 0] / 50 == pytest.approx(float(np.asarray(evidence.patient_variance)))
    of_one_seed = sum(found.seeds) + sum(found.seeds_by_patients) / 50
    assert of_one_seed == pytest.approx(float(np.asarray(evidence.seed_variance)))


@pytest.mark.parametrize("controls", [2, 3])
def test_the_spread_follows_its_definition(controls: int) -> None:
    """Sums over pairs of different seeds, written as loops: noise within a seed cancels out."""
    aurocs, components = replicates(4, 0.0, controls)
    patients = 50
    effects = [components[0].mean(axis=1) - one.mean(axis=1) for one in components[1:]]
    pairs = [(one, other) for one in range(6) for other in range(6) if one != other]
    covariances = np.array(
        [[np.mean([first[one] @ second[other] for one, other in pairs]) for second in effects] for first in effects]
    )
    of_patients = np.array([np.mean([first[one] * first[other] for one, other in pairs], axis=0) for first in effects])
    within = np.array(
        [[np.mean([first[one] @ second[one] for one in range(6)]) for second in effects] for first in effects]
    )
    interaction = (within - covariances) * patients

    found = measure_spread(measured(aurocs, components, patients))

    off = ~np.eye(controls, dtype=bool)
    assert found.patients == pytest.approx(covariances * patients)
    squared_variation = (of_patients**2).sum(axis=1).mean() / covariances.diagonal().mean() ** 2
    assert found.roughness == pytest.approx(squared_variation * patients)
    assert found.level == pytest.approx(sum(components[..., i].mean() ** 2 for i in range(patients)) * patients)
    common = interaction[off].mean()
    assert found.seeds_by_patients == pytest.approx((common, interaction.diagonal().mean() - common))


EASY, HARD = 0.95, 0.8
"""The AUROC on val-B, and on a test folder."""
QUIET = Spread(
    score=EASY,
    effective_patients=1e12,
    patients=np.zeros((1, 1)),
    seeds=(0.0, 0.0),
    seeds_by_patients=(0.0, 0.0),
    level=0.0,
    roughness=0.0,
    model=AUROC,
)
ON_HARD = Design(effective_patients=1e8, gan_seeds=5, score=HARD)
HARDER = float(placement_variance(HARD, HARD) / placement_variance(EASY, EASY))


def power_over_seeds(difference: float, variance: float) -> float:
    """Of the two-sided t-test at 5 %, if only seeds vary, with this variance for each of five."""
    noncentrality = difference / np.sqrt(variance / 5)
    return float(nct.sf(t.ppf(0.975, 4), 4, noncentrality) + nct.cdf(t.ppf(0.025, 4), 4, noncentrality))


@pytest.mark.parametrize("place", [0, 1])
def test_seeds_vary_by_the_slope_of_the_auroc_where_their_arm_is(place: int) -> None:
    """With the separation of the classes, an AUROC changes by the normal density at it: more at .8 than at .95."""
    seeds = [0.0, 0.0]
    seeds[place] = 2e-5
    arm = HARD + 0.01 - 0.02 * place
    slopes = norm.pdf(norm.ppf([arm, EASY]))

    found = detection_probability(replace(QUIET, seeds=(seeds[0], seeds[1])), ON_HARD, true_difference=0.02)

    assert found == pytest.approx(power_over_seeds(0.02, 2e-5 * (slopes[0] / slopes[1]) ** 2), abs=0.03)


def test_on_easy_test_folders_seeds_vary_less_by_as_much_as_differences_shrink() -> None:
    """Both follow the slope where the folder is, so that its level leaves the power alone, but for the mean difference."""
    deviation = 0.5  # of the separation of the classes, over test folders
    spread = replace(QUIET, seeds=(2e-5, 0.0), level=deviation**2 * norm.pdf(norm.ppf(EASY)) ** 2 * 1e8)
    slopes = norm.pdf(norm.ppf(HARD) + deviation * numpy_generator(6, "separations").standard_normal(100_000))
    seeds = 2e-5 * (norm.pdf(norm.ppf(HARD + 0.01)) / norm.pdf(norm.ppf(EASY))) ** 2

    found = detection_probability(spread, ON_HARD, true_difference=0.02)

    usual_slope = np.sqrt((slopes**2).mean())
    assert found == pytest.approx(power_over_seeds(0.02 * usual_slope / slopes.mean(), seeds), abs=0.03)


@pytest.mark.parametrize("place", [0, 1])
def test_the_interaction_of_seeds_and_patients_varies_as_the_model_predicts(place: int) -> None:
    interactions = [0.0, 0.0]
    interactions[place] = 0.01
    variance = 0.01 * HARDER / 1e8
    difference = 1.5 * np.sqrt(variance)
    spread = replace(QUIET, seeds_by_patients=(interactions[0], interactions[1]))

    found = detection_probability(spread, ON_HARD, true_difference=difference)

    assert found == pytest.approx(power_over_seeds(difference, variance), abs=0.03)


@pytest.mark.parametrize("roughness", [0.0, 0.5])
def test_patients_vary_as_the_model_predicts_and_their_variance_is_estimated_with_an_error(roughness: float) -> None:
    """The estimate's squared coefficient of variation, given per patient of val-B, shrinks as the variance grows."""
    of_difference = np.sqrt(0.008 * HARDER / 1e8)
    spread = replace(QUIET, patients=np.array([[0.008]]), roughness=roughness * HARDER * 1e8)
    errors = gamma.ppf(np.linspace(0.0005, 0.9995, 1000), 1 / max(roughness, 1e-4), scale=max(roughness, 1e-4))
    limits = norm.ppf(0.975) * np.sqrt(errors)

    found = detection_probability(spread, ON_HARD, true_difference=2 * of_difference)

    assert found == pytest.approx(np.mean(norm.sf(limits - 2) + norm.cdf(-limits - 2)), abs=0.03)


@pytest.mark.slow
def test_differences_shrink_on_easy_test_folders() -> None:
    """Without other noise, a gain is equivalent where the folder's level leaves less than the ROPE of it."""
    many = 1e8
    only_level = Spread(
        score=0.99,
        effective_patients=many,
        patients=np.zeros((1, 1)),
        seeds=(0.0, 0.0),
        seeds_by_patients=(0.0, 0.0),
        level=0.25
        * norm.pdf(norm.ppf(0.99)) ** 2
        * many,  # a standard deviation of .5 in the separation of the classes
        roughness=1.0,
        model=AUROC,
    )
    design = Design(effective_patients=many, gan_seeds=2, score=0.8)
    separations = norm.ppf(0.8) + 0.5 * numpy_generator(5, "separations").standard_normal(100_000)
    steepness = norm.pdf(separations)

    found = probability_equivalent(only_level, design, rope=ROPE, true_difference=0.9 * ROPE)

    assert found == pytest.approx(np.mean(0.9 * steepness / steepness.mean() < 1), abs=0.03)


@pytest.mark.slow
def test_without_any_patients_the_spread_is_the_binormal_models() -> None:
    unknown = replace(ONE, patients=np.zeros((1, 1)), seeds=(0.0, 0.0), seeds_by_patients=(0.0, 0.0), level=0.0)
    unknown = replace(unknown, effective_patients=0.0)
    design = replace(DESIGN, effective_patients=1e5)
    standard_error = np.sqrt(4 * float(placement_variance(0.95, 0.95)) / 1e5)

    found = detection_probability(unknown, design, true_difference=1.96 * standard_error)

    assert found == pytest.approx(0.5, abs=0.05)


@pytest.mark.slow
def test_the_spread_is_recovered_from_linear_studies() -> None:
    """The finalist's effects are common to all of its differences, each control's own; variances are of one patient."""
    generator = numpy_generator(1, "spread")
    studies, controls, seeds, patients = 1200, 3, 4, 40

    def effect(finalist: float, control: float, *shape: int) -> Floats:
        sd = np.sqrt([finalist, *[control] * controls])
        return sd.reshape(-1, *[1] * len(shape)) * generator.normal(0, 1, (1 + controls, *shape))

    found = []
    for _ in range(studies):
        effects = effect(50.0, 90.0, 1, patients) + effect(60.0, 30.0, seeds, patients)
        aurocs = effect(4.0, 2.0, seeds) + effects.mean(axis=2)
        components = (effects - effects.mean(axis=2, keepdims=True)) / np.sqrt(patients * (patients - 1))
        one = measure_spread(measured(aurocs[..., None], components[:, :, None], patients))
        found.append([*one.patients.mean(axis=0), *np.diag(one.patients), *one.seeds, *one.seeds_by_patients])

    mean_of_row = (50 * 3 + 90) / 3
    expected = [mean_of_row] * 3 + [140] * 3 + [4, 2, 60, 30]
    assert np.mean(found, axis=0) == pytest.approx(expected, rel=0.1)


def chances_of(score: float, gan_seeds: int, ropes: float, *, no_better: float) -> VerdictChances:
    return VerdictChances(
        effective_patients=100, gan_seeds=gan_seeds, score=score, true_difference=ropes * ROPE,
        helps=0.0, hurts=0.0, no_better=no_better, undecided=1 - no_better,
    )  # fmt: skip


def test_the_likeliest_verdict_has_its_name_and_probability() -> None:
    found = chances_of(0.95, 5, 0, no_better=0.2)

    assert found.likeliest == ("undecided", 0.8)
    assert replace(found, helps=0.9).likeliest == ("helps", 0.9)
    assert replace(found, hurts=0.9).likeliest == ("hurts", 0.9)
    assert replace(found, no_better=0.9).likeliest == ("no_better", 0.9)


def forecast(no_better: float) -> Forecast:
    every = [
        chances_of(
            score, gan_seeds, ropes, no_better=no_better + (score == 0.95) * gan_seeds / 100 if ropes == 0 else 0.0
        )
        for score in (0.95, 0.92)
        for gan_seeds in (5, 10, 20)
        for ropes in (0, 1, 2)
    ]
    return Forecast(metric="AUROC", gan_seeds=5, val_b_score=0.95, rope=ROPE, chances=tuple(every))


def test_an_inconclusive_forecast_gives_the_effect_of_more_gan_seeds() -> None:
    assert forecast(0.2).summary == (
        "If synthetic images make no difference, the most likely verdict of this design is undecided (75%); "
        "no_better 30% with 10 GAN seeds, no_better 40% with 20 GAN seeds"
    )
    assert forecast(0.7).summary.endswith("most likely verdict of this design is no_better (75%)")


def test_a_forecast_is_read_by_design_and_kept_as_json() -> None:
    found = forecast(0.2)

    assert [(one.score, one.true_difference) for one in found.of_design(score=0.92, gan_seeds=10)] == [
        (0.92, 0), (0.92, 0.01), (0.92, 0.02),
    ]  # fmt: skip
    record = json.loads(json.dumps(to_json(found)))
    assert (record["gan_seeds"], record["val_b_score"], record["rope"], len(record["chances"])) == (5, 0.95, ROPE, 18)
    assert record["chances"][0] == {
        "effective_patients": 100, "gan_seeds": 5, "score": 0.95, "true_difference": 0,
        "helps": 0, "hurts": 0, "no_better": 0.25, "undecided": 0.75,
    }  # fmt: skip
