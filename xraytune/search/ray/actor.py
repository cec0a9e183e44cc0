"""A trial as a Ray actor: each `step` is one epoch, and what it says travels as one line of JSON.

What a trial does wrong (a loss that is not finite, weights that are missing, a bug) is told as a result and ends it as
failed. So an error that reaches Tune is Ray's own, a lost process or node, and Tune runs the trial again from its
checkpoint. Each trial has a process of its own: the dashboard shows it by study, number and mix, with its own log.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from ray import tune

from xraytune.config.settings import Experiment
from xraytune.errors import XraytuneError
from xraytune.files import write_text
from xraytune.pipeline.album import compose_album
from xraytune.pipeline.compute import pin
from xraytune.pipeline.prepare import Prepared
from xraytune.pipeline.trial import TrialResult, trial_epochs
from xraytune.records import Compute, EpochRecord, Json
from xraytune.search.progress import ProgressFile
from xraytune.search.study import StudyFolder
from xraytune.tracking.samples import sample_grid
from xraytune.tracking.wandb import Status, TrackedTrial, WandbRun

# Tune kills an actor that is still busy ten seconds after the end of a search.
_FINISH_SECONDS = 8.0


class TrialActor(tune.Trainable):
    """One trial. Its Tune config: `study`, `cache` (paths), `number`, `label`, `gpu_share`."""

    _epochs: Generator[EpochRecord, None, TrialResult]

    def setup(self, config: dict[str, Any]) -> None:
        """Read what the trial is from its folder; nothing is computed yet."""
        folder = StudyFolder(Path(config["study"]))
        self._label: str = config["label"]
        self._study, self._number = folder, int(config["number"])
        self._folder = folder.trial_path(self._number)
        compute = folder.compute()
        pin(compute, gpu_share=config["gpu_share"])
        experiment, prepared, cache = folder.experiment(self._number), folder.prepared(), Path(config["cache"])
        self._outcome: tuple[Status, dict[str, Json]] | None = None
        self._tracker = self._tracked(experiment, prepared, compute, cache)
        self._epochs = trial_epochs(
            experiment,
            prepared,
            trial_dir=self._folder,
            cache=cache,
            compute=compute,
            on_progress=ProgressFile(self._folder),
        )

    def _tracked(self, experiment: Experiment, prepared: Prepared, compute: Compute, cache: Path) -> WandbRun | None:
        settings = experiment.settings.tracking.wandb
        if settings is None:
            return None
        trial = TrackedTrial(
            experiment=experiment,
            study=self._study.path.name,
            study_identity=self._study.identity(),
            number=self._number,
            label=self._label,
            folder=self._folder,
        )

        def samples() -> Image.Image:
            album = compose_album(experiment, prepared, compute=compute, cache=cache)
            return sample_grid(album, len(prepared.class_names), prepared.image_size_px)

        return WandbRun(settings, trial, samples=samples, finish_seconds=_FINISH_SECONDS)

    def __repr__(self) -> str:
        """What the dashboard calls this actor."""
        return self._label

    def step(self) -> dict[str, Any]:
        """Train one epoch, the first time whatever it stands on too, and say what came out."""
        return {"message": json.dumps(self._next())}

    def _next(self) -> dict[str, Any]:
        try:
            record = next(self._epochs)
            if self._tracker:
                self._tracker.log(record)
            return {"epoch": asdict(record)}
        except StopIteration as end:
            result: TrialResult = end.value
            kept = {"val_b_auroc": result.val_b_auroc, "threshold": result.threshold, "best_epoch": result.best_epoch}
            self._outcome = "complete", {"value": result.value, **kept}
            return {"ended": asdict(result)}
        except XraytuneError as error:
            self._outcome = "failed", {}
            return {"failed": str(error)}
        except Exception as error:  # noqa: BLE001  the trial boundary: the search goes on, the traceback is kept
            self._outcome = "failed", {}
            write_text(self._folder / "error.txt", traceback.format_exc())
            return {"failed": f"{type(error).__name__}: {error} (traceback: {self._folder.name}/error.txt)"}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on with another trial in the same process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Stop between two epochs; the checkpoint is on the disk. Only here W&B is waited for: the search has heard all."""
        self._epochs.close()
        if self._tracker:
            status, outcome = self._outcome or (self._recorded_status(), {})
            self._tracker.finish(status, outcome)

    def _recorded_status(self) -> Status:
        """How the search ended a trial that could have gone on; "unfinished" where it did not, as after Ctrl-C."""
        statuses: dict[int, Status] = {row["number"]: row["status"] for row in self._study.rows()}
        return statuses.get(self._number, "unfinished")
