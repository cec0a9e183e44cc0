"""From a finished search to a verdict: finalists against their controls, with new seeds, on the held-out test folder.

    finalists -> top-ups -> plan -> replicates -> scores on val-B -> forecast -> scores on the test folder -> verdict

The same call again resumes after an interruption: all results are in the study's `confirm/`, and nothing is trained twice. A
rehearsal trains the best finalist and its controls with the first seeds of the confirmation, which uses these replicates
again. It scores them on val-B alone, and estimates what the whole confirmation would cost and could show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

from pydantic import TypeAdapter

from xraytune.base.files import read_json, require_recorded, write_json
from xraytune.base.records import Compute, to_json
from xraytune.confirm import scoring, secondary
from xraytune.confirm.analysis import forecast_verdict, judge_finalists, ratio_response
from xraytune.confirm.forecast import Forecast
from xraytune.confirm.plan import (
    CONFIRM_FOLDER,
    FORECAST_FILE,
    REHEARSAL_FOLDER,
    Arm,
    FinishedTrial,
    Plan,
    read_plan,
    write_plan,
)
from xraytune.confirm.record import Confirmation, write_verdict
from xraytune.confirm.test_access import TEST_ACCESS_FILE, accesses, accesses_before
from xraytune.confirm.training import Training, opened, require_controls
from xraytune.confirm.verdict_file import ArmDifference, ExternalResult, HeldOutSet
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.study.folder import damage_explained, format_versions
from xraytune.study.row import completed_runs
from xraytune.trial.task import task_of

OnForecast: TypeAlias = Callable[[Forecast, bool], None]

REHEARSAL_GAN_SEEDS = 2
_EXTERNAL_FILE = "external.json"
FEWEST_GAN_SEEDS = 4
"""With fewer seeds the 95 % interval covers only 90 to 96 %."""


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
        cost: That of the whole confirmation, as `forecast` is of its verdict.
        has_test: Whether the study has a test folder; if not, the whole confirmation needs `--test`.
        notes: What differs from the whole confirmation here.
    """

    study: Path
    gan_seeds: int
    differences: tuple[ArmDifference, ...]
    cost: Cost
    forecast: Forecast
    has_test: bool
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {**to_json(self), "study": self.study.name}


def ignore_forecast(forecast: Forecast, is_open: bool) -> None:
    """Do nothing."""


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
    on_forecast: OnForecast = ignore_forecast,
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
        on_forecast: Called once all replicates are scored on val-B, with the forecast and whether the test folder was
            accessed before. If it was not, it is accessed next, unless this raises an exception.

    Raises:
        StudyError: No study, no finalist, changed images or weights, or runs scored on another test folder.
        DataError: No test folder, or an unusable one.
        TrialError: Runs failed; the same call again retries them.
        MachineError: Weights, GPUs, disk space or the Ray cluster are missing.
        KeyboardInterrupt: Ctrl-C; the same call again resumes.
    """
    with opened(
        study, CONFIRM_FOLDER, data=data, weights_dir=weights_dir, cache=cache, address=address, callbacks=callbacks
    ) as training:
        settings = training.settings
        count = finalists or settings.confirm.finalists
        planned = read_plan(training.runs_folder.path)
        chosen = planned.finalists if planned else training.candidates(count)  # raises before anything is read
        compared = [one.parameters for one in chosen]
        extra = sorted({one.folder.path for one in compared if one.folder})
        find = partial(scoring.find_test, settings, training.prepared, extra=extra, on_progress=callbacks.on_progress)
        sealed = find(test)
        elsewhere = find(external, sealed=sealed) if external else None
        training.require_same_inputs(compared)
        if scoring.has_any_results(training.runs_folder, scoring.TEST):
            scoring.require_scored_test(sealed, training.folder.path / TEST_ACCESS_FILE)
        known = accesses(training.folder.path, sealed.fingerprint)
        with training.runner:
            seeds = gan_seeds or settings.confirm.gan_seeds
            plan = training.train(finalists=count, gan_seeds=seeds, earlier_accesses=known)
        confirmation = _judge(training, plan, sealed, elsewhere, reason, on_forecast)
        write_verdict(training.runs_folder.path, confirmation)
    return confirmation


def _judge(
    training: Training,
    plan: Plan,
    sealed: scoring.SealedTest,
    external: scoring.SealedTest | None,
    reason: str,
    on_forecast: OnForecast,
) -> Confirmation:
    """Score every run on val-B, then those that are compared on the test folder and on the second hospital's."""
    folder, prepared, settings = training.runs_folder, training.prepared, training.settings
    rope, task, is_binary = settings.confirm.rope, task_of(settings), len(prepared.class_names) == 2
    every = list(range(len(plan.runs)))
    of_test = [number for number, run in enumerate(plan.runs) if plan.arm(run.arm).role != "ratio"]
    needed = {scoring.VAL_B: every, scoring.TEST: of_test}
    if external:
        needed[external.side] = of_test
    compute = scoring.scoring_compute(training, needed)
    scoring.score_val_b(training, every, compute)
    images, of_val_b = (scoring.evaluation_set(one, prepared, task) for one in (sealed, prepared.side(scoring.VAL_B)))
    val_b = scoring.arm_scores(folder, plan, scoring.VAL_B, of_val_b)
    test = scoring.arm_scores(folder, plan, scoring.TEST, images)
    forecast = forecast_verdict(val_b, images, rope=rope)
    write_json(folder.path / FORECAST_FILE, forecast.to_json())
    on_forecast(forecast, scoring.has_any_results(folder, scoring.TEST))
    if not scoring.is_scored(folder, of_test, scoring.TEST):
        known = accesses_before(training.folder.path, sealed.fingerprint, sealed.command)
        plan = training.mark_earlier_access(plan, known)
        scoring.score_sealed(training, sealed, of_test, compute, reason=reason)
    few_seeds = f"it has only {plan.gan_seeds} GAN seeds, and the 95 % intervals need at least {FEWEST_GAN_SEEDS}"
    return Confirmation(
        study=training.folder.path,
        metric=task.metric,
        objective=settings.metric,
        network=task.network,
        exploratory=plan.exploratory if plan.gan_seeds >= FEWEST_GAN_SEEDS else (*plan.exploratory, few_seeds),
        rope=rope,
        gan_seeds=plan.gan_seeds,
        classifier_seeds=plan.classifier_seeds,
        train_images=len(prepared.side("train").rows),
        test=HeldOutSet(
            images=len(images.patients),
            patients=len(set(images.patients)),
            fingerprint=sealed.fingerprint,
            positive=prepared.class_names[prepared.positive] if is_binary else "",
        ),
        finalists=judge_finalists(test, rope=rope),
        generators=secondary.generator_qualities(folder, plan),
        forecast=forecast,
        ratio_response=ratio_response(val_b),
        secondary=secondary.secondary_outcomes(test, scoring.arm_thresholds(folder, plan)),
        external=_external(training, plan, external, compute, of_test, reason),
        notes=(*plan.notes, *_notes_on_machines(training, compute)),
    )


def _external(
    training: Training, plan: Plan, found: scoring.SealedTest | None, compute: Compute, runs: Sequence[int], reason: str
) -> tuple[ExternalResult, ...]:
    """Score a second hospital's folder; return the results on it and on those of earlier calls."""
    folder, study = training.runs_folder, training.folder.path
    file = folder.path / _EXTERNAL_FILE
    earlier: tuple[ExternalResult, ...] = ()
    if file.exists():
        with damage_explained(file, "remove it, and give each external folder again"):
            require_recorded(file, "JSON file")
            earlier = TypeAdapter(tuple[ExternalResult, ...]).validate_python(read_json(file)["results"])
    if found is None:
        return earlier
    if not scoring.is_scored(folder, runs, found.side):
        scoring.score_sealed(training, found, runs, compute, reason=reason)
    images = scoring.evaluation_set(found, training.prepared, task_of(training.settings))
    scores = scoring.arm_scores(folder, plan, found.side, images)
    result = ExternalResult(
        folder=found.data.path.resolve().name,
        fingerprint=found.fingerprint,
        images=len(images.patients),
        patients=len(set(images.patients)),
        gan_seeds=plan.gan_seeds,
        earlier_accesses=len(accesses_before(study, found.fingerprint, found.command)),
        differences=secondary.score_differences(scores),
        secondary=secondary.secondary_outcomes(scores, scoring.arm_thresholds(folder, plan)),
    )
    results = (*(one for one in earlier if one.fingerprint != found.fingerprint), result)
    write_json(file, {"version": 1, "results": [to_json(one) for one in results]}, is_recorded=True)
    return results


def _notes_on_machines(training: Training, scored_on: Compute) -> Iterator[str]:
    """Report differences between search, training and scoring."""
    trained = training.runs_folder.releases()[-1]
    if searched := [each for each in training.folder.releases() if each != trained]:
        versions = ", ".join(map(format_versions, searched))
        yield f"trials of the search were trained with {versions}, and all replicates with {format_versions(trained)}"
    if scored_on.device != training.compute.device:
        yield "all replicates were trained on GPUs and scored on a CPU"


def rehearse(
    study: Path,
    *,
    data: Path | None = None,
    weights_dir: Path | None = None,
    cache: Path | None = None,
    address: str | None = None,
    callbacks: Callbacks = NO_CALLBACKS,
) -> Rehearsal:
    """Compare the best finalist with its controls on val-B, with two seeds, and forecast the whole confirmation.

    Of the test folder only names and hashes are read, as in the search. Raises as `confirm` does.

    Args:
        study: Folder of the study.
        data: Image folder, if it has moved since the search.
        weights_dir: Folder of official weight files.
        cache: Artifact cache; default: that of the search.
        address: Ray cluster to join; None starts Ray on this machine.
        callbacks: Called with what happens.
    """
    with opened(
        study, REHEARSAL_FOLDER, data=data, weights_dir=weights_dir, cache=cache, address=address, callbacks=callbacks
    ) as training:
        settings, prepared, folder = training.settings, training.prepared, training.runs_folder
        finalists = training.candidates(settings.confirm.finalists)
        first, tuned = finalists[0], training.tuned(training.searched, _as_if_finished, [])
        task = task_of(settings)
        images = scoring.evaluation_set(prepared.side(scoring.VAL_B), prepared, task)
        test, notes = images, list[str]()
        if prepared.test_fingerprint is None:
            notes.append("the study has no test/ folder: the forecast is for as many patients as val-B has")
        else:
            extra = [first.parameters.folder.path] if first.parameters.folder else []
            sealed = scoring.find_test(settings, prepared, None, extra=extra, on_progress=callbacks.on_progress)
            test = scoring.evaluation_set(sealed, prepared, task)
        training.require_same_inputs([first.parameters])
        arms = [arm for arm in training.arms([first], tuned, notes) if arm.role != "ratio"]
        require_controls([first], arms, training.folder.path)
        plan = (read_plan(folder.path) or Plan()).grown(arms, REHEARSAL_GAN_SEEDS, 1)
        write_plan(plan, folder.path)
        with training.runner:
            training.train_replicates(plan)
        # If the search went on since an earlier rehearsal, that one's arms may no longer be the best.
        plan = plan.model_copy(update={"arms": tuple(arms)})
        numbers = [number for number, run in enumerate(plan.runs) if run.arm in {arm.name for arm in arms}]
        scoring.score_val_b(training, numbers, scoring.scoring_compute(training, {scoring.VAL_B: numbers}))
        val_b = scoring.arm_scores(folder, plan, scoring.VAL_B, images)
        return Rehearsal(
            study=training.folder.path,
            gan_seeds=plan.gan_seeds,
            differences=secondary.score_differences(val_b),
            cost=_cost(training, finalists, tuned, plan),
            forecast=forecast_verdict(val_b, test, rope=settings.confirm.rope, gan_seeds=settings.confirm.gan_seeds),
            has_test=prepared.test_fingerprint is not None,
            notes=tuple(notes),
        )


def _as_if_finished(pruned: Sequence[FinishedTrial]) -> list[FinishedTrial]:
    return [trial.model_copy(update={"status": "complete", "val_b_score": trial.value}) for trial in pruned]


def _cost(training: Training, finalists: Sequence[FinishedTrial], tuned: Sequence[Arm], plan: Plan) -> Cost:
    """Estimate the whole confirmation from the mean seconds of each arm's replicates, if each had the machine to itself.

    What the first finalist takes beyond arms without a generator is the training of its generator.
    """
    settings, first = training.settings.confirm, plan.finalists[0]
    arms = {arm.name: arm for arm in training.arms(finalists, tuned, [])}
    replicates = Plan().grown([*arms.values()], settings.gan_seeds, settings.classifier_seeds).runs
    trained = set(replicates) & set(plan.runs)
    top_ups = len(training.top_ups(finalists, []))
    rows = completed_runs(training.runs_folder)
    seconds = {
        arm.name: mean(rows[number].seconds / rows[number].at_once for number in plan.numbers(arm.name).values())
        for arm in plan.arms
    }
    of_classifier = mean(seconds[arm.name] for arm in plan.arms if arm.parameters.generator is None)
    every, done = ({(arms[run.arm].content, *run[1:]) for run in runs} for runs in (replicates, trained))
    seconds_left = (len(every - done) + top_ups) * of_classifier
    if first.parameters.generator:
        generators = {one.parameters.generator for one in finalists if one.parameters.generator}
        trainings = max(len(generators) * settings.gan_seeds - REHEARSAL_GAN_SEEDS, 0)
        seconds_left += trainings * max(0.0, seconds[first.name] - of_classifier)
    return Cost(replicates=len(replicates), trained=len(trained), top_ups=top_ups, hours=seconds_left / 3600)
