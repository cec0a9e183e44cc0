"""From a finished search to a verdict: finalists against their controls, with new seeds, on patients that no trial has seen.

    plan -> train -> score the test images -> judge -> record

If the search left enough patients unused, each replicate trains on its own draw of them, and the
rest are the test images; otherwise, all replicates train on the search's patients, and those of the
test folder are scored. The same call again resumes after an interruption: all results are in the
study's `confirm/`, and nothing is trained twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from xraytune.base.errors import Problem, StudyError
from xraytune.confirm.arms import CONFIRM_FOLDER, read_plan
from xraytune.confirm.judge import judge
from xraytune.confirm.plan import candidates, make_plan, mark_earlier_access
from xraytune.confirm.record import Confirmation, write_verdict
from xraytune.confirm.run_list import train_replicates
from xraytune.confirm.score import has_any_results, is_scored, score_sealed, scoring_compute
from xraytune.confirm.sealed import choose_test, require_scored_test
from xraytune.confirm.study import open_study
from xraytune.confirm.test_access import CONFIRM, TEST_ACCESS_FILE, accesses, accesses_before
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks


def confirm(
    study: Path,
    *,
    test: Path | None = None,
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
    """Compare the finalists of a study with their controls. Everything is checked before anything is trained.

    Args:
        study: The study's folder; its search has ended.
        test: Class folders of test images for the verdict, if the study's images have no `test/`.
        data: New location of the study's images, if they moved.
        weights_dir: New location of the official weight files, if they moved.
        finalists: Overrides `confirm.finalists`; an existing plan keeps its own number.
        replicates: Overrides `confirm.replicates`; refused if an existing plan has another number.
        cache: The artifact cache; by default the one next to the studies.
        address: A Ray cluster; by default Ray starts on this machine.
        reason: Why test images are scored, for the test-set access log.
        callbacks: Called as the confirmation proceeds.
        before_test: Called after all training, before this confirmation scores test images for the
            first time; an exception leaves them sealed.

    Raises:
        StudyError: No study, no finalist, changed images or weights, runs scored on other test
            images, or a plan with another number of replicates.
        DataError: No test images, or unusable ones.
        TrialError: Runs failed; the same call again retries them.
        MachineError: Weights, GPUs, disk space or the Ray cluster are missing.
        KeyboardInterrupt: Ctrl-C; the same call again resumes.
    """
    where = {"data": data, "weights_dir": weights_dir, "cache": cache}
    with open_study(study, **where, address=address, callbacks=callbacks) as opened:
        folder, wanted = opened.runs_folder, opened.settings.confirm
        plan = read_plan(folder.path)
        if plan and replicates and replicates != plan.replicates:
            what = f"this confirmation has {plan.replicates} replicates, and {replicates} were asked for"
            again = (
                f"move {CONFIRM_FOLDER}/ away to start over; trained generators stay in the cache"
            )
            raise StudyError(Problem(what, folder.path, f"omit --replicates, or {again}"))
        if plan and finalists and finalists != (known := len(plan.finalists)):
            callbacks.note(
                f"--finalists {finalists} is ignored: this confirmation was planned with {known}"
            )
        finalists = finalists or wanted.finalists
        replicates = plan.replicates if plan else replicates or wanted.replicates
        if not plan:  # else there may be nothing left to do
            opened.runner.start()
        chosen = plan.finalists if plan else candidates(opened, finalists)
        compared = [finalist.parameters for finalist in chosen]
        choice = choose_test(
            opened.settings,
            opened.prepared,
            opened.cache,
            replicates=replicates,
            compared=compared,
            planned=plan.test if plan else None,
            test=test,
            on_progress=callbacks.on_progress,
        )
        opened, sealed = replace(opened, prepared=choice.prepared), choice.sealed
        for note in choice.notes:
            callbacks.note(note)
        opened.require_same_inputs(compared)
        if has_any_results(folder):
            require_scored_test(sealed, opened.folder.path / TEST_ACCESS_FILE)
        if not plan:
            plan = make_plan(opened, finalists=finalists, replicates=replicates, choice=choice)
            earlier = accesses(opened.folder.path, sealed.fingerprint, sealed.contents)
            plan = mark_earlier_access(opened, plan, earlier)
        for why in plan.why_exploratory:
            callbacks.note(f"the verdict will be exploratory: {why}")
        train_replicates(opened, plan)
        opened.runner.close()

        compute = scoring_compute(opened, plan)
        if not has_any_results(folder):
            before_test()
        if not is_scored(folder, plan.runs):
            earlier = accesses_before(
                opened.folder.path, CONFIRM, sealed.fingerprint, sealed.contents
            )
            plan = mark_earlier_access(opened, plan, earlier)
        scores = score_sealed(opened, plan, sealed, compute, reason=reason)
        confirmation = judge(opened, scores, sealed=sealed, compute=compute)
        write_verdict(folder.path, confirmation)
    return confirmation
