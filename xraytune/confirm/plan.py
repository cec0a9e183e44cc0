"""The plan of a confirmation: which arms are compared, and the runs of each replicate.

The finalists are chosen among the trials of the search, and the tuned controls after their top-up
trials were trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from xraytune.base.errors import DataError, Problem, StudyError, join_names
from xraytune.confirm.arms import Arm, Plan, compared_arms, write_plan
from xraytune.confirm.controls import (
    choose_tuned,
    different_trials,
    donor_controls,
    draw_top_ups,
    pruned_to_finish,
    train_trials,
)
from xraytune.confirm.sealed import TestChoice
from xraytune.confirm.study import OpenStudy
from xraytune.confirm.test_access import TestAccess
from xraytune.study.row import TrialRow, ranked_on_val_b
from xraytune.synth.mix import require_enough
from xraytune.synth.sources.source import StudyImages
from xraytune.synth.sources.which import source_of


def make_plan(study: OpenStudy, *, finalists: int, replicates: int, choice: TestChoice) -> Plan:
    """Train the top-up trials, and return a new plan with at most so many `finalists`, and write it.

    Raises StudyError if there is no trial with synthetic images, or a finalist has no control;
    TrialError if runs failed.
    """
    notes = [*choice.notes]
    first = candidates(study, finalists)
    pruned = [trial for trial in first if trial.status == "pruned"]
    if pruned:
        furthest = join_names([trial.label for trial in pruned])
        notes.append(
            f"ASHA pruned all trials with synthetic images; confirm trained {furthest} to the end"
        )
    top_ups = [
        TrialRow(number=number, status="waiting", label=f"top-up {number}", parameters=parameters)
        for number, parameters in enumerate(draw_top_ups(study, first, notes), len(pruned))
    ]
    trained = train_trials(study, (*pruned, *top_ups))
    ended = (*study.searched, *trained)
    chosen = choose_finalists(ended, finalists, study.folder.path)
    finish = partial(train_trials, study, first=len(trained))
    tuned = choose_tuned(study.settings.confirm.controls.tuned, ended, finish, notes)
    compared = compared_arms(chosen, study.settings, choice.kind)
    possible = [*_possible(study, compared, choice, replicates, notes)]
    finalist_arms = [arm for arm in possible if arm.role == "finalist"]
    arms = (*possible, *tuned, *donor_controls(study, finalist_arms, notes))
    plan = Plan(test=choice.kind, replicates=replicates, notes=tuple(notes), arms=arms)
    if alone := [finalist.trial for finalist in plan.finalists if not plan.controls(finalist)]:
        what = f"there is no control to compare {join_names(alone)} with, neither matched nor tuned"
        fix = "start a search with `none` in confirm.controls.matched, or trials of an arm in confirm.controls.tuned"
        raise StudyError(Problem(what, study.folder.path, fix))
    write_plan(plan, study.runs_folder.path)
    return plan


def mark_earlier_access(study: OpenStudy, plan: Plan, earlier: Sequence[TestAccess]) -> Plan:
    """Make a plan exploratory if the test images were accessed before this confirmation scored them, and write it."""
    if not earlier or plan.exploratory:
        return plan
    times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
    by = " and ".join(
        dict.fromkeys(f"`{row['command']}` of study {row['study']}" for row in earlier)
    )
    plan = plan.model_copy(
        update={"exploratory": (f"test images had been accessed {times} before, by {by}",)}
    )
    write_plan(plan, study.runs_folder.path)
    return plan


def candidates(study: OpenStudy, count: int) -> tuple[TrialRow, ...]:
    """Return the finalists of a new plan; if no candidate is complete, the pruned trials to train to the end.

    Raises StudyError if there is no trial with synthetic images.
    """
    pruned = pruned_to_finish(
        study.searched, lambda parameters: parameters.has_synthetic_images, count
    )
    return pruned or choose_finalists(study.searched, count, study.folder.path)


def choose_finalists(trials: Iterable[TrialRow], count: int, study: Path) -> tuple[TrialRow, ...]:
    """Return complete trials with synthetic images and different settings, best on val-B first; raise StudyError if none.

    Among equals, the simpler trial comes first (`Parameters.simplicity`).
    """
    complete = [trial for trial in trials if trial.status == "complete"]
    if not complete:
        fix = "continue the search until a trial is complete; `xraytune status` shows its progress"
        raise StudyError(
            Problem("no trial is complete, so there is nothing to confirm", study, fix)
        )
    synthetic = [trial for trial in complete if trial.parameters.has_synthetic_images]
    if not synthetic:
        what = "no complete trial has synthetic images, so there is no finalist to confirm"
        fix = "continue the search (--set budget.trials=N), or add source: gan to the space"
        raise StudyError(Problem(what, study, fix))
    return different_trials(ranked_on_val_b(synthetic))[:count]


def _possible(
    study: OpenStudy, arms: Sequence[Arm], choice: TestChoice, count: int, notes: list[str]
) -> Iterator[Arm]:
    """Drop arms that a folder of extra images or the other draws are too small for."""
    trained_on = [study.prepared]
    if choice.kind == "unused":
        trained_on = [study.prepared.drawn(number) for number in range(count)]
    for arm in arms:
        source = source_of(arm.parameters, has_real_extra=arm.role == "perfect")
        try:
            for prepared in trained_on:
                available = source.count_available(
                    StudyImages(study.settings.data, prepared, study.cache)
                )
                require_enough(available, arm.parameters, prepared)
        except DataError as error:
            if arm.role == "finalist":
                raise
            notes.append(f"the arm {arm.name} is left out: there are {error.problems[0].what}")
        else:
            yield arm
