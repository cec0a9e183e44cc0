"""The tests of `make gpu`: skipped where torch finds no GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.trial.conftest import bench
from xraytune.base.records import Compute
from xraytune.nets.compute import choose_compute, configure_torch, gpu_count

__all__ = ["bench"]


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    if not gpu_count():
        pytest.skip("torch finds no GPU")


@pytest.fixture
def gpu() -> Iterator[Compute]:
    """Configure the first GPU for this process, and free its memory afterwards."""
    compute = choose_compute(gpus=1, threads=2)
    before = torch.get_deterministic_debug_mode()
    configure_torch(compute)
    yield compute
    torch.set_deterministic_debug_mode(before)
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()
