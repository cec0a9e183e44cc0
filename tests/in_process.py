"""Trials in this process: pinned as a trial's own process is, and directed as a search directs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from xraytune.compute import pin
from xraytune.config.space import Space
from xraytune.pipeline.prepare import Prepared
from xraytune.pipeline.synthesize import gan_need
from xraytune.records import Compute
from xraytune.search.director import Director
from xraytune.search.journal import Journal
from xraytune.search.run import Quiet
from xraytune.search.study import StudyFolder

CPU = Compute(device="cpu", threads=1, precision="float32")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute as `CPU` says, and afterwards as before."""
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    pin(CPU)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])


def director_of(folder: StudyFolder, space: Space, prepared: Prepared, cache: Path) -> Director:
    """The director of a study whose trials are trained on `CPU`."""
    return Director(
        folder,
        space,
        Journal(folder.journal_path, space, writable=True),
        gan_need=lambda parameters: gan_need(parameters.gan, prepared, CPU, cache),
        gpu_share=0.0,
        observer=Quiet(),
    )
