"""Tracking with TensorBoard: event files in the folder of each trial.

Only this file imports tensorboardX, which Ray Tune brings.
"""

import time
from pathlib import Path

import numpy as np
from PIL import Image

from xraytune.search.tracking import TrackedRun, Values


class TensorboardRun:
    """The event files of a trial; those of a restart replace the epochs of earlier ones."""

    def __init__(self, run: TrackedRun) -> None:
        from tensorboardX import SummaryWriter

        folder = run.folder / "tensorboard"
        if run.kind == "train":  # the folder is that of several models
            folder /= str(run.key)
        # A restart within the same second would otherwise overwrite the last file.
        suffix = f".{time.time_ns()}"
        self._writer = SummaryWriter(str(folder), purge_step=1, filename_suffix=suffix)
        lines = [f"    {name}: {value}" for name, value in run.config.items()]
        self._writer.add_text("parameters", "\n".join(lines), 0)

    def log(self, epoch: int, values: Values) -> None:
        """Write an epoch, at once."""
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def log_samples(self, grid: Path) -> None:
        """Write the sample grid."""
        pixels = np.asarray(Image.open(grid).convert("L"))
        self._writer.add_image("samples", pixels, 0, dataformats="HW")

    def finish(self, summary: Values, model: Path | None) -> None:
        """Write the results as text; a model is only in its own folder."""
        lines = [f"    {name}: {value}" for name, value in summary.items()]
        if model:
            lines.append(f"    model: {model.name}")
        self._writer.add_text("result", "\n".join(lines), 0)
        self._writer.close()
