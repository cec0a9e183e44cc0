"""The plan of a confirmation: a search's finalists, and the controls that they are compared with.

A tuned control is the best trial of an arm without synthetic images. Such an arm gets top-up trials
until it has as many trials as a finalist's source; ASHA may prune them at the rungs of the search.
If ASHA pruned all trials of an arm, or all trials with synthetic images, the trials that were
trained for the most epochs are trained to the end.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from xraytune.base.errors import DataError, StudyError, counted, join_names
from xraytune.base.files import copy_file
from xraytune.base.seeding import derive_seed
from xraytune.confirm.arms import (
    TOP_UP_FOLDER,
    Arm,
    Plan,
    TestKind,
    compared_arms,
    finished_label,
    write_plan,
)
from xraytune.confirm.record import VERDICT_FILE, Confirmation
from xraytune.confirm.run_list import NO_RUNGS, OpenStudy, train_runs
from xraytune.confirm.sealed import SealedTest
from xraytune.data.prepare import write_prepared
from xraytune.space.encoders import describe_seen
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.settings import Experiment, Parameters, Settings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import random_parameters
from xraytune.study.row import TrialRow, rank
from xraytune.study.test_access import accesses
from xraytune.study.trial import OpenTrial
from xraytune.synth.mix import require_enough
from xraytune.synth.sources.source import StudyImages
from xraytune.synth.sources.which import source_of
from xraytune.trial.soft_labels import donor_start

_MOST_SAMPLES = 5000


def compared_settings(study: OpenStudy, plan: Plan | None, wanted: int | None) -> list[Parameters]:
    """Return the settings of the finalists: of a plan, or of the best trials before there is one.

    `wanted` is the number of finalists that was asked for. Raises StudyError if the plan has
    another number, or if there is no trial with synthetic images.
    """
    if plan is None:
        best = choose_finalists(study.searched, wanted or study.settings.confirm.finalists)
        return [trial.parameters for trial in best]
    if wanted is not None:
        there = len(choose_finalists(study.searched, wanted))
        _require_planned(study, "finalists", len(plan.finalists), there)
    return [finalist.parameters for finalist in plan.finalists]


def count_replicates(study: OpenStudy, plan: Plan | None, wanted: int | None) -> int:
    """Return the number of replicates: as wanted, as planned, or as the space says.

    Raises StudyError if a plan has more, or if more would change who is scored.
    """
    if plan is None:
        return wanted or study.settings.confirm.replicates
    replicates = wanted or plan.replicates
    added = replicates - plan.replicates
    if added < 0:
        _require_planned(study, "replicates", plan.replicates, replicates)
    if added > 0 and plan.test == "unused":
        folder = study.runs_folder.path
        patients = study.prepared.train_patient_count
        what = (
            f"{counted(added, 'further draw')} of {patients} patients would need "
            f"{added * patients} more patients: all that the search left unused are drawn or "
            "scored, and the scored ones must stay the same"
        )
        fix = f"move {folder.name}/ away to start over with more replicates"
        if plan.order:
            fix += "; its verdict is exploratory, since the test images were scored"
        raise StudyError(what, folder, fix)
    return replicates


def _require_planned(study: OpenStudy, name: str, planned: int, wanted: int) -> None:
    """Refuse (StudyError) an option that an existing plan contradicts."""
    if wanted != planned:
        folder = study.runs_folder.path
        what = f"this confirmation has {planned} {name}, and {wanted} were asked for"
        fix = f"omit --{name}, or move {folder.name}/ away to start over"
        raise StudyError(what, folder, fix)


def make_plan(study: OpenStudy, finalists: int, *, replicates: int, sealed: SealedTest) -> Plan:
    """Return and write a new plan with at most `finalists` finalists.

    The trials that the plan needs and the search lacks are trained first.

    Raises StudyError if there is no trial with synthetic images, or a finalist has no control;
    TrialError if runs failed.
    """
    notes = [*sealed.notes]
    trials = _train_missing(study, finalists, notes)
    best = choose_finalists(trials, finalists)
    tuned = _tuned_controls(study.settings, trials, notes)
    arms = arms_of(study.settings, study.prepared.outputs, best, tuned, sealed.kind, notes)
    trained_on = _trained_on(study, sealed, range(replicates))
    possible = [possible_arm(arm, trained_on, notes) for arm in arms]
    plan = Plan(
        test=sealed.kind,
        replicates=replicates,
        notes=tuple(notes),
        exploratory=earlier_access(study.folder.path, sealed),
        sites=sealed.prepared.left_out_sites,
        arms=tuple(arm for arm in possible if arm),
    )
    alone = [finalist.trial for finalist in plan.finalists if not plan.controls(finalist)]
    if alone:
        what = f"there is no control to compare {join_names(alone)} with, neither matched nor tuned"
        fix = "start a search with `none` in confirm.controls.matched"
        raise StudyError(what, study.folder.path, fix)
    write_plan(plan, study.runs_folder.path)
    return plan


def _train_missing(study: OpenStudy, finalists: int, notes: list[str]) -> list[TrialRow]:
    """Train the top-up trials, and pruned trials that a plan needs; return all trials."""
    top_ups = _sample_top_ups(study, choose_finalists(study.searched, finalists), notes)
    trials = [*study.searched, *_train(study, top_ups, is_top_up=True)]

    furthest: dict[str, Parameters] = {}
    candidates = {"with synthetic images": choose_finalists(trials, finalists)}
    for control in study.settings.confirm.controls.tuned:
        candidates[f"of the arm {control}"] = _best_of_arm(trials, control)
    for which, best in candidates.items():
        pruned = {trial.label: trial.parameters for trial in best if trial.status == "pruned"}
        if pruned:
            names = join_names([*pruned])
            notes.append(f"ASHA pruned all trials {which}; confirm trained {names} to the end")
            furthest |= pruned
    return [*trials, *_train(study, furthest, first=len(top_ups))]


def _tuned_controls(
    settings: Settings, trials: Sequence[TrialRow], notes: list[str]
) -> list[TrialRow]:
    """Return the best trial of each tuned control's arm; a note says why there is none."""
    tuned: list[TrialRow] = []
    for control in settings.confirm.controls.tuned:
        best = _best_of_arm(trials, control)
        tuned += best
        if not best:
            why = f"the space has no {control} arm"
            if any(belongs_to_control(trial.parameters, control) for trial in trials):
                why = f"all trials of the arm {control} failed"
            notes.append(f"{why}, so it has no tuned control")
    return tuned


def arms_of(
    settings: Settings,
    outputs: tuple[str, ...],
    finalists: Sequence[TrialRow],
    tuned: Sequence[TrialRow],
    test: TestKind,
    notes: list[str],
) -> list[Arm]:
    """Return the arms of a plan.

    They are the finalists with their matched controls, the tuned controls, and the controls of
    finalists whose extra images come from elsewhere. `outputs` are the classes or findings. If a
    donor's classifier cannot be a control, the reason is added to `notes`.
    """
    arms = compared_arms(finalists, settings, test)
    for trial in tuned:
        parameters = trial.parameters
        name = f"tuned {parameters.arm} {trial.label}"
        if parameters.rivals:
            name += f" ({', '.join(parameters.rivals)})"
        arms.append(Arm(name=name, role="tuned", parameters=parameters, trial=trial.label))
    for arm in [*arms]:
        if arm.role == "finalist":
            arms += donor_controls(settings, outputs, arm, notes)
    return arms


def extend_plan(
    study: OpenStudy, plan: Plan, sealed: SealedTest, replicates: int, before: Confirmation | None
) -> Plan:
    """Return and write a plan with more replicates; the runs of the first ones stay as they are.

    `before` is the verdict so far, of which a copy is kept. Raises DataError if a folder of extra
    images is too small for the training set of a new replicate.
    """
    folder = study.runs_folder.path
    trained_on = _trained_on(study, sealed, range(plan.replicates, replicates))
    for arm in plan.arms:
        require_images(arm, trained_on)
    if before:
        copy_file(folder / VERDICT_FILE, folder / f"verdict-{before.replicates}-replicates.json")
    extended = plan.with_replicates(replicates, before.verdict if before else "not recorded")
    write_prepared(study.prepared, folder / "split.json")  # the draws that the plan has, and more
    write_plan(extended, folder)
    return extended


def earlier_access(study: Path, sealed: SealedTest, before: str = "") -> tuple[str, ...]:
    """Return why a verdict on these images is exploratory; empty if they were never accessed.

    `before` is as for `accesses`.
    """
    earlier = accesses(study, sealed.contents, before=before)
    if not earlier:
        return ()
    times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
    commands = [f"`{row['command']}` of study {row['study']}" for row in earlier]
    by = " and ".join(dict.fromkeys(commands))
    return (f"test images had been accessed {times} before, by {by}",)


def why_exploratory(plan: Plan, *data_sets: str | None) -> tuple[str, ...]:
    """Return why the verdict is exploratory, for instance if an encoder has seen a data set."""
    networks = [(arm.parameters.backbone, arm.parameters.weights) for arm in plan.arms]
    seen: list[str] = []
    for data_set in dict.fromkeys(data_sets):
        seen += describe_seen(networks, data_set)
    return (*plan.why_exploratory, *seen)


def choose_finalists(trials: Iterable[TrialRow], count: int) -> list[TrialRow]:
    """Return the `best_trials` with synthetic images; raise StudyError if there are none."""
    synthetic = [trial for trial in trials if trial.parameters.has_synthetic_images]
    best = best_trials(synthetic)
    if not best:
        what = "no trial with synthetic images is complete, so there is no finalist to confirm"
        fix = "continue the search (--set budget.trials=N), or add source: gan to the space"
        raise StudyError(what, fix=fix)
    return best[:count]


def best_trials(trials: Sequence[TrialRow]) -> list[TrialRow]:
    """Return the complete trials with different settings, best on val-B first.

    Of trials with equal scores, the simplest comes first. If no trial is complete, the pruned
    trials are returned, ordered by the number of trained epochs and then by the score on val-A.
    """
    pruned = [trial for trial in trials if trial.status == "pruned"]
    pruned.sort(key=lambda trial: (-trial.epochs, -(trial.value or 0)))
    different: dict[Parameters, TrialRow] = {}
    for trial in rank(trials) or pruned:
        different.setdefault(trial.parameters, trial)
    return [*different.values()]


def _best_of_arm(trials: Iterable[TrialRow], control: str) -> list[TrialRow]:
    """Return the best trial of a tuned control's arm, if there is one."""
    of_arm = [trial for trial in trials if belongs_to_control(trial.parameters, control)]
    return best_trials(of_arm)[:1]


def belongs_to_control(parameters: Parameters, control: str) -> bool:
    """Return whether settings belong to the arm of a tuned control.

    The tuned controls are `real_only`, `augmented` and `duplicate`, which may be augmented.
    """
    if control == "duplicate":
        return parameters.source == "duplicate"
    return parameters.source == "none" and bool(parameters.rivals) == (control == "augmented")


def _sample_top_ups(
    study: OpenStudy, finalists: Sequence[TrialRow], notes: list[str]
) -> dict[str, Parameters]:
    """Sample settings until each tuned control's arm has as many trials as a finalist's source.

    All trials of the search count: complete, pruned and failed. `gan` and `augmented+gan` are one
    source. If the finalists have several sources, the source with the most trials counts.
    """
    sampled = [trial.parameters for trial in study.searched]
    best = [finalist.parameters for finalist in finalists]
    top_ups: list[Parameters] = []
    for control, (there, missing) in count_trials(study.settings, best, sampled).items():
        further = sample_control(study.space, control, missing, sampled)
        if len(further) < missing and (further or there):
            there_are = f"only {len(further)}" if further else "none"
            notes.append(f"the space has {there_are} of {missing} further settings of {control}")
        top_ups += further
    return {f"top-up {number}": parameters for number, parameters in enumerate(top_ups)}


def count_trials(
    settings: Settings, finalists: Iterable[Parameters], trials: Sequence[Parameters]
) -> dict[str, tuple[int, int]]:
    """Return the number of trials of each tuned control, and how many top-ups it needs.

    With the top-ups, a control has as many trials as a finalist's source.
    """
    trials_of = Counter(trial.source for trial in trials)
    wanted = max((trials_of[finalist.source] for finalist in finalists), default=0)
    counts: dict[str, tuple[int, int]] = {}
    for control in settings.confirm.controls.tuned:
        there = sum(belongs_to_control(trial, control) for trial in trials)
        counts[control] = (there, max(0, wanted - there))
    return counts


def sample_control(
    space: Space, control: str, count: int, known: Iterable[Parameters]
) -> list[Parameters]:
    """Sample `count` new, different settings of a control's arm, or fewer if there are no more.

    A random sampler suggests from the whole space, and only settings of the arm are kept, so that
    every condition of the space holds. The sampler's seed is derived from the seed of the space, so
    the same study always gets the same top-ups.
    """
    seed = derive_seed(space.settings.seed, "confirm", "top up", control) % 2**32
    taken = {*known}
    sampled: list[Parameters] = []
    for parameters in islice(random_parameters(space, seed), _MOST_SAMPLES):
        if len(sampled) == count:
            break
        if belongs_to_control(parameters, control) and parameters not in taken:
            taken.add(parameters)
            sampled.append(parameters)
    return sampled


def _train(
    study: OpenStudy, trials: Mapping[str, Parameters], *, first: int = 0, is_top_up: bool = False
) -> list[TrialRow]:
    """Train trials as runs numbered from `first`: ASHA may prune top-ups, others run to the end."""
    runs = [
        OpenTrial(
            number=number,
            label=f"{trial} {parameters.arm}" if is_top_up else finished_label(trial),
            experiment=Experiment(settings=study.settings, parameters=parameters),
        )
        for number, (trial, parameters) in enumerate(trials.items(), first)
    ]
    study_folder = StudyFolder(study.runs_folder.path / TOP_UP_FOLDER)
    rungs = study.rungs if is_top_up else NO_RUNGS
    rows = train_runs(study, study_folder, runs, "further trials", rungs)
    return [
        TrialRow(**{**row.model_dump(), "label": trial, "parameters": parameters})
        for (trial, parameters), row in zip(trials.items(), rows.values(), strict=True)
    ]


def possible_arm(arm: Arm, trained_on: Iterable[StudyImages], notes: list[str]) -> Arm | None:
    """Return an arm, or None with a note if there are too few extra images for it.

    The extra images are from a folder, or real images of other patients. If there are fewer images
    than `pool_size`, but enough for the arm's ratio, the arm is returned without `pool_size`.

    Raises DataError if a finalist has too few extra images.
    """
    try:
        require_images(arm, trained_on)
    except DataError as error:
        if arm.role == "finalist":
            raise
        if arm.parameters.pool_size:
            arm = arm.with_values({"parameters.pool_size": None})
            return possible_arm(arm, trained_on, notes)
        notes.append(f"the arm {arm.name} is left out: there are {error.problems[0].what}")
        return None
    return arm


def require_images(arm: Arm, trained_on: Iterable[StudyImages]) -> None:
    """Refuse (DataError) an arm without enough extra images for these training sets."""
    source = source_of(arm.parameters, has_real_extra=arm.role == "perfect")
    for images in trained_on:
        require_enough(source.count_available(images), arm.parameters, images.prepared)


def _trained_on(
    study: OpenStudy, sealed: SealedTest, replicates: Iterable[int]
) -> list[StudyImages]:
    """Return the images that these replicates train on."""
    images = StudyImages(study.settings.data, study.prepared, study.cache)
    if sealed.kind == "folder":
        return [images]
    return [replace(images, prepared=study.prepared.of_draw(number)) for number in replicates]


def donor_controls(
    settings: Settings, outputs: tuple[str, ...], finalist: Arm, notes: list[str]
) -> list[Arm]:
    """Return the controls of a finalist whose extra images come from elsewhere.

    The controls are the classifier that the other hospital sent, and a training that starts from
    this classifier. If there is no classifier for the study's images, training on the finalist's
    extra images alone is the only control; if one was sent but does not fit, a note says why.
    """
    folder = finalist.parameters.donor
    if folder is None and finalist.parameters.folder is None:
        return []
    values = flat_values(finalist.parameters)
    controls = {"synthetic_only": f"images of {finalist.trial} alone"}
    parameters = parameters_from(values | {"synthetic_weight": 1.0, "mixing": "additive"})
    if folder:
        try:
            own = donor_start(finalist.parameters, settings, outputs)
        except DataError as error:
            (problem,) = error.problems
            notes.append(f"no classifier of the donor as a control: {problem.what}; {problem.fix}")
            folder = None
        else:
            parameters = own
            controls = {
                "donor": f"classifier of {folder.name}",
                "donor_start": f"{finalist.trial} without extra images, started at it",
            }
    shared = {"role": "donor", "parameters": parameters, "donor": folder}
    return [
        finalist.with_values({**shared, "name": name, "control": control})
        for control, name in controls.items()
    ]
