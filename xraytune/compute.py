"""Device, threads and precision: chosen once and pinned, so that equal settings give equal bits on similar machines."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import torch

from xraytune.config.settings import Resources
from xraytune.errors import MachineError, Problem
from xraytune.records import Compute


def gpu_count() -> int:
    """Return the number of GPUs that torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_share(resources: Resources) -> float:
    """Return the GPUs of one trial; `auto` is one if the machine has any, else none."""
    if resources.gpus_per_trial == "auto":
        return 1.0 if gpu_count() else 0.0
    return float(resources.gpus_per_trial)


def choose_compute(*, gpus: float, threads: int) -> Compute:
    """Choose the device and precision of a process with this many GPUs and threads.

    Matrix products use bfloat16 where the hardware supports it (AVX512-BF16 or AMX, Ampere and later), else float32.

    Raises:
        MachineError: torch sees fewer GPUs.
    """
    if gpus == 0:
        capabilities = torch.cpu.get_capabilities()
        has_bfloat16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        return Compute(device="cpu", threads=threads, precision="bfloat16" if has_bfloat16 else "float32")
    if gpus > gpu_count():
        what = f"{gpus:g} GPUs requested, but torch sees {gpu_count() or 'none'}"
        fix = "set resources.gpus_per_trial: auto (or 0), or install a driver that supports this torch"
        raise MachineError(Problem(what, "resources.gpus_per_trial", fix))
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Compute(device="cuda", threads=threads, precision="bfloat16" if has_bfloat16 else "float32")


def compute_like(trained_on: Compute, *, threads: int) -> Compute:
    """Return `trained_on` with another thread count, or the CPU if this machine has no GPU."""
    if trained_on.device == "cuda" and not gpu_count():
        return choose_compute(gpus=0, threads=threads)
    return replace(trained_on, threads=threads)


def require_device(compute: Compute, study: Path) -> None:
    """Raise MachineError if a study was searched on a GPU and torch sees none: results on a CPU differ."""
    if compute.device == "cuda" and not gpu_count():
        fix = "run it on a machine with a GPU; `xraytune doctor` shows what torch sees"
        raise MachineError(Problem("the study was searched on a GPU, and torch sees none here", study, fix))


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""


def pin(compute: Compute, *, gpu_share: float = 1.0) -> None:
    """Set this process's thread count, determinism and share of GPU memory.

    CPU operations are deterministic. On a GPU cuDNN benchmarks its algorithms, so numbers agree to rounding only.
    """
    torch.set_num_threads(compute.threads)
    if compute.device == "cpu":
        _keep_freed_memory()
    # As use_deterministic_algorithms(), but without importing the compiler, which takes four seconds.
    torch.set_deterministic_debug_mode("error" if compute.device == "cpu" else "default")
    if compute.device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        if gpu_share < 1:
            torch.cuda.set_per_process_memory_fraction(gpu_share)


def _keep_freed_memory() -> None:
    """Make malloc keep freed memory for the next batch: returning it to the kernel doubles the time of a forward pass."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only glibc has it
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_MMAP_THRESHOLD, 2**30)


def autocast(compute: Compute) -> torch.autocast:
    """Return a context for matrix products in `compute.precision`."""
    return torch.autocast(compute.device, dtype=torch.bfloat16, enabled=compute.precision == "bfloat16")
