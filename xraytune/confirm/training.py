"""A study that is confirmed or rehearsed, and the training of its runs: top-up trials, then every replicate of every arm.

The study is locked and checked before anything is trained; Ray is started only if there is something to train. Replicates
train to their last step, and ASHA prunes top-up trials.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from xraytune.base.artifacts import in_use
from xraytune.base.errors import DataError, Problem, StudyError, TrialError, join_names
from xraytune.base.files import (
    CHECKSUMS_FILE,
    append_jsonl,
    explain_disk_errors,
    new_folder,
    read_jsonl,
    require_writable,
)
from xraytune.base.records import Compute, EpochRecord, Json
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
    compared_arms,
    draw_control,
    finished_label,
    missing_trials,
    pruned_to_finish,
    read_plan,
    replicate,
    tuned_control,
    write_plan,
)
from xraytune.confirm.run_list import Run, RunList, complete_folder
from xraytune.confirm.test_access import TestAccess, as_text
from xraytune.data.prepare import Prepared, restore_pixels
from xraytune.nets.compute import allocation_of, require_device
from xraytune.search.asha import Rungs, rungs_of
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import TrialLoop
from xraytune.search.ray.runner import Runner, survey
from xraytune.space.settings import Experiment, Parameters, Settings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder, damage_explained, locked, other_releases
from xraytune.study.inputs import inputs_of_trials, read_inputs, require_same_inputs
from xraytune.study.journal import Journal
from xraytune.study.row import RunRow, append_row, completed_runs, ended_runs, reasons_of
from xraytune.study.start import environment
from xraytune.synth.extra_folder import store_folder
from xraytune.synth.synthesize import generator_need
from xraytune.trial.mix import require_enough
from xraytune.trial.task import task_of


@dataclass(slots=True, kw_only=True)
class Training:
    """A locked study, and what trains the runs of its confirmation or rehearsal.

    Attributes:
        place: Name of the folder in it that holds the replicates.
        space: Its space, with the locations given for this confirmation.
        compute: That of its trials.
        machine: Returns the `environment` of a machine that trains.
        rungs: ASHA's rungs of the search; they decide which top-up trials are pruned.
    """

    folder: StudyFolder
    place: str
    space: Space
    prepared: Prepared
    compute: Compute
    machine: Callable[[], Mapping[str, Json]]
    cache: Path
    searched: Sequence[FinishedTrial]
    rungs: Rungs
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

    def require_same_inputs(self, compared: Iterable[Parameters]) -> None:
        """Refuse (StudyError) extra images and weights of these finalists that changed since the search."""
        restore_pixels(self.settings, self.prepared, self.cache, on_progress=self.callbacks.on_progress)
        inputs = read_inputs(inputs_of_trials(compared), self.settings, self.prepared, self.cache)
        require_same_inputs(self.folder, inputs)

    def candidates(self, count: int) -> tuple[FinishedTrial, ...]:
        """Return the finalists of a new plan; if no candidate is complete, the pruned trials to train to the end.

        Raises StudyError if there is no trial with synthetic images.
        """
        return self._unfinished(count) or choose_finalists(self.searched, count, self.folder.path)

    def _unfinished(self, count: int) -> tuple[FinishedTrial, ...]:
        return pruned_to_finish(self.searched, lambda parameters: parameters.has_synthetic_images, count)

    def train(self, *, finalists: int, gan_seeds: int, earlier_accesses: Sequence[TestAccess]) -> Plan:
        """Train all missing runs, with at least `gan_seeds` GAN seeds, and return the plan.

        A new plan has at most so many finalists, and is exploratory after `earlier_accesses` to the test folder. Raises
        StudyError if there is no trial with synthetic images, or a finalist has no control; TrialError if runs failed.
        """
        folder = self.runs_folder.path
        old = read_plan(folder) or self.mark_earlier_access(self._new_plan(finalists), earlier_accesses)
        plan = old.grown((), gan_seeds, self.settings.confirm.classifier_seeds)
        if old.runs and len(plan.runs) > len(old.runs) and (folder / VERDICT_FILE).exists():
            why = "GAN seeds were added after a verdict had been seen"
            plan = plan.model_copy(update={"exploratory": tuple(dict.fromkeys((*plan.exploratory, why)))})
        write_plan(plan, folder)
        self.train_replicates(plan)
        return plan

    def train_replicates(self, plan: Plan) -> None:
        """Train the runs of a plan that have not ended and equal no other; copy the others, also from a rehearsal or to it.

        Raises TrialError if runs failed.
        """
        runs, distinct = list[Run](), dict[object, Run]()
        for number, run in enumerate(plan.runs):
            arm, (_, *seeds) = plan.arm(run.arm), run
            label = f"{run.arm}, GAN seed {run.gan_seed}, seed {run.classifier_seed}"
            runs.append(Run(number=number, label=label, experiment=replicate(arm, self.settings, *seeds)))
            distinct.setdefault((arm.content, *seeds), runs[-1])
        # Generators of several seeds are trained faster side by side, on one core each, than one by one on more cores.
        compute = replace(self.compute, generator_threads=self.compute.threads)
        complete_folder(self.runs_folder, self.prepared, lambda: {**self.machine(), "compute": {**asdict(compute)}})
        self._copy_equal(runs)
        self._run(self.runs_folder, list(distinct.values()), "replicates")
        self._copy_equal(runs)
        self._run(self.runs_folder, runs, "replicates")

    def _copy_equal(self, runs: Sequence[Run]) -> None:
        for place in (REHEARSAL_FOLDER, CONFIRM_FOLDER):
            if count := adopt_runs(self.runs_folder, runs, StudyFolder(self.folder.path / place)):
                self.callbacks.note(f"copied {count} replicates with the same settings from {place}/")

    def mark_earlier_access(self, plan: Plan, earlier: Sequence[TestAccess]) -> Plan:
        """Make a plan exploratory if the test folder was accessed before this confirmation scored it, and write it."""
        if not earlier or plan.exploratory:
            return plan
        plan = plan.model_copy(update={"exploratory": (as_text(earlier),)})
        write_plan(plan, self.runs_folder.path)
        return plan

    def _run(
        self, folder: StudyFolder, runs: Sequence[Run], what: str, asha: TopUpRungs | None = None
    ) -> dict[int, RunRow]:
        """Train the runs that have not ended and return the rows of all; without `asha` none is pruned."""
        if not runs:
            return {}
        complete_folder(folder, self.prepared, self.machine)
        run_list = RunList(
            folder,
            runs,
            what=what,
            retries=self.settings.resources.retries,
            on_progress=self.callbacks.on_progress,
            asha=asha.should_continue if asha else None,
        )
        need = partial(generator_need, prepared=self.prepared, compute=folder.compute(), cache=self.cache)
        work = TrialLoop(run_list, generator_need=need)
        if not work.is_done:
            if other := other_releases(folder):
                fix = f"install those versions, or move {self.place}/ away to train all runs with the current ones"
                problem = f"the runs of this confirmation are {other}, so their AUROCs are not comparable"
                raise StudyError(Problem(problem, folder.path, fix))
            self.runner.run(work, reuse_processes=True)
        numbers = {run.number for run in runs}
        rows = {number: row for number, row in ended_runs(folder).items() if number in numbers}  # of this list alone
        if failed := [row for row in rows.values() if row.status == "failed"]:
            fix = "run the same command again to retry them; see trials/*/error.txt there"
            raise TrialError(
                Problem(f"{len(failed)} of {len(runs)} {what} failed:{reasons_of(failed)}", folder.path, fix)
            )
        return rows

    def _new_plan(self, count: int) -> Plan:
        notes: list[str] = []
        finished = self._train_trials(self._unfinished(count), first=0)
        if finished:
            furthest = f"the {len(finished)} that got furthest were trained to the end"
            notes.append(f"ASHA pruned all trials with synthetic images; {furthest}")
        finalists = choose_finalists((*self.searched, *finished), count, self.folder.path)
        top_ups = [
            FinishedTrial(name=f"top-up {number}", parameters=parameters)
            for number, parameters in enumerate(self.top_ups(finalists, notes), len(finished))
        ]
        asha = TopUpRungs(self.top_up_folder, self.rungs)
        topped_up = self._train_trials(top_ups, first=len(finished), asha=asha)
        finish = partial(self._train_trials, first=len(finished) + len(topped_up))
        tuned = self.tuned((*self.searched, *topped_up), finish, notes)
        arms = self.arms(finalists, tuned, notes)
        require_controls(finalists, arms, self.folder.path)
        return Plan(notes=tuple(notes), arms=tuple(arms))

    def arms(self, finalists: Sequence[FinishedTrial], tuned: Sequence[Arm], notes: list[str]) -> list[Arm]:
        """Return the finalists with their matched controls, the first one's ratio response, and the tuned controls."""
        if "duplicate" in self.settings.confirm.controls.matched:
            replacing = (one.name for one in finalists if one.parameters.mixing == "replace")
            notes += [f"{name} has mixing: replace, so that duplicate would be the same as none" for name in replacing]
        return [*self._feasible(compared_arms(finalists, self.settings), notes), *tuned]

    def _feasible(self, arms: Sequence[Arm], notes: list[str]) -> list[Arm]:
        """Drop the ratios for which the first finalist's folder of extra images, if it has one, is too small."""
        of_folder = [arm.parameters for arm in arms if arm.role == "ratio" and arm.parameters.folder]
        folder = next((parameters.folder for parameters in of_folder), None)
        if folder is None:
            return list(arms)
        images, _ = store_folder(folder.path, self.prepared, self.settings.data, cache=self.cache)
        infeasible = set()
        for parameters in of_folder:
            try:
                require_enough([image.label for image in images], parameters, self.prepared)
            except DataError as error:
                ratio, why = parameters.synthetic_ratio, error.problems[0].what
                notes.append(f"the ratio response omits r={ratio:g}: the folder has {why}")
                infeasible.add(ratio)
        return [arm for arm in arms if arm.role != "ratio" or arm.parameters.synthetic_ratio not in infeasible]

    def _train_trials(
        self, trials: Sequence[FinishedTrial], *, first: int, asha: TopUpRungs | None = None
    ) -> tuple[FinishedTrial, ...]:
        """Train pruned trials to the end, or top-up trials under ASHA, as runs numbered from `first`."""
        runs = []
        for number, trial in enumerate(trials, first):
            label = f"{trial.name} {trial.parameters.arm}" if asha else finished_label(trial.name)
            experiment = Experiment(settings=self.settings, parameters=trial.parameters)
            runs.append(Run(number=number, label=label, experiment=experiment))
        rows = self._run(self.top_up_folder, runs, "top-up trials" if asha else "pruned trials", asha)
        return tuple(
            FinishedTrial.of_row(trial.name, trial.parameters, rows[number])
            for number, trial in enumerate(trials, first)
        )

    def top_ups(self, finalists: Sequence[FinishedTrial], notes: list[str]) -> list[Parameters]:
        """Draw the settings that the tuned controls' arms lack to have as many sampled trials as a finalist's source."""
        sampled, drawn = [trial.parameters for trial in self.searched], list[Parameters]()
        for control in self.settings.confirm.controls.tuned:
            missing = missing_trials(sampled, finalists, control)
            further = draw_control(self.space, control, missing, sampled)
            has_arm = further or any(belongs_to_control(parameters, control) for parameters in sampled)
            if len(further) < missing and has_arm:
                notes.append(f"the space has only {len(further)} of {missing} further settings of the arm {control}")
            drawn += further
        return drawn

    def tuned(
        self,
        trials: Sequence[FinishedTrial],
        finish: Callable[[Sequence[FinishedTrial]], Sequence[FinishedTrial]],
        notes: list[str],
    ) -> list[Arm]:
        """Choose the tuned controls. If ASHA pruned a whole arm, `finish` first trains its furthest trial to the end."""
        controls = self.settings.confirm.controls.tuned
        unfinished: list[FinishedTrial] = []
        for control in controls:
            for trial in pruned_to_finish(trials, partial(belongs_to_control, control=control), 1):
                notes.append(
                    f"ASHA pruned all trials of the arm {control}; {trial.name} got furthest and was trained to the end"
                )
                unfinished.append(trial)
        trials = (*trials, *finish(unfinished))
        tuned = []
        for control in controls:
            if arm := tuned_control(trials, control):
                tuned.append(arm)
            else:
                had_one = any(belongs_to_control(trial.parameters, control) for trial in trials)
                why = f"all trials of the arm {control} failed" if had_one else f"the space has no {control} arm"
                notes.append(f"{why}, so it has no tuned control")
        return tuned


@dataclass(frozen=True, slots=True)
class TopUp:
    """A top-up trial on ASHA's rungs, which it shares with the trials of the search."""

    number: int


class TopUpRungs:
    """Decide which top-up trials ASHA prunes, on the rungs that the search's trials have already reached.

    `reports.jsonl` records each epoch of a top-up in its order of arrival, before the decision on it. After a restart these
    values are replayed in that order, after those of the search, so a resumed confirmation decides as an uninterrupted one.
    Raises StudyError if the file is damaged.
    """

    def __init__(self, folder: StudyFolder, rungs: Rungs) -> None:
        self._path, self._rungs = folder.path / "reports.jsonl", rungs
        self._reported: set[tuple[int, int]] = set()
        with damage_explained(self._path) as file:
            for row in read_jsonl(file):
                self._replay(int(row["number"]), int(row["epoch"]), float(row["value"]))

    def should_continue(self, number: int, record: EpochRecord) -> bool:
        """Return whether a top-up continues after an epoch; repeated calls return the same answer."""
        value = record.best_val_score
        if (number, record.epoch) not in self._reported:
            append_jsonl(self._path, {"version": 1, "number": number, "epoch": record.epoch, "value": value})
        return self._replay(number, record.epoch, value)

    def _replay(self, number: int, epoch: int, value: float) -> bool:
        self._reported.add((number, epoch))
        return self._rungs.should_continue(TopUp(number), epoch, value)


def adopt_runs(folder: StudyFolder, runs: Sequence[Run], other: StudyFolder) -> int:
    """Copy complete runs, from another folder or this one, for equal runs that were not started here; return how many.

    Equal runs have the same settings and seeds, device and releases of torch: training them again would repeat them.
    """
    if not other.runs_path.exists() or (other.compute(), other.releases()) != (folder.compute(), folder.releases()):
        return 0
    ended = completed_runs(other)
    known = {_identity(other.experiment(number)): number for number in ended}
    adopted = 0
    for run in runs:
        number = known.get(_identity(run.experiment))
        if number is None or folder.trial_path(run.number).exists():
            continue
        with new_folder(folder.trial_path(run.number)) as path:
            # Scores belong to the device that scored them, and W&B's folder has links.
            unwanted = shutil.ignore_patterns("*.npy", CHECKSUMS_FILE, "wandb")
            shutil.copytree(other.trial_path(number), path, dirs_exist_ok=True, ignore=unwanted, copy_function=_copy)
        row = ended[number].model_copy(update={"number": run.number, "label": run.label, "adopted": True})
        append_row(folder.runs_path, row)
        adopted += 1
    return adopted


def _copy(source: str, target: str) -> None:
    with explain_disk_errors(Path(target)):  # here, since `copytree` wraps errors
        shutil.copy2(source, target)


def _identity(experiment: Experiment) -> str:
    return json.dumps(experiment.identity(), sort_keys=True)


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


@contextmanager
def opened(
    study: Path,
    place: str,
    *,
    data: Path | None,
    weights_dir: Path | None,
    cache: Path | None,
    address: str | None,
    callbacks: Callbacks,
) -> Iterator[Training]:
    """Lock a study and read its search, to train replicates in the folder `place`; other arguments as for `confirm`.

    Raises StudyError if there is no study, it is in use, or a file of it is damaged; MachineError if the GPU, disk space or
    the Ray cluster is missing.
    """
    folder = StudyFolder(study.resolve())
    space = folder.space(data=data, weights_dir=weights_dir)
    _check_objective(space.settings, study, callbacks.note)
    cache = (cache or folder.default_cache).resolve()
    require_writable(cache)
    require_writable(folder.path.parent)  # for the test-set access log
    compute = folder.compute()
    allocation = allocation_of(space.settings, has_gpu=compute.device == "cuda")
    if address is None:
        require_device(compute, folder.path)

    @lru_cache
    def machine() -> Mapping[str, Json]:
        where = environment(compute) if address is None else survey(address, space.settings, note=callbacks.note)[1]
        return {**where, "compute": {**asdict(compute)}}

    with locked(folder, "confirmed") as token, in_use(cache):
        journal = Journal(folder.journal_path, space, writable=False)
        yield Training(
            folder=folder,
            place=place,
            space=space,
            prepared=folder.prepared(),
            compute=compute,
            machine=machine,
            cache=cache,
            searched=tuple(FinishedTrial.of_row(f"#{row.number}", row.parameters, row) for row in journal.rows()),
            rungs=rungs_of(space.settings, journal.reports()),
            runner=Runner(
                folder, token=token, allocation=allocation, cache=cache, address=address, callbacks=callbacks
            ),
            callbacks=callbacks,
        )


def _check_objective(settings: Settings, study: Path, note: Callable[[str], None]) -> None:
    """Refuse (StudyError) a search for a generator; note if the search used another score than the one compared."""
    task = task_of(settings)
    if not task.trains_network:
        what = "this study searched for a generator, so it has no mix to compare with controls"
        fix = "copy its generator (`xraytune export`) into a space that searches mixes, and confirm that study"
        raise StudyError(Problem(what, study, fix))
    if settings.metric != task.metric:
        note(f"finalists are chosen by {settings.metric}, the search's objective; arms are compared by {task.metric}")
