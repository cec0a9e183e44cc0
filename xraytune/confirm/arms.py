"""The arms of a confirmation and their replicates, as recorded in `plan.json`.

An arm is a finalist, one of its controls, or the same with real images of other patients in the
place of synthetic ones. Arms with equal settings share their runs.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import PositiveInt, ValidationError

from xraytune.base.files import read_json, with_checksum, without_checksum, write_json
from xraytune.base.seeding import derive_seed
from xraytune.data.sides import FEWEST_REPLICATES
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.paths import FilePath
from xraytune.space.settings import DonorControl, Experiment, Parameters, Settings, without_gate
from xraytune.space.strict_model import StrictModel
from xraytune.stats.verdict import ControlKind
from xraytune.study.folder import damage_explained
from xraytune.study.row import TrialRow

CONFIRM_FOLDER = "confirm"
TOP_UP_FOLDER = "top_up"
_PLAN_FILE = "plan.json"

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
    """Such as `gan #12`, `none, matched to #12`, `tuned augmented #3 (affine)`."""
    role: Role
    trial: str
    """The trial with these settings; for a matched control, its finalist's."""
    parameters: Parameters
    control: DonorControl | None = None
    donor: FilePath | None = None
    """The folder of the classifier that its training starts at."""

    @property
    def kind(self) -> ControlKind:
        """What it is as a control."""
        if self.role == "matched":
            return "duplicate" if self.parameters.source == "duplicate" else "none"
        return self.control or "tuned"

    @property
    def training(self) -> Self:
        """What its replicates depend on besides their seeds; equal ones are trained only once."""
        return self.model_copy(
            update={
                "name": "",
                "trial": "",
                "role": "perfect" if self.role == "perfect" else "finalist",
                "parameters": self.parameters.model_copy(update={"early_stop_epochs": None}),
            }
        )


class OpenedHospital(StrictModel):
    """Further test images, of which the first access of this confirmation is planned or logged.

    Attributes:
        name: That of its folder, or another one if a hospital has it already.
        order: The `order` of its images; its scores are in `test-ORDER.npy`.
        access: The `id` of the logged access; "" once the plan was extended.
        exploratory: Earlier accesses to its images.
    """

    name: str
    order: str
    access: str = ""
    exploratory: tuple[str, ...] = ()


class Plan(StrictModel):
    """The arms of a confirmation, each with as many replicates, and what they are scored on."""

    test: TestKind
    replicates: PositiveInt
    notes: tuple[str, ...] = ()
    exploratory: tuple[str, ...] = ()
    """Earlier accesses to the test images."""
    extended: tuple[str, ...] = ()
    """Each extension by further replicates after the test images had been opened."""
    order: str = ""
    """The `order` of the test images, once they are opened."""
    access: str = ""
    """The `id` of the logged access to them; "" before it, and once the plan was extended."""
    hospitals: tuple[OpenedHospital, ...] = ()
    sites: tuple[str, ...] = ()
    """The site that each replicate leaves out; empty if none does."""
    arms: tuple[Arm, ...]
    """Finalists by val-B, each followed by its matched controls.

    Then the tuned ones, and a donor's.
    """

    @property
    def why_exploratory(self) -> tuple[str, ...]:
        """Why the verdict is not confirmatory; empty if it is."""
        reasons = (*self.exploratory, *self.extended)
        if self.sites or self.replicates >= FEWEST_REPLICATES:
            return reasons
        few = (
            f"it has only {self.replicates} replicates, and the 95 % intervals need at least "
            f"{FEWEST_REPLICATES}"
        )
        return (*reasons, few)

    @property
    def is_opened(self) -> bool:
        """Whether the test images were opened with all of its replicates."""
        return bool(self.order) and (bool(self.access) or not self.extended)

    def with_replicates(self, count: int, verdict: str) -> Self:
        """Return the plan with more replicates, and with the images to open anew.

        If they were opened before, the plan says so, also with the `verdict` then.
        """
        extended = self.extended
        if self.order:
            why = (
                f"it was extended from {self.replicates} to {count} replicates after its test "
                f"images had been scored (verdict: {verdict})"
            )
            extended = (*extended, why)
        hospitals = [hospital.model_copy(update={"access": ""}) for hospital in self.hospitals]
        return self.model_copy(
            update={
                "replicates": count,
                "extended": extended,
                "access": "",
                "hospitals": tuple(hospitals),
            }
        )

    @property
    def trainings(self) -> dict[Arm, str]:
        """What each replicate trains, in order, with the name of the first such arm."""
        names: dict[Arm, str] = {}
        for arm in self.arms:
            names.setdefault(arm.training, arm.name)
        return names

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
            or (arm.role in ("matched", "donor") and arm.trial == finalist.trial)
        )

    def numbers(self, arm: Arm) -> list[int]:
        """Return the run of each replicate of an arm."""
        trainings = [*self.trainings]
        place = trainings.index(arm.training)
        return [replicate * len(trainings) + place for replicate in range(self.replicates)]


def write_plan(plan: Plan, folder: Path) -> None:
    """Write `plan.json`, with paths relative to its folder."""
    content = plan.model_dump(mode="json", context=folder)
    write_json(folder / _PLAN_FILE, with_checksum(content))


def read_plan(folder: Path) -> Plan | None:
    """Return the plan of an earlier call, if there is one; raise StudyError if it is damaged."""
    file = folder / _PLAN_FILE
    if not file.exists():
        return None
    with damage_explained(file, f"restore it, or move {folder.name}/ away to start over"):
        content = json.dumps(without_checksum(read_json(file)))
        return Plan.model_validate_json(content, context=folder)


def replicate(arm: Arm, settings: Settings, number: int, test: TestKind) -> Experiment:
    """Return what trains a replicate of an arm, counted from 0, with fresh seeds to its last step.

    Equal numbers give the same stream of real images in every arm, with or without a generator.
    """
    seed = derive_seed(settings.seed, "confirm", number) % 2**31
    parameters = arm.training.parameters
    if parameters.gan is not None:
        parameters = parameters.with_gan(
            seed=derive_seed(parameters.gan.seed, "confirm", number) % 2**31
        )
    return Experiment(
        # Without gates: excluding replicates would select among them.
        settings=without_gate(settings.model_copy(update={"seed": seed})),
        parameters=parameters,
        draw=None if test == "folder" else number,
        has_real_extra=arm.role == "perfect",
        control=arm.control,
        donor=arm.donor,
    )


def compared_arms(finalists: Sequence[TrialRow], settings: Settings, test: TestKind) -> list[Arm]:
    """Return the finalists, each with its matched controls.

    With draws, also with real images of other patients.
    """
    arms: list[Arm] = []
    for trial in finalists:
        finalist = Arm(
            name=f"{trial.parameters.arm} {trial.label}",
            role="finalist",
            parameters=trial.parameters,
            trial=trial.label,
        )
        controls = [
            matched_control(finalist, source) for source in settings.confirm.controls.matched
        ]
        arms += [finalist, *(control for control in controls if control)]
        if test != "folder" and (perfect := matched_control(finalist, "duplicate")):
            name = f"real images of other patients, as {trial.label}"
            as_many = {"pool_size": trial.parameters.pool_size}
            perfect = perfect.model_copy(
                update={"parameters": perfect.parameters.model_copy(update=as_many)}
            )
            arms.append(perfect.model_copy(update={"name": name, "role": "perfect"}))
    return arms


def matched_control(finalist: Arm, source: str) -> Arm | None:
    """Return the finalist with `source` `none` or `duplicate`; None if its settings exclude it."""
    values = {
        name: value for name, value in flat_values(finalist.parameters).items() if "." not in name
    }
    try:
        parameters = parameters_from({**values, "source": source})
    except ValidationError:
        return None
    name = f"{source}, matched to {finalist.trial}"
    return finalist.model_copy(update={"name": name, "role": "matched", "parameters": parameters})
