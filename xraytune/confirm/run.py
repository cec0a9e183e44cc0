"""From a finished search to a verdict: finalists against their controls, with new seeds, on the held-out test folder.

    finalists -> top-ups -> plan -> replicates -> scores on val-B -> forecast -> scores on the test folder -> verdict

The same call again resumes after an interruption: all results are in the study's `confirm/`, and nothing is trained twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter

from xraytune.config.settings import WandbSettings
from xraytune.confirm.analysis import forecast_verdict, judge_finalists, ratio_response
from xraytune.confirm.forecast import Forecast
from xraytune.confirm.origin import origin_probes, probed_runs, score_synthetic, synthetic_side
from xraytune.confirm.plan import CONFIRM_FOLDER, FORECAST_FILE, Plan, read_plan
from xraytune.confirm.record import Confirmation, HeldOutSet, answer_paragraph, write_verdict
from xraytune.confirm.scoring import (
    TEST,
    VAL_B,
    SealedTest,
    arm_results,
    arm_thresholds,
    evaluation_set,
    find_test,
    has_any_results,
    is_scored,
    require_scored_test,
    score_sealed,
    score_val_b,
    scoring_compute,
    val_b_set,
)
from xraytune.confirm.secondary import (
    ExternalResult,
    generator_qualities,
    pneumonia_types,
    score_differences,
    secondary_outcomes,
    subgroup_differences,
)
from xraytune.confirm.training import Training, opened
from xraytune.confirm.worth import worth_of_images
from xraytune.data.table import PNEUMONIA, subgroup_columns
from xraytune.files import read_json, write_json
from xraytune.pipeline.task import task_of
from xraytune.records import Compute, to_json
from xraytune.search.messages import NO_CALLBACKS, Callbacks
from xraytune.search.study import StudyFolder, damage_explained, format_versions
from xraytune.search.test_access import TEST_ACCESS_FILE, accesses, accesses_before
from xraytune.tracking.tracker import TrackedRun
from xraytune.tracking.wandb import publish

OnForecast: TypeAlias = Callable[[Forecast, bool], None]

_EXTERNAL_FILE = "external.json"
FEWEST_GAN_SEEDS = 4
"""With fewer seeds the 95 % interval covers only 90 to 96 %."""


def ignore_forecast(forecast: Forecast, is_open: bool) -> None:
    """Do nothing."""


def confirm(
    study: Path,
    *,
    test: Path | None = None,
    external: Path | None = None,
    by: Sequence[str] = (),
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
        by: Columns of the test images' patient table; each of their values is a subgroup.
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
        settings, progress = training.settings, callbacks.on_progress
        count = finalists or settings.confirm.finalists
        planned = read_plan(training.runs_folder.path)
        chosen = planned.finalists if planned else training.candidates(count)  # raises before anything is read
        compared = [one.parameters for one in chosen]
        extra = sorted({one.folder.path for one in compared if one.folder})
        training.prepare_curve()
        sealed = find_test(settings, training.widest, test, extra=extra, on_progress=progress)
        columns = subgroup_columns(sealed.data, [image.file for image in sealed.images], by)
        elsewhere = None
        if external:
            elsewhere = find_test(settings, training.widest, external, sealed=sealed, extra=extra, on_progress=progress)
        training.require_same_inputs(compared)
        if has_any_results(training.runs_folder, TEST):
            require_scored_test(sealed, training.folder.path / TEST_ACCESS_FILE)
        known = accesses(training.folder.path, sealed.fingerprint)
        with training.runner:
            seeds = gan_seeds or settings.confirm.gan_seeds
            plan = training.train(finalists=count, gan_seeds=seeds, earlier_accesses=known)
        confirmation = _judge(training, plan, sealed, columns, elsewhere, reason, on_forecast)
        write_verdict(training.runs_folder.path, confirmation)
    if settings.tracking.wandb:
        _track(training.folder, settings.tracking.wandb, confirmation)
    return confirmation


def _judge(
    training: Training,
    plan: Plan,
    sealed: SealedTest,
    columns: Mapping[str, Mapping[str, str]],
    external: SealedTest | None,
    reason: str,
    on_forecast: OnForecast,
) -> Confirmation:
    """Score every run on val-B, then those that are compared on the test folder and on the second hospital's."""
    folder, prepared, settings = training.runs_folder, training.prepared, training.settings
    rope, task, is_binary = settings.confirm.rope, task_of(settings), len(prepared.class_names) == 2
    every = list(range(len(plan.runs)))
    of_test = [number for number, run in enumerate(plan.runs) if plan.arm(run.arm).role != "ratio"]
    compared = [number for number in of_test if plan.arm(plan.runs[number].arm).role != "worth"]
    needed = {VAL_B: every, TEST: of_test}
    if not prepared.has_masks:
        needed |= {synthetic_side(label): probed_runs(plan) for label in range(len(prepared.class_names))}
    if external:
        needed[external.side] = compared
    compute = scoring_compute(folder, training.compute, needed)
    score_val_b(training, every, compute)
    score_synthetic(training, plan, compute)
    test, val_b = evaluation_set(sealed, prepared, task), val_b_set(prepared, task)
    val_b_results, test_results = (arm_results(folder, plan, which) for which in (VAL_B, TEST))
    forecast = forecast_verdict(plan, val_b, test, val_b_results, rope=rope)
    write_json(folder.path / FORECAST_FILE, forecast.to_json())
    on_forecast(forecast, has_any_results(folder, TEST))
    if not is_scored(folder, of_test, TEST):
        known = accesses_before(training.folder.path, sealed.fingerprint, sealed.command)
        plan = training.mark_earlier_access(plan, known)
        score_sealed(training, sealed, of_test, compute, reason=reason)
    if is_binary and (types := pneumonia_types(sealed.images)):
        columns = {PNEUMONIA: types, **columns}
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
            images=len(test.patients),
            patients=len(set(test.patients)),
            fingerprint=sealed.fingerprint,
            positive=prepared.class_names[prepared.positive] if is_binary else "",
        ),
        finalists=judge_finalists(plan, test, test_results, rope=rope),
        generators=generator_qualities(folder, plan),
        origin=origin_probes(folder, plan, prepared),
        forecast=forecast,
        ratio_response=ratio_response(plan, val_b, val_b_results),
        worth=worth_of_images(plan, test, test_results, patients=prepared.train_patients),
        secondary=secondary_outcomes(plan, test, test_results, arm_thresholds(folder, plan)),
        subgroups=subgroup_differences(
            plan, test, [image.file for image in sealed.images], test_results, columns, prepared.class_names
        ),
        external=_external(training, plan, external, compute, compared, reason),
        notes=(*plan.notes, *_notes_on_machines(training, compute)),
    )


def _track(study: StudyFolder, settings: WandbSettings, found: Confirmation) -> None:
    """Send the confirmation to W&B: the verdict, the score of each arm, and the differences with their intervals."""
    name, rows = study.path.name, found.to_dataframe().reset_index().to_dict("records")
    scores = {one.arm.name: one.score for one in found.finalists}
    scores |= {each.control: each.comparison.scores[1] for one in found.finalists for each in one.comparisons}
    summary = {"verdict": found.verdict, "answer": answer_paragraph(found), **to_json(found.test)}
    summary |= {f"{found.metric}/{arm}": score for arm, score in scores.items()}
    columns = ("difference", "low", "high")
    summary |= {f"{one}/{row['finalist']} - {row['control']}": row[one] for row in rows for one in columns}
    identity, folder = study.identity(), study.path / CONFIRM_FOLDER
    run = TrackedRun(kind="confirm", study=name, study_identity=identity, label=f"{name} confirm", folder=folder)
    publish(settings, run, summary, table=rows)


def _external(
    training: Training, plan: Plan, found: SealedTest | None, compute: Compute, runs: Sequence[int], reason: str
) -> tuple[ExternalResult, ...]:
    """Score a second hospital's folder; return the results on it and on those of earlier calls."""
    folder, study = training.runs_folder, training.folder.path
    file = folder.path / _EXTERNAL_FILE
    earlier: tuple[ExternalResult, ...] = ()
    if file.exists():
        with damage_explained(file):
            earlier = TypeAdapter(tuple[ExternalResult, ...]).validate_python(read_json(file)["results"])
    if found is None:
        return earlier
    if not is_scored(folder, runs, found.side):
        score_sealed(training, found, runs, compute, reason=reason)
    images = evaluation_set(found, training.prepared, task_of(training.settings))
    of_arms = arm_results(folder, plan, found.side)
    result = ExternalResult(
        folder=found.data.path.resolve().name,
        fingerprint=found.fingerprint,
        images=len(images.patients),
        patients=len(set(images.patients)),
        gan_seeds=plan.gan_seeds,
        earlier_accesses=len(accesses_before(study, found.fingerprint, found.command)),
        differences=score_differences(plan, images, of_arms),
        secondary=secondary_outcomes(plan, images, of_arms, arm_thresholds(folder, plan)),
    )
    results = (*(one for one in earlier if one.fingerprint != found.fingerprint), result)
    write_json(file, {"version": 1, "results": [to_json(one) for one in results]})
    return results


def _notes_on_machines(training: Training, scored_on: Compute) -> Iterator[str]:
    """Report differences between search, training and scoring."""
    trained = training.runs_folder.releases()[-1]
    if searched := [each for each in training.folder.releases() if each != trained]:
        versions = ", ".join(map(format_versions, searched))
        yield f"trials of the search were trained with {versions}, and all replicates with {format_versions(trained)}"
    if scored_on.device != training.compute.device:
        yield "all replicates were trained on GPUs and scored on a CPU"
