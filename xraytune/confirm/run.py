"""From a finished search to a verdict: finalists against their controls.

They are trained with new seeds, and compared on patients that no trial has seen.

    plan -> train -> score the test images -> judge -> record

If the search left enough patients unused, each replicate trains on its own draw of them, and the
rest are the test images; otherwise, all replicates train on the search's patients, and those of the
test folder are scored. The same call again resumes after an interruption: all results are in the
study's `confirm/`, and nothing is trained twice.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from xraytune.base.errors import StudyError
from xraytune.base.files import require_writable
from xraytune.confirm.arms import CONFIRM_FOLDER, read_plan
from xraytune.confirm.judge import judge, score_sealed
from xraytune.confirm.plan import choose_finalists, make_plan, why_exploratory
from xraytune.confirm.record import Confirmation, read_verdict, write_verdict
from xraytune.confirm.run_list import OpenStudy, train_replicates
from xraytune.confirm.sealed import choose_test
from xraytune.confirm.subgroups import compare_in_groups
from xraytune.data.prepare import restore_pixels
from xraytune.data.table import subgroup_columns
from xraytune.nets.compute import require_device
from xraytune.search.asha import Rungs
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.ray.runner import Runner
from xraytune.space.allocation import allocation_of
from xraytune.space.paths import PATHS
from xraytune.study.folder import StudyFolder, locked, other_releases
from xraytune.study.inputs import (
    inputs_of_space,
    inputs_of_trials,
    read_inputs,
    require_same_inputs,
)
from xraytune.study.journal import Journal
from xraytune.study.row import ended_runs
from xraytune.trial.prepare import require_inputs


def confirm(
    study: Path,
    *,
    test: Path | None = None,
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
        test: Class folders of test images for the verdict, if the study's images have no `test/`.
        by: Columns of the table of the test images, or of `patients.csv`, that define subgroups; by
            default those of an earlier call. They can be asked for at any time.
        data: New location of the study's images, if they moved.
        weights_dir: New location of the official weight files, if they moved.
        finalists: Overrides `confirm.finalists`; refused if an existing plan has another number.
        replicates: Overrides `confirm.replicates`; refused if an existing plan has another number.
        cache: The artifact cache; by default the one next to the studies.
        address: A Ray cluster; by default Ray starts on this machine.
        reason: Why test images are scored, for the test-set access log.
        callbacks: Called as the confirmation proceeds.
        before_test: Called after all training, before this confirmation scores test images for the
            first time; an exception leaves them sealed.

    Raises:
        ConfigError: A column of `by` makes no subgroups.
        StudyError: No study, no finalist, changed images or weights, runs scored on other test
            images, or a plan with another number of replicates.
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
        if plan is None:
            replicates = replicates or settings.confirm.replicates
            trials = choose_finalists(searched, finalists or settings.confirm.finalists)
            compared = [trial.parameters for trial in trials]
            require_inputs(settings, compared)
            runner.launch()
        else:
            wanted = finalists and len(choose_finalists(searched, finalists))
            _require_planned(folder, "finalists", len(plan.finalists), wanted)
            _require_planned(folder, "replicates", plan.replicates, replicates)
            replicates = plan.replicates
            compared = [finalist.parameters for finalist in plan.finalists]
        sealed = choose_test(
            settings,
            study_folder.prepared(),
            cache,
            replicates=replicates,
            compared=[*compared, *space.networks()],  # a control may have another encoder
            planned=plan.test if plan else None,
            test=test,
            on_progress=callbacks.on_progress,
        )
        for note in sealed.notes:
            callbacks.note(note)
        columns = subgroup_columns(sealed.images, by or _columns_before(folder))
        restore_pixels(settings, sealed.prepared, cache, on_progress=callbacks.on_progress)
        inputs = inputs_of_trials(compared)
        inputs |= {given for given in inputs_of_space(space) if given[0] not in PATHS}
        contents = read_inputs(inputs, settings, sealed.prepared, cache)
        require_same_inputs(study_folder, contents)
        opened = OpenStudy(
            folder=study_folder,
            space=space,
            prepared=sealed.prepared,
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
            plan = make_plan(opened, len(compared), replicates=replicates, sealed=sealed)
        elif plan.order not in ("", sealed.order):
            what = "this confirmation was scored on other test images, or under other names"
            fix = f"use those, or move {folder.name}/ away to start over"
            raise StudyError(what, sealed.data.path, fix)
        for why in why_exploratory(plan, settings.data.set, sealed.data.set):
            callbacks.note(f"the verdict will be exploratory: {why}")

        train_replicates(opened, plan)
        runner.close()
        scores = score_sealed(opened, plan, sealed, before_test=before_test, reason=reason)
        confirmation = judge(opened, scores, sealed)
        if columns:
            rows = ended_runs(opened.runs_folder)
            is_binary = bool(confirmation.test.positive)
            confirmation = replace(
                confirmation,
                subgroups=compare_in_groups(
                    scores,
                    confirmation.finalists[0],
                    columns,
                    [image.file for image in sealed.images],
                    {row.number: row.threshold or 0.5 for row in rows.values() if is_binary},
                ),
            )
        write_verdict(folder, confirmation)
    return confirmation


def _columns_before(folder: Path) -> list[str]:
    """Return the columns of subgroups that an earlier call was asked for."""
    with suppress(StudyError):  # a damaged verdict is written anew
        if confirmed := read_verdict(folder):
            return [*dict.fromkeys(group.column for group in confirmed.subgroups)]
    return []


def _require_planned(folder: Path, name: str, planned: int, wanted: int | None) -> None:
    """Refuse (StudyError) an option that an existing plan contradicts."""
    if wanted not in (None, planned):
        what = f"this confirmation has {planned} {name}, and {wanted} were asked for"
        fix = f"omit --{name}, or move {folder.name}/ away to start over"
        raise StudyError(what, folder, fix)
