"""The arms of a confirmation and their replicates, as recorded in `plan.json`.

An arm is a finalist, one of its controls, or the same with real images of other patients in the
place of synthetic ones. Arms with equal settings share their runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import PositiveInt, ValidationError

from xraytune.base.errors import Problem, StudyError
from xraytune.base.files import read_bytes, write_json
from xraytune.base.seeding import derive_seed
from xraytune.data.sides import FEWEST_REPLICATES
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.paths import FilePath
from xraytune.space.settings import DonorControl, Experiment, Parameters, Settings, without_gate
from xraytune.space.strict_model import StrictModel
from xraytune.stats.verdict import ControlKind
from xraytune.study.row import TrialRow

CONFIRM_FOLDER = "confirm"
TOP_UP_FOLDER = "top_up"
_PLAN_FILE = "plan.json"

Content: TypeAlias = tuple[Parameters, int | None, bool, DonorControl | None, Path | None]
Role = Literal["finalist", "matched", "tuned", "perfect", "donor"]
TestKind = Literal["unused", "draws", "folder"]
"""What is scored, and what replicates are trained on. `unused`: each is trained on its own draw of
patients that the search never used, and the others are scored. `draws`: likewise, but a test
folder is scored. `folder`: a test folder is scored, and all replicates are trained on the search's
patients."""


def finished_label(trial: str) -> str:
    """Return the label of the run that trains a pruned trial, such as `#12`, to the end."""
    return f"{trial} to its end"


class Arm(StrictModel):
    """One side of a comparison."""

    name: str
    """Such as `gan #12`, `none, matched to #12`, `tuned classical #3`."""
    role: Role
    trial: str
    """The trial with these settings; for a matched control, its finalist's."""
    resolution_px: int | None = None
    """The finalist's resolution, which all images are rescaled through; None: no resolution matching."""
    parameters: Parameters
    control: DonorControl | None = None
    donor: FilePath | None = None
    """The folder of the head that its training starts at."""

    @property
    def kind(self) -> ControlKind:
        """What it is as a control."""
        if self.role == "matched":
            return "duplicate" if self.parameters.source == "duplicate" else "none"
        return self.control or "tuned"

    @property
    def content(self) -> Content:
        """What its replicates, all trained in full, depend on besides their seeds; equal ones are trained only once.

        Its parameters, its resolution, whether its extra images are real ones, and its donor.
        """
        parameters = self.parameters.model_copy(update={"early_stop_epochs": None})
        is_perfect = self.role == "perfect"
        return parameters, self.resolution_px, is_perfect, self.control, self.donor


class Plan(StrictModel):
    """The arms of a confirmation, each with as many replicates, and what they are scored on."""

    test: TestKind
    replicates: PositiveInt
    notes: tuple[str, ...] = ()
    exploratory: tuple[str, ...] = ()
    """Earlier accesses to the test images."""
    arms: tuple[Arm, ...]
    """Finalists by val-B, each followed by its matched controls; then the tuned ones, and a donor's."""

    @property
    def why_exploratory(self) -> tuple[str, ...]:
        """Why the verdict is not confirmatory; empty if it is."""
        few = f"it has only {self.replicates} replicates, and the 95 % intervals need at least {FEWEST_REPLICATES}"
        return (
            self.exploratory if self.replicates >= FEWEST_REPLICATES else (*self.exploratory, few)
        )

    @property
    def trainings(self) -> dict[Content, Arm]:
        """The first arm with each content, in order."""
        first: dict[Content, Arm] = {}
        for arm in self.arms:
            first.setdefault(arm.content, arm)
        return first

    @property
    def finalists(self) -> tuple[Arm, ...]:
        """The arms of the finalists, best on val-B first."""
        return tuple(arm for arm in self.arms if arm.role == "finalist")

    def controls(self, finalist: Arm) -> tuple[Arm, ...]:
        """Return the controls that a finalist is compared with."""
        return tuple(
            arm
            for arm in self.arms
            if arm.role == "tuned"
            or (arm.role not in ("finalist", "perfect") and arm.trial == finalist.trial)
        )

    def numbers(self, arm: Arm) -> list[int]:
        """Return the run of each replicate of an arm."""
        place = [*self.trainings].index(arm.content)
        return [replicate * len(self.trainings) + place for replicate in range(self.replicates)]

    @property
    def runs(self) -> range:
        """The numbers of all runs."""
        return range(self.replicates * len(self.trainings))


def write_plan(plan: Plan, folder: Path) -> None:
    """Write `plan.json`, with paths relative to its folder."""
    write_json(folder / _PLAN_FILE, plan.model_dump(mode="json", context=folder))


def read_plan(folder: Path) -> Plan | None:
    """Return the plan of an earlier call, if there is one; raise StudyError if it is damaged."""
    file = folder / _PLAN_FILE
    if not file.exists():
        return None
    try:
        return Plan.model_validate_json(read_bytes(file), context=folder)
    except ValueError as error:
        fix = f"restore it from a backup, or move {folder.name}/ away to start the confirmation from scratch"
        raise StudyError(Problem("the plan of this confirmation is damaged", file, fix)) from error


def replicate(arm: Arm, settings: Settings, number: int, test: TestKind) -> Experiment:
    """Return what trains a replicate of an arm, counted from 0, with fresh seeds to its last step.

    Equal numbers give the same stream of real images in every arm, with or without a generator.
    """
    seed = derive_seed(settings.seed, "confirm", number) % 2**31
    parameters, resolution_px, has_real_extra, control, donor = arm.content
    if parameters.gan is not None:
        parameters = parameters.with_gan(
            seed=derive_seed(parameters.gan.seed, "confirm", number) % 2**31
        )
    return Experiment(
        # Without gates: excluding replicates would select among them.
        settings=without_gate(settings.model_copy(update={"seed": seed})),
        parameters=parameters,
        inherited_resolution_px=resolution_px,
        draw=None if test == "folder" else number,
        has_real_extra=has_real_extra,
        control=control,
        donor=donor,
    )


def compared_arms(finalists: Sequence[TrialRow], settings: Settings, test: TestKind) -> list[Arm]:
    """Return the finalists, each with its matched controls; with draws, also with real images of other patients."""
    arms = list[Arm]()
    for finalist in finalists:
        resolution_px = Experiment(settings=settings, parameters=finalist.parameters).resolution_px
        arm = finalist_arm(finalist, resolution_px)
        arms += [
            arm,
            *filter(
                None, (matched_control(arm, source) for source in settings.confirm.controls.matched)
            ),
        ]
        if test != "folder" and (perfect := matched_control(arm, "duplicate")):
            name = f"real images of other patients, as {finalist.label}"
            arms.append(perfect.model_copy(update={"name": name, "role": "perfect"}))
    return arms


def finalist_arm(finalist: TrialRow, resolution_px: int | None) -> Arm:
    """Return the arm of a finalist."""
    parameters, name = finalist.parameters, f"{finalist.parameters.arm} {finalist.label}"
    return Arm(
        name=name,
        role="finalist",
        parameters=parameters,
        trial=finalist.label,
        resolution_px=resolution_px,
    )


def matched_control(finalist: Arm, source: str) -> Arm | None:
    """Return the finalist with `source` `none` or `duplicate`, or None if the settings exclude it."""
    values = {
        name: value for name, value in flat_values(finalist.parameters).items() if "." not in name
    }
    try:
        parameters = parameters_from({**values, "source": source})
    except ValidationError:
        return None
    name = f"{source}, matched to {finalist.trial}"
    return finalist.model_copy(update={"name": name, "role": "matched", "parameters": parameters})
