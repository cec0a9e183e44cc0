"""From a finished search to a verdict: finalists against their controls.

Both are trained with new seeds, and compared on patients that no trial has seen.

    plan -> train -> score the test images -> judge -> record

If the search left enough patients unused, each replicate trains on its own draw of them, and the
images of the remaining patients are the test images. Otherwise, the images of the test folder are
scored, and the replicates train on draws of the unused patients if these suffice, else all on the
search's patients. The same call again resumes after an interruption: all results are in the study's
`confirm/`, and nothing is trained twice.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from xraytune.base.errors import ConfigError, StudyError
from xraytune.base.files import StrPath, require_writable
from xraytune.confirm.arms import Plan, read_plan
from xraytune.confirm.hospitals import choose_tests, judge_hospitals
from xraytune.confirm.plan import (
    compared_settings,
    count_replicates,
    extend_plan,
    make_plan,
    why_exploratory,
)
from xraytune.confirm.record import Confirmation, read_verdict
from xraytune.confirm.run_list import OpenStudy, train_replicates
from xraytune.confirm.score import judge_study, score_sealed, with_outcomes
from xraytune.confirm.sealed import SealedTest
from xraytune.confirm.unused import left_out_sites
from xraytune.data.columns import subgroup_columns
from xraytune.data.prepare import restore_pixels
from xraytune.nets.compute import require_device
from xraytune.search.asha import Rungs
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.ray.runner import Runner
from xraytune.space.allocation import allocation_of
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.parameters import Parameters
from xraytune.space.paths import PATHS
from xraytune.space.recorded import require_same_code
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder, locked, other_releases
from xraytune.study.journal import Journal
from xraytune.study.start import (
    inputs_of_space,
    inputs_of_trials,
    read_inputs,
    require_same_inputs,
)
from xraytune.trial.preflight import require_inputs


def confirm(
    study: StrPath,
    *,
    test: StrPath | Sequence[StrPath] = (),
    by: Sequence[str] = (),
    data: StrPath | None = None,
    weights_dir: StrPath | None = None,
    finalists: int | None = None,
    replicates: int | None = None,
    cache: StrPath | None = None,
    address: str | None = None,
    extensions: Sequence[str | type] = (),
    reason: str = "",
    callbacks: Callbacks = NO_CALLBACKS,
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
        extensions: The code of the study's extensions: `FILE.py:CLASS`, or the class itself.
        reason: Why test images are scored, for the test-set access log.
        callbacks: Called as the confirmation proceeds.

    Raises:
        ConfigError: No finalist or fewer than two replicates were asked for, or a column of `by`
            makes no subgroups.
        StudyError: No study, no finalist, changed images or weights, runs scored on other test
            images, or a plan that has other finalists, more replicates, or no patients for more.
        DataError: No test images, or unusable ones.
        TrialError: Runs failed; the same call again retries them.
        MachineError: Weights, GPUs, disk space or the Ray cluster are missing.
        KeyboardInterrupt: Ctrl-C; the same call again resumes.
    """
    EXTENSIONS.register(extensions)
    study_folder = StudyFolder(Path(study).resolve())
    space = study_folder.space(data=data, weights_dir=weights_dir)
    has_request = bool(test or by or finalists or replicates)
    if recorded_verdict := _read_only_verdict(study_folder, has_request=has_request):
        callbacks.note("the study cannot be written to: this is its recorded verdict")
        return recorded_verdict
    require_same_code(study_folder.path)
    callbacks = replace(callbacks, before_test=lru_cache(callbacks.before_test))  # asks once
    settings = space.settings
    cache = Path(cache or study_folder.default_cache).resolve()
    with _open_study(study_folder, space, cache, address, callbacks, reason) as open_study:
        # What is compared comes before the images, which take minutes to read.
        sites = left_out_sites(settings, open_study.prepared)
        _require_possible(sites, finalists, replicates, by)
        finalist_settings = compared_settings(open_study, finalists)
        replicate_count = count_replicates(open_study, len(sites) or replicates)
        if open_study.earlier_plan is None:
            require_inputs(settings, finalist_settings)
            open_study.runner.launch()  # it needs seconds, while the images are read

        # Patients who are tested on must not be trained on, so the test images are chosen first.
        sealed, hospitals = choose_tests(
            open_study,
            replicates=replicate_count,
            mixes=[*finalist_settings, *space.networks()],  # a control may have another encoder
            folders=[Path(test)] if isinstance(test, Path | str) else [*map(Path, test)],
        )
        confirmation = open_study.earlier_verdict
        if sealed:
            for note in sealed.notes:
                callbacks.note(note)
            # By default, the subgroups are those of the earlier verdict.
            groups = confirmation.subgroups if confirmation and not sites else ()
            names = by or [*dict.fromkeys(group.column for group in groups)]
            columns = subgroup_columns(sealed.images, names, sealed.data.path)
        elif confirmation is None or by or confirmation.replicates != replicate_count:
            raise StudyError(
                "the verdict's own test images are needed, and were not given",
                open_study.runs_folder.path,
                "give their folder before the others: --test DIR --test OTHER",
            )
        prepared = sealed.prepared if sealed else open_study.runs_folder.prepared()
        open_study = replace(open_study, prepared=prepared)

        # The last check before a training: a plan may train further trials.
        _require_unchanged(open_study, finalist_settings)
        plan = _complete_plan(open_study, sealed, len(finalist_settings), replicate_count)
        train_replicates(open_study, plan)
        open_study.runner.close()

        # All is trained, so the test images are opened.
        if sealed:
            scores = score_sealed(open_study, plan, sealed)
            plan = scores.plan
            confirmation = judge_study(open_study, scores, sealed)
            confirmation = with_outcomes(confirmation, open_study, scores, sealed, columns)
        assert confirmation, "without a verdict, its own images are scored"
        return judge_hospitals(open_study, plan, hospitals, confirmation)


def _read_only_verdict(study_folder: StudyFolder, *, has_request: bool) -> Confirmation | None:
    """Return the verdict of a study that cannot be written to; None for any other study.

    Raises StudyError if anything is requested besides the verdict.
    """
    if os.access(study_folder.path, os.W_OK):
        return None
    verdict = read_verdict(study_folder.confirm_path)
    if verdict and has_request:
        raise StudyError(
            "the study cannot be written to, so nothing can be added to its verdict",
            study_folder.path,
            "give no further options for its recorded verdict, or copy the study",
        )
    return verdict


def _require_unchanged(study: OpenStudy, finalist_settings: Sequence[Parameters]) -> None:
    """Refuse (StudyError) pixels, weights or extra images that changed since the search."""
    settings = study.settings
    restore_pixels(settings, study.prepared, study.cache, on_progress=study.callbacks.on_progress)
    inputs = inputs_of_trials(finalist_settings)
    inputs |= {item for item in inputs_of_space(study.space) if item[0] not in PATHS}
    contents = read_inputs(inputs, settings, study.prepared, study.cache)
    require_same_inputs(study.study_folder, contents)


@contextmanager
def _open_study(
    study_folder: StudyFolder,
    space: Space,
    cache: Path,
    address: str | None,
    callbacks: Callbacks,
    reason: str,
) -> Iterator[OpenStudy]:
    """Lock a study whose search has ended, and close its runner in the end."""
    require_writable(study_folder.path.parent)  # for the test-set access log
    compute = study_folder.compute()
    if address is None:
        require_device(compute, study_folder.path)
    settings = space.settings
    runner = Runner(study_folder, cache=cache, address=address, callbacks=callbacks)
    runner.allocation = allocation_of(settings, has_gpu=compute.device == "cuda")
    with locked(study_folder, "confirmed"), closing(runner):
        journal = Journal(study_folder.journal_path, space, is_writable=False)
        earlier_verdict = None
        with suppress(StudyError):  # a damaged one is written anew
            earlier_verdict = read_verdict(study_folder.confirm_path)
        if change := other_releases(study_folder):
            callbacks.note(f"the trials of the search were {change}")
        yield OpenStudy(
            study_folder=study_folder,
            space=space,
            prepared=study_folder.prepared(),
            compute=compute,
            cache=cache,
            searched=journal.rows(),
            rungs=Rungs(
                settings.scheduler,
                max_epochs=settings.budget.max_epochs,
                reports=journal.rung_reports(),
            ),
            runner=runner,
            callbacks=callbacks,
            earlier_plan=read_plan(study_folder.confirm_path),
            earlier_verdict=earlier_verdict,
            reason=reason,
        )


def _require_possible(
    sites: Sequence[str], finalists: int | None, replicates: int | None, by: Sequence[str]
) -> None:
    """Refuse options that settings would not allow either, or that a verdict over sites excludes.

    Raises ConfigError or, for sites, StudyError.
    """
    for name, number, minimum in (("finalists", finalists, 1), ("replicates", replicates, 2)):
        if number is not None and number < minimum:
            raise ConfigError(
                f"{number} {name} are too few for a comparison",
                f"--{name}",
                f"give at least {minimum}",
            )
    over_sites = "with confirm.leave_out: site,"
    if sites and by:
        raise StudyError(
            f"{over_sites} the finalist is compared by site, and in no other groups",
            "--by",
            "omit it",
        )
    if sites and replicates not in (None, len(sites)):
        raise StudyError(
            f"{over_sites} there is one replicate for each of {len(sites)} sites",
            "--replicates",
            "omit it",
        )


def _complete_plan(
    study: OpenStudy, sealed: SealedTest | None, finalists: int, replicates: int
) -> Plan:
    """Return the plan, made or extended if it has to be, and say if it is exploratory."""
    plan = study.earlier_plan
    if plan is None:
        assert sealed, "only a planned confirmation has a verdict"
        plan = make_plan(study, finalists, replicates=replicates, sealed=sealed)
    elif sealed and plan.ordered_fingerprint not in ("", sealed.ordered_fingerprint):
        raise StudyError(
            "this confirmation was scored on other test images, or under other names of files or "
            "patients",
            sealed.data.path,
            f"use those, or move {study.runs_folder.path.name}/ away to start over",
        )
    elif sealed and replicates > plan.replicates:
        plan = extend_plan(study, plan, sealed, replicates)
    scored_set = sealed.data.set if sealed else None
    for reason in why_exploratory(plan, study.settings.data.set, scored_set):
        study.callbacks.note(f"the verdict will be exploratory: {reason}")
    return plan
