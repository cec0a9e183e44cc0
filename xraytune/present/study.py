"""Read everything that a report shows from a study's folder, even while a search runs on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from xraytune.base.artifacts import artifacts_of
from xraytune.base.tables import shown_path
from xraytune.confirm.arms import CONFIRM_FOLDER
from xraytune.confirm.record import Confirmation, read_verdict
from xraytune.data.prepare import Prepared
from xraytune.model.best import trial_to_export
from xraytune.space.space import Space
from xraytune.stats.classification import Floats
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow
from xraytune.study.status import StudyView, StudyWatcher
from xraytune.synth.memorisation import MEMORISATION_STAGE
from xraytune.synth.synthesize import generator_path


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
    def scored(self) -> tuple[TrialRow, Floats] | None:
        """The chosen trial and its results on val-B.

        If it has none, as when ASHA stopped it, those of the best on val-B.
        """
        for trial in (self.chosen, self.view.for_export):
            if trial and self.folder.results_path(trial.number, "val_b").exists():
                return trial, self.folder.results(trial.number, "val_b")
        return None

    def nearest_pictures(self, trial: TrialRow) -> Iterator[Path]:
        """Yield cached pictures of a generator's images beside the nearest training images."""
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
    number, reason = trial_to_export(folder) or (None, "")
    return StudyData(
        folder=folder,
        space=watcher.space,
        prepared=folder.prepared(),
        view=view,
        verdict=read_verdict(folder.path / CONFIRM_FOLDER),
        environment=folder.environment(),
        cache=(cache or folder.default_cache).resolve(),
        chosen=next((trial for trial in view.trials if trial.number == number), view.for_export),
        reason=reason,
    )
