"""From scores to the result of a confirmation: verdicts by the rules of `stats/verdict.py`, and what is reported beside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from xraytune.base.errors import join_names
from xraytune.base.records import Compute
from xraytune.confirm import secondary
from xraytune.confirm.arms import Arm, Plan
from xraytune.confirm.record import (
    Confirmation,
    ControlVerdict,
    FinalistVerdict,
    HeadroomReached,
    HeldOutSet,
)
from xraytune.confirm.score import ArmScores, EvaluationSet
from xraytune.confirm.sealed import SealedTest
from xraytune.confirm.study import OpenStudy
from xraytune.stats.classification import FEWEST_LABELS, scored_findings
from xraytune.stats.verdict import AgainstControl, ControlKind, compare, fixed_sequence, judge_pair, overall_verdict
from xraytune.study.folder import format_versions
from xraytune.trial.task import task_of


def judge(
    study: OpenStudy,
    plan: Plan,
    test: ArmScores,
    *,
    sealed: SealedTest,
    compute: Compute,
) -> Confirmation:
    """Judge the finalists by their scores on the `sealed` images, which were computed on `compute`."""
    folder, prepared, settings = study.runs_folder, study.prepared, study.settings
    rope, task, is_binary = settings.confirm.rope, task_of(settings), len(prepared.class_names) == 2
    return Confirmation(
        study=study.folder.path,
        metric=task.metric,
        objective=settings.metric,
        network=task.network,
        exploratory=plan.why_exploratory,
        rope=rope,
        replicates=plan.replicates,
        train_images=len(prepared.side("train").rows),
        train_patients=prepared.train_patients,
        test=HeldOutSet(
            kind=plan.test,
            images=len(test.images.patients),
            patients=len(set(test.images.patients)),
            fingerprint=sealed.fingerprint,
            positive=prepared.class_names[prepared.positive] if is_binary else "",
        ),
        finalists=judge_finalists(test, rope=rope),
        generators=tuple(secondary.generator_quality(folder, plan, arm) for arm in plan.finalists),
        findings=secondary.finding_differences(test),
        notes=(*plan.notes, *_notes_on_findings(test.images), *_notes_on_machines(study, compute)),
    )


def _notes_on_findings(images: EvaluationSet) -> Iterator[str]:
    scored = scored_findings(images.labels) if images.findings else ()
    if left_out := [name for number, name in enumerate(images.findings) if number not in scored]:
        few = f"fewer than {FEWEST_LABELS} positive or negative test images"
        yield f"findings with {few} are not in the mean: {join_names(left_out, 20)}"


def _notes_on_machines(study: OpenStudy, scored_on: Compute) -> Iterator[str]:
    trained = study.runs_folder.releases()[-1]
    if searched := [releases for releases in study.folder.releases() if releases != trained]:
        versions = ", ".join(map(format_versions, searched))
        yield f"trials of the search were trained with {versions}, and all replicates with {format_versions(trained)}"
    if scored_on.device != study.compute.device:
        yield "all replicates were trained on GPUs and scored on a CPU"


def judge_finalists(test: ArmScores, *, rope: float) -> tuple[FinalistVerdict, ...]:
    """Compare all finalists with all of their controls, as a fixed sequence in the order of val-B."""
    finalists = test.plan.finalists
    compared = [
        [_against(test, finalist, control, rope=rope) for control in test.plan.controls(finalist)]
        for finalist in finalists
    ]
    verdicts = fixed_sequence([overall_verdict([against for against, _ in pairs]) for pairs in compared])
    results = []
    for arm, pairs, verdict in zip(finalists, compared, verdicts, strict=True):
        scores, generator = test.measure(arm).scores[0], arm.parameters.gan
        results.append(
            FinalistVerdict(
                arm=arm.name,
                trial=arm.trial,
                generator="GAN" if generator else "",
                mixing=arm.parameters.mixing,
                score=float(scores.mean()),
                replicate_scores=tuple(scores.tolist()),
                headroom=headroom_reached(test, arm),
                verdict=verdict.word if verdict else "not_tested",
                because_of=verdict.controls if verdict else (),
                comparisons=tuple(result for _, result in pairs),
            )
        )
    return tuple(results)


def _against(test: ArmScores, finalist: Arm, control: Arm, *, rope: float) -> tuple[AgainstControl, ControlVerdict]:
    comparison = compare(test.measure(finalist, control))
    verdict, kind = judge_pair(comparison.evidence, rope=rope), control_kind(control)
    result = ControlVerdict(
        control=control.name,
        arm=control.parameters.arm,
        kind=kind,
        control_score=comparison.scores[1],
        **asdict(comparison.interval),
        verdict=verdict.words,
        variance_components=comparison.components,
        p_better_by_rope=verdict.p_better_by_rope,
    )
    return AgainstControl(control=control.name, kind=kind, verdict=verdict), result


def headroom_reached(test: ArmScores, finalist: Arm) -> HeadroomReached | None:
    """Compare a finalist's gain over no extra images with that of real images of other patients in their place."""
    same = [arm for arm in test.plan.arms if arm.trial == finalist.trial]
    perfect = next((arm for arm in same if arm.role == "perfect"), None)
    none = next((arm for arm in same if arm.role == "matched" and arm.parameters.source == "none"), None)
    if perfect is None or none is None:
        return None
    best, own = (compare(test.measure(arm, none)).interval for arm in (perfect, finalist))
    share = own.difference / best.difference if best.low > 0 else None
    return HeadroomReached(gain=best.difference, low=best.low, high=best.high, share=share)


def control_kind(control: Arm) -> ControlKind:
    """Return how a control differs from its finalist."""
    if control.role != "matched":
        return "tuned"
    if control.parameters.source == "duplicate":
        return "duplicate"
    return "none"
