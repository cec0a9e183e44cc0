"""From scores to the result of a confirmation: verdicts by the rules of `stats/verdict.py`, and what is reported beside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np

from xraytune.base.errors import join_names
from xraytune.base.records import Compute
from xraytune.confirm.arms import Arm, Plan
from xraytune.confirm.record import (
    Confirmation,
    ControlVerdict,
    FinalistVerdict,
    HeadroomReached,
    HeldOutSet,
)
from xraytune.confirm.score import ArmScores
from xraytune.confirm.sealed import SealedTest
from xraytune.confirm.study import OpenStudy
from xraytune.stats.classification import FEWEST_LABELS, scored_findings
from xraytune.stats.verdict import (
    AgainstControl,
    compare,
    fixed_sequence,
    judge_pair,
    overall_verdict,
)
from xraytune.study.folder import format_versions
from xraytune.study.trial_files import read_pool_report


def judge(
    study: OpenStudy, test: ArmScores, *, sealed: SealedTest, compute: Compute
) -> Confirmation:
    """Judge the finalists by their scores on the `sealed` images, which were computed on `compute`."""
    plan, prepared, confirm = test.plan, study.prepared, study.settings.confirm
    is_binary = len(prepared.class_names) == 2
    return Confirmation(
        study=study.folder.path,
        metric=test.task.metric,
        objective=study.settings.metric,
        network=test.task.network,
        exploratory=plan.why_exploratory,
        rope=confirm.rope,
        replicates=plan.replicates,
        train_images=len(prepared.side("train").rows),
        train_patients=prepared.train_patients,
        test=HeldOutSet(
            kind=plan.test,
            images=len(test.patients),
            patients=len({*test.patients}),
            fingerprint=sealed.fingerprint,
            positive=prepared.class_names[prepared.positive] if is_binary else "",
        ),
        finalists=tuple(
            replace(finalist, caveat=quality_caveat(study, plan, arm, rope=confirm.rope))
            for arm, finalist in zip(
                plan.finalists, judge_finalists(test, rope=confirm.rope), strict=True
            )
        ),
        notes=(*plan.notes, *_notes(study, test, compute)),
    )


def _notes(study: OpenStudy, test: ArmScores, scored_on: Compute) -> Iterator[str]:
    """Yield what a reader of the verdict must know about findings, generators and machines."""
    scored = scored_findings(test.labels) if test.findings else ()
    if left_out := [name for number, name in enumerate(test.findings) if number not in scored]:
        few = f"fewer than {FEWEST_LABELS} positive or negative test images"
        yield f"findings with {few} are not in the mean: {join_names(left_out, 20)}"
    for finalist in test.plan.finalists:
        numbers = test.plan.numbers(finalist)
        reports = [read_pool_report(study.runs_folder.trial_path(number)) for number in numbers]
        if copying := sum(bool(report and report.copies) for report in reports):
            yield f"the synthetic images of {copying} of {len(numbers)} replicates of {finalist.name} copy training images"
    trained = study.runs_folder.releases()[-1]
    if searched := [releases for releases in study.folder.releases() if releases != trained]:
        versions = ", ".join(map(format_versions, searched))
        yield f"trials of the search were trained with {versions}, and all replicates with {format_versions(trained)}"
    if scored_on.device != study.compute.device:
        yield "all replicates were trained on GPUs and scored on a CPU"


def quality_caveat(study: OpenStudy, plan: Plan, finalist: Arm, *, rope: float) -> str:
    """Return a sentence if a classifier of the synthetic images alone falls short of one of the real images."""
    reports = (read_pool_report(study.runs_folder.trial_path(n)) for n in plan.numbers(finalist))
    pairs = [
        (report.quality.gan_train, report.quality.real_train)
        for report in reports
        if report and report.quality and report.quality.gan_train and report.quality.real_train
    ]
    if not pairs:
        return ""
    synthetic, real = np.mean(pairs, axis=0)
    if synthetic > real - rope:
        return ""
    return (
        f"The synthetic images do not show all that separates the classes: a classifier of them "
        f"alone reached an AUROC of {synthetic:.3f} on val-A, and one of the real images {real:.3f}."
    )


def judge_finalists(test: ArmScores, *, rope: float) -> tuple[FinalistVerdict, ...]:
    """Compare all finalists with all of their controls, as a fixed sequence in the order of val-B."""
    finalists = test.plan.finalists
    results: dict[str, list[ControlVerdict]] = {finalist.name: [] for finalist in finalists}
    verdicts = []
    for finalist in finalists:
        against = []
        for control in test.plan.controls(finalist):
            comparison = compare(test.measure(finalist, control))
            verdict = judge_pair(comparison.evidence, rope=rope)
            kind = control.kind
            against.append(AgainstControl(control=control.name, kind=kind, verdict=verdict))
            results[finalist.name].append(
                ControlVerdict(
                    control=control.name,
                    arm=control.parameters.arm,
                    kind=kind,
                    control_score=comparison.scores[1],
                    **asdict(comparison.interval),
                    verdict=verdict.words,
                    variance_components=comparison.components,
                    p_better_by_rope=verdict.p_better_by_rope,
                )
            )
        verdicts.append(overall_verdict(against))

    found = []
    for finalist, tested in zip(finalists, fixed_sequence(verdicts), strict=True):
        scores = test.measure(finalist).scores[0]
        found.append(
            FinalistVerdict(
                arm=finalist.name,
                trial=finalist.trial,
                generator="GAN" if finalist.parameters.gan else "",
                mixing=finalist.parameters.mixing,
                score=float(scores.mean()),
                replicate_scores=tuple(scores.tolist()),
                headroom=headroom_reached(test, finalist),
                verdict=tested.word if tested else "not_tested",
                because_of=tested.controls if tested else (),
                comparisons=tuple(results[finalist.name]),
            )
        )
    return tuple(found)


def headroom_reached(test: ArmScores, finalist: Arm) -> HeadroomReached | None:
    """Compare a finalist's gain over no extra images with that of real images of other patients in their place."""
    same = [arm for arm in test.plan.arms if arm.trial == finalist.trial]
    perfect = [arm for arm in same if arm.role == "perfect"]
    none = [arm for arm in same if arm.role == "matched" and arm.parameters.source == "none"]
    if not (perfect and none):
        return None
    best, own = (compare(test.measure(arm, none[0])).interval for arm in (perfect[0], finalist))
    share = own.difference / best.difference if best.low > 0 else None
    return HeadroomReached(gain=best.difference, low=best.low, high=best.high, share=share)
