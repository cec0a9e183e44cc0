"""The arms of a search side by side.

Trials, best scores, and how far the best of an arm is from the best of `real_only`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xraytune.data.sides import FEWEST_OF_CLASS, side_sizes
from xraytune.space.settings import OBJECTIVES
from xraytune.stats.placements import structural_components
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow, ranked_on_val_a, ranked_on_val_b

_REFERENCE = "real_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """An arm of a search.

    Only complete trials are compared; the others have trained for fewer epochs.

    Attributes:
        arm: Such as `classical+gan`.
        trials: The number of trials by status.
        val_a: The number and score of its best complete trial on val-A; None if it has none.
        val_b: The same on val-B.
        difference: Score on val-B of that trial minus that of the best of `real_only`; None without
            either.
        standard_error: Of the difference, over the patients of val-B; None where it is unknown.
    """

    arm: str
    trials: dict[str, int]
    val_a: tuple[int, float] | None = None
    val_b: tuple[int, float] | None = None
    difference: float | None = None
    standard_error: float | None = None


def summarise_arms(folder: StudyFolder, trials: Sequence[TrialRow]) -> list[ArmSummary]:
    """Return a summary of each arm that has trials, the simplest first.

    Raises:
        StudyError: The results of a trial are damaged.
    """
    by_arm: dict[str, list[TrialRow]] = {}
    for trial in sorted(trials, key=lambda trial: trial.parameters.simplicity[:2]):
        by_arm.setdefault(trial.arm, []).append(trial)
    best = {arm: ranked[0] for arm in by_arm if (ranked := ranked_on_val_b(by_arm[arm]))}
    errors = _standard_errors(folder, best)
    reference = best.get(_REFERENCE)
    summaries = []
    for arm, members in by_arm.items():
        on_a = ranked_on_val_a(members)[:1]
        on_b = best.get(arm)
        difference = None
        if on_b and reference and arm != _REFERENCE:
            difference = (on_b.val_b_score or 0.0) - (reference.val_b_score or 0.0)
        summaries.append(
            ArmSummary(
                arm=arm,
                trials=dict(Counter(trial.status for trial in members)),
                val_a=(on_a[0].number, on_a[0].value or 0.0) if on_a else None,
                val_b=(on_b.number, on_b.val_b_score or 0.0) if on_b else None,
                difference=difference,
                standard_error=errors.get(arm),
            )
        )
    return summaries


def _standard_errors(folder: StudyFolder, best: dict[str, TrialRow]) -> dict[str, float]:
    """Return the standard error of each arm's difference from the reference, if known.

    It is that of the difference between their best trials.

    It is known for AUROC and Dice, with several patients of each class. The trials are compared on
    the same images, so it is that of a paired difference.
    """
    if _REFERENCE not in best or len(best) == 1:
        return {}
    numbers = [trial.number for trial in best.values()]
    if not all(folder.results_path(number, "val_b").exists() for number in numbers):
        return {}
    settings = folder.space().settings
    prepared = folder.prepared()
    is_usual = settings.objective.metric == OBJECTIVES[settings.task][0]
    if not is_usual or side_sizes(prepared)[-1].lacking(FEWEST_OF_CLASS):
        return {}
    side = prepared.side("val_b")
    results = np.stack([folder.results(number, "val_b") for number in numbers])
    measured = structural_components(side.targets, results, side.patients, prepared.positive)
    components = measured.components
    differences = components - components[list(best).index(_REFERENCE)]
    errors = np.sqrt((differences**2).sum(axis=1)).tolist()
    return {arm: error for arm, error in zip(best, errors, strict=True) if arm != _REFERENCE}
