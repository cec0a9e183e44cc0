"""What a confirm does, decided before it starts and written down: arms, top-ups, and the runs of each replicate.

`plan.json` is written once and only ever grows: a later start with more seeds adds runs at its end, so that a run keeps its
number and nothing is trained twice. That seeds were added after the verdict had been seen is noted in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt

from xraytune.config.domains import Value
from xraytune.config.fields import flat_values, stored_parameters
from xraytune.config.resolved import absolute_path, is_path, relative_value
from xraytune.config.settings import Model
from xraytune.confirm.arms import Arm, Role
from xraytune.errors import Problem, StudyError
from xraytune.files import read_bytes, write_json

CONFIRM_FOLDER = "confirm"
TOP_UP_FOLDER = "top_up"
PLAN_FILE = "plan.json"
FORECAST_FILE = "forecast.json"
VERDICT_FILE = "verdict.json"
EARLIER_TOP_UP = (
    "the tuned controls of this confirm were chosen by the rule of an earlier version: their arms were given as many fully "
    "trained trials as a finalist's source had, not as many sampled ones, which favours a source that was pruned more"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One replicate of one arm."""

    arm: str
    gan_seed: int
    classifier_seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared.

    Attributes:
        arms: Finalists, their matched controls, the tuned controls, the points of the ratio response.
        gan_seeds: G.
        classifier_seeds: K, of each GAN seed.
        runs: In the order of their numbers.
        notes: What a person should know of it.
        exploratory: Why the verdict is no longer a confirmation; empty where it is one.
    """

    arms: tuple[Arm, ...]
    gan_seeds: int
    classifier_seeds: int
    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...] = ()
    exploratory: tuple[str, ...] = ()

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def numbers(self, arm: str) -> dict[tuple[int, int], int]:
        """The run of each (GAN seed, classifier seed) of an arm."""
        return {(run.gan_seed, run.classifier_seed): number for number, run in enumerate(self.runs) if run.arm == arm}

    def grown(self, arms: Sequence[Arm], gan_seeds: int, classifier_seeds: int) -> Plan:
        """The plan with further arms and seeds; what it has keeps its place."""
        known = {arm.name for arm in self.arms}
        every = (*self.arms, *(arm for arm in arms if arm.name not in known))
        there = set(self.runs)
        further = [run for run in _runs(every, gan_seeds, classifier_seeds) if run not in there]
        return replace(
            self,
            arms=every,
            gan_seeds=max(gan_seeds, self.gan_seeds),
            classifier_seeds=max(classifier_seeds, self.classifier_seeds),
            runs=(*self.runs, *further),
        )


def _runs(arms: Iterable[Arm], gan_seeds: int, classifier_seeds: int) -> list[PlannedRun]:
    """A replicate at a time, so that an early look at the figures compares like with like."""
    every = list(arms)
    return [
        PlannedRun(arm=arm.name, gan_seed=gan_seed, classifier_seed=classifier_seed)
        for gan_seed in range(gan_seeds)
        for classifier_seed in range(classifier_seeds)
        for arm in every
    ]


def new_plan() -> Plan:
    """A plan with nothing in it."""
    return Plan(arms=(), gan_seeds=0, classifier_seeds=0, runs=())


def write_plan(plan: Plan, folder: Path) -> None:
    """Write `plan.json`."""
    arms = [
        {
            "name": arm.name,
            "role": arm.role,
            "trial": arm.trial,
            "resolution_px": arm.resolution_px,
            "parameters": {
                name: relative_value(name, value, folder) for name, value in flat_values(arm.parameters).items()
            },
        }
        for arm in plan.arms
    ]
    content: dict[str, Any] = {
        "version": 2,
        "gan_seeds": plan.gan_seeds,
        "classifier_seeds": plan.classifier_seeds,
        "notes": list(plan.notes),
        "exploratory": list(plan.exploratory),
        "arms": arms,
        "runs": [[run.arm, run.gan_seed, run.classifier_seed] for run in plan.runs],
    }
    write_json(folder / PLAN_FILE, content)


class _StoredArm(Model):
    """An arm as the file has it, its parameters by dotted name."""

    name: str
    role: Role
    trial: str
    resolution_px: int | None
    parameters: dict[str, Value]

    def arm(self, folder: Path) -> Arm:
        values = {
            name: absolute_path(str(value), folder) if is_path(name, value) else value
            for name, value in self.parameters.items()
        }
        return Arm(
            name=self.name,
            role=self.role,
            parameters=stored_parameters(values),
            trial=self.trial,
            resolution_px=self.resolution_px,
        )


class _StoredPlan(Model):
    """What the file holds."""

    version: Literal[1, 2]
    gan_seeds: NonNegativeInt
    classifier_seeds: NonNegativeInt
    notes: tuple[str, ...]
    exploratory: tuple[str, ...]
    arms: tuple[_StoredArm, ...]
    runs: tuple[tuple[str, NonNegativeInt, NonNegativeInt], ...]


def read_plan(folder: Path) -> Plan | None:
    """The plan of an earlier start; None where there is none. One of an earlier version says so in its notes.

    Raises:
        StudyError: The file is damaged.
    """
    file = folder / PLAN_FILE
    if not file.exists():
        return None
    try:
        stored = _StoredPlan.model_validate_json(read_bytes(file, "JSON file"))
        plan = Plan(
            arms=tuple(arm.arm(folder) for arm in stored.arms),
            gan_seeds=stored.gan_seeds,
            classifier_seeds=stored.classifier_seeds,
            runs=tuple(PlannedRun(arm=arm, gan_seed=g, classifier_seed=c) for arm, g, c in stored.runs),
            notes=stored.notes,
            exploratory=stored.exploratory,
        )
        if {run.arm for run in plan.runs} - {arm.name for arm in plan.arms}:
            raise ValueError("a run of no arm")
        if stored.version == 1 and any(arm.role == "tuned" for arm in plan.arms):
            plan = replace(plan, notes=(*plan.notes, EARLIER_TOP_UP))
    except ValueError as error:
        fix = f"put it back from a copy, or move {folder.name}/ away to begin the confirm anew"
        raise StudyError(Problem("the plan of this confirm is damaged", file, fix)) from error
    return plan
