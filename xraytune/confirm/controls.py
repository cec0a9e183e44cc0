"""Tuned controls: an arm without synthetic images gets as many trials as a finalist's source; its best is the control.

Top-up trials go through the ASHA of the search. If ASHA pruned a whole arm, its furthest trial is
trained to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache, partial
from itertools import islice

from xraytune.base.errors import DataError
from xraytune.base.files import append_jsonl, read_jsonl
from xraytune.base.records import EpochRecord
from xraytune.base.seeding import derive_seed
from xraytune.confirm.arms import Arm, finished_label
from xraytune.confirm.run_list import Run, train_runs
from xraytune.confirm.study import OpenStudy
from xraytune.search.asha import Rungs
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.settings import Experiment, Parameters
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder, damage_explained
from xraytune.study.journal import random_parameters
from xraytune.study.row import TrialRow, ranked_on_val_b
from xraytune.synth.donor import donor_tensors

_DRAWS = 5000


def belongs_to_control(parameters: Parameters, control: str) -> bool:
    """Return whether settings belong to a tuned control's arm: `real_only`, `classical` or (classical) `duplicate`."""
    if control == "duplicate":
        return parameters.source == "duplicate"
    return parameters.source == "none" and (parameters.classical > 0) == (control == "classical")


def draw_control(
    space: Space, control: str, count: int, known: Iterable[Parameters]
) -> tuple[Parameters, ...]:
    """Sample up to `count` new, different settings of a control's arm; fewer if the space has no more.

    A random sampler draws from the whole space and the arm's settings are kept, so that every
    condition of the space holds. The seed is derived from the space's: the same study always gets
    the same top-ups.
    """
    seen, sampled = set(known), list[Parameters]()
    seed = derive_seed(space.settings.seed, "confirm", "top up", control) % 2**32
    for parameters in islice(random_parameters(space, seed), _DRAWS if count else 0):
        if belongs_to_control(parameters, control) and parameters not in seen:
            seen.add(parameters)
            sampled.append(parameters)
            if len(sampled) == count:
                break
    return tuple(sampled)


def pruned_to_finish(
    trials: Iterable[TrialRow], is_wanted: Callable[[Parameters], bool], count: int
) -> tuple[TrialRow, ...]:
    """Choose pruned trials to train to the end, if no trial with wanted settings is complete.

    The first `count` different ones in the order of epochs trained, then AUROC on val-A.
    """
    wanted = [trial for trial in trials if is_wanted(trial.parameters)]
    if any(trial.status == "complete" for trial in wanted):
        return ()
    pruned = [trial for trial in wanted if trial.status == "pruned"]
    return different_trials(sorted(pruned, key=lambda trial: (-trial.epochs, -(trial.value or 0))))[
        :count
    ]


def different_trials(trials: Iterable[TrialRow]) -> tuple[TrialRow, ...]:
    """Drop trials with the settings of an earlier one."""
    first: dict[Parameters, TrialRow] = {}
    for trial in trials:
        first.setdefault(trial.parameters, trial)
    return tuple(first.values())


def train_trials(
    study: OpenStudy, trials: Sequence[TrialRow], *, first: int = 0
) -> tuple[TrialRow, ...]:
    """Train pruned trials to the end, and top-up trials under ASHA, as runs numbered from `first`."""
    runs = []
    pruned = {number for number, trial in enumerate(trials, first) if trial.status == "pruned"}
    for number, trial in enumerate(trials, first):
        label = (
            finished_label(trial.label)
            if number in pruned
            else f"{trial.label} {trial.parameters.arm}"
        )
        experiment = Experiment(settings=study.settings, parameters=trial.parameters)
        runs.append(Run(number=number, label=label, experiment=experiment))

    make_asha = partial(TopUpRungs, study.top_up_folder, study.rungs, to_the_end=pruned)
    rows = train_runs(study, study.top_up_folder, runs, "further trials", make_asha)
    return tuple(
        TrialRow(
            **{**rows[number].model_dump(), "label": trial.label, "parameters": trial.parameters}
        )
        for number, trial in enumerate(trials, first)
    )


def draw_top_ups(
    study: OpenStudy, finalists: Sequence[TrialRow], notes: list[str]
) -> list[Parameters]:
    """Sample settings until each tuned control's arm has as many trials as a finalist's source.

    All trials of the search count: complete, pruned and failed. `gan` and `classical+gan` are one
    source; with several sources, the one with the most trials counts.
    """
    sampled = [trial.parameters for trial in study.searched]
    sources = {finalist.parameters.source for finalist in finalists}
    wanted = max(sum(parameters.source == source for parameters in sampled) for source in sources)
    top_ups: list[Parameters] = []
    for control in study.settings.confirm.controls.tuned:
        there = sum(belongs_to_control(parameters, control) for parameters in sampled)
        missing = max(0, wanted - there)
        further = draw_control(study.space, control, missing, sampled)
        if len(further) < missing and (further or there):
            notes.append(
                f"the space has only {len(further)} of {missing} further settings of the arm {control}"
            )
        top_ups += further
    return top_ups


def choose_tuned(
    controls: Sequence[str],
    trials: Sequence[TrialRow],
    finish: Callable[[Sequence[TrialRow]], Sequence[TrialRow]],
    notes: list[str],
) -> list[Arm]:
    """Choose the tuned controls: the best complete trial of each arm by val-B, if there is one; of equals the simpler one.

    If ASHA pruned a whole arm, `finish` first trains its furthest trial to the end.
    """
    unfinished: list[TrialRow] = []
    for control in controls:
        for trial in pruned_to_finish(trials, partial(belongs_to_control, control=control), 1):
            notes.append(
                f"ASHA pruned all trials of the arm {control}; {trial.label} got furthest and was trained to the end"
            )
            unfinished.append(trial)
    trials = (*trials, *finish(unfinished))
    tuned = []
    for control in controls:
        of_arm = [trial for trial in trials if belongs_to_control(trial.parameters, control)]
        if ranked := ranked_on_val_b(of_arm):
            best = ranked[0]
            name = f"tuned {best.parameters.arm} {best.label}"
            tuned.append(Arm(name=name, role="tuned", parameters=best.parameters, trial=best.label))
        else:
            why = (
                f"all trials of the arm {control} failed"
                if of_arm
                else f"the space has no {control} arm"
            )
            notes.append(f"{why}, so it has no tuned control")
    return tuned


def donor_controls(study: OpenStudy, finalists: Sequence[Arm], notes: list[str]) -> list[Arm]:
    """Return the controls of finalists whose extra images come from elsewhere.

    They are the head that the other hospital sent, and a training that starts at it. Where there is
    no such head for the study's network, a note says why, and a training on the finalist's extra
    images alone takes their place.
    """
    arms: list[Arm] = []
    for finalist in finalists:
        parameters = finalist.parameters
        folder = parameters.donor
        if folder is None and parameters.folder is None:
            continue
        values = flat_values(parameters)
        own = values | {"source": "none", "head": "linear", "loss": "cross_entropy"}
        controls = {"synthetic_only": f"images of {finalist.trial} alone"}
        changes = values | {"synthetic_weight": 1.0, "mixing": "additive"}
        try:
            if folder:
                names = study.prepared.class_names
                donor_tensors(folder, names, parameters_from(own), study.settings)
                controls = {
                    "donor": f"classifier of {folder.name}",
                    "donor_start": f"{finalist.trial} without extra images, started at it",
                }
                changes = own
        except DataError as error:
            (problem,) = error.problems
            notes.append(f"no classifier of the donor as a control: {problem.what}; {problem.fix}")
            folder = None
        arms += [
            finalist.model_copy(
                update={
                    "name": name,
                    "role": "donor",
                    "control": control,
                    "parameters": parameters_from(changes),
                    "donor": folder,
                }
            )
            for control, name in controls.items()
        ]
    return arms


class TopUpRungs:
    """Decide which top-up trials ASHA prunes, on the rungs that the search's trials have already reached.

    `reports.jsonl` records each epoch of a top-up in its order of arrival, before the decision on
    it. After a restart these values are replayed in that order, after those of the search, so a
    resumed confirmation decides as an uninterrupted one. Raises StudyError if the file is damaged.
    """

    def __init__(
        self, folder: StudyFolder, rungs: Rungs, *, to_the_end: Collection[int] = ()
    ) -> None:
        self._to_the_end = to_the_end
        self._path, self._rungs = folder.path / "reports.jsonl", rungs
        self._arm_of = cache(lambda number: folder.experiment(number).parameters.arm)
        self._reported: set[tuple[int, int]] = set()
        with damage_explained(self._path) as file:
            for row in read_jsonl(file):
                self._replay(int(row["number"]), int(row["epoch"]), float(row["value"]))

    def __call__(self, number: int, record: EpochRecord) -> bool:
        """Return whether a top-up continues after an epoch; repeated calls return the same answer."""
        if number in self._to_the_end:
            return True
        value = record.best_val_score
        if (number, record.epoch) not in self._reported:
            append_jsonl(
                self._path, {"version": 1, "number": number, "epoch": record.epoch, "value": value}
            )
        return self._replay(number, record.epoch, value)

    def _replay(self, number: int, epoch: int, value: float) -> bool:
        self._reported.add((number, epoch))
        return self._rungs.should_continue(
            f"top-up {number}", epoch, value, arm=self._arm_of(number)
        )
