"""From a finished search to a verdict: finalists against their controls.

Both are trained with new seeds, and compared on patients that no trial has seen.

    plan -> train -> score the test images -> judge -> record

If the search left enough patients unused, each replicate trains on its own sample of them, and the
images of the remaining patients are the test images. Otherwise, the images of the test folder are
scored, and the replicates train on samples of the unused patients if these suffice, else all on the
search's patients. The same call again resumes after an interruption: all results are in the study's
`confirm/`, and nothing is trained twice.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from xraytune.base.errors import StudyError, counted
from xraytune.base.files import require_writable
from xraytune.base.seeding import derive_seed
from xraytune.confirm.arms import CONFIRM_FOLDER, Plan, read_plan
from xraytune.confirm.hospitals import choose_tests, judge_hospital
from xraytune.confirm.judge import ArmScores, judge, score_sealed
from xraytune.confirm.plan import choose_finalists, extend_plan, make_plan, why_exploratory
from xraytune.confirm.record import Confirmation, read_verdict, write_verdict
from xraytune.confirm.run_list import OpenStudy, train_replicates
from xraytune.confirm.sealed import SealedTest, left_out_sites
from xraytune.confirm.secondary import add_secondary, write_predictions
from xraytune.confirm.subgroups import compare_in_groups, compare_sites
from xraytune.data.prepare import restore_pixels
from xraytune.data.table import subgroup_columns
from xraytune.nets.compute import require_device
from xraytune.search.asha import Rungs
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.ray.runner import Runner
from xraytune.space.allocation import allocation_of
from xraytune.space.paths import PATHS
from xraytune.study.folder import StudyFolder, locked, other_releases
from xraytune.study.journal import Journal
from xraytune.study.row import ended_runs
from xraytune.study.start import (
    inputs_of_space,
    inputs_of_trials,
    read_inputs,
    require_same_inputs,
)
from xraytune.trial.prepare import require_inputs


def confirm(
    study: Path,
    *,
    test: Path | Sequence[Path] = (),
    by: Sequence[str] = (),
    data: Path | None = None,
    weights_dir: Path | None = None,
    finalists: int | None = None,
    replicates: int | None = None,
    cache: Path | None = None,
    address: str | None = None,
    reason: str = "",
    callbacks: Callbacks = NO_CALLBACKS,
    before_test: Callable[[], None] = lambda: None,
) -> Confirmation:
    """Compare the finalists of a study with their controls.

    Everything is checked before anything is trained.

    Args:
        study: The study's folder; its search has ended.
        test: Class folders of further hospitals' images. Each hospital gets its own verdict, and
            can be added at any time. If the study has neither `test/` nor enough unused patients,
            the verdict itself is on the images of the first folder.
        by: What defines subgroups: `site`, columns of the table of the test images or of
            `patients.csv`, or keywords of DICOM headers; by default the same as in an earlier call.
            Subgroups can be asked for at any time.
        data: New location of the study's images, if they moved.
        weights_dir: New location of the official weight files, if they moved.
        finalists: Overrides `confirm.finalists`; refused if an existing plan has another number.
        replicates: Overrides `confirm.replicates`. A larger number than in an existing plan extends
            the plan, which makes the verdict exploratory if its test images were scored. A smaller
            number is refused.
        cache: The artifact cache; by default the one next to the studies.
        address: A Ray cluster; by default Ray starts on this machine.
        reason: Why test images are scored, for the test-set access log.
        callbacks: Called as the confirmation proceeds.
        before_test: Called after all training, before test images are scored for the first time,
            at most once; an exception leaves them sealed.

    Raises:
        ConfigError: A column of `by` makes no subgroups.
        StudyError: No study, no finalist, changed images or weights, runs scored on other test
            images, or a plan that has other finalists, more replicates, or no patients for more.
        DataError: No test images, or unusable ones.
        TrialError: Runs failed; the same call again retries them.
        MachineError: Weights, GPUs, disk space or the Ray cluster are missing.
        KeyboardInterrupt: Ctrl-C; the same call again resumes.
    """
    study_folder = StudyFolder(study.resolve())
    space = study_folder.space(data=data, weights_dir=weights_dir)
    settings = space.settings
    if not os.access(study_folder.path, os.W_OK):
        confirmed = read_verdict(study_folder.path / CONFIRM_FOLDER)
        if confirmed:
            callbacks.note("the study cannot be written to: this is its recorded verdict")
            return confirmed
    require_writable(study_folder.path.parent)  # for the test-set access log
    compute = study_folder.compute()
    if address is None:
        require_device(compute, study_folder.path)
    cache = (cache or study_folder.default_cache).resolve()
    runner = Runner(study_folder, cache=cache, address=address, callbacks=callbacks)
    runner.allocation = allocation_of(settings, has_gpu=compute.device == "cuda")
    with locked(study_folder, "confirmed"), closing(runner):
        journal = Journal(study_folder.journal_path, space, writable=False)
        searched = journal.rows()
        if change := other_releases(study_folder):
            callbacks.note(f"the trials of the search were {change}")
        folder = study_folder.path / CONFIRM_FOLDER
        plan = read_plan(folder)
        before = _verdict_before(folder)
        sites = left_out_sites(settings, study_folder.prepared())
        if sites:
            _require_sites_alone(sites, replicates, by)
            replicates = len(sites)
        if plan is None:
            replicates = replicates or settings.confirm.replicates
            trials = choose_finalists(searched, finalists or settings.confirm.finalists)
            compared = [trial.parameters for trial in trials]
            require_inputs(settings, compared)
            runner.launch()
        else:
            wanted = finalists and len(choose_finalists(searched, finalists))
            _require_planned(folder, "finalists", len(plan.finalists), wanted)
            replicates = replicates or plan.replicates
            _require_extensible(folder, plan, replicates, study_folder.prepared().train_patients)
            compared = [finalist.parameters for finalist in plan.finalists]
        sealed, hospitals = choose_tests(
            settings,
            study_folder,
            cache,
            replicates=replicates,
            compared=[*compared, *space.networks()],  # a control may have another encoder
            plan=plan,
            folders=[test] if isinstance(test, Path) else [*map(Path, test)],
            on_progress=callbacks.on_progress,
        )
        columns: Mapping[str, Mapping[str, str]] = {}
        if sealed:
            for note in sealed.notes:
                callbacks.note(note)
            groups = before.subgroups if before and not sites else ()
            asked = dict.fromkeys(group.column for group in groups)
            columns = subgroup_columns(sealed.images, by or [*asked], sealed.data.path)
        elif before is None or by or before.replicates != replicates:
            what = "the verdict's own test images are needed, and were not given"
            fix = "give their folder before the others: --test DIR --test OTHER"
            raise StudyError(what, folder, fix)
        prepared = sealed.prepared if sealed else StudyFolder(folder).prepared()
        restore_pixels(settings, prepared, cache, on_progress=callbacks.on_progress)
        inputs = inputs_of_trials(compared)
        inputs |= {given for given in inputs_of_space(space) if given[0] not in PATHS}
        contents = read_inputs(inputs, settings, prepared, cache)
        require_same_inputs(study_folder, contents)
        opened = OpenStudy(
            folder=study_folder,
            space=space,
            prepared=prepared,
            compute=compute,
            cache=cache,
            searched=searched,
            rungs=Rungs(
                settings.scheduler,
                max_epochs=settings.budget.max_epochs,
                reports=journal.reports(),
            ),
            runner=runner,
            callbacks=callbacks,
        )
        if plan is None:
            assert sealed, "only a planned confirmation has a verdict"
            plan = make_plan(opened, len(compared), replicates=replicates, sealed=sealed)
        elif sealed and plan.order not in ("", sealed.order):
            what = "this confirmation was scored on other test images, or under other names"
            fix = f"use those, or move {folder.name}/ away to start over"
            raise StudyError(what, sealed.data.path, fix)
        elif sealed and replicates > plan.replicates:
            plan = extend_plan(opened, plan, sealed, replicates, before)
        scored_set = sealed.data.set if sealed else None
        for why in why_exploratory(plan, settings.data.set, scored_set):
            callbacks.note(f"the verdict will be exploratory: {why}")

        train_replicates(opened, plan)
        runner.close()
        ask_once = lru_cache(before_test)
        confirmation = before
        if sealed:
            scores = score_sealed(opened, plan, sealed, before_test=ask_once, reason=reason)
            plan = scores.plan
            confirmation = _judge(opened, scores, sealed, columns)
        assert confirmation, "without a verdict, its own images are scored"
        hospitals_before = before.hospitals if before else ()
        confirmation = replace(
            confirmation,
            study=study_folder.path,
            hospitals=tuple(each for each in hospitals_before if each.replicates == replicates),
        )
        write_verdict(folder, confirmation)
        for hospital in hospitals:
            plan, found = judge_hospital(
                opened, plan, hospital, before_test=ask_once, reason=reason
            )
            confirmation = confirmation.with_hospital(found)
            write_verdict(folder, confirmation)
        recorded = {each.name for each in confirmation.hospitals}
        for each in plan.hospitals:
            if each.name not in recorded:
                what = f"{each.name} was opened, and its verdict is not recorded"
                callbacks.note(f"{what}: give its folder again (--test)")
    return confirmation


def _judge(
    study: OpenStudy,
    scores: ArmScores,
    sealed: SealedTest,
    columns: Mapping[str, Mapping[str, str]],
) -> Confirmation:
    """Return the verdict with secondary outcomes and subgroups by `columns`.

    Also writes `predictions.csv`.
    """
    confirmation = judge(study, scores, sealed)
    is_binary = bool(confirmation.test.positive)
    rows = ended_runs(study.runs_folder)
    thresholds = {row.number: row.threshold or 0.5 for row in rows.values() if is_binary}
    seed = derive_seed(study.settings.seed, "secondary")
    finalists = add_secondary(confirmation.finalists, scores, thresholds, seed=seed)
    files = [image.file for image in sealed.images]
    groups = compare_sites(scores, finalists[0])
    if columns:
        groups = compare_in_groups(scores, finalists[0], columns, files, thresholds)
    images, prepared = sealed.images, sealed.prepared
    folder = study.runs_folder.path
    write_predictions(folder, scores, images, prepared.outputs, prepared.findings)
    return replace(confirmation, finalists=finalists, subgroups=groups)


def _verdict_before(folder: Path) -> Confirmation | None:
    """Return the verdict of an earlier call; None if there is none, or it is damaged."""
    with suppress(StudyError):  # a damaged verdict is written anew
        return read_verdict(folder)
    return None


def _require_sites_alone(sites: Sequence[str], replicates: int | None, by: Sequence[str]) -> None:
    """Refuse (StudyError) options that do not apply to a verdict over sites."""
    if by:
        what = (
            "with confirm.leave_out: site, the finalist is compared by site, and in no other groups"
        )
        raise StudyError(what, "--by", "omit it")
    if replicates not in (None, len(sites)):
        what = (
            f"with confirm.leave_out: site, there is one replicate for each of {len(sites)} sites"
        )
        raise StudyError(what, "--replicates", "omit it")


def _require_extensible(folder: Path, plan: Plan, replicates: int, patients: int) -> None:
    """Refuse (StudyError) fewer replicates than planned, or more that would change who is scored.

    `patients` is the number that each replicate trains on.
    """
    if replicates <= plan.replicates:
        _require_planned(folder, "replicates", plan.replicates, replicates)
    elif plan.test == "unused":
        further = counted(replicates - plan.replicates, "further draw")
        missing = (replicates - plan.replicates) * patients
        what = (
            f"{further} of {patients} patients would need {missing} more patients: all that the "
            "search left unused are drawn or scored, and the scored ones must stay the same"
        )
        fix = f"move {folder.name}/ away to start over with more replicates"
        if plan.order:
            fix += "; its verdict is exploratory, since the test images were scored"
        raise StudyError(what, folder, fix)


def _require_planned(folder: Path, name: str, planned: int, wanted: int | None) -> None:
    """Refuse (StudyError) an option that an existing plan contradicts."""
    if wanted not in (None, planned):
        what = f"this confirmation has {planned} {name}, and {wanted} were asked for"
        fix = f"omit --{name}, or move {folder.name}/ away to start over"
        raise StudyError(what, folder, fix)
