"""How a confirmation uses the patients whom a search left unused, and how many the search leaves.

Each replicate trains on its own draw of the unused patients. If many are in no draw, these are
scored; otherwise, each replicate is scored on everyone outside its draw.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import count
from operator import attrgetter

import numpy as np

from xraytune.base.errors import Problem
from xraytune.base.records import frozen
from xraytune.data.images import ImageTable
from xraytune.data.sides import FEWEST_OF_CLASS, FEWEST_TESTED
from xraytune.space.settings import Settings
from xraytune.stats.classification import FEWEST_LABELS, Flags, scored_findings
from xraytune.stats.placements import effective_patients
from xraytune.stats.precision import Precision, expect_precision

FEWEST_REPLICATES = 4
"""With three replicates, intervals of 95 % cover 91 to 95 % (docs/results.md), so the verdict is
exploratory."""
FEWEST_UNUSED = 300
"""The test folder, if there is one, is scored rather than fewer unused patients."""
MANY_UNUSED = 1000
"""If this many unused patients are in no draw, only these are scored."""
_MOST_REPLICATES = 10
_OUTSIDE = 1.5
"""At least this many times the patients of a draw are outside it: where draws share more than two
fifths of their patients, too few simulated intervals cover (docs/decisions/0056)."""
_WIDEST = 2.0
"""A design with more training patients may widen the interval at most by this factor."""
_HALF_WIDTH = attrgetter("precision.half_width")


def scored_patients(unused: int, per_draw: int, replicates: int) -> tuple[int, float]:
    """Return how many of the unused patients are scored, and the expected `overlap` of the draws.

    `overlap` is as in `stats.placements.StructuralComponents`.
    """
    places = replicates * per_draw
    if unused - places >= MANY_UNUSED:
        return unused - places, 0.0
    fewest_draws, in_one_more = divmod(places, unused)
    draws_of_patients = {fewest_draws: unused - in_one_more, fewest_draws + 1: in_one_more}
    shared_places = sum(
        patients * draws * (draws - 1) for draws, patients in draws_of_patients.items()
    )
    return unused, shared_places / places / (replicates - 1)


def fewest_scored(settings: Settings, class_count: int, *, can_score_folder: bool) -> int:
    """Return the fewest unused patients that are scored, given whether there is a test folder."""
    is_choice = settings.confirm.test == "auto" and settings.confirm.leave_out == "none"
    return FEWEST_UNUSED if is_choice and can_score_folder else FEWEST_TESTED * class_count


@frozen
class Remedies:
    """What a command's user can do if there are too few patients to score.

    Attributes:
        setting: The name of the number of training patients.
        fewer: How to train on fewer patients; `{patients}` is replaced by their number.
        give_test: How to give test images of other patients.
    """

    setting: str
    fewer: str
    give_test: str

    def have_enough(self, train_patients: int | None = None) -> str:
        """Return how to have enough patients if this many, None for an unknown number, do."""
        if train_patients is not None and train_patients < 2:
            return "add patients"
        return self.fewer.format(patients=train_patients or "N")


STUDY_REMEDIES = Remedies(
    setting="data.train_patients",
    fewer="start a search with {patients} patients or fewer "
    "(--set data.train_patients={patients} --set name=NEW)",
    give_test="give images of other patients: xraytune confirm STUDY --test DIR",
)
DRAWS_REMEDIES = Remedies(
    setting="--train-patients",
    fewer="draw fewer patients (--train-patients {patients})",
    give_test="add a folder test/ with images of other patients",
)


def fewest_outside(per_draw: int, fewest_tested: int) -> int:
    """Return how many patients must be outside a draw, so that they can score it.

    There are at least `fewest_tested`, and 1.5 times as many as are trained on.
    """
    return max(fewest_tested, math.ceil(_OUTSIDE * per_draw))


def too_few_outside(
    unused: int, per_draw: int, *, fewest_tested: int, remedies: Remedies = STUDY_REMEDIES
) -> Problem | None:
    """Return why draws of `unused` patients leave too few others to score, or None."""
    needed = fewest_outside(per_draw, fewest_tested)
    if unused - per_draw >= needed:
        return None
    what = "no patient is left unused"
    if unused:
        what = (
            f"{unused:,} patients are left unused. A draw of {per_draw} leaves "
            f"{max(unused - per_draw, 0):,} of them for the test, but {needed:,} are needed"
        )
    not_validated = unused + per_draw
    fitting = min(int(not_validated / (2 + _OUTSIDE)), (not_validated - fewest_tested) // 2)
    return Problem(what, remedies.setting, remedies.have_enough(fitting))


def too_few_unused(
    unused: int,
    per_draw: int,
    *,
    replicates: int,
    fewest_tested: int,
    is_fixed: bool,
    remedies: Remedies = STUDY_REMEDIES,
) -> Problem | None:
    """Return why `unused` patients do not suffice for draws and the test, or None.

    `fewest_tested` patients must be in no draw. `is_fixed` says whether the number of replicates
    cannot be reduced.
    """
    missing = fewest_tested + replicates * per_draw - unused
    if missing <= 0:
        return None
    needed = f"{replicates} draws of {per_draw} patients"
    if fewest_tested:
        needed += f", and {fewest_tested} to test on"
    what = "no patient is left unused"
    if unused:
        what = f"{unused:,} patients are left unused, {missing:,} fewer than needed for {needed}"
    fix = remedies.have_enough((unused + per_draw - fewest_tested) // (replicates + 1))
    draws = (unused - fewest_tested) // per_draw
    if draws > 1 and not is_fixed:
        strength = " (exploratory)" if draws < FEWEST_REPLICATES else ""
        fix += f", or use --replicates {draws}{strength}"
    return Problem(what, remedies.setting, fix)


@frozen
class DrawDesign:
    """A design of a study: how many patients each network trains on, and what the verdict tells.

    `precision` has the numbers of replicates and of scored patients.
    """

    train_patients: int
    precision: Precision


@frozen
class Population:
    """The patients whom a study divides.

    Attributes:
        patients: Number of patients.
        effective_patients, share: See `stats.placements.effective_patients`.
        fewest_drawn: The fewest patients in a draw, so that it has patients of each class.
        fewest_tested: The fewest patients to score.
    """

    patients: int
    effective_patients: float
    share: float
    fewest_drawn: int
    fewest_tested: int


def population_of(images: ImageTable, positive: int) -> Population | None:
    """Return the patients of images; None if no finding has enough images to be scored.

    Masks have a mean, and so as many effective patients as patients.
    """
    names = np.array(images.patients)
    targets = images.targets
    patients = len(np.unique(names))

    def share_of(is_shown: Flags) -> float:
        return len(np.unique(names[is_shown])) / patients

    rarest = 1.0
    fewest_drawn = FEWEST_OF_CLASS
    has_findings = targets.ndim == 2
    if has_findings:
        scored = scored_findings(targets)
        shares = [min(share_of(states == 1), share_of(states == 0)) for states in targets.T[scored]]
        if not shares:
            return None
        rarest = max(shares)  # a single finding suffices for a score
    elif targets.any():
        rarest = min(share_of(targets == label) for label in np.unique(targets))
        fewest_drawn = math.ceil(FEWEST_OF_CLASS / rarest)
    effective = (float(patients), 1.0)
    if targets.any():
        effective = effective_patients(targets, images.patients, positive)
    return Population(
        patients=patients,
        effective_patients=effective[0],
        share=effective[1],
        fewest_drawn=fewest_drawn,
        fewest_tested=math.ceil(FEWEST_LABELS / rarest),
    )


def choose_draws(
    population: Population,
    patients: int,
    sizes: Sequence[int],
    auroc: float,
    *,
    fewest_tested: int = 1,
    enough: float = 0.0,
) -> DrawDesign | None:
    """Choose how many patients to train on, so that a confirmation has patients to score.

    The more patients each network trains on, the fewer are left to score. The largest size is
    chosen whose interval is expected to be at most twice as wide as the narrowest one, or no wider
    than ± `enough`. For each size, the number of replicates is the one with the narrowest interval.

    Args:
        population: All patients.
        patients: Number of patients that are not on a validation side.
        sizes: The numbers of training patients to choose from.
        auroc: The expected AUROC of a network.
        fewest_tested: The fewest patients to score.
        enough: The half-width of an interval that is narrow enough, in AUROC.

    Returns None if there are too few patients.
    """
    designs = []
    for size in sizes:
        size_designs = _designs(population, patients, size, auroc, fewest_tested)
        if narrowest := min(size_designs, key=_HALF_WIDTH, default=None):
            designs.append(narrowest)
    if not designs:
        return None
    widest = max(enough, _WIDEST * min(map(_HALF_WIDTH, designs)))
    narrow_designs = [design for design in designs if _HALF_WIDTH(design) <= widest]
    return max(narrow_designs, key=attrgetter("train_patients"))


def _designs(
    population: Population, patients: int, size: int, auroc: float, fewest_tested: int
) -> Iterator[DrawDesign]:
    """Yield the possible designs in which each network trains on `size` patients."""
    if size < population.fewest_drawn:
        return
    if too_few_outside(
        patients - size, size, fewest_tested=max(fewest_tested, population.fewest_tested)
    ):
        return
    for replicates in range(FEWEST_REPLICATES, _MOST_REPLICATES + 1):
        scored, overlap = scored_patients(patients - size, size, replicates)
        precision = expect_precision(
            auroc,
            replicates=replicates,
            patients=scored,
            effective_patients=population.effective_patients * scored / population.patients,
            controls=1,
            share=population.share,
            overlap=overlap,
        )
        yield DrawDesign(train_patients=size, precision=precision)


def patients_needed(population: Population, sizes: Sequence[int]) -> int:
    """Return how many patients, without those of validation, the smallest design needs."""
    fitting = [size for size in sizes if size >= population.fewest_drawn]
    size = min(fitting, default=population.fewest_drawn)
    return next(
        patients
        for patients in count(size)
        if not too_few_outside(patients - size, size, fewest_tested=population.fewest_tested)
    )
