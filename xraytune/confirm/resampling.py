"""The same difference by resampling: a check beside the interval, never the verdict.

Takes what `compare` takes, gives a percentile interval over patients and GAN seeds. It assumes no distribution, and errs in
two ways: five resampled seeds have 4/5 of the variance and no Student's t, which makes it too narrow where seeds matter
most; and what belongs to one patient with one seed is drawn with both, which makes it too wide where they matter least.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xraytune.metrics.classification import Floats
from xraytune.seeding import numpy_generator

_REPLICATES_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapInterval:
    """A 95 % percentile interval of a difference.

    Attributes:
        low: Its lower end.
        high: Its upper end.
    """

    low: float
    high: float


def bootstrap_interval(aurocs: Floats, components: Floats, *, replicates: int = 10_000, seed: int) -> BootstrapInterval:
    """Draw patients, and GAN seeds with all of their classifier seeds; both arms have the same draw.

    Drawing classifier seeds once more within a drawn GAN seed would count their variance twice.

    An AUROC on drawn patients is taken as the AUROC plus the drawn patients' components, which is its first-order term; so
    nothing is ranked again.

    Args:
        aurocs: float64 [2, G, K].
        components: float64 [2, G, K, P].
        replicates: Number of resamples.
        seed: Same seed, same interval.

    Source: Efron & Tibshirani 1993, chapter 13; nested seeds: Davison & Hinkley 1997, section 3.8; patients crossed with
    seeds: Owen 2007, "The pigeonhole bootstrap".
    """
    generator = numpy_generator(seed, "confirm-bootstrap")
    gaps, gap_influences = (aurocs[0] - aurocs[1]).mean(axis=1), (components[0] - components[1]).mean(axis=1)
    drawn: list[Floats] = []
    for start in range(0, replicates, _REPLICATES_AT_ONCE):
        count = min(_REPLICATES_AT_ONCE, replicates - start)
        drawn.append(_differences(generator, gaps, gap_influences, count))
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return BootstrapInterval(low=float(low), high=float(high))


def _differences(generator: np.random.Generator, gaps: Floats, gap_influences: Floats, count: int) -> Floats:
    """Resampled means of GAN seeds' differences [G] with components [G, P]: [count]."""
    gan_seeds, patients = gap_influences.shape
    extra_copies = generator.multinomial(patients, np.full(patients, 1 / patients), size=count) - 1.0
    resampled = gaps + extra_copies @ gap_influences.T
    draws = generator.integers(0, gan_seeds, (count, gan_seeds))
    return np.asarray(np.take_along_axis(resampled, draws, axis=1).mean(axis=1))
