"""A study on disk whose trials are not trained: tests send the messages that trials would."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xraytune.base.records import Compute
from xraytune.data.prepare import Prepared, PreparedImage, SideName
from xraytune.search.controller import SearchController
from xraytune.search.trial_queue import GeneratorNeeds
from xraytune.space.load import load_space
from xraytune.space.settings import GeneratorSettings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.messages import Callbacks
from xraytune.study.row import TrialRow

SPACE = """\
version: 1
name: small
data: {path: xrays}
parameters:
  source: {values: [none, duplicate, gan]}
  synthetic_ratio: {values: [0.5, 1.0], when: {source: [duplicate, gan]}}
  gan: {when: {source: gan}, parameters: {steps: {values: [100, 200]}}}
  lr: {min: 1e-5, max: 1e-2, distribution: log_uniform_values}
budget: {trials: 6, max_epochs: 9}
scheduler: {name: asha, grace: 1, reduction: 3}
sampler: {startup_trials: 2, seed: 3}
"""


@dataclass(slots=True)
class Watching:
    """Callbacks that remember which trials started and ended, and the pictures of GANs."""

    began_numbers: list[int] = field(default_factory=list)
    ended_rows: list[TrialRow] = field(default_factory=list)
    pictures: list[tuple[int, Path]] = field(default_factory=list)

    @property
    def callbacks(self) -> Callbacks:
        return Callbacks(
            on_trial_start=lambda suggestion: self.began_numbers.append(suggestion.number),
            on_samples=lambda number, file: self.pictures.append((number, file)),
            on_trial_end=self.ended_rows.append,
        )


def write_space(folder: Path, *overrides: str) -> Space:
    file = folder / "small.yaml"
    file.write_text(SPACE, encoding="utf-8")
    return load_space(file, overrides)


def two_images() -> Prepared:
    sides: tuple[SideName, ...] = ("train", "val_a", "val_b")
    images = tuple(
        PreparedImage(file=f"{side}.jpeg", patient=side, label=0, side=side, row=row, sha256=side)
        for row, side in enumerate(sides)
    )
    return Prepared(
        resize="squash",
        pixels_sha256="0" * 64,
        class_names=("NORMAL", "PNEUMONIA"),
        positive=1,
        image_size_px=64,
        pixels="pixels-1/none",
        test_fingerprint=None,
        images=images,
    )


CPU = Compute(device="cpu", threads=1, precision="float32")


def no_gan(generator: GeneratorSettings | None) -> str | None:
    """Return None: every GAN exists."""
    del generator
    return None


def direct(
    study: StudyFolder,
    *overrides: str,
    watching: Watching | None = None,
    generator_need: GeneratorNeeds = no_gan,
    generator_slots: int = 1,
) -> SearchController:
    """A controller, as each start of the search creates it."""
    space = write_space(study.path.parent.parent, *overrides)
    journal = Journal(study.journal_path, space, writable=True)
    controller = SearchController(
        study, space, journal, generator_need=generator_need, callbacks=(watching or Watching()).callbacks
    )
    controller.generator_slots = generator_slots
    return controller


def epoch(number: int, value: float) -> dict[str, Any]:
    """A trial's message after an epoch."""
    losses = {"train_loss": 0.5, "val_loss": 0.5, "val_score": value, "best_val_score": value}
    return {"epoch": {"epoch": number, "steps": 8 * number, "lr": 1e-3, "seconds": 1.0} | losses}


def ended(value: float, epochs: int = 9) -> dict[str, Any]:
    """A trial's message at its end."""
    result = {"value": value, "best_epoch": 1, "epochs": epochs, "val_b_score": value - 0.01}
    return {"ended": {**result, "threshold": 0.5, "seconds": 9.0}}
