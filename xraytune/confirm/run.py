"""From a finished search to a verdict: finalists against their controls, with new seeds, on the held-out test folder.

    plan -> train -> score val-B -> score the test folder -> judge -> record

The same call again resumes after an interruption: all results are in the study's `confirm/`, and nothing is trained twice. A
rehearsal trains the best finalist and its controls with the first seeds of the confirmation, which uses these replicates
again. It scores them on val-B alone, and estimates what the whole confirmation would cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from xraytune.base.records import to_json
from xraytune.confirm.arms import CONFIRM_FOLDER, REHEARSAL_FOLDER, Arm, FinishedTrial, Plan, read_plan, write_plan
from xraytune.confirm.controls import choose_tuned, draw_top_ups
from xraytune.confirm.judge import external_results, judge
from xraytune.confirm.plan import all_arms, candidates, make_plan, mark_earlier_access, require_controls
from xraytune.confirm.record import ArmDifference, Confirmation, write_verdict
from xraytune.confirm.score import (
    has_any_results,
    is_scored,
    score_sealed,
    score_val_b,
    scoring_compute,
)
from xraytune.confirm.sealed import TEST, SealedTest, find_test, require_scored_test
from xraytune.confirm.secondary import score_differences
from xraytune.confirm.study import OpenStudy, open_study
from xraytune.confirm.test_access import TEST_ACCESS_FILE, accesses, accesses_before
from xraytune.confirm.train import train_replicates
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.study.row import completed_runs
from xraytune.trial.task import task_of

REHEARSAL_GAN_SEEDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the whole confirmation would train, and how long on this machine if no top-up trial is pruned.

    Of the `replicates`, this rehearsal has `trained` some already; those with equal settings and seeds are trained once.
    """

    replicates: int
    trained: int
    top_ups: int
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The result of a rehearsal.

    Attributes:
        differences: The finalist minus each control, on val-B.
        metric: The name of the score that arms are compared by.
        cost: That of the whole confirmation.
        has_test: Whether the study has a test folder; if not, the whole confirmation needs `--test`.
        notes: What differs from the whole confirmation here.
    """

    study: Path
    gan_seeds: int
    differences: tuple[ArmDifference, ...]
    metric: str
    cost: Cost
    has_test: bool
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {**to_json(self), "study": self.study.name}


def confirm(
    study: Path,
    *,
    test: Path | None = None,
    external: Path | None = None,
    data: Path | None = None,
    weights_dir: Path | None = None,
    finalists: int | None = None,
    gan_seeds: int | None = None,
    cache: Path | None = None,
    address: str | None = None,
    reason: str = "",
    callbacks: Callbacks = NO_CALLBACKS,
    before_test: Callable[[], None] = lambda: None,
) -> Confirmation:
    """Compare the finalists of a study with their controls. Everything is checked before anything is trained.

    Args:
        study: The study's folder; its search has ended.
        test: Class folders of test images, if the study's images have no `test/`.
        external: Class folders of another hospital, or a data file; none of its patients is in the study. It is reported
            separately and never changes the verdict; it may be given after a verdict.
        data: New location of the study's images, if they moved.
        weights_dir: New location of the official weight files, if they moved.
        finalists: Overrides `confirm.finalists`; an existing plan keeps its own number.
        gan_seeds: Overrides `confirm.gan_seeds`; seeds added after a verdict was seen make the next one exploratory.
        cache: The artifact cache; by default the one next to the studies.
        address: A Ray cluster; by default Ray starts on this machine.
        reason: Why the test folder is scored, for the test-set access log.
        callbacks: Called as the confirmation proceeds.
        before_test: Called after all training, before this confirmation scores the test folder for the first time; an
            exception leaves the folder sealed.

    Raises:
        StudyError: No study, no finalist, changed images or weights, or runs scored on another test folder.
        DataError: No test folder, or an unusable one.
        TrialError: Runs failed; the same call again retries them.
        MachineError: Weights, GPUs, disk space or the Ray cluster are missing.
        KeyboardInterrupt: Ctrl-C; the same call again resumes.
    """
    where = {"data": data, "weights_dir": weights_dir, "cache": cache}
    with open_study(study, CONFIRM_FOLDER, **where, address=address, callbacks=callbacks) as opened:
        folder, settings = opened.runs_folder, opened.settings
        count = finalists or settings.confirm.finalists
        sealed, elsewhere = _checked_images(opened, count, test, external)
        with opened.runner:
            plan = make_plan(
                opened,
                finalists=count,
                gan_seeds=gan_seeds or settings.confirm.gan_seeds,
                earlier_accesses=accesses(opened.folder.path, sealed.fingerprint),
            )
            train_replicates(opened, plan)
        compute = scoring_compute(opened, plan, *filter(None, (sealed, elsewhere)))
        val_b = score_val_b(opened, plan, compute)
        if not has_any_results(folder, TEST):
            before_test()
        if not is_scored(folder, plan.runs_of(plan.compared), TEST):
            known = accesses_before(opened.folder.path, sealed.fingerprint, sealed.command)
            plan = mark_earlier_access(opened, plan, known)
        test_scores = score_sealed(opened, plan, sealed, compute, reason=reason)
        second_hospital = external_results(opened, plan, elsewhere, compute, reason=reason)
        confirmation = judge(
            opened,
            plan,
            val_b,
            test_scores,
            fingerprint=sealed.fingerprint,
            external=second_hospital,
            compute=compute,
        )
        write_verdict(folder.path, confirmation)
    return confirmation


def _checked_images(
    study: OpenStudy, count: int, test: Path | None, external: Path | None
) -> tuple[SealedTest, SealedTest | None]:
    """Return the images to score, after checking them and all inputs of the finalists, of which a new plan has `count`."""
    planned = read_plan(study.runs_folder.path)
    chosen = planned.finalists if planned else candidates(study, count)  # raises before anything is read
    compared = [finalist.parameters for finalist in chosen]
    extra = sorted({parameters.folder.path for parameters in compared if parameters.folder})
    find = partial(find_test, study.settings, study.prepared, extra=extra, on_progress=study.callbacks.on_progress)
    sealed = find(test)
    elsewhere = find(external, sealed=sealed) if external else None
    study.require_same_inputs(compared)
    if has_any_results(study.runs_folder, TEST):
        require_scored_test(sealed, study.folder.path / TEST_ACCESS_FILE)
    return sealed, elsewhere


def rehearse(
    study: Path,
    *,
    data: Path | None = None,
    weights_dir: Path | None = None,
    cache: Path | None = None,
    address: str | None = None,
    callbacks: Callbacks = NO_CALLBACKS,
) -> Rehearsal:
    """Compare the best finalist with its controls on val-B, with two seeds, and estimate the cost of the whole confirmation.

    It reads only names and hashes of the test folder, as the search does. Raises as `confirm` does.

    Args:
        study: Folder of the study.
        data: Image folder, if it has moved since the search.
        weights_dir: Folder of official weight files.
        cache: Artifact cache; default: that of the search.
        address: Ray cluster to join; None starts Ray on this machine.
        callbacks: Called with what happens.
    """
    where = {"data": data, "weights_dir": weights_dir, "cache": cache}
    with open_study(study, REHEARSAL_FOLDER, **where, address=address, callbacks=callbacks) as opened:
        settings, prepared, folder, notes = opened.settings, opened.prepared, opened.runs_folder, list[str]()
        finalists = candidates(opened, settings.confirm.finalists)
        first = finalists[0]
        tuned = choose_tuned(settings.confirm.controls.tuned, opened.searched, _as_if_finished, [])
        has_test = prepared.test_fingerprint is not None
        if has_test:
            extra = [first.parameters.folder.path] if first.parameters.folder else []
            find_test(settings, prepared, None, extra=extra, on_progress=callbacks.on_progress)
        opened.require_same_inputs([first.parameters])
        arms = [arm for arm in all_arms(opened, [first], tuned, notes) if arm.role != "ratio"]
        require_controls([first], arms, opened.folder.path)
        plan = (read_plan(folder.path) or Plan()).grown(arms, REHEARSAL_GAN_SEEDS, 1)
        write_plan(plan, folder.path)
        with opened.runner:
            train_replicates(opened, plan)
        # If the search went on since an earlier rehearsal, that one's arms may no longer be the best.
        plan = plan.model_copy(update={"arms": tuple(arms)})
        val_b = score_val_b(opened, plan, scoring_compute(opened, plan))
        return Rehearsal(
            study=opened.folder.path,
            gan_seeds=plan.gan_seeds,
            differences=score_differences(val_b),
            metric=task_of(settings).metric,
            cost=_cost(opened, finalists, tuned, plan),
            has_test=has_test,
            notes=tuple(notes),
        )


def _as_if_finished(pruned: Sequence[FinishedTrial]) -> list[FinishedTrial]:
    return [trial.model_copy(update={"status": "complete", "val_b_score": trial.value}) for trial in pruned]


def _cost(study: OpenStudy, finalists: Sequence[FinishedTrial], tuned: Sequence[Arm], plan: Plan) -> Cost:
    """Estimate the whole confirmation from the mean seconds of each arm's replicates, if each had the machine to itself.

    What the first finalist takes beyond arms without a generator is the training of its generator.
    """
    settings, first = study.settings.confirm, plan.finalists[0]
    arms = {arm.name: arm for arm in all_arms(study, finalists, tuned, [])}
    replicates = Plan().grown([*arms.values()], settings.gan_seeds, settings.classifier_seeds).runs
    trained = set(replicates) & set(plan.runs)
    top_ups = len(draw_top_ups(study, finalists, []))
    rows = completed_runs(study.runs_folder)
    seconds = {
        arm.name: mean(rows[number].seconds / rows[number].at_once for number in plan.numbers(arm.name).values())
        for arm in plan.arms
    }
    of_classifier = mean(seconds[arm.name] for arm in plan.arms if arm.parameters.generator is None)
    every, done = ({(arms[run.arm].content, *run[1:]) for run in runs} for runs in (replicates, trained))
    seconds_left = (len(every - done) + top_ups) * of_classifier
    if first.parameters.generator:
        generators = {trial.parameters.generator for trial in finalists if trial.parameters.generator}
        trainings = max(len(generators) * settings.gan_seeds - REHEARSAL_GAN_SEEDS, 0)
        seconds_left += trainings * max(0.0, seconds[first.name] - of_classifier)
    return Cost(replicates=len(replicates), trained=len(trained), top_ups=top_ups, hours=seconds_left / 3600)
