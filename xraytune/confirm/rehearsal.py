"""A rehearsal of `confirm` on val-B: a few replicates, without a verdict, and without scoring the test folder.

It trains the best finalist and its controls with the first seeds of the confirmation, which uses these replicates again, and
estimates what the whole confirmation would cost and could show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]

from xraytune.config.settings import Parameters
from xraytune.confirm.analysis import forecast_verdict
from xraytune.confirm.forecast import Forecast
from xraytune.confirm.plan import REHEARSAL_FOLDER, Arm, FinishedTrial, Plan, read_plan, write_plan
from xraytune.confirm.scoring import (
    VAL_B,
    arm_results,
    evaluation_set,
    find_test,
    score_val_b,
    scoring_compute,
    val_b_set,
)
from xraytune.confirm.secondary import ArmDifference, score_differences
from xraytune.confirm.training import Training, opened, require_controls
from xraytune.errors import ConfigError, Problem
from xraytune.files import write_json
from xraytune.pipeline.task import task_of
from xraytune.records import to_json
from xraytune.search.messages import NO_CALLBACKS, Callbacks
from xraytune.search.runs import completed_rows

REHEARSAL_FILE = "rehearsal.json"
GAN_SEEDS, CLASSIFIER_SEEDS = 2, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the whole confirmation would train.

    Attributes:
        replicates: All of them; those with equal settings and seeds are trained once.
        trained: Those that this rehearsal has trained already.
        top_ups: Top-up trials, each at most as long as a replicate.
        hours: An estimate for this machine, if no top-up trial is pruned.
    """

    replicates: int
    trained: int
    top_ups: int
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The result of a rehearsal; the fields are the keys of `rehearsal.json`.

    Attributes:
        study: The study's folder.
        gan_seeds: GAN seeds of each arm.
        classifier_seeds: Classifier seeds per GAN seed.
        differences: The finalist minus each control, on val-B.
        cost: Of the whole confirmation.
        forecast: Of its verdict.
        has_test: Whether the study has a test folder; if not, the whole confirmation needs `--test`.
        notes: What differs from the whole confirmation here.
    """

    study: Path
    gan_seeds: int
    classifier_seeds: int
    differences: tuple[ArmDifference, ...]
    cost: Cost
    forecast: Forecast
    has_test: bool
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the content of `rehearsal.json`."""
        return {"version": 1, **to_json(self), "study": self.study.name}


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
        val_b = val_b_set(prepared, task)
        test, notes = val_b, list[str]()
        if prepared.test_fingerprint is None:
            notes.append("the study has no test/ folder: the forecast is for as many patients as val-B has")
        else:
            extra = [first.parameters.folder.path] if first.parameters.folder else []
            sealed = find_test(settings, prepared, None, extra=extra, on_progress=callbacks.on_progress)
            test = evaluation_set(sealed, prepared, task)
        training.require_same_inputs([first.parameters])
        arms = training.arms([first], tuned, notes, with_ratios=False)
        require_controls([first], arms, training.folder.path)
        plan = (read_plan(folder.path) or Plan()).grown(arms, GAN_SEEDS, CLASSIFIER_SEEDS)
        write_plan(plan, folder.path)
        with training.runner:
            training.train_replicates(plan)
        # If the search went on since an earlier rehearsal, that one's arms may no longer be the best.
        plan = plan.model_copy(update={"arms": tuple(arms)})
        numbers = [number for number, run in enumerate(plan.runs) if run.arm in {arm.name for arm in arms}]
        score_val_b(training, numbers, scoring_compute(folder, training.compute, {VAL_B: numbers}))
        results = arm_results(folder, plan, VAL_B)
        rehearsal = Rehearsal(
            study=training.folder.path,
            gan_seeds=plan.gan_seeds,
            classifier_seeds=plan.classifier_seeds,
            differences=score_differences(plan, val_b, results),
            cost=_cost(training, finalists, tuned, plan),
            forecast=forecast_verdict(
                plan, val_b, test, results, rope=settings.confirm.rope, gan_seeds=settings.confirm.gan_seeds
            ),
            has_test=prepared.test_fingerprint is not None,
            notes=tuple(notes),
        )
        write_json(folder.path / REHEARSAL_FILE, rehearsal.to_json())
        return rehearsal


def _as_if_finished(pruned: Sequence[FinishedTrial]) -> list[FinishedTrial]:
    return [replace(one, status="complete", val_b_score=one.val_score) for one in pruned]


def _cost(training: Training, finalists: Sequence[FinishedTrial], tuned: Sequence[Arm], plan: Plan) -> Cost:
    """Estimate the whole confirmation from the mean seconds of each arm's replicates, if each had the machine for itself.

    The seconds of a classifier grow linearly with the images per step; what a finalist takes beyond that is its generator's.
    """
    settings, first = training.settings.confirm, plan.finalists[0]
    arms = training.arms(finalists, tuned, [])
    replicates = Plan().grown(arms, settings.gan_seeds, settings.classifier_seeds).runs
    top_ups = training.top_ups(finalists, [])
    alone = {number: row["seconds"] / row["at_once"] for number, row in completed_rows(training.runs_folder).items()}
    seconds = {
        arm.name: float(np.mean([alone[number] for number in plan.numbers(arm.name).values()])) for arm in plan.arms
    }
    without_generator = {name: taken for name, taken in seconds.items() if plan.arm(name).parameters.generator is None}
    load = np.array([[1.0, _images_per_step(plan.arm(name).parameters)] for name in without_generator])
    fixed, per_image = nnls(load, np.array([*without_generator.values()]))[0] if without_generator else (0.0, 0.0)

    def of_classifier(parameters: Parameters) -> float:
        return float(fixed + per_image * _images_per_step(parameters))

    contents = {arm.name: arm.content for arm in arms}
    trained = set(replicates) & set(plan.runs)
    every, done = ({(contents[one.arm], *one[1:]) for one in runs} for runs in (replicates, trained))
    seconds_left = sum(of_classifier(parameters) for (parameters, *_), *_ in every - done)
    seconds_left += sum(map(of_classifier, top_ups))
    if first.parameters.generator:
        generators = {one.parameters.generator for one in finalists if one.parameters.generator}
        trainings = max(len(generators) * settings.gan_seeds - GAN_SEEDS, 0)
        seconds_left += trainings * max(0.0, seconds[first.name] - of_classifier(first.parameters))
    hours = seconds_left / 3600
    return Cost(replicates=len(replicates), trained=len(trained), top_ups=len(top_ups), hours=hours)


def _images_per_step(parameters: Parameters) -> float:
    """Return the images that a step draws, as a multiple of the real ones."""
    return 1 + parameters.synthetic_ratio * (parameters.mixing == "additive")


def refuse_with_quick(**options: object) -> None:
    """Raise ConfigError if an option is given that only a whole confirmation has."""
    if given := [f"--{name.replace('_', '-')}" for name, value in options.items() if value]:
        what = f"--quick is a rehearsal on val-B and takes no {' or '.join(given)}"
        raise ConfigError(Problem(what, fix=f"omit --quick, or {' and '.join(given)}"))
