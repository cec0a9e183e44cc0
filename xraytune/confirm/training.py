"""The training of a confirmation: top-up trials for the tuned controls, then every replicate of every arm.

Ray is started only if there is something to train.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xraytune.config.settings import Experiment, Parameters, Settings
from xraytune.config.space import Space
from xraytune.confirm.plan import (
    CONFIRM_FOLDER,
    REHEARSAL_FOLDER,
    TOP_UP_FOLDER,
    VERDICT_FILE,
    Arm,
    FinishedTrial,
    Plan,
    belongs_to_control,
    choose_finalists,
    draw_control,
    finalist_arm,
    matched_control,
    missing_trials,
    pruned_to_finish,
    ratio_arms,
    read_plan,
    tuned_control,
    write_plan,
)
from xraytune.confirm.runs import (
    Run,
    RunList,
    TopUpRungs,
    adopt_runs,
    ended_rows,
    finished_label,
    never_prune,
    replicate,
    run_label,
)
from xraytune.errors import DataError, Problem, StudyError, TrialError, join_names
from xraytune.files import read_json, write_json
from xraytune.pipeline.extra_folder import require_enough, store_folder
from xraytune.pipeline.prepare import Prepared, write_prepared
from xraytune.pipeline.synthesize import generator_need
from xraytune.records import Compute, Json
from xraytune.search.asha import Rungs
from xraytune.search.messages import Callbacks
from xraytune.search.runner import Runner
from xraytune.search.study import StudyFolder, other_releases
from xraytune.search.test_access import TestAccess, as_text


@dataclass(slots=True, kw_only=True)
class Training:
    """Train the runs of a confirmation.

    Attributes:
        folder: The study.
        place: Name of the folder in it that holds the replicates.
        space: Its space.
        prepared: Its images.
        compute: Device, threads and precision of its trials.
        machine: Returns the `environment` of a machine that trains.
        cache: The artifact cache.
        runner: Runs the trainings on Ray.
        callbacks: Called as runs end.
    """

    folder: StudyFolder
    place: str = CONFIRM_FOLDER
    space: Space
    prepared: Prepared
    compute: Compute
    machine: Callable[[], Mapping[str, Json]]
    cache: Path
    runner: Runner
    callbacks: Callbacks

    @property
    def settings(self) -> Settings:
        """The study's settings."""
        return self.space.settings

    @property
    def runs_folder(self) -> StudyFolder:
        """The folder of the replicates."""
        return StudyFolder(self.folder.path / self.place)

    @property
    def top_up_folder(self) -> StudyFolder:
        """The folder of the top-up trials."""
        return StudyFolder(self.folder.path / self.place / TOP_UP_FOLDER)

    def train(
        self,
        searched: Sequence[FinishedTrial],
        rungs: Rungs,
        *,
        finalists: int,
        gan_seeds: int,
        earlier_accesses: Sequence[TestAccess],
    ) -> Plan:
        """Train all missing runs and return the plan.

        Args:
            searched: The trials of the search.
            rungs: ASHA's rungs of the search; they decide which top-up trials are pruned.
            finalists: At most this many; an existing plan keeps its own.
            gan_seeds: At least this many.
            earlier_accesses: To the test folder, before the first plan.

        Raises:
            StudyError: There is no trial with synthetic images, or a finalist has no control.
            TrialError: Runs failed.
        """
        plan = read_plan(self.runs_folder.path)
        if plan is None:
            plan = self.mark_earlier_access(self._new_plan(searched, rungs, finalists), earlier_accesses)
        plan = self._with_seeds(plan, gan_seeds)
        self.train_replicates(plan)
        return plan

    def train_replicates(self, plan: Plan) -> None:
        """Train the runs of a plan that have not ended; those that a rehearsal has trained are used again, and vice versa.

        Raises:
            TrialError: Runs failed.
        """
        runs = [
            Run(
                number=number,
                label=f"{run.arm}, GAN seed {run.gan_seed}, seed {run.classifier_seed}",
                experiment=replicate(plan.arm(run.arm), self.settings, run.gan_seed, run.classifier_seed),
            )
            for number, run in enumerate(plan.runs)
        ]
        _complete_folder(self.runs_folder, self.prepared, self.machine)
        for place in {CONFIRM_FOLDER, REHEARSAL_FOLDER} - {self.place}:
            if count := adopt_runs(self.runs_folder, runs, StudyFolder(self.folder.path / place)):
                self.callbacks.note(f"{count} replicates are copied from {place}/, where they were trained before")
        self._run(self.runs_folder, runs, "replicates")

    def mark_earlier_access(self, plan: Plan, earlier: Sequence[TestAccess]) -> Plan:
        """Make a plan exploratory if the test folder was accessed before this confirmation scored it, and write it."""
        if not earlier or plan.exploratory:
            return plan
        plan = plan.model_copy(update={"exploratory": (as_text(earlier),)})
        write_plan(plan, self.runs_folder.path)
        return plan

    def _run(
        self, folder: StudyFolder, runs: Sequence[Run], what: str, asha: TopUpRungs | None = None
    ) -> dict[int, dict[str, Any]]:
        """Train the runs that have not ended and return the rows of all; without `asha` none is pruned."""
        if not runs:
            return {}
        _complete_folder(folder, self.prepared, self.machine)
        work = RunList(
            folder,
            runs,
            what=what,
            generator_need=lambda parameters: generator_need(
                parameters.generator, self.prepared, self.compute, self.cache
            ),
            retries=self.settings.resources.retries,
            on_progress=self.callbacks.on_progress,
            should_continue=asha.should_continue if asha else never_prune,
        )
        if not work.is_done:
            if other := other_releases(folder):
                fix = f"install those versions, or move {self.place}/ away to train all runs with the current ones"
                problem = f"the runs of this confirmation are {other}, so their AUROCs are not comparable"
                raise StudyError(Problem(problem, folder.path, fix))
            self.runner.run(work, folder, label=run_label(runs, self.folder.path.name), reuse_actors=True)
        numbers = {run.number for run in runs}  # the folder may have runs of another list
        rows = {number: row for number, row in ended_rows(folder).items() if number in numbers}
        if failed := [row for row in rows.values() if row["status"] == "failed"]:
            reasons = "".join(f"\n    {reason}" for reason in sorted({row["reason"] for row in failed})[:5])
            fix = "run the same command again to retry them; see trials/*/error.txt there"
            raise TrialError(Problem(f"{len(failed)} of {len(runs)} {what} failed:{reasons}", folder.path, fix))
        return rows

    def _with_seeds(self, plan: Plan, gan_seeds: int) -> Plan:
        """Add the requested seeds to the plan and write it before they are trained."""
        grown = plan.grown((), gan_seeds, self.settings.confirm.classifier_seeds)
        verdict = self.runs_folder.path / VERDICT_FILE
        if plan.runs and len(grown.runs) > len(plan.runs) and verdict.exists():
            why = f"GAN seeds were added after a verdict on {read_json(verdict)['gan_seeds']} had been seen"
            grown = grown.model_copy(update={"exploratory": tuple(dict.fromkeys((*grown.exploratory, why)))})
        write_plan(grown, self.runs_folder.path)
        return grown

    def _new_plan(self, searched: Sequence[FinishedTrial], rungs: Rungs, count: int) -> Plan:
        """Choose finalists and controls, training the trials that this takes."""
        notes: list[str] = []
        to_finish = pruned_to_finish(searched, lambda found: found.has_synthetic_images, count)
        finished = self._finish(to_finish, first=0)
        if finished:
            furthest = f"the {len(finished)} that got furthest were trained to the end"
            notes.append(f"ASHA pruned all trials with synthetic images; {furthest}")
        finalists = choose_finalists((*searched, *finished), count, self.folder.path)
        sampled = [trial.parameters for trial in searched]
        topped_up = self._top_up(sampled, finalists, rungs, first=len(finished), notes=notes)
        tuned = self._tuned((*searched, *topped_up), first=len(finished) + len(topped_up), notes=notes)
        arms = self.arms(finalists, tuned, notes)
        require_controls(finalists, arms, self.folder.path)
        return Plan(notes=tuple(notes), arms=tuple(arms))

    def arms(
        self, finalists: Sequence[FinishedTrial], tuned: Sequence[Arm], notes: list[str], *, with_ratios: bool = True
    ) -> list[Arm]:
        """Return the finalists with their matched controls, the first one's ratio response, and the tuned controls."""
        arms: list[Arm] = []
        controls = self.settings.confirm.controls
        for finalist in finalists:
            resolution_px = Experiment(settings=self.settings, parameters=finalist.parameters).resolution_px
            arms.append(finalist_arm(finalist))
            for source in controls.matched:
                if control := matched_control(finalist, source, resolution_px):
                    arms.append(control)
                else:
                    notes.append(f"{finalist.name} has mixing: replace, so that {source} would be the same as none")
            # The ratio response is measured against the matched control without extra images.
            if with_ratios and finalist is finalists[0] and "none" in controls.matched:
                planned = [arm.parameters for arm in arms]  # the matched duplicate has the finalist's own ratio
                at_ratios = self._feasible(ratio_arms(finalist, resolution_px), notes)
                arms += [arm for arm in at_ratios if arm.parameters not in planned]
        return [*arms, *tuned]

    def _feasible(self, arms: Sequence[Arm], notes: list[str]) -> list[Arm]:
        """Drop the ratios for which the finalist's folder of extra images, if it has one, is too small."""
        of_folder = [arm.parameters for arm in arms if arm.parameters.folder]
        folder = next((parameters.folder for parameters in of_folder), None)
        if folder is None:
            return list(arms)
        group_regex = self.settings.data.split.group_regex
        images, _ = store_folder(folder.path, self.prepared, group_regex=group_regex, cache=self.cache)
        infeasible = set()
        for parameters in of_folder:
            try:
                require_enough(images, parameters, self.prepared)
            except DataError as error:
                ratio, why = parameters.synthetic_ratio, error.problems[0].what
                notes.append(f"the ratio response omits r={ratio:g}: the folder has {why}")
                infeasible.add(ratio)
        return [arm for arm in arms if arm.parameters.synthetic_ratio not in infeasible]

    def _train_trials(
        self, what: str, trials: Sequence[tuple[str, str, Parameters]], *, first: int, asha: TopUpRungs | None = None
    ) -> tuple[FinishedTrial, ...]:
        """Train trials, given by name, label and settings, as runs numbered from `first`."""
        numbered = list(enumerate(trials, first))
        runs = [
            Run(number=number, label=label, experiment=Experiment(settings=self.settings, parameters=parameters))
            for number, (_, label, parameters) in numbered
        ]
        rows = self._run(self.top_up_folder, runs, what, asha)
        return tuple(FinishedTrial.of_row(name, parameters, rows[number]) for number, (name, _, parameters) in numbered)

    def _finish(self, pruned: Sequence[FinishedTrial], *, first: int) -> tuple[FinishedTrial, ...]:
        """Train pruned trials to the end."""
        trials = [(one.name, finished_label(one.name), one.parameters) for one in pruned]
        return self._train_trials("pruned trials", trials, first=first)

    def _top_up(
        self,
        sampled: Sequence[Parameters],
        finalists: Sequence[FinishedTrial],
        rungs: Rungs,
        *,
        first: int,
        notes: list[str],
    ) -> tuple[FinishedTrial, ...]:
        """Train further trials of the tuned controls' arms under the search's ASHA."""
        drawn: list[Parameters] = []
        for control in self.settings.confirm.controls.tuned:
            missing = missing_trials(sampled, finalists, control)
            further = draw_control(self.space, control, missing, sampled)
            if len(further) < missing and (
                further or any(belongs_to_control(parameters, control) for parameters in sampled)
            ):
                notes.append(f"the space has only {len(further)} of {missing} further settings of the arm {control}")
            drawn += further
        trials = [
            (f"top-up {number}", f"top-up {number} {parameters.arm}", parameters)
            for number, parameters in enumerate(drawn, first)
        ]
        return self._train_trials("top-up trials", trials, first=first, asha=TopUpRungs(self.top_up_folder, rungs))

    def _tuned(self, trials: Sequence[FinishedTrial], *, first: int, notes: list[str]) -> list[Arm]:
        """Choose the tuned controls. If ASHA pruned a whole arm, its furthest trial is first trained to the end."""
        controls = self.settings.confirm.controls.tuned
        unfinished: list[FinishedTrial] = []
        for control in controls:
            for trial in pruned_to_finish(trials, partial(belongs_to_control, control=control), 1):
                notes.append(
                    f"ASHA pruned all trials of the arm {control}; {trial.name} got furthest and was trained to the end"
                )
                unfinished.append(trial)
        trials = (*trials, *self._finish(unfinished, first=first))
        tuned = []
        for control in controls:
            if arm := tuned_control(trials, control):
                tuned.append(arm)
            else:
                had_one = any(belongs_to_control(trial.parameters, control) for trial in trials)
                why = f"all trials of the arm {control} failed" if had_one else f"the space has no {control} arm"
                notes.append(f"{why}, so it has no tuned control")
        return tuned


def require_controls(finalists: Sequence[FinishedTrial], arms: Sequence[Arm], study: Path) -> None:
    """Raise StudyError if there are no tuned controls, and a finalist has no matched one."""
    if any(arm.role == "tuned" for arm in arms):
        return
    compared = {arm.trial for arm in arms if arm.role == "matched"}
    if alone := [finalist.name for finalist in finalists if finalist.name not in compared]:
        what = f"there is no control to compare {join_names(alone)} with, neither matched nor tuned"
        fix = (
            "start a search with `none` in confirm.controls.matched, or with trials of an arm in confirm.controls.tuned"
        )
        raise StudyError(Problem(what, study, fix))


def _complete_folder(folder: StudyFolder, prepared: Prepared, machine: Callable[[], Mapping[str, Json]]) -> None:
    """Write what workers read in a folder of runs: the images and the machine."""
    if not (folder.path / "environment.json").exists():
        write_prepared(prepared, folder.path / "split.json")
        write_json(folder.path / "environment.json", {**machine()})
