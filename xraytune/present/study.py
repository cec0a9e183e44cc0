"""Read everything that a report shows from a study's folder, even while a search runs on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraytune.base.artifacts import artifacts_of
from xraytune.base.files import read_json
from xraytune.confirm.arms import CONFIRM_FOLDER
from xraytune.confirm.record import Confirmation, read_verdict
from xraytune.data.prepare import Prepared
from xraytune.model.best import trial_to_export
from xraytune.present.tables import shown_path
from xraytune.space.space import Space
from xraytune.stats.classification import Floats, Labels, predicted_classes
from xraytune.study.folder import StudyFolder, damage_explained
from xraytune.study.row import TrialRow
from xraytune.study.status import StudyView, StudyWatcher
from xraytune.synth.memorisation_gate import MEMORISATION_STAGE
from xraytune.synth.synthesize import generator_path


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResults:
    """The results of a complete trial's best network for the N images of val-B, whose files are below the data folder.

    They are class probabilities, float64 [N, C]; in segmentation the Dice of each image, [N, 1].
    Labels and predicted classes (of two at the trial's threshold) are int64 [N].
    """

    trial: TrialRow
    files: tuple[str, ...]
    labels: NDArray[np.int64]
    results: Floats
    predicted: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyData:
    """A study at one moment: `environment` is the content of this file.

    `chosen` is the trial that `export` writes, for this `reason`; if it would fail, the best on
    val-B.
    """

    folder: StudyFolder
    space: Space
    prepared: Prepared
    view: StudyView
    verdict: Confirmation | None
    environment: Mapping[str, Any]
    cache: Path
    chosen: TrialRow | None
    reason: str

    @property
    def argument(self) -> str:
        """The study's path as an argument of a command."""
        return quote(str(shown_path(self.folder.path)))

    @property
    def scored(self) -> ValidationResults | None:
        """The results of the chosen trial; if it has none, as when ASHA stopped it, those of the best on val-B."""
        trials = [trial for trial in (self.chosen, self.view.for_export) if trial is not None]
        return next(filter(None, map(self._val_b, trials)), None)

    def _val_b(self, trial: TrialRow) -> ValidationResults | None:
        if not self.folder.results_path(trial.number, "val_b").exists():
            return None
        side, positive = self.prepared.side("val_b"), self.prepared.positive
        results = self.folder.results(trial.number, "val_b", len(side.labels), self.prepared)
        threshold = 0.5 if trial.threshold is None else trial.threshold
        return ValidationResults(
            trial=trial,
            files=tuple(image.file for image in self.prepared.images if image.side == "val_b"),
            labels=side.labels,
            results=results,
            predicted=predicted_classes(results, positive=positive, threshold=threshold),
        )

    def nearest_pictures(self, trial: TrialRow) -> Iterator[Path]:
        """Yield cached pictures of the images of a trial's generator beside the nearest training images."""
        settings = trial.parameters.gan
        if settings is None:
            return
        compute = self.folder.compute()
        for release in self.folder.releases():
            generator = generator_path(
                settings, self.prepared, compute, self.cache, torch=release["torch"]
            )
            for path, gate in artifacts_of(self.cache, MEMORISATION_STAGE):
                if generator.name in (pool.get("generator") for pool in gate["pools"]):
                    yield from sorted(path.glob("nearest_*.png"))


def read_study(study: Path, cache: Path | None = None) -> StudyData:
    """Read a study; raise StudyError if there is none, or it is damaged."""
    folder = StudyFolder(study.resolve())
    watcher = StudyWatcher(folder)
    view = watcher.look()
    with damage_explained(folder.path / "environment.json") as file:
        environment = read_json(file)
    number, reason = trial_to_export(folder) or (None, "")
    return StudyData(
        folder=folder,
        space=watcher.space,
        prepared=folder.prepared(),
        view=view,
        verdict=read_verdict(folder.path / CONFIRM_FOLDER),
        environment=environment,
        cache=(cache or folder.default_cache).resolve(),
        chosen=next((trial for trial in view.trials if trial.number == number), view.for_export),
        reason=reason,
    )
