"""What this process computes on, chosen once and pinned, so that the same settings give the same bits anywhere like it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from xraytune.config.settings import Resources
from xraytune.errors import MachineError, Problem
from xraytune.records import Compute


def gpu_count() -> int:
    """GPUs that torch can use on this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_share(resources: Resources) -> float:
    """GPUs of one trial; `auto` is one where there is one, else none."""
    if resources.gpus_per_trial == "auto":
        return 1.0 if gpu_count() else 0.0
    return float(resources.gpus_per_trial)


def choose_compute(*, gpus: float, threads: int) -> Compute:
    """The device, thread count and precision of a process that was given a share of GPUs and some threads.

    Matrix products run in bfloat16 where the hardware does (AVX512-BF16 or AMX, Ampere and later), else in float32.

    Raises:
        MachineError: More GPUs were asked for than torch sees.
    """
    if gpus == 0:
        capabilities = torch.cpu.get_capabilities()
        has_bfloat16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        return Compute(device="cpu", threads=threads, precision="bfloat16" if has_bfloat16 else "float32")
    if gpus > gpu_count():
        what = f"{gpus:g} GPUs asked for, but torch sees {gpu_count() or 'none'}"
        fix = "set resources.gpus_per_trial: auto (or 0), or install a driver that fits this torch"
        raise MachineError(Problem(what, "resources.gpus_per_trial", fix))
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Compute(device="cuda", threads=threads, precision="bfloat16" if has_bfloat16 else "float32")


def compute_like(trained_on: Compute, *, threads: int) -> Compute:
    """As something was trained, or on the CPU where this machine has no GPU; on so many threads."""
    if trained_on.device == "cuda" and not gpu_count():
        return choose_compute(gpus=0, threads=threads)
    return replace(trained_on, threads=threads)


def require_device(compute: Compute, study: Path) -> None:
    """Refuse to go on without the GPU that a study computes on: the CPU would make other numbers.

    Raises:
        MachineError: The study was searched on a GPU, and this process has none.
    """
    if compute.device == "cuda" and not gpu_count():
        fix = "run it on a machine like the one that searched it; `xraytune doctor` says what torch sees"
        raise MachineError(Problem("the study was searched on a GPU, and torch sees none here", study, fix))


def pin(compute: Compute, *, gpu_share: float = 1.0) -> None:
    """Make this process compute as `compute` says: thread count, determinism, its share of a GPU's memory.

    On the CPU every operation is deterministic. On a GPU cuDNN may choose its algorithms (fast mode): numbers agree to
    rounding, not to the bit.
    """
    torch.set_num_threads(compute.threads)
    # What use_deterministic_algorithms() sets, without the compiler that it imports: four seconds of each process.
    torch.set_deterministic_debug_mode("error" if compute.device == "cpu" else "default")
    if compute.device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        if gpu_share < 1:
            torch.cuda.set_per_process_memory_fraction(gpu_share)


def autocast(compute: Compute) -> torch.autocast:
    """Matrix products in `compute.precision`, while the block runs."""
    return torch.autocast(compute.device, dtype=torch.bfloat16, enabled=compute.precision == "bfloat16")
