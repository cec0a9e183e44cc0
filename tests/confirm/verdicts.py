"""The files and the scores of confirmations that did not take place."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from xraytune.base.files import write_json
from xraytune.base.records import to_json
from xraytune.confirm.arms import Arm, Plan, compared_arms, write_plan
from xraytune.confirm.compare import ArmScores
from xraytune.confirm.record import (
    Confirmation,
    ControlVerdict,
    FinalistVerdict,
    HeldOutSet,
    Searched,
)
from xraytune.space.parameters import Parameters
from xraytune.space.source_settings import FolderSettings
from xraytune.stats.verdict import Interval
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal

REPLICATES = 5
SEXES = {"female": 1.0, "male": 0.0}
"""By how much the finalist's images move the scores of positive patients of a sex."""


def arm(name: str, role: Any, source: str) -> Arm:
    folder = FolderSettings(path=Path("images")) if source == "folder" else None
    parameters = Parameters(source=source, folder=folder)
    return Arm(name=name, role=role, trial_label="#1", parameters=parameters)


FINALIST, CONTROL = (
    arm("folder #1", "finalist", "folder"),
    arm("none, matched to #1", "matched", "none"),
)


def study(seed: int, patients: int = 240) -> tuple[ArmScores, dict[str, str], list[str]]:
    """A study whose extra images help women only, with the sex of each image and its file."""
    generator = np.random.default_rng(seed)
    labels = np.arange(patients) % 2
    sexes = [[*SEXES][number // 2 % 2] for number in range(patients)]
    logits = labels + generator.normal(size=patients)
    gains = np.array([SEXES[sex] for sex in sexes]) * labels
    results = []
    for _ in range(REPLICATES):
        for gain in (gains, 0 * gains):
            noisy = logits + gain + 0.3 * generator.normal(size=patients)
            chance = 1 / (1 + np.exp(-noisy))
            results.append(np.stack([1 - chance, chance], axis=1))
    plan = Plan(test="unused", replicates=REPLICATES, arms=(FINALIST, CONTROL))
    files = [f"{number}.png" for number in range(patients)]
    test = ArmScores(
        plan=plan,
        results=np.stack(results),
        labels=labels,
        patients=tuple(files),
        files=tuple(files),
        positive=1,
    )
    return test, dict(zip(files, sexes, strict=True)), files


def interval(**given: float) -> Interval:
    """Return an interval; what is not given is 0."""
    return Interval(**dict.fromkeys(Interval.__dataclass_fields__, 0.0) | given)


CONFIRMATION = Confirmation(
    study=Path("studies/small"),
    metric="AUROC",
    objective="AUROC",
    network="classifier",
    exploratory=(),
    rope=0.01,
    replicates=REPLICATES,
    train_images=40,
    train_patients=30,
    test=HeldOutSet(
        kind="folder", name="the test folder", images=300, patients=300, fingerprint="f"
    ),
    notes=(),
    finalists=(),
    searched=Searched(
        trials=60,
        pruned=0,
        sampler="tpe",
        image_size_px=128,
        networks=("mobilenet_v2 (imagenet weights, trainable: head)",),
        generators=("DCGAN (64 px, trained for 4,000 steps)",),
        packages={"xraytune": "0.1.0", "torch": "2.15.0"},
    ),
)


def write_verdict(
    study: Path,
    words: Mapping[int, Any],
    *,
    exploratory: tuple[str, ...] = (),
    scores: Mapping[str, float] | None = None,
) -> None:
    """Write the verdicts on some trials, by number.

    With `scores` of arms by their source, only one trial has a verdict, and it was compared with
    its matched controls, and with a classifier from elsewhere that is better than all.
    """
    finalists = tuple(_finalist(f"gan #{trial}", trial, word) for trial, word in words.items())
    if scores:
        finalists = (_measured(StudyFolder(study), words, scores),)
    record = replace(CONFIRMATION, study=study, exploratory=exploratory, finalists=finalists)
    write_json(study / "confirm/verdict.json", to_json(record), is_recorded=True)


def _measured(
    folder: StudyFolder, words: Mapping[int, Any], scores: Mapping[str, float]
) -> FinalistVerdict:
    ((trial, word),) = words.items()
    space = folder.space()
    row = next(
        row
        for row in Journal(folder.journal_path, space, is_writable=False).rows()
        if row.number == trial
    )
    finalist, *others = compared_arms([row], space.settings, "unused")
    controls = [arm for arm in others if arm.role == "matched"]
    (none,) = (arm for arm in controls if arm.parameters.source == "none")
    donor = none.model_copy(update={"name": "classifier of A", "role": "donor", "control": "donor"})
    plan = Plan(test="unused", replicates=2, arms=(finalist, *others, donor))
    (folder.path / "confirm").mkdir()
    write_plan(plan, folder.path / "confirm")
    comparisons = (
        *(_comparison(arm.name, scores[arm.parameters.source]) for arm in controls),
        _comparison(donor.name, 0.999),
    )
    return _finalist(finalist.name, trial, word, scores[finalist.parameters.source], comparisons)


def _finalist(
    arm: str,
    trial: int,
    word: Any,
    score: float = 0.8,
    comparisons: tuple[ControlVerdict, ...] = (),
) -> FinalistVerdict:
    return FinalistVerdict(
        arm=arm,
        trial=f"#{trial}",
        generator="GAN",
        mixing="additive",
        score=score,
        replicate_scores=(score, score),
        headroom=None,
        verdict=word,
        because_of=(),
        comparisons=comparisons,
    )


def _comparison(control: str, score: float) -> ControlVerdict:
    return ControlVerdict(
        control=control,
        arm="real_only",
        backbone="",
        kind="none",
        control_score=score,
        verdict=("undecided",),
        variance_components={},
        p_better_by_rope=0.5,
        **asdict(interval()),
    )
