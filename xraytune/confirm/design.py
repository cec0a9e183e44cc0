"""The design of a study, before it starts: what it compares, what it can tell, how long it takes.

Nothing is trained. The finalists are not known yet, so random trials with synthetic images stand in
for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from xraytune.base.cores import cpu_count
from xraytune.base.errors import Problem, XraytuneError, about, counted
from xraytune.base.records import frozen
from xraytune.confirm.arms import MOST_REPLICATES, UNUSED_KINDS, Arm, Plan, TestKind
from xraytune.confirm.plan import arms_of, belongs_to_control, count_trials
from xraytune.confirm.sealed import SealedTest, choose_test
from xraytune.confirm.unused import left_out_sites
from xraytune.data.draws import scored_patients
from xraytune.data.images import LENDERS, ImageIndex
from xraytune.data.prepare import SplitData
from xraytune.data.sides import SideSize, side_size, side_sizes
from xraytune.nets.compute import gpu_count
from xraytune.search.run import search_work
from xraytune.space.cost import Machine, Work, describe_time, smaller_search
from xraytune.space.parameters import CLASSICAL_METHODS, Parameters
from xraytune.space.settings import Settings
from xraytune.space.space import Space
from xraytune.stats.placements import effective_patients
from xraytune.stats.precision import (
    LIKELY_AUROC,
    REPLICATE_SD,
    Precision,
    clip_auroc,
    expect_precision,
)
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow
from xraytune.study.status import StudyView
from xraytune.synth.sources.registry import mixes_of
from xraytune.tasks import task_of

_MORE_REPLICATES = (5, 10, 20, 40)
_ROWS = 2
"""Number of larger replicate counts that are shown."""
_MOST_ADDED = 100_000


@frozen
class Alternative:
    """A larger confirmation, and how many patients are missing for it."""

    precision: Precision
    missing_patients: int = 0


@frozen
class Design:
    """What a study will do and can tell.

    Attributes:
        outlook: The half-width of the verdict's interval, and the smallest gain that it would find.
        time: How long search and confirmation take.
        sides: The sizes of train, val-A and val-B.
        arms: The arms of the search.
        trials, generators: How many trials and GANs the search trains. A sampler may prefer
            synthetic images, and then trains more GANs. The confirmation trains further GANs.
        replicates: Number of replicates of the confirmation.
        trainings: The arms that each replicate trains, at most.
        top_ups: Number of further trials of the controls, at least.
        test: What is scored; None if nothing can be scored.
        scored: The size of the scored set.
        problem: Why nothing can be scored; None if it can.
        precision: The expected precision; None if it is not known beforehand.
        alternatives: Larger confirmations.
        auroc, sd: Assumed AUROC of both arms, and its standard deviation over replicates.
        search_seconds, confirm_seconds: Expected time of the search and of the confirmation.
    """

    name: str
    outlook: str
    time: str
    sides: tuple[SideSize, ...]
    arms: tuple[str, ...]
    trials: int
    generators: int
    replicates: int
    trainings: tuple[str, ...]
    top_ups: int
    test: TestKind | None
    scored: SideSize | None
    problem: Problem | None
    precision: Precision | None
    alternatives: tuple[Alternative, ...]
    auroc: float
    sd: float
    search_seconds: float
    confirm_seconds: float


def design_study(
    space: Space,
    prepared: SplitData,
    index: ImageIndex,
    *,
    auroc: float | None,
    sd: float = REPLICATE_SD,
    gpus: int | None = None,
) -> Design:
    """Return the design of a study of prepared images.

    `auroc` is the expected AUROC of all arms, if it is known. `sd` and `gpus` are as for
    `study_outlook`.
    """
    auroc = auroc or LIKELY_AUROC
    settings = space.settings
    search = search_work(space, prepared)
    synthetic_trials = [trial for trial in search.trainings if trial.has_synthetic_images]
    finalists = [*dict.fromkeys(synthetic_trials)][: settings.confirm.finalists]
    sites = left_out_sites(settings, prepared)
    replicates = len(sites) or settings.confirm.replicates
    sealed, problem = _expected_test(space, prepared, index, replicates)
    # A control that the search does not train gets top-up trials.
    extreme_trials = space.extreme_parameters("source", *CLASSICAL_METHODS)
    test: TestKind = sealed.kind if sealed else "folder"
    arms = _expected_arms(settings, prepared, finalists, [*search.trainings, *extreme_trials], test)
    plan = Plan(test=test, replicates=replicates, arms=tuple(arms))
    if not all(map(plan.deciding_controls, plan.finalists)):
        sealed = None
        problem = Problem(
            "there is no control to compare the finalist with",
            "confirm.controls",
            "start a search with `none` in confirm.controls.matched",
        )
    designs: list[Alternative] = []
    outlook = _why_unknown(settings, finalists, sites)
    if problem and finalists:
        outlook = f"a confirmation cannot score anything: {problem.what}"
    elif sealed and not outlook:
        expect = _expectation(sealed, plan, auroc, sd)
        designs = _possible_designs(sealed, plan, expect)
        outlook = _describe_precision(designs[0].precision, settings, auroc)
        outlook += _describe_ways(replicates, expect, settings.confirm.rope)

    counts = count_trials(settings, finalists, search.trainings).values()
    top_ups = sum(top_up_count for trial_count, top_up_count in counts if trial_count)
    machine = Machine(cores=cpu_count(), gpus=gpu_count() if gpus is None else gpus)
    search_seconds = search.seconds(machine)
    confirm_seconds = _confirmation_work(search, plan, sealed).seconds(machine)
    confirm_seconds += search_seconds * top_ups / len(search.trainings)
    time = (
        f"on {machine}, expect about {describe_time(search_seconds)} of search and "
        f"{describe_time(confirm_seconds)} to confirm{smaller_search(search_seconds, machine)}"
    )
    return Design(
        name=settings.name,
        outlook=outlook,
        time=time,
        sides=side_sizes(prepared),
        arms=tuple(sorted({trial.arm for trial in extreme_trials})),
        trials=len(search.trainings),
        generators=search.generators,
        replicates=replicates,
        trainings=tuple(plan.trainings.values()),
        top_ups=top_ups,
        test=sealed.kind if sealed else None,
        scored=_scored_size(sealed) if sealed else None,
        problem=problem,
        precision=designs[0].precision if designs else None,
        alternatives=tuple(designs[1:]),
        auroc=auroc,
        sd=sd,
        search_seconds=search_seconds,
        confirm_seconds=confirm_seconds,
    )


def _expected_test(
    space: Space, prepared: SplitData, index: ImageIndex, replicates: int
) -> tuple[SealedTest | None, Problem | None]:
    """Return what a confirmation would score, or why it could score nothing."""
    mixes = [mix for mix in mixes_of(space) if mix.has_synthetic_images]
    try:
        sealed = choose_test(
            space.settings, prepared, replicates=replicates, mixes=mixes, index=index
        )
    except XraytuneError as error:  # `confirm` would raise it
        return None, error.problems[0]
    return sealed, None


def _confirmation_work(search: Work, plan: Plan, sealed: SealedTest | None) -> Work:
    """Return the trainings of a plan, without its top-ups."""
    return replace(
        search,
        trainings=[arm.parameters for arm in plan.trainings],
        scored_images=len(sealed.images) if sealed else 0,
        replicates=plan.replicates,
    )


def _scored_size(sealed: SealedTest) -> SideSize:
    prepared = sealed.prepared
    return side_size("test", sealed.images, prepared.outputs, prepared.positive)


def design_confirmation(view: StudyView) -> Design:
    """Return the design of the confirmation of a searched study, from its records.

    The arms are expected to have the AUROC of the best trial on val-B, if that is the objective.
    """
    study_folder = StudyFolder(view.path)
    space = study_folder.space()
    prepared = study_folder.prepared()
    best = view.best_on_val_b
    auroc = LIKELY_AUROC
    if best and best.val_b_score and space.settings.objective.metric == "val_auroc":
        auroc = clip_auroc(best.val_b_score)
    return design_study(space, prepared, prepared.index(space.settings.data.path), auroc=auroc)


def _describe_precision(precision: Precision, settings: Settings, auroc: float) -> str:
    rope = settings.confirm.rope
    enough = "enough" if precision.gain_over_all <= rope else "not enough"
    metric = task_of(settings).metric
    return (
        f"{counted(precision.replicates, 'replicate')} on {precision.patients:,} patients give "
        f"a 95 % interval of about ± {precision.half_width:.4f} {metric} "
        f"(at {auroc:.3g}), and find a gain of {precision.gain:.4f} over one control, or of "
        f"{precision.gain_over_all:.4f} over all, with 80 % power: {enough} for a gain of "
        f"{rope:g} (confirm.rope)"
    )


def _describe_ways(replicates: int, expect: Callable[..., Precision], rope: float) -> str:
    """Return what would be enough to find a gain of `rope`; "" if the plan is.

    `expect` is as for `_possible_designs`.
    """

    def is_enough(replicates: int, added: int = 0) -> bool:
        return bool(expect(replicates, added).gain_over_all <= rope)

    if is_enough(replicates):
        return ""
    enough = next(filter(is_enough, range(replicates + 1, MOST_REPLICATES + 1)), None)
    ways = [f"{enough} replicates"] if enough else []
    for count in (replicates, 2 * replicates, 4 * replicates):
        added = bisect_left(range(_MOST_ADDED), True, key=partial(is_enough, count))
        if added == 0:  # more replicates are enough, as is said above
            break
        if added < _MOST_ADDED:
            more = f" and {count} replicates" if count > replicates else ""
            ways.append(f"{about(added)} more patients{more}")
            break
    return f"; {' or '.join(ways)} would be enough" if ways else ""


def _expected_arms(
    settings: Settings,
    prepared: SplitData,
    finalists: Sequence[Parameters],
    trials: Sequence[Parameters],
    test: TestKind,
) -> list[Arm]:
    """Return the arms of a confirmation, as `make_plan` will choose them."""
    finalist_rows = [
        _stand_in(finalist, f"finalist {number}") for number, finalist in enumerate(finalists, 1)
    ]
    control_rows = []
    for control in settings.confirm.controls.tuned:
        arm_trials = [trial for trial in trials if belongs_to_control(trial, control)]
        control_rows += [_stand_in(trial, f"of {control}") for trial in arm_trials[:1]]
    return arms_of(settings, prepared.outputs, finalist_rows, control_rows, test, [])


def _stand_in(parameters: Parameters, label: str) -> TrialRow:
    """Return a trial row that stands in for a finalist or control that is not known yet."""
    return TrialRow(number=0, label=label, status="complete", parameters=parameters)


def _why_unknown(settings: Settings, finalists: Sequence[Parameters], sites: Sequence[str]) -> str:
    """Return a note on why the half-width is not known beforehand; "" if it is known."""
    unknown = "the width of the verdict's interval is not known beforehand"
    if not finalists:
        return f"{unknown}: the space has no trial with synthetic images to confirm"
    if sites:
        return f"{unknown}: it depends on how much the gains of {len(sites)} sites differ"
    if settings.task == "segmentation":
        return (
            f"{unknown}: how much Dice varies over replicates is known only of networks that were "
            "trained"
        )
    return ""


def _expectation(
    sealed: SealedTest, plan: Plan, auroc: float, sd: float
) -> Callable[..., Precision]:
    """Return a function of a number of replicates and a number of added patients.

    It gives the precision. Where unused patients are scored, those of a further draw are taken from
    them, as `scored_patients` says.
    """
    images = sealed.images
    prepared = sealed.prepared
    scored_count = len({*images.patients})
    effective_count, share = effective_patients(images.targets, images.patients, prepared.positive)
    controls = plan.deciding_controls(plan.finalists[0])
    size = prepared.train_patient_count
    drawn = plan.replicates * size if sealed.kind == "unused" else 0

    def expect(replicates: int, added: int = 0) -> Precision:
        scored = scored_count + added
        overlap = 0.0
        if sealed.kind in UNUSED_KINDS:
            scored, overlap = scored_patients(scored + drawn, size, replicates)
        return expect_precision(
            auroc,
            replicates=replicates,
            patients=scored,
            effective_patients=effective_count * scored / scored_count,
            controls=len(controls),
            share=share,
            sd=sd,
            overlap=overlap,
        )

    return expect


def _possible_designs(
    sealed: SealedTest, plan: Plan, expect: Callable[..., Precision]
) -> list[Alternative]:
    """Return the planned design, then designs with more replicates or twice the scored patients.

    `expect` gives the precision for a number of replicates and a number of added patients.
    """
    planned_count = plan.replicates
    prepared = sealed.prepared
    designs = [Alternative(precision=expect(planned_count))]
    for replicates in [count for count in _MORE_REPLICATES if count > planned_count][:_ROWS]:
        missing_patients = 0
        if sealed.kind == "draws":
            reserve = len({*prepared.side(LENDERS).patients})
            drawn_count = (replicates - planned_count) * prepared.train_patient_count
            missing_patients = max(0, drawn_count - reserve)
        designs.append(Alternative(precision=expect(replicates), missing_patients=missing_patients))
    scored_count = len({*sealed.images.patients})
    twice = expect(planned_count, scored_count)
    designs.append(Alternative(precision=twice, missing_patients=scored_count))
    return designs
