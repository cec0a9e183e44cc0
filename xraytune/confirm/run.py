"""From a finished search to a verdict: finalists against their controls, with new seeds, on the held-out test folder.

    finalists -> top-ups -> plan -> replicates -> scores on val-B -> forecast -> scores on the test folder -> verdict

The same call again resumes after an interruption: all results are in the study's `confirm/`, and nothing is trained twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from xraytune.compute import pin, require_device
from xraytune.config.settings import Parameters
from xraytune.confirm.analysis import EvaluationSet, forecast_verdict, judge_finalists, ratio_response
from xraytune.confirm.forecast import Forecast
from xraytune.confirm.plan import (
    CONFIRM_FOLDER,
    FORECAST_FILE,
    FinishedTrial,
    Plan,
    choose_finalists,
    pruned_to_finish,
    read_plan,
)
from xraytune.confirm.record import Confirmation, HeldOutSet, write_verdict
from xraytune.confirm.scoring import (
    TEST,
    VAL_B,
    SealedTest,
    arm_scores,
    find_test,
    has_any_scores,
    has_scores,
    load_test_images,
    require_scored_test,
    score,
    scoring_compute,
)
from xraytune.confirm.training import Training
from xraytune.files import require_writable, write_json
from xraytune.pipeline.prepare import restore_pixels
from xraytune.pipeline.training_set import ImageSource, side_images
from xraytune.records import Compute, Json
from xraytune.search.asha import rungs_of
from xraytune.search.inputs import inputs_of_trials, read_inputs, require_same_inputs
from xraytune.search.journal import Journal
from xraytune.search.messages import NO_CALLBACKS, Callbacks
from xraytune.search.resources import resolved
from xraytune.search.runner import Runner, survey
from xraytune.search.study import StudyFolder, environment, format_versions, locked
from xraytune.search.test_access import (
    TEST_ACCESS_FILE,
    accesses,
    accesses_before,
    last_access,
    log_test_access,
    study_logs,
)

OnForecast: TypeAlias = Callable[[Forecast, bool], None]

FEWEST_GAN_SEEDS = 4
"""With fewer seeds the 95 % interval covers only 90 to 96 %."""


def ignore_forecast(forecast: Forecast, is_open: bool) -> None:
    """Do nothing."""


def confirm(
    study: Path,
    *,
    test: Path | None = None,
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
    folder = StudyFolder(study.resolve())
    space = folder.space(data=data, weights_dir=weights_dir)
    cache = (cache or folder.default_cache).resolve()
    require_writable(cache)
    require_writable(folder.path.parent)  # for the test-set access log
    compute = folder.compute()
    resources = resolved(space.settings.resources, has_gpu=compute.device == "cuda")
    if address is None:
        require_device(compute, folder.path)

    @lru_cache
    def machine() -> Mapping[str, Json]:
        where = environment(compute) if address is None else survey(address, resources, note=callbacks.note)[1]
        return {**where, "compute": {**asdict(compute)}}

    with locked(folder, "confirmed") as token:
        journal = Journal(folder.journal_path, space, writable=False)
        searched = [
            FinishedTrial.of_row(f"#{row['number']}", journal.parameters(row["number"]), row) for row in journal.rows()
        ]
        count = finalists or space.settings.confirm.finalists
        compared = _finalists(folder, searched, count)  # raises before anything is read or trained
        prepared = folder.prepared()
        extra = sorted({one.folder.path for one in compared if one.folder})
        sealed = find_test(space.settings.data, prepared, test, extra=extra, on_progress=callbacks.on_progress)
        restore_pixels(space.settings, prepared, cache, on_progress=callbacks.on_progress)
        require_same_inputs(folder, read_inputs(inputs_of_trials(compared), space.settings, prepared, cache))
        runner = Runner(
            folder,
            token=token,
            resources=resources,
            cache=cache,
            address=address,
            note=callbacks.note,
            opened=lambda dashboard: callbacks.on_start(folder.path, dashboard),
        )
        training = Training(
            folder=folder,
            space=space,
            prepared=prepared,
            compute=compute,
            machine=machine,
            cache=cache,
            runner=runner,
            callbacks=callbacks,
        )
        log = folder.path / TEST_ACCESS_FILE
        if has_any_scores(training.runs_folder, TEST):
            require_scored_test(sealed, log)
        known = accesses(folder.path, sealed.fingerprint)
        with runner:
            seeds = gan_seeds or space.settings.confirm.gan_seeds
            rungs = rungs_of(space.settings, journal.reports())
            plan = training.train(searched, rungs, finalists=count, gan_seeds=seeds, earlier_accesses=known)
        confirmation = _judge(training, plan, sealed, reason, on_forecast)
        write_verdict(training.runs_folder.path, confirmation)
        return confirmation


def _judge(training: Training, plan: Plan, sealed: SealedTest, reason: str, on_forecast: OnForecast) -> Confirmation:
    """Score every run on val-B, then those that are compared on the test folder."""
    folder, prepared, settings = training.runs_folder, training.prepared, training.settings
    every = list(range(len(plan.runs)))
    of_test = [number for number, run in enumerate(plan.runs) if plan.arm(run.arm).role != "ratio"]
    side = prepared.side(VAL_B)
    is_complete = all(
        has_scores(folder, number, which) for which, runs in ((VAL_B, every), (TEST, of_test)) for number in runs
    )
    compute = scoring_compute(folder, training.compute, is_complete=is_complete)
    pin(compute)
    _score(training, compute, VAL_B, every, side_images(VAL_B, prepared, training.cache))
    patients, rope = tuple(image.patient for image in sealed.images), settings.confirm.rope
    test = EvaluationSet(labels=sealed.labels, patients=patients, positive=prepared.positive)
    val_b = EvaluationSet(labels=side.labels, patients=side.patients, positive=prepared.positive)
    forecast = forecast_verdict(plan, val_b, test, arm_scores(folder, plan, VAL_B), rope=rope)
    write_json(folder.path / FORECAST_FILE, forecast.to_json())
    on_forecast(forecast, has_any_scores(folder, TEST))
    if not all(has_scores(folder, number, TEST) for number in of_test):
        access = {"fingerprint": sealed.fingerprint, "order": sealed.order, "runs": len(of_test)}
        last = last_access(training.folder.path / TEST_ACCESS_FILE, "confirm") or {}
        # After a kill during the scoring, the access is already logged.
        if not (has_any_scores(folder, TEST) and access == {name: last.get(name) for name in access}):
            log_test_access(
                *study_logs(training.folder.path),
                command="confirm",
                study=training.folder.path.name,
                fingerprint=sealed.fingerprint,
                reason=reason,
                image_count=len(sealed.images),
                order=sealed.order,
                runs=len(of_test),
            )
        plan = training.mark_earlier_access(plan, accesses_before(training.folder.path, sealed.fingerprint))
        group = load_test_images(sealed, prepared, training.cache, on_progress=training.callbacks.on_progress)
        _score(training, compute, TEST, of_test, group)
    return Confirmation(
        study=training.folder.path,
        exploratory=(*plan.exploratory, *_few_seeds(plan)),
        rope=rope,
        gan_seeds=plan.gan_seeds,
        classifier_seeds=plan.classifier_seeds,
        train_images=len(prepared.side("train").rows),
        test=HeldOutSet(images=len(patients), patients=len(set(patients)), fingerprint=sealed.fingerprint),
        finalists=judge_finalists(plan, test, arm_scores(folder, plan, TEST), rope=rope),
        forecast=forecast,
        ratio_response=ratio_response(plan, val_b, arm_scores(folder, plan, VAL_B)),
        notes=(*plan.notes, *_notes_on_machines(training, compute)),
    )


def _few_seeds(plan: Plan) -> Iterator[str]:
    if plan.gan_seeds < FEWEST_GAN_SEEDS:
        yield f"it has only {plan.gan_seeds} GAN seeds, and the 95 % intervals need at least {FEWEST_GAN_SEEDS}"


def _notes_on_machines(training: Training, scored_on: Compute) -> Iterator[str]:
    """Report differences between search, training and scoring."""
    trained = training.runs_folder.releases()[-1]
    if searched := [each for each in training.folder.releases() if each != trained]:
        versions = ", ".join(map(format_versions, searched))
        yield f"trials of the search were trained with {versions}, and all replicates with {format_versions(trained)}"
    if scored_on.device != training.compute.device:
        yield "all replicates were trained on GPUs and scored on a CPU"


def _score(training: Training, compute: Compute, side: str, numbers: list[int], group: ImageSource) -> None:
    folder = training.runs_folder
    for done, number in enumerate(numbers, 1):
        if not has_scores(folder, number, side):
            score(folder, number, side, group, compute=compute, cache=training.cache)
        training.callbacks.on_progress(f"scoring {side.replace('val_b', 'val-B')} (replicates)", done, len(numbers))


def _finalists(folder: StudyFolder, searched: Sequence[FinishedTrial], count: int) -> list[Parameters]:
    """Return the settings of the finalists, from the plan or as a new plan would choose them."""
    if plan := read_plan(folder.path / CONFIRM_FOLDER):
        return [arm.parameters for arm in plan.finalists]
    unfinished = pruned_to_finish(searched, lambda parameters: parameters.has_synthetic_images, count)
    chosen = unfinished or choose_finalists(searched, count, folder.path)
    return [one.parameters for one in chosen]
