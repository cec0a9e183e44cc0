"""From scores to the result of a confirmation: the verdict, and what is reported beside it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import TypeAdapter

from xraytune.base.files import read_json, require_recorded, write_json
from xraytune.base.records import Compute, to_json
from xraytune.confirm import secondary
from xraytune.confirm.analysis import ArmScores, judge_finalists, ratio_response
from xraytune.confirm.arms import Plan
from xraytune.confirm.forecast import Forecast
from xraytune.confirm.record import Confirmation
from xraytune.confirm.score import arm_thresholds, score_sealed
from xraytune.confirm.sealed import SealedTest
from xraytune.confirm.study import OpenStudy
from xraytune.confirm.test_access import accesses_before
from xraytune.confirm.verdict_file import ExternalResult, HeldOutSet
from xraytune.study.folder import damage_explained, format_versions
from xraytune.trial.task import task_of

FEWEST_GAN_SEEDS = 4
"""With fewer seeds the 95 % interval covers only 90 to 96 %."""
_EXTERNAL_FILE = "external.json"


def judge(
    study: OpenStudy,
    plan: Plan,
    val_b: ArmScores,
    test: ArmScores,
    *,
    forecast: Forecast,
    fingerprint: str,
    external: tuple[ExternalResult, ...],
    compute: Compute,
) -> Confirmation:
    """Judge the finalists by their scores on the test folder, which has this `fingerprint` and was scored on `compute`."""
    folder, prepared, settings = study.runs_folder, study.prepared, study.settings
    rope, task, is_binary = settings.confirm.rope, task_of(settings), len(prepared.class_names) == 2
    few_seeds = f"it has only {plan.gan_seeds} GAN seeds, and the 95 % intervals need at least {FEWEST_GAN_SEEDS}"
    return Confirmation(
        study=study.folder.path,
        metric=task.metric,
        objective=settings.metric,
        network=task.network,
        exploratory=plan.exploratory if plan.gan_seeds >= FEWEST_GAN_SEEDS else (*plan.exploratory, few_seeds),
        rope=rope,
        gan_seeds=plan.gan_seeds,
        classifier_seeds=plan.classifier_seeds,
        train_images=len(prepared.side("train").rows),
        test=HeldOutSet(
            images=len(test.images.patients),
            patients=len(set(test.images.patients)),
            fingerprint=fingerprint,
            positive=prepared.class_names[prepared.positive] if is_binary else "",
        ),
        finalists=judge_finalists(test, rope=rope),
        generators=secondary.generator_qualities(folder, plan),
        forecast=forecast,
        ratio_response=ratio_response(val_b),
        secondary=secondary.secondary_outcomes(test, arm_thresholds(folder, plan)),
        external=external,
        notes=(*plan.notes, *_notes_on_machines(study, compute)),
    )


def external_results(
    study: OpenStudy, plan: Plan, images: SealedTest | None, compute: Compute, *, reason: str
) -> tuple[ExternalResult, ...]:
    """Score a second hospital's folder, if one is given; return the results on it and on those of earlier calls."""
    folder = study.runs_folder
    file = folder.path / _EXTERNAL_FILE
    earlier: tuple[ExternalResult, ...] = ()
    if file.exists():
        with damage_explained(file, "remove it, and give each external folder again"):
            require_recorded(file, "JSON file")
            earlier = TypeAdapter(tuple[ExternalResult, ...]).validate_python(read_json(file)["results"])
    if images is None:
        return earlier
    scores = score_sealed(study, plan, images, compute, reason=reason)
    result = ExternalResult(
        folder=images.data.path.resolve().name,
        fingerprint=images.fingerprint,
        images=len(images.patients),
        patients=len(set(images.patients)),
        gan_seeds=plan.gan_seeds,
        earlier_accesses=len(accesses_before(study.folder.path, images.fingerprint, images.command)),
        differences=secondary.score_differences(scores),
        secondary=secondary.secondary_outcomes(scores, arm_thresholds(folder, plan)),
    )
    results = (*(other for other in earlier if other.fingerprint != result.fingerprint), result)
    write_json(file, {"version": 1, "results": [to_json(result) for result in results]}, is_recorded=True)
    return results


def _notes_on_machines(study: OpenStudy, scored_on: Compute) -> Iterator[str]:
    """Report differences between search, training and scoring."""
    trained = study.runs_folder.releases()[-1]
    if searched := [releases for releases in study.folder.releases() if releases != trained]:
        versions = ", ".join(map(format_versions, searched))
        yield f"trials of the search were trained with {versions}, and all replicates with {format_versions(trained)}"
    if scored_on.device != study.compute.device:
        yield "all replicates were trained on GPUs and scored on a CPU"
