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

from ray import tune

from xraytune.errors import XraytuneError
from xraytune.files import write_text
from xraytune.pipeline.compute import pin
from xraytune.pipeline.trial import TrialResult, trial_epochs
from xraytune.records import EpochRecord
from xraytune.search.progress import ProgressFile
from xraytune.search.study import StudyFolder


class TrialActor(tune.Trainable):
    """One trial. Its Tune config: `study`, `cache` (paths), `number`, `label`, `gpu_share`."""

    _epochs: Generator[EpochRecord, None, TrialResult]

    def setup(self, config: dict[str, Any]) -> None:
        """Read what the trial is from its folder; nothing is computed yet."""
        folder = StudyFolder(Path(config["study"]))
        self._label: str = config["label"]
        self._folder = folder.trial_path(config["number"])
        compute = folder.compute()
        pin(compute, gpu_share=config["gpu_share"])
        experiment = folder.experiment(config["number"])
        self._tracker = None
        if wandb_settings := experiment.settings.tracking.wandb:
            from xraytune.tracking.wandb import WandbRun

            study = folder.path.name
            self._tracker = WandbRun(wandb_settings, experiment, study=study, name=self._label, folder=self._folder)
        self._epochs = trial_epochs(
            experiment,
            folder.prepared(),
            trial_dir=self._folder,
            cache=Path(config["cache"]),
            compute=compute,
            on_progress=ProgressFile(self._folder),
        )

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
            if self._tracker:
                self._tracker.finish({"value": result.value, "val_b_auroc": result.val_b_auroc})
            return {"ended": asdict(result)}
        except XraytuneError as error:
            return {"failed": str(error)}
        except Exception as error:  # noqa: BLE001  the trial boundary: the search goes on, the traceback is kept
            write_text(self._folder / "error.txt", traceback.format_exc())
            return {"failed": f"{type(error).__name__}: {error} (traceback: {self._folder.name}/error.txt)"}

    def cleanup(self) -> None:
        """Stop between two epochs; the checkpoint is on the disk."""
        self._epochs.close()
        if self._tracker:
            self._tracker.finish({})
