"""A study on disk whose trials are not trained: tests send the messages that trials would."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from xraytune.base.records import Compute, EpochRecord, TrialResult
from xraytune.data.images import ImageFile, SideName
from xraytune.data.prepare import Prepared
from xraytune.search.callbacks import Callbacks
from xraytune.search.loop import GeneratorNeeds
from xraytune.search.trials import SearchTrials
from xraytune.space.load import load_space
from xraytune.space.settings import GanSettings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow
from xraytune.study.trial import Trial

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
scheduler: {name: asha, grace: 1, reduction: 3, within: all}
sampler: {startup_trials: 2, seed: 3}
"""


class Watching:
    """Callbacks that remember which trials started and ended."""

    def __init__(self) -> None:
        self.began_numbers: list[int] = []
        self.ended_rows: list[TrialRow] = []
        self.callbacks = Callbacks(
            on_trial_start=lambda suggestion: self.began_numbers.append(suggestion.number),
            on_trial_end=self.ended_rows.append,
        )


def write_space(folder: Path, *overrides: str) -> Space:
    file = folder / "small.yaml"
    file.write_text(SPACE, encoding="utf-8")
    return load_space(file, overrides)


def two_images() -> Prepared:
    sides: tuple[SideName, ...] = ("train", "val_a", "val_b")
    images = tuple(
        ImageFile(file=f"{side}.jpeg", patient=side, label=0, side=side, row=row, sha256=side)
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


def no_gan(generator: GanSettings | None) -> str | None:
    """Return None: every GAN exists."""
    del generator
    return None


class DirectSearch(SearchTrials):
    """A search without workers, as each start of it creates it."""

    def __init__(
        self,
        folder: StudyFolder,
        space: Space,
        *,
        generator_need: GeneratorNeeds = no_gan,
        watching: Watching | None = None,
        generator_slots: int = 1,
    ) -> None:
        self._generator_slots = generator_slots
        callbacks = watching.callbacks if watching else Callbacks()
        super().__init__(folder, space, generator_need, callbacks)

    def next_trial(
        self, slots: int = sys.maxsize, slots_of: Callable[[Trial], int] | None = None
    ) -> Trial | Literal["wait", "done"]:
        return super().next_trial(slots, slots_of or self._slots_of)

    def _slots_of(self, suggestion: Trial) -> int:
        return suggestion.share * (self._generator_slots if suggestion.only_generator else 1)


def direct(study: StudyFolder, *overrides: str, **options: Any) -> DirectSearch:
    """A search with options of `DirectSearch`, as each start creates it."""
    return DirectSearch(study, write_space(study.path.parent.parent, *overrides), **options)


def epoch(number: int, value: float) -> EpochRecord:
    """A trial's message after an epoch."""
    scores = {"val_score": value, "best_val_score": value}
    return EpochRecord(
        epoch=number, steps=8 * number, train_loss=0.5, val_loss=0.5, lr=1e-3, seconds=1.0, **scores
    )


def ended(value: float, epochs: int = 9) -> TrialResult:
    """A trial's message at its end."""
    return TrialResult(
        value=value, best_epoch=1, epochs=epochs, val_b_score=value - 0.01, threshold=0.5
    )
