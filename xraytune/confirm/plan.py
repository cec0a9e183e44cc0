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
from xraytune.confirm.record import VERDICT_FILE
from xraytune.confirm.run_list import NO_RUNGS, OpenStudy, train_runs
from xraytune.confirm.sealed import SealedTest
from xraytune.data.prepare import write_prepared
from xraytune.space.encoders import DataSet, describe_seen
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment, Settings
from xraytune.space.space import Space
from xraytune.study.access_log import accesses
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import random_parameters
from xraytune.study.row import TrialRow, rank
from xraytune.study.trial import OpenTrial
from xraytune.synth.donor import donor_records_sha256
from xraytune.synth.mix import require_enough
from xraytune.synth.sources.registry import source_of
from xraytune.synth.sources.source import StudyImages
from xraytune.trial.soft_labels import donor_start

_MOST_SAMPLES = 5000


def compared_settings(study: OpenStudy, request: int | None) -> list[Parameters]:
    """Return the settings of the finalists: of a plan, or of the best trials before there is one.

    Raises StudyError if the plan has another number than `request`, or if there is no trial
    with synthetic images.
    """
    plan = study.earlier_plan
    if plan is None:
        finalists = choose_finalists(study.searched, request or study.settings.confirm.finalists)
        return [trial.parameters for trial in finalists]
    if request is not None:
        finalist_count = len(choose_finalists(study.searched, request))
        _require_planned(study, "finalists", len(plan.finalists), finalist_count)
    return [finalist.parameters for finalist in plan.finalists]


def count_replicates(study: OpenStudy, request: int | None) -> int:
    """Return the number of replicates: as requested, as planned, or as the space says.

    Raises StudyError if a plan has more, or if more would change who is scored.
    """
    plan = study.earlier_plan
    if plan is None:
        return request or study.settings.confirm.replicates
    replicates = request or plan.replicates
    added_count = replicates - plan.replicates
    if added_count < 0:
        _require_planned(study, "replicates", plan.replicates, replicates)
    if added_count > 0 and plan.test == "unused":
        folder = study.runs_folder.path
        patients = study.prepared.train_patient_count
        what = (
            f"{counted(added_count, 'further draw')} of {patients} patients would need "
            f"{added_count * patients} more patients: all that the search left unused are drawn or "
            "scored, and the scored ones must stay the same"
        )
        fix = f"move {folder.name}/ away to start over with more replicates"
        if plan.ordered_fingerprint:
            fix += "; its verdict is exploratory, since the test images were scored"
        raise StudyError(what, folder, fix)
    return replicates


def _require_planned(study: OpenStudy, name: str, planned_count: int, requested_count: int) -> None:
    """Refuse (StudyError) an option that an existing plan contradicts."""
    if requested_count != planned_count:
        folder = study.runs_folder.path
        raise StudyError(
            f"this confirmation has {planned_count} {name}, and {requested_count} were asked for",
            folder,
            f"omit --{name}, or move {folder.name}/ away to start over",
        )


def make_plan(study: OpenStudy, finalists: int, *, replicates: int, sealed: SealedTest) -> Plan:
    """Return and write a new plan with at most `finalists` finalists.

    The trials that the plan needs and the search lacks are trained first.

    Raises StudyError if there is no trial with synthetic images, or a finalist has no control;
    TrialError if runs failed.
    """
    notes = [*sealed.notes]
    trials = _train_missing(study, finalists, notes)
    best_finalists = choose_finalists(trials, finalists)
    control_trials = _tuned_controls(study.settings, trials, notes)
    arms = arms_of(
        study.settings, study.prepared.outputs, best_finalists, control_trials, sealed.kind, notes
    )
    training_sets = _training_sets(study, sealed, range(replicates))
    trainable_arms = [trainable_arm(arm, training_sets, notes) for arm in arms]
    plan = Plan(
        test=sealed.kind,
        replicates=replicates,
        notes=tuple(notes),
        exploratory=earlier_access(study.study_folder.path, sealed),
        sites=sealed.prepared.left_out_sites,
        arms=tuple(arm for arm in trainable_arms if arm),
    )
    names = [arm.trial_label for arm in plan.finalists if not plan.deciding_controls(arm)]
    if names:
        raise StudyError(
            f"there is no control to compare {join_names(names)} with, neither matched nor tuned",
            study.study_folder.path,
            "start a search with `none` in confirm.controls.matched",
        )
    write_plan(plan, study.runs_folder.path)
    return plan


def _train_missing(study: OpenStudy, finalists: int, notes: list[str]) -> list[TrialRow]:
    """Train the top-up trials, and pruned trials that a plan needs; return all trials."""
    top_ups = _sample_top_ups(study, choose_finalists(study.searched, finalists), notes)
    trials = [*study.searched, *_train(study, top_ups, is_top_up=True)]

    pruned_settings: dict[str, Parameters] = {}
    candidates = {"with synthetic images": choose_finalists(trials, finalists)}
    for control in study.settings.confirm.controls.tuned:
        candidates[f"of the arm {control}"] = _best_of_arm(trials, control)
    for group, group_trials in candidates.items():
        group_settings = {
            trial.label: trial.parameters for trial in group_trials if trial.status == "pruned"
        }
        if group_settings:
            names = join_names([*group_settings])
            notes.append(f"ASHA pruned all trials {group}; confirm trained {names} to the end")
            pruned_settings |= group_settings
    return [*trials, *_train(study, pruned_settings, first=len(top_ups))]


def _tuned_controls(
    settings: Settings, trials: Sequence[TrialRow], notes: list[str]
) -> list[TrialRow]:
    """Return the best trial of each tuned control's arm; a note says why there is none."""
    controls: list[TrialRow] = []
    for control in settings.confirm.controls.tuned:
        arm_trials = _best_of_arm(trials, control)
        controls += arm_trials
        if not arm_trials:
            reason = f"the space has no {control} arm"
            if any(belongs_to_control(trial.parameters, control) for trial in trials):
                reason = f"all trials of the arm {control} failed"
            notes.append(f"{reason}, so it has no tuned control")
    return controls


def arms_of(
    settings: Settings,
    outputs: tuple[str, ...],
    finalists: Sequence[TrialRow],
    control_trials: Sequence[TrialRow],
    test: TestKind,
    notes: list[str],
) -> list[Arm]:
    """Return the arms of a plan.

    They are the finalists with their matched controls, the tuned controls, and the controls of
    finalists whose extra images come from elsewhere. `outputs` are the classes or findings. If a
    donor's classifier cannot be a control, the reason is added to `notes`.
    """
    arms = compared_arms(finalists, settings, test)
    for trial in control_trials:
        parameters = trial.parameters
        name = f"tuned {parameters.arm} {trial.label}"
        if parameters.classical_methods:
            name += f" ({', '.join(parameters.classical_methods)})"
        arms.append(Arm(name=name, role="tuned", parameters=parameters, trial_label=trial.label))
    for arm in [*arms]:
        if arm.role == "finalist":
            arms += donor_controls(settings, outputs, arm, notes)
    return arms


def extend_plan(study: OpenStudy, plan: Plan, sealed: SealedTest, replicates: int) -> Plan:
    """Return and write a plan with more replicates; the runs of the first ones stay as they are.

    A copy of the earlier verdict is kept. Raises DataError if a folder of extra images is too small
    for the training set of a new replicate.
    """
    folder = study.runs_folder.path
    verdict = study.earlier_verdict
    training_sets = _training_sets(study, sealed, range(plan.replicates, replicates))
    for arm in plan.arms:
        require_images(arm, training_sets)
    if verdict:
        copy_file(folder / VERDICT_FILE, folder / f"verdict-{verdict.replicates}-replicates.json")
    extended = plan.with_replicates(replicates, verdict.verdict if verdict else "not recorded")
    write_prepared(study.prepared, folder / "split.json")  # the draws that the plan has, and more
    write_plan(extended, folder)
    return extended


def earlier_access(study: Path, sealed: SealedTest, before: str = "") -> tuple[str, ...]:
    """Return why a verdict on these images is exploratory; empty if they were never accessed.

    `before` is as for `accesses`.
    """
    earlier_accesses = accesses(study, sealed.contents, before=before)
    if not earlier_accesses:
        return ()
    times = "once" if len(earlier_accesses) == 1 else f"{len(earlier_accesses)} times"
    commands = [f"`{row['command']}` of study {row['study']}" for row in earlier_accesses]
    names = " and ".join(dict.fromkeys(commands))
    return (f"test images had been accessed {times} before, by {names}",)


def why_exploratory(plan: Plan, *data_sets: DataSet | None) -> tuple[str, ...]:
    """Return why the verdict is exploratory, for instance if an encoder has seen a data set."""
    networks = [(arm.parameters.backbone, arm.parameters.weights) for arm in plan.arms]
    encoder_reasons: list[str] = []
    for data_set in dict.fromkeys(data_sets):
        encoder_reasons += describe_seen(networks, data_set)
    return (*plan.why_exploratory, *encoder_reasons)


def choose_finalists(trials: Iterable[TrialRow], count: int) -> list[TrialRow]:
    """Return the `best_trials` with synthetic images; raise StudyError if there are none."""
    synthetic_trials = [trial for trial in trials if trial.parameters.has_synthetic_images]
    finalists = best_trials(synthetic_trials)
    if not finalists:
        raise StudyError(
            "no trial with synthetic images is complete, so there is no finalist to confirm",
            fix="continue the search (--set budget.trials=N), or add source: gan to the space",
        )
    return finalists[:count]


def best_trials(trials: Sequence[TrialRow]) -> list[TrialRow]:
    """Return the complete trials with different settings, best on val-B first.

    Of trials with equal scores, the simplest comes first. If no trial is complete, the pruned
    trials are returned, ordered by the number of trained epochs and then by the score on val-A.
    """
    pruned_trials = [trial for trial in trials if trial.status == "pruned"]
    pruned_trials.sort(key=lambda trial: (-trial.epochs, -(trial.value or 0)))
    trial_of_settings: dict[Parameters, TrialRow] = {}
    for trial in rank(trials) or pruned_trials:
        trial_of_settings.setdefault(trial.parameters, trial)
    return [*trial_of_settings.values()]


def _best_of_arm(trials: Iterable[TrialRow], control: str) -> list[TrialRow]:
    """Return the best trial of a tuned control's arm, if there is one."""
    arm_trials = [trial for trial in trials if belongs_to_control(trial.parameters, control)]
    return best_trials(arm_trials)[:1]


def belongs_to_control(parameters: Parameters, control: str) -> bool:
    """Return whether settings belong to the arm of a tuned control.

    The tuned controls are `real_only`, `augmented` and `duplicate`, which may be augmented.
    """
    if control == "duplicate":
        return parameters.source == "duplicate"
    return parameters.source == "none" and bool(parameters.classical_methods) == (
        control == "augmented"
    )


def _sample_top_ups(
    study: OpenStudy, finalists: Sequence[TrialRow], notes: list[str]
) -> dict[str, Parameters]:
    """Sample settings until each tuned control's arm has as many trials as a finalist's source.

    All trials of the search count: complete, pruned and failed. `gan` and `augmented+gan` are one
    source. If the finalists have several sources, the source with the most trials counts.
    """
    searched_settings = [trial.parameters for trial in study.searched]
    finalist_settings = [finalist.parameters for finalist in finalists]
    top_ups: list[Parameters] = []
    counts = count_trials(study.settings, finalist_settings, searched_settings)
    for control, (trial_count, missing_count) in counts.items():
        samples = sample_control(study.space, control, missing_count, searched_settings)
        if len(samples) < missing_count and (samples or trial_count):
            there_are = f"only {len(samples)}" if samples else "none"
            notes.append(
                f"the space has {there_are} of {missing_count} further settings of {control}"
            )
        top_ups += samples
    return {f"top-up {number}": parameters for number, parameters in enumerate(top_ups)}


def count_trials(
    settings: Settings, finalists: Iterable[Parameters], trials: Sequence[Parameters]
) -> dict[str, tuple[int, int]]:
    """Return the number of trials of each tuned control, and how many top-ups it needs.

    With the top-ups, a control has as many trials as a finalist's source. Settings that were drawn
    again were not trained again, and count once.
    """
    trials = [*dict.fromkeys(trials)]
    source_counts = Counter(trial.source for trial in trials)
    target = max((source_counts[finalist.source] for finalist in finalists), default=0)
    counts: dict[str, tuple[int, int]] = {}
    for control in settings.confirm.controls.tuned:
        trial_count = sum(belongs_to_control(trial, control) for trial in trials)
        counts[control] = (trial_count, max(0, target - trial_count))
    return counts


def sample_control(
    space: Space, control: str, count: int, known_settings: Iterable[Parameters]
) -> list[Parameters]:
    """Sample `count` new, different settings of a control's arm, or fewer if there are no more.

    A random sampler suggests from the whole space, and only settings of the arm are kept, so that
    every condition of the space holds. The sampler's seed is derived from the seed of the space, so
    the same study always gets the same top-ups.
    """
    seed = derive_seed(space.settings.seed, "confirm", "top up", control) % 2**32
    excluded_settings = {*known_settings}
    new_settings: list[Parameters] = []
    for parameters in islice(random_parameters(space, seed), _MOST_SAMPLES):
        if len(new_settings) == count:
            break
        if belongs_to_control(parameters, control) and parameters not in excluded_settings:
            excluded_settings.add(parameters)
            new_settings.append(parameters)
    return new_settings


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


def trainable_arm(arm: Arm, training_sets: Iterable[StudyImages], notes: list[str]) -> Arm | None:
    """Return an arm, or None with a note if there are too few extra images for it.

    The extra images are from a folder, or real images of other patients. If there are fewer images
    than `real_pool_size`, but enough for the arm's ratio, the arm is returned without it.

    Raises DataError if a finalist has too few extra images.
    """
    try:
        require_images(arm, training_sets)
    except DataError as error:
        if arm.role == "finalist":
            raise
        if arm.real_pool_size:
            arm = arm.with_values({"real_pool_size": None})
            return trainable_arm(arm, training_sets, notes)
        notes.append(f'the arm "{arm.name}" is left out: there are {error.problems[0].what}')
        return None
    return arm


def require_images(arm: Arm, training_sets: Iterable[StudyImages]) -> None:
    """Refuse (DataError) an arm without enough extra images for these training sets."""
    source = source_of(arm.parameters, has_real_extra=arm.has_real_extra)
    for images in training_sets:
        require_enough(
            source.count_available(images), arm.parameters, images.prepared, arm.real_pool_size
        )


def _training_sets(
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
    extra images alone is the only control, and a note says so, or why the classifier does not fit.
    """
    folder = finalist.parameters.donor
    if folder is None and finalist.parameters.folder is None:
        return []
    values = flat_values(finalist.parameters)
    controls = {"synthetic_only": f"images of {finalist.trial_label} alone"}
    parameters = parameters_from(values | {"synthetic_weight": 1.0, "mixing": "additive"})
    if folder:
        try:
            start_parameters = donor_start(finalist.parameters, settings, outputs)
        except DataError as error:
            (problem,) = error.problems
            note = f"no classifier of the donor as a control: {problem.what}; {problem.fix}"
            if not donor_records_sha256(folder):
                note = f"the folder {folder.name} has no classifier, which might help more"
            notes.append(note)
            folder = None
        else:
            parameters = start_parameters
            controls = {
                "donor": f"classifier of {folder.name}",
                "donor_start": f"{finalist.trial_label} without extra images, started at it",
            }
    shared_values = {"role": "donor", "parameters": parameters, "donor": folder}
    return [
        finalist.with_values({**shared_values, "name": name, "control": control})
        for control, name in controls.items()
    ]
