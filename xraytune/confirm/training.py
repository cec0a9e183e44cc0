"""What a confirm trains: the trials that top the controls up, then every replicate of every arm.

Ray is started when the first run needs it; a start that finds all runs ended trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from xraytune.config.settings import Experiment, Parameters, Settings
from xraytune.config.space import Space
from xraytune.confirm.plan import (
    CONFIRM_FOLDER,
    TOP_UP_FOLDER,
    VERDICT_FILE,
    Arm,
    Candidate,
    Plan,
    Stopped,
    Trials,
    choose_finalists,
    draw_control,
    finalist_arm,
    is_of,
    matched_control,
    missing_trials,
    new_plan,
    ratio_arms,
    read_plan,
    to_be_finished,
    tuned_control,
    write_plan,
)
from xraytune.confirm.runs import (
    Run,
    RunList,
    TopUpRungs,
    ended_rows,
    replicate,
    run_label,
    to_its_last_step,
)
from xraytune.errors import DataError, Problem, StudyError, TrialError, listed
from xraytune.files import read_json, write_json
from xraytune.pipeline.extra_folder import require_enough, store_folder
from xraytune.pipeline.prepare import Prepared, write_prepared
from xraytune.pipeline.synthesize import gan_need
from xraytune.records import Compute, Json
from xraytune.search.asha import Rungs
from xraytune.search.messages import Callbacks
from xraytune.search.runner import Runner
from xraytune.search.study import StudyFolder, other_releases
from xraytune.search.test_access import TestAccess, as_text


@dataclass(slots=True, kw_only=True)
class Training:
    """The study, and what it takes to train for it.

    Attributes:
        folder: The study.
        space: Its space.
        prepared: Its images.
        compute: What its trials compute on.
        machine: Gives the `environment` of a machine that trains.
        cache: The artifact cache.
        runner: Runs what is trained.
        callbacks: Called as runs end.
    """

    folder: StudyFolder
    space: Space
    prepared: Prepared
    compute: Compute
    machine: Callable[[], Mapping[str, Json]]
    cache: Path
    runner: Runner
    callbacks: Callbacks

    @property
    def settings(self) -> Settings:
        """The study's."""
        return self.space.settings

    @property
    def runs_folder(self) -> StudyFolder:
        """Where the replicates lie."""
        return StudyFolder(self.folder.path / CONFIRM_FOLDER)

    @property
    def top_up_folder(self) -> StudyFolder:
        """Where the top-up trials lie."""
        return StudyFolder(self.folder.path / CONFIRM_FOLDER / TOP_UP_FOLDER)

    def train(
        self,
        searched: Trials,
        rungs: Rungs,
        *,
        finalists: int,
        gan_seeds: int,
        earlier_accesses: Sequence[TestAccess],
    ) -> Plan:
        """Train what is missing; gives the plan, all of whose runs have ended.

        Args:
            searched: The trials of the search.
            rungs: Of the search; they decide which top-up trials are pruned.
            finalists: How many there are to be at most.
            gan_seeds: How many there are to be at least.
            earlier_accesses: Of the test folder, before the first plan.

        Raises:
            StudyError: There is no trial with synthetic images.
            TrialError: Runs failed.
        """
        plan = read_plan(self.runs_folder.path) or self._new_plan(searched, rungs, finalists, earlier_accesses)
        plan = self._grown(plan, gan_seeds)
        runs = [
            Run(
                number=number,
                label=f"{run.arm}, GAN seed {run.gan_seed}, seed {run.classifier_seed}",
                experiment=replicate(plan.arm(run.arm), self.settings, run.gan_seed, run.classifier_seed),
            )
            for number, run in enumerate(plan.runs)
        ]
        self._run(self.runs_folder, runs, "replicates")
        return plan

    def opened_after(self, plan: Plan, earlier: Sequence[TestAccess]) -> Plan:
        """The plan whose test folder is opened now; exploratory if another study opened it since the plan was made."""
        if not earlier or plan.exploratory:
            return plan
        late = replace(plan, exploratory=(as_text(earlier),))
        write_plan(late, self.runs_folder.path)
        return late

    def _run(
        self, folder: StudyFolder, runs: Sequence[Run], what: str, asha: TopUpRungs | None = None
    ) -> dict[int, dict[str, Any]]:
        """Run what has not ended yet; gives the rows of all. Without `asha` each runs to its last step."""
        if not runs:
            return {}
        _complete_folder(folder, self.prepared, self.machine)
        work = RunList(
            folder,
            runs,
            what=what,
            gan_need=lambda parameters: gan_need(parameters.gan, self.prepared, self.compute, self.cache),
            retries=self.settings.resources.retries,
            on_progress=self.callbacks.on_progress,
            goes_on=asha.goes_on if asha else to_its_last_step,
        )
        if not work.is_done:
            require_one_release(folder)
            # Many short runs, whose names nobody looks for.
            self.runner.run(work, folder, label=run_label(runs, self.folder.path.name), reuse_actors=True)
        own = {run.number for run in runs}  # further runs of another list may lie in the folder
        rows = {number: row for number, row in ended_rows(folder).items() if number in own}
        failed = [row for row in rows.values() if row["status"] == "failed"]
        if failed:
            reasons = "".join(f"\n    {reason}" for reason in sorted({row["reason"] for row in failed})[:5])
            fix = "the same command tries them again; see trials/*/error.txt there"
            raise TrialError(Problem(f"{len(failed)} of {len(runs)} {what} failed:{reasons}", folder.path, fix))
        return rows

    def _grown(self, plan: Plan, gan_seeds: int) -> Plan:
        """The plan with the seeds that are asked for; it is written down before they are trained."""
        grown = plan.grown((), gan_seeds, self.settings.confirm.classifier_seeds)
        if plan.runs and len(grown.runs) > len(plan.runs) and (self.runs_folder.path / VERDICT_FILE).exists():
            seen = read_json(self.runs_folder.path / VERDICT_FILE)["gan_seeds"]
            why = f"GAN seeds were added after a verdict on {seen} had been seen"
            grown = replace(grown, exploratory=tuple(dict.fromkeys((*grown.exploratory, why))))
        write_plan(grown, self.runs_folder.path)
        return grown

    def _new_plan(self, searched: Trials, rungs: Rungs, count: int, earlier_accesses: Sequence[TestAccess]) -> Plan:
        """Everything that is decided before the first replicate; the trials that it takes are trained."""
        notes: list[str] = []
        finished = self._finished(to_be_finished(searched, lambda found: found.has_synthetic_images, count), first=0)
        if finished:
            notes.append(
                f"ASHA let no trial with synthetic images get to its end; the {len(finished)} that got furthest were "
                "trained to theirs"
            )
        finalists = choose_finalists((*searched.complete, *finished), count, self.folder.path)
        topped_up = self._topped_up(searched.sampled, finalists, rungs, first=len(finished), notes=notes)
        tuned = self._tuned(searched + topped_up, first=len(finished) + len(topped_up.sampled), notes=notes)
        arms: list[Arm] = []
        for place, finalist in enumerate(finalists):
            resolution_px = Experiment(settings=self.settings, parameters=finalist.parameters).resolution_px
            arms.append(finalist_arm(finalist))
            for source in self.settings.confirm.controls.matched:
                control = matched_control(finalist, source, resolution_px)
                if control is None:
                    notes.append(f"{finalist.name} has mixing: replace, so that {source} would be source: none")
                else:
                    arms.append(control)
            if place == 0 and "none" in self.settings.confirm.controls.matched:  # the response is against it
                at_ratios = self._possible(ratio_arms(finalist, resolution_px), notes)
                planned = [arm.parameters for arm in arms]  # the matched duplicate, at the finalist's own ratio
                arms += [arm for arm in at_ratios if arm.parameters not in planned]
        arms += tuned
        _require_controls(finalists, arms, self.folder.path)
        exploratory = (as_text(earlier_accesses),) if earlier_accesses else ()
        return replace(new_plan(), notes=tuple(notes), exploratory=exploratory).grown(arms, 0, 0)

    def _possible(self, ratios: Sequence[Arm], notes: list[str]) -> list[Arm]:
        """Those ratios for which the finalist's folder of extra images has enough, or all where it has none."""
        of_folder = [arm.parameters for arm in ratios if arm.parameters.folder]
        folder = next((parameters.folder for parameters in of_folder), None)
        if folder is None:
            return list(ratios)
        group_regex = self.settings.data.split.group_regex
        images, _ = store_folder(folder.path, self.prepared, group_regex=group_regex, cache=self.cache)
        impossible = set()
        for parameters in of_folder:
            try:
                require_enough(images, parameters, self.prepared)
            except DataError as error:
                ratio, why = parameters.synthetic_ratio, error.problems[0].what
                notes.append(f"the response to the ratio has no r={ratio:g}: the folder has {why}")
                impossible.add(ratio)
        return [arm for arm in ratios if arm.parameters.synthetic_ratio not in impossible]

    def _finished(self, pruned: Sequence[Stopped], *, first: int) -> list[Candidate]:
        """Trials that ASHA had pruned, trained to their end as runs numbered from `first` on."""
        runs = [
            self._trial_run(number, f"{one.name} to its end", one.parameters)
            for number, one in enumerate(pruned, first)
        ]
        rows = self._run(self.top_up_folder, runs, "trials to be finished")
        return [
            Candidate(name=one.name, parameters=one.parameters, val_b_auroc=rows[number]["val_b_auroc"])
            for number, one in enumerate(pruned, first)
        ]

    def _topped_up(
        self,
        sampled: Sequence[Parameters],
        finalists: Sequence[Candidate],
        rungs: Rungs,
        *,
        first: int,
        notes: list[str],
    ) -> Trials:
        """Further trials of the controls' arms under the search's ASHA, as runs numbered from `first` on."""
        drawn: dict[int, Parameters] = {}
        for control in self.settings.confirm.controls.tuned:
            missing = missing_trials(sampled, finalists, control)
            further = draw_control(self.space, control, missing, sampled)
            if len(further) < missing and (further or any(is_of(parameters, control) for parameters in sampled)):
                notes.append(f"the space has only {len(further)} of {missing} further settings of the arm {control}")
            drawn |= enumerate(further, first + len(drawn))
        runs = [
            self._trial_run(number, f"top-up {number} {parameters.arm}", parameters)
            for number, parameters in drawn.items()
        ]
        asha = TopUpRungs(self.top_up_folder, rungs)
        rows = self._run(self.top_up_folder, runs, "trials that tune the controls", asha)
        complete, pruned = [], []
        for number, parameters in drawn.items():
            name, row = f"top-up {number}", rows[number]
            if row["status"] == "complete":
                complete.append(Candidate(name=name, parameters=parameters, val_b_auroc=row["val_b_auroc"]))
            else:
                pruned.append(Stopped(name=name, parameters=parameters, epochs=row["epochs"], val_auroc=row["value"]))
        return Trials(complete=tuple(complete), pruned=tuple(pruned))

    def _tuned(self, trials: Trials, *, first: int, notes: list[str]) -> list[Arm]:
        """The tuned controls; of an arm that ASHA pruned completely, its furthest trial is trained to its end first."""
        controls = self.settings.confirm.controls.tuned
        unfinished: list[Stopped] = []
        for control in controls:
            for trial in to_be_finished(trials, partial(is_of, control=control), 1):
                notes.append(
                    f"ASHA let no trial of the arm {control} get to its end; {trial.name}, which got furthest, was trained "
                    "to its end"
                )
                unfinished.append(trial)
        complete = (*trials.complete, *self._finished(unfinished, first=first))
        tuned = []
        for control in controls:
            if arm := tuned_control(complete, control):
                tuned.append(arm)
            else:
                had_one = any(is_of(parameters, control) for parameters in trials.sampled)
                why = f"every trial of the arm {control} failed" if had_one else f"the space has no {control} arm"
                notes.append(f"{why}, so there is no tuned control of it")
        return tuned

    def _trial_run(self, number: int, label: str, parameters: Parameters) -> Run:
        return Run(number=number, label=label, experiment=Experiment(settings=self.settings, parameters=parameters))


def _require_controls(finalists: Sequence[Candidate], arms: Sequence[Arm], study: Path) -> None:
    if any(arm.role == "tuned" for arm in arms):
        return
    compared = {arm.trial for arm in arms if arm.role == "matched"}
    alone = [finalist.name for finalist in finalists if finalist.name not in compared]
    if alone:
        what = f"no control is left that {listed(alone)} could be compared with: none matched to it, and no tuned one"
        fix = (
            "search a space with `none` in confirm.controls.matched, or with trials of an arm in confirm.controls.tuned"
        )
        raise StudyError(Problem(what, study, fix))


def require_one_release(folder: StudyFolder) -> None:
    """Refuse to train or score runs with another torch than those that they are compared with.

    Raises:
        StudyError: Other versions of torch or torchvision are installed than when the folder was begun.
    """
    if other := other_releases(folder):
        name = CONFIRM_FOLDER
        fix = f"install the versions that trained them, or move {name}/ away to train all of them with those installed"
        raise StudyError(
            Problem(f"the runs of this confirm are {other}: their AUROCs do not compare", folder.path, fix)
        )


def _complete_folder(folder: StudyFolder, prepared: Prepared, machine: Callable[[], Mapping[str, Json]]) -> None:
    """Give a folder of runs what a worker reads of a study: the images and the machine."""
    if not (folder.path / "environment.json").exists():
        write_prepared(prepared, folder.path / "split.json")
        write_json(folder.path / "environment.json", {**machine()})
