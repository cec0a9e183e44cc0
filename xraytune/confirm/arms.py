"""The arms of a confirmation and their replicates, as recorded in `plan.json`.

An arm is a finalist, one of its controls, or the finalist with real images of other patients in
place of its synthetic images. Arms with equal settings share their runs.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, ValidationError

from xraytune.base.files import read_json, with_checksum, without_checksum, write_json
from xraytune.base.seeding import derive_seed
from xraytune.data.draws import FEWEST_REPLICATES
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.parameters import Parameters
from xraytune.space.paths import FilePath
from xraytune.space.settings import DonorControl, Experiment, Settings
from xraytune.space.strict_model import OptionalCount, StrictModel
from xraytune.stats.verdict import ControlKind
from xraytune.study.folder import explain_damage
from xraytune.study.row import TrialRow

TOP_UP_FOLDER = "top_up"
MOST_REPLICATES = 40
"""More replicates are not proposed. Ten take about as long as a search, and 40 halve
the interval at best."""
_PLAN_FILE = "plan.json"

Role = Literal["finalist", "matched", "tuned", "perfect", "donor"]
"""What an arm is compared for.

The controls of a finalist are `matched`, `tuned` or of a `donor` (`ControlKind`). The `perfect` arm
is no control: it has real images of other patients in place of synthetic ones, which could not be
better.
"""
TestKind = Literal["unused", "outside", "draws", "folder"]
"""What is scored, and what replicates are trained on.

`unused`: each replicate is trained on its own draw of the patients that the search never used, and
the remaining patients are scored. `outside`: likewise, but each replicate is scored on all unused
patients outside its draw, and draws may overlap. `draws`: as `unused`, but a test folder is scored.
`folder`: a test folder is scored, and all replicates are trained on the search's patients.
"""
UNUSED_KINDS: tuple[TestKind, ...] = ("unused", "outside")
"""The kinds that score patients whom the search never used."""


def finished_label(trial: str) -> str:
    """Return the label of the run that trains a pruned trial, such as `#12`, to the end."""
    return f"{trial} to its end"


class Arm(StrictModel, validate_by_name=True, serialize_by_alias=True):
    """One side of a comparison."""

    name: str
    """Name of the arm, such as `gan #12`, `none, matched to #12`, `tuned augmented #3 (affine)`."""
    role: Role
    trial_label: str = Field(alias="trial")
    """Label of the trial with these settings; for an arm derived from a finalist, of the
    finalist's trial."""
    parameters: Parameters
    control: DonorControl | None = None
    donor: FilePath | None = None
    """Folder of another hospital's classifier, if the arm uses or starts from one."""
    real_pool_size: OptionalCount = None
    """Number of real images of other patients in a `perfect` arm, if its finalist has a
    `pool_size`; None for as many as the ratio adds."""
    unknown_training: str = Field("", alias="trainings")
    """Name of an arm that xraytune did not train, so that it cannot tell which trainings are equal;
    "" otherwise."""

    @property
    def has_real_extra(self) -> bool:
        """Whether the extra images are real ones, of other patients."""
        return self.role == "perfect"

    @property
    def kind(self) -> ControlKind:
        """The kind of control that the arm is."""
        if self.role == "matched":
            return "duplicate" if self.parameters.source == "duplicate" else "none"
        return self.control or "tuned"

    @property
    def training(self) -> Self:
        """What the arm's replicates depend on besides their seeds.

        Arms with equal trainings are trained only once.
        """
        return self.with_values(
            {
                "name": "",
                "trial_label": "",
                "role": self.role if self.has_real_extra else "finalist",
                "parameters.early_stop_epochs": None,
            }
        )


class OpenedHospital(StrictModel, validate_by_name=True, serialize_by_alias=True):
    """Further test images that this confirmation has opened or is about to open.

    Attributes:
        name: Name of the hospital's folder, with a suffix if another hospital has the same name.
        ordered_fingerprint: That of the hospital's images, as `SealedTest` has it; part of the name
            of the file with their scores.
        access_id: The `id` of the logged access; "" once the plan was extended.
        exploratory: Earlier accesses to the hospital's images.
    """

    name: str
    ordered_fingerprint: str = Field(alias="order")
    access_id: str = Field("", alias="access")
    exploratory: tuple[str, ...] = ()


class Plan(StrictModel, validate_by_name=True, serialize_by_alias=True):
    """The arms of a confirmation, the number of replicates of each, and what is scored."""

    test: TestKind
    replicates: PositiveInt
    notes: tuple[str, ...] = ()
    exploratory: tuple[str, ...] = ()
    """Earlier accesses to the test images."""
    extension_notes: tuple[str, ...] = Field((), alias="extended")
    """A note for each time that replicates were added after the test images had been opened."""
    ordered_fingerprint: str = Field("", alias="order")
    """The `ordered_fingerprint` of the test images, once they are opened."""
    test_name: str = ""
    """`the test folder`, or the name of the folder that was scored instead, once it is opened."""
    access_id: str = Field("", alias="access")
    """The `id` of the logged access to the test images; "" before it, and after an extension."""
    hospitals: tuple[OpenedHospital, ...] = ()
    sites: tuple[str, ...] = ()
    """The site that each replicate leaves out; empty if none does."""
    arms: tuple[Arm, ...]
    """The finalists, best on val-B first, each followed by its matched controls; then the tuned
    controls, and the controls of finalists whose extra images come from elsewhere."""

    @property
    def why_exploratory(self) -> tuple[str, ...]:
        """The reasons why the verdict is exploratory; empty if it is confirmatory."""
        reasons = (*self.exploratory, *self.extension_notes)
        if self.sites or self.replicates >= FEWEST_REPLICATES:
            return reasons
        reason = (
            f"there are only {self.replicates} replicates, and the 95 % intervals need at least "
            f"{FEWEST_REPLICATES}"
        )
        return (*reasons, reason)

    def with_replicates(self, count: int, verdict: str) -> Self:
        """Return the plan with more replicates, whose test images are to be opened anew.

        If they were opened before, the plan records this, with the `verdict` of that time.
        """
        notes = self.extension_notes
        if self.ordered_fingerprint:
            note = (
                f"the confirmation was extended from {self.replicates} to {count} replicates after "
                f"its test images had been scored (verdict: {verdict})"
            )
            notes = (*notes, note)
        hospitals = [hospital.with_values({"access_id": ""}) for hospital in self.hospitals]
        return self.with_values(
            {
                "replicates": count,
                "extension_notes": notes,
                "access_id": "",
                "hospitals": tuple(hospitals),
            }
        )

    @property
    def trainings(self) -> dict[Arm, str]:
        """The distinct trainings of a replicate, each with the name of its first arm, in order."""
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
            or (arm.role in ("matched", "donor") and arm.trial_label == finalist.trial_label)
        )

    def deciding_controls(self, finalist: Arm) -> tuple[Arm, ...]:
        """Return the controls that the verdict on a finalist rests on."""
        controls = self.controls(finalist)
        return tuple(arm for arm in controls if arm.kind != "synthetic_only")

    def run_numbers(self, arm: Arm) -> list[int]:
        """Return the number of the run of each replicate of an arm."""
        trainings = [*self.trainings]
        first = trainings.index(arm.training)
        return [*range(first, self.replicates * len(trainings), len(trainings))]


def write_plan(plan: Plan, folder: Path) -> None:
    """Write `plan.json`, with paths relative to its folder."""
    content = plan.model_dump(mode="json", context=folder)
    write_json(folder / _PLAN_FILE, with_checksum(content))


def read_plan(folder: Path) -> Plan | None:
    """Return the plan of an earlier call, if there is one; raise StudyError if it is damaged."""
    file = folder / _PLAN_FILE
    if not file.exists():
        return None
    with explain_damage(file, f"restore it, or move {folder.name}/ away to start over"):
        content = json.dumps(without_checksum(read_json(file)))
        return Plan.model_validate_json(content, context=folder)


def replicate(arm: Arm, settings: Settings, number: int, test: TestKind) -> Experiment:
    """Return the experiment of a replicate of an arm, with new seeds and without early stopping.

    Replicates are counted from 0. Those with equal numbers get the same stream of real images in
    every arm, with or without a generator.
    """
    seed = derive_seed(settings.seed, "confirm", number) % 2**31
    parameters = arm.training.parameters
    if parameters.gan is not None:
        gan_seed = derive_seed(parameters.gan.seed, "confirm", number) % 2**31
        parameters = parameters.with_values({"gan.seed": gan_seed})
    return Experiment(
        # Without gates: excluding replicates would select among them.
        settings=settings.with_values({"seed": seed, "quality.allow_memorised": True}),
        parameters=parameters,
        draw=None if test == "folder" else number,
        has_real_extra=arm.has_real_extra,
        real_pool_size=arm.real_pool_size,
        control=arm.control,
        donor=arm.donor,
    )


def compared_arms(finalists: Sequence[TrialRow], settings: Settings, test: TestKind) -> list[Arm]:
    """Return the finalists, each followed by its matched controls.

    If replicates are trained on draws (`test` is not `folder`), an arm with real
    images of other patients follows as well.
    """
    arms: list[Arm] = []
    for trial in finalists:
        finalist = Arm(
            name=f"{trial.parameters.arm} {trial.label}",
            role="finalist",
            parameters=trial.parameters,
            trial_label=trial.label,
        )
        controls = [
            matched_control(finalist, source) for source in settings.confirm.controls.matched
        ]
        arms += [finalist, *filter(None, controls)]
        if test != "folder" and (perfect := matched_control(finalist, "duplicate")):
            changes = {
                "name": f"real images of other patients, as {trial.label}",
                "role": "perfect",
                "real_pool_size": trial.parameters.pool_size,
            }
            arms.append(perfect.with_values(changes))
    return arms


def matched_control(finalist: Arm, source: str) -> Arm | None:
    """Return a finalist's settings with `source`; None if they are invalid with it."""
    of_source = f"{finalist.parameters.source}."
    values = {
        name: value
        for name, value in flat_values(finalist.parameters).items()
        if not name.startswith(of_source)
    }
    try:
        parameters = parameters_from({**values, "source": source})
    except ValidationError:
        return None
    name = f"{source}, matched to {finalist.trial_label}"
    return finalist.with_values({"name": name, "role": "matched", "parameters": parameters})
