"""The arms of a search side by side: trials, best scores, and how far the best of an arm is from the best of `real_only`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xraytune.data.sides import FEWEST_OF_CLASS, side_sizes
from xraytune.stats.classification import Floats
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow, ranked_on_val_a, ranked_on_val_b
from xraytune.tasks import task_of

_REFERENCE = "real_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """An arm of a search. Only complete trials are compared; the others have trained for fewer epochs.

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
    """Return a summary of each arm that has trials, the simplest first; errors are those of `differences_on_val_b`."""
    by_arm: dict[str, list[TrialRow]] = {}
    for trial in sorted(trials, key=lambda trial: trial.parameters.simplicity[:2]):
        by_arm.setdefault(trial.arm, []).append(trial)
    ranked = {arm: ranked_on_val_b(members) for arm, members in by_arm.items()}
    best = {arm: complete[0] for arm, complete in ranked.items() if complete}
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
    """Return the standard error of the difference of the best trial of each arm from that of the reference, if known."""
    arms = [_REFERENCE, *(arm for arm in best if arm != _REFERENCE)]
    if _REFERENCE not in best or len(arms) == 1:
        return {}
    numbers = [best[arm].number for arm in arms]
    is_saved = all(folder.results_path(number, "val_b").exists() for number in numbers)
    if not is_saved or not has_standard_error(folder):
        return {}
    errors = differences_on_val_b(folder, numbers)[1].tolist()
    return dict(zip(arms[1:], errors[1:], strict=True))


def has_standard_error(folder: StudyFolder) -> bool:
    """Return whether differences on val-B have a standard error: for AUROC and Dice, with several patients of each class."""
    settings = folder.space().settings
    return settings.metric == task_of(settings).metric and not side_sizes(folder.prepared())[
        -1
    ].lacking(FEWEST_OF_CLASS)


def differences_on_val_b(folder: StudyFolder, numbers: Sequence[int]) -> tuple[Floats, Floats]:
    """Return the score of each complete trial on val-B minus that of the first, and its standard error over patients, [n].

    The trials are compared on the same images, so the standard error is that of a paired
    difference.

    Raises:
        StudyError: The results of a trial are missing or damaged.
    """
    prepared = folder.prepared()
    side = prepared.side("val_b")
    results = np.stack(
        [folder.results(number, "val_b", len(side.labels), prepared) for number in numbers]
    )
    scored = task_of(folder.space().settings).components(
        side.targets, results, side.patients, prepared.positive
    )
    differences = scored.components - scored.components[0]
    return scored.scores - scored.scores[0], np.sqrt((differences**2).sum(axis=1))
