"""What a verdict will be able to tell, before anything is trained.

From the design of a confirmation and an assumed AUROC follow the half-width of the interval, and
the smallest gain that is likely to be found. The interval is computed as in `stats/verdict.py`,
from the evidence that its model of scores (`placement_variance`) predicts for two equal arms.
"""

import math
from functools import partial

# Student's t: quantiles; noncentral t: noncentrality with a given probability.
from scipy.special import nctdtrinc, ndtri, stdtrit  # type: ignore[import-untyped]

from xraytune.base.records import frozen
from xraytune.stats.placements import ACROSS_ARMS, WITHIN_ARM, placement_variance
from xraytune.stats.verdict import LEVEL, Evidence, score_interval

LIKELY_AUROC = 0.95
"""Assumed AUROC of both arms, unless another one is given."""
REPLICATE_SD, _SD_AUROC = 0.006, 0.955
"""Assumed standard deviation of an arm's AUROC over replicates, without the variation over
patients, for AUROCs up to `_SD_AUROC`, as in `benchmarks/statistics.py`. At higher AUROCs, the
separation of the classes is assumed to vary as much as at `_SD_AUROC`."""
POWER = 0.8
ASSUMED = (
    "less near the ceiling, and the correlations of the verdict "
    f"({WITHIN_ARM:g} within an arm, {ACROSS_ARMS:g} between arms; docs/plan.md)"
)


@frozen
class Precision:
    """What a verdict with a number of replicates, on a number of patients, can tell.

    Attributes:
        replicates: Number of replicates of each arm.
        patients: Number of scored patients.
        half_width: Expected half-width of the 95 % interval of a difference between equal arms.
        gain: The smallest true gain over one control that is found `better` with 80 % power.
        gain_over_all: The smallest true gain that is found `better` than all controls at once, as
            `helps` requires, with 80 % power.
    """

    replicates: int
    patients: int
    half_width: float
    gain: float
    gain_over_all: float


def clip_auroc(auroc: float) -> float:
    """Return the nearest AUROC for which a precision can be expected."""
    return min(max(auroc, 0.51), 0.999)


def expect_precision(
    auroc: float,
    *,
    replicates: int,
    patients: int,
    effective_patients: float,
    controls: int,
    share: float = 1.0,
    sd: float = REPLICATE_SD,
    overlap: float = 0.0,
) -> Precision:
    """Return the expected precision of a verdict.

    Args:
        auroc: AUROC of both arms, in (0, 1).
        replicates: Number of replicates, 2 or more.
        patients: Number of scored patients.
        effective_patients: First result of `stats.placements.effective_patients`.
        controls: Number of controls, 1 or more.
        share: Second result of `stats.placements.effective_patients`; 1, except for a mean over
            findings.
        sd: Standard deviation of an arm's AUROC over replicates, as `REPLICATE_SD`.
        overlap: As in `stats.placements.StructuralComponents`.
    """
    variance = partial(placement_variance, share=share)
    per_patient = 4 / effective_patients
    means_variance = per_patient * float(variance(auroc, auroc))
    single_variance = per_patient * float(variance(auroc, auroc, within=1.0))
    spread = sd * min(1.0, _slope(auroc) / _slope(_SD_AUROC))
    evidence = Evidence(  # on two equal arms, as the model of scores predicts it
        difference=0.0,
        mean_score=auroc,
        replicate_variance=2 * spread**2 * (1 + (replicates - 1) * overlap)
        + single_variance
        - means_variance,
        patient_variance=means_variance,
        replicates=replicates,
        effective_patients=effective_patients,
        variance=variance,
    )
    interval = score_interval(evidence)

    def gain(missed: float) -> float:
        degrees = interval.degrees_of_freedom
        critical = stdtrit(degrees, 1 - LEVEL / 2)
        return interval.standard_error * float(nctdtrinc(degrees, missed, critical))

    return Precision(
        replicates=replicates,
        patients=patients,
        half_width=(interval.high - interval.low) / 2,
        gain=gain(1 - POWER),
        # Bonferroni: all controls together miss at most 1 - POWER, whatever their correlation.
        gain_over_all=gain((1 - POWER) / controls),
    )


def _slope(auroc: float) -> float:
    """Return the derivative of AUROC by the separation of the classes, up to a constant factor."""
    return math.exp(-(float(ndtri(auroc)) ** 2) / 2)
