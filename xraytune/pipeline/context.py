"""What all work on the images of a study shares: the images, the artifact cache, the device, and the callbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xraytune.config.settings import Experiment
from xraytune.pipeline.prepare import Prepared
from xraytune.records import Compute, Progress, ignore_progress


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The inputs of a run besides its settings.

    Attributes:
        prepared: The images of the study.
        cache: The artifact cache.
        compute: Device, threads and precision; `pin` has set them.
        on_progress: Called with the progress of long work.
        on_generator: Called by a trial with its experiment and this context, once its generator is trained and before its
            images are used. In a search for the generator itself, at the end, with the experiment of the best epoch.
    """

    prepared: Prepared
    cache: Path
    compute: Compute
    on_progress: Progress = ignore_progress
    on_generator: Callable[[Experiment, RunContext], None] = lambda *_: None
