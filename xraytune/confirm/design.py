"""The design of a study, before it starts: what it compares, what it can tell, how long it takes.

Nothing is trained. The finalists are not known yet: random trials with synthetic images stand in
for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from xraytune.base.cores import cpu_count
from xraytune.base.errors import Problem, XraytuneError, counted
from xraytune.base.records import frozen
from xraytune.confirm.arms import Arm, Plan, TestKind, compared_arms
from xraytune.confirm.plan import belongs_to_control, donor_controls
from xraytune.confirm.sealed import SealedTest, choose_test, left_out_sites
from xraytune.data.images import ImageIndex, Images
from xraytune.data.prepare import SplitData
from xraytune.data.sides import FEWEST_UNUSED, SideSize, side_size, side_sizes
from xraytune.nets.compute import gpu_count
from xraytune.search.expected import search_work
from xraytune.space.cost import Machine, describe_time
from xraytune.space.settings import RIVALS, Parameters, Settings
from xraytune.space.space import Space
from xraytune.stats.placements import effective_patients
from xraytune.stats.precision import LIKELY_AUROC, REPLICATE_SD, Precision, expect_precision
from xraytune.study.row import TrialRow
from xraytune.synth.sources.which import mixes_of

_OTHER_AUROCS = (0.85, 0.9, 0.95, 0.98)
"""The half-width depends on it more than on anything else."""
_MORE_REPLICATES = (5, 10, 20, 40)
_ROWS = 2
"""How many larger numbers of replicates are shown."""


@frozen
class Alternative:
    """A larger confirmation, and how many patients it lacks."""

    precision: Precision
    missing_patients: int = 0


@frozen
class Design:
    """What a study will do and can tell.

    Attributes:
        sides: The sizes of train, val-A and val-B.
        arms: Of the search.
        generators: GANs that the search trains, about; those of the confirmation come on top.
        finalists, replicates: Of the confirmation.
        trainings: The arms that each replicate trains, at most: finalists and controls.
        top_ups: Further trials of the controls; more, if the sampler prefers synthetic images.
        test: What is scored; None if nothing can be.
        scored: Its size.
        problem: Why nothing can be scored.
        precision: None if it is not known beforehand; `unknown` says why.
        alternatives: Larger confirmations.
        auroc, sd: That of both arms, and its standard deviation over replicates, as assumed.
        half_widths: Of the planned confirmation, by other AUROCs.
        machine: Such as `2 CPU cores`.
        search_seconds, confirm_seconds: Roughly.
    """

    name: str
    metric: str
    rope: float
    sides: tuple[SideSize, ...]
    arms: tuple[str, ...]
    trials: int
    generators: int
    finalists: int
    replicates: int
    trainings: tuple[str, ...]
    top_ups: int
    test: TestKind | None
    scored: SideSize | None
    problem: Problem | None
    precision: Precision | None
    unknown: str
    alternatives: tuple[Alternative, ...]
    auroc: float
    sd: float
    half_widths: dict[str, float]
    machine: str
    search_seconds: float
    confirm_seconds: float

    @property
    def outlook(self) -> str:
        """The half-width of the interval, and the smallest gain that would be found."""
        if self.problem and self.finalists:
            return f"a confirmation cannot score anything: {self.problem.what}"
        if self.precision is None:
            return f"the width of the verdict's interval is not known beforehand: {self.unknown}"
        precision = self.precision
        enough = "enough" if precision.gain_over_all <= self.rope else "not enough"
        return (
            f"{counted(precision.replicates, 'replicate')} on {precision.patients:,} patients give "
            f"a 95 % interval of about ± {precision.half_width:.4f} {self.metric} (at "
            f"{self.auroc:g}), and find a gain of {precision.gain:.4f} over one control, or of "
            f"{precision.gain_over_all:.4f} over all, with 80 % power: {enough} for a gain of "
            f"{self.rope:g} (confirm.rope)"
        )

    @property
    def time(self) -> str:
        """How long search and confirmation take."""
        search = describe_time(self.search_seconds)
        confirmation = describe_time(self.confirm_seconds)
        return f"on {self.machine}, expect about {search} of search and {confirmation} to confirm"


def design_study(
    space: Space,
    prepared: SplitData,
    index: ImageIndex,
    cache: Path,
    *,
    auroc: float = LIKELY_AUROC,
    sd: float = REPLICATE_SD,
    gpus: int | None = None,
) -> Design:
    """Return the design of a study of prepared images.

    `auroc`, `sd` and `gpus` are those of `plan`.
    """
    settings = space.settings
    search = search_work(space, prepared)
    synthetic = [trial for trial in search.trainings if trial.has_synthetic_images]
    finalists = [*dict.fromkeys(synthetic)][: settings.confirm.finalists]
    sites = left_out_sites(settings, prepared)
    replicates = len(sites) or settings.confirm.replicates
    sealed = None
    problem = None
    try:
        possible = [mix for mix in mixes_of(space) if mix.has_synthetic_images]
        sealed = choose_test(
            settings, prepared, cache, replicates=replicates, compared=possible, index=index
        )
    except XraytuneError as error:  # `confirm` would raise it
        problem = error.problems[0]

    test = sealed.kind if sealed else None
    arms = _expected_arms(settings, prepared, finalists, search.trainings, test or "folder")
    confirmed = Plan(test=test or "folder", replicates=replicates, arms=tuple(arms))
    top_ups = _count_top_ups(settings, finalists, search.trainings)
    scored = None
    if sealed:
        scored = side_size("test", sealed.images, prepared.outputs, prepared.positive)
    confirmation = replace(
        search,
        trainings=[arm.parameters for arm in confirmed.trainings],
        scored_images=scored.image_count if scored else 0,
        replicates=replicates,
    )
    unknown = _why_unknown(settings, finalists, sites)
    possible_designs: list[Alternative] = []
    half_widths: dict[str, float] = {}
    if sealed and not unknown:
        possible_designs = _possible_designs(settings, sealed, confirmed, auroc, sd)
        for other in _OTHER_AUROCS:
            expected = _possible_designs(settings, sealed, confirmed, other, sd)[0].precision
            half_widths[f"{other:g}"] = expected.half_width
    machine = Machine(cores=cpu_count(), gpus=gpu_count() if gpus is None else gpus)
    search_seconds = search.seconds(machine)
    top_up_seconds = search_seconds * top_ups / len(search.trainings)
    return Design(
        name=settings.name,
        metric=settings.metric,
        rope=settings.confirm.rope,
        sides=side_sizes(prepared),
        arms=tuple(sorted({trial.arm for trial in space.extreme_parameters("source", *RIVALS)})),
        trials=len(search.trainings),
        generators=search.generators,
        finalists=len(finalists),
        replicates=replicates,
        trainings=tuple(confirmed.trainings.values()),
        top_ups=top_ups,
        test=test,
        scored=scored,
        problem=problem,
        precision=possible_designs[0].precision if possible_designs else None,
        unknown=unknown,
        alternatives=tuple(possible_designs[1:]),
        auroc=auroc,
        sd=sd,
        half_widths=half_widths,
        machine=f"{machine}",
        search_seconds=search_seconds,
        confirm_seconds=confirmation.seconds(machine) + top_up_seconds,
    )


def _expected_arms(
    settings: Settings,
    prepared: SplitData,
    finalists: Sequence[Parameters],
    trials: Sequence[Parameters],
    test: TestKind,
) -> list[Arm]:
    """Return the arms of a confirmation, as `make_plan` will choose them."""
    rows = [
        TrialRow(number=number, label=f"finalist {number}", status="complete", parameters=finalist)
        for number, finalist in enumerate(finalists, start=1)
    ]
    arms = compared_arms(rows, settings, test)
    for control in settings.confirm.controls.tuned:
        of_arm = [trial for trial in trials if belongs_to_control(trial, control)]
        if of_arm:
            name = f"tuned {control}"
            arms.append(Arm(name=name, role="tuned", parameters=of_arm[0], trial=name))
    for arm in [*arms]:
        if arm.role == "finalist":
            arms += donor_controls(settings, prepared.outputs, arm, [])
    return arms


def _count_top_ups(
    settings: Settings, finalists: Sequence[Parameters], trials: Sequence[Parameters]
) -> int:
    """Return how many trials the tuned controls lack of as many as a finalist's source has."""
    trials_of = Counter(trial.source for trial in trials)
    wanted = max((trials_of[finalist.source] for finalist in finalists), default=0)
    missing = 0
    for control in settings.confirm.controls.tuned:
        there = sum(belongs_to_control(trial, control) for trial in trials)
        if there:
            missing += max(0, wanted - there)
    return missing


def _why_unknown(settings: Settings, finalists: Sequence[Parameters], sites: Sequence[str]) -> str:
    """Return why the half-width of the interval is not known beforehand; "" if it is."""
    if not finalists:
        return "the space has no trial with synthetic images to confirm"
    if sites:
        return f"it depends on how much the gains of {len(sites)} sites differ"
    if settings.task == "segmentation":
        return "how much Dice varies over replicates is known only of networks that were trained"
    return ""


def _possible_designs(
    settings: Settings, sealed: SealedTest, confirmed: Plan, auroc: float, sd: float
) -> list[Alternative]:
    """Return what is planned, then with more replicates, and with twice as many scored patients.

    Where unused patients are scored, a further replicate takes its draw from them.
    """
    images = Images(sealed.images)
    prepared = sealed.prepared
    scored = len({*images.patients})
    effective, share = effective_patients(images.targets, images.patients, prepared.positive)
    controls = confirmed.controls(confirmed.finalists[0])
    planned = confirmed.replicates

    def expect(replicates: int, patients: int) -> Precision:
        return expect_precision(
            auroc,
            replicates=replicates,
            patients=patients,
            effective_patients=effective * patients / scored,
            controls=sum(arm.kind != "synthetic_only" for arm in controls),
            share=share,
            sd=sd,
        )

    fewest = FEWEST_UNUSED if settings.confirm.test == "auto" else 1
    designs = [Alternative(precision=expect(planned, scored))]
    for replicates in [count for count in _MORE_REPLICATES if count > planned][:_ROWS]:
        drawn = (replicates - planned) * prepared.train_patients
        patients = scored
        missing = 0
        if sealed.kind == "unused" and scored - drawn >= fewest:
            patients = scored - drawn
        elif sealed.kind == "unused":
            missing = drawn
        elif sealed.kind == "draws":
            missing = max(0, drawn - len({*prepared.side("others").patients}))
        expected = expect(replicates, patients)
        designs.append(Alternative(precision=expected, missing_patients=missing))
    designs.append(Alternative(precision=expect(planned, 2 * scored), missing_patients=scored))
    return designs
