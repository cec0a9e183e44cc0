"""Choose device, threads and precision once, so that equal settings give equal bits."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from xraytune.base.cores import cpu_count
from xraytune.base.errors import MachineError, counted
from xraytune.base.records import Compute
from xraytune.base.seeding import derive_seed
from xraytune.space.allocation import Allocation, allocation_of
from xraytune.space.settings import Settings


def gpu_count() -> int:
    """Return the number of GPUs that trials can use here."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_compute(*, gpus: float, threads: int) -> Compute:
    """Choose the device and precision of a process with this many GPUs and threads.

    Matrix products use bfloat16 where the hardware supports it (AVX512-BF16 or AMX, Ampere and
    later), and float32 elsewhere. To turn bfloat16 off on a CPU, set torch's
    `ATEN_CPU_CAPABILITY=avx2`. `gpus` may be a share of one GPU. Raises MachineError if torch sees
    fewer GPUs.
    """
    if gpus > gpu_count():
        raise MachineError(
            f"{gpus:g} GPUs requested, but torch sees {gpu_count() or 'none'}",
            "resources.gpus_per_trial",
            "set resources.gpus_per_trial: auto (or 0), or install a driver for this torch",
        )
    if gpus:
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        has_bfloat16 = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        has_bfloat16 &= torch.backends.cpu.get_cpu_capability() == "AVX512"
    return Compute(
        device="cuda" if gpus else "cpu",
        threads=threads,
        precision="bfloat16" if has_bfloat16 else "float32",
    )


def compute_of(allocation: Allocation) -> Compute:
    """Choose the device and precision of trials here; MachineError if torch sees fewer GPUs."""
    return choose_compute(gpus=allocation.trial.gpus, threads=allocation.trial.cpus)


def compute_here(settings: Settings) -> Compute:
    """Choose the device and precision of trials here, on a GPU if there is one."""
    return compute_of(allocation_of(settings, has_gpu=gpu_count() > 0))


def compute_alone(settings: Settings) -> Compute:
    """Choose the same with all cores, for a command that nothing runs beside."""
    return replace(compute_here(settings), threads=cpu_count())


def compute_like(trained_on: Compute, *, threads: int) -> Compute:
    """Return `trained_on` with another thread count, or the CPU if this machine has no GPU."""
    if trained_on.device == "cuda" and not gpu_count():
        return choose_compute(gpus=0, threads=threads)
    return replace(trained_on, threads=threads)


def require_room(allocation: Allocation) -> None:
    """Raise MachineError if a process needs more cores or GPUs than this machine has."""
    most = allocation.most
    cpus = cpu_count()
    gpus = gpu_count()
    if most.cpus > cpus or most.gpus > gpus:
        here = f"{counted(cpus, 'core')} and {counted(gpus, 'GPU')}"
        raise MachineError(
            f"{most} are needed, but this machine has only {here}",
            "resources",
            "lower cpus_per_trial, gpus_per_trial, or generator.cpus and generator.gpus; "
            "resume a study with cpus_per_trial unchanged, on a larger machine",
        )


def require_device(compute: Compute, study: Path) -> None:
    """Raise MachineError if a study was searched on a GPU and torch sees none.

    Results on a CPU differ.
    """
    if compute.device == "cuda" and not gpu_count():
        raise MachineError(
            "the study was searched on a GPU, but torch sees no GPU here",
            study,
            "run it on a machine with a GPU; `xraytune plan` shows what torch sees",
        )


def require_precision(compute: Compute, study: Path) -> None:
    """Raise MachineError if a study computes in bfloat16, which this machine would emulate.

    That is slow, and results differ.
    """
    gpus = 1.0 if compute.device == "cuda" else 0.0
    precision = choose_compute(gpus=gpus, threads=compute.threads).precision
    if compute.precision == "bfloat16" and precision != "bfloat16":
        raise MachineError(
            "the study computes in bfloat16, which this machine lacks",
            study,
            "use machines of one kind",
        )


def configure_torch(compute: Compute, *, gpu_share: float = 1.0) -> None:
    """Set this process's thread count, determinism and share of GPU memory.

    CPU operations are deterministic. On a GPU, cuDNN's algorithms are not, so numbers agree only up
    to rounding.
    """
    torch.set_num_threads(compute.threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only glibc has it
    if compute.device == "cpu" and mallopt is not None:
        # Returning freed memory to the kernel can double the time of a forward pass.
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
    # `use_deterministic_algorithms` would import torch's compiler, which takes a second.
    torch.set_deterministic_debug_mode("error" if compute.device == "cpu" else "default")
    # Otherwise each new tensor is filled with NaN first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if compute.device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.cuda.set_per_process_memory_fraction(min(gpu_share, 1.0))


@contextmanager
def in_one_thread() -> Iterator[None]:
    """Compute in one thread.

    Small heads are no slower, and do not wait for a thread that other work delays.
    """
    thread_count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(thread_count)


@contextmanager
def seeded(seed: int, *purpose: str | int, on_gpu: bool = False) -> Iterator[None]:
    """Seed torch's generators for a purpose, such as the initial weights of a network.

    Afterwards, the generators have their previous states.
    """
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
        derived = derive_seed(seed, *purpose)
        # `torch.manual_seed` takes longer than a step where there is no GPU.
        torch.default_generator.manual_seed(derived)
        if on_gpu:
            torch.cuda.manual_seed(derived)
        yield


def constants(values: Sequence[float], device: torch.device) -> Tensor:
    """Return values as a tensor, float32 [n], filled on the device.

    A CUDA graph cannot contain a copy from the host.
    """
    return torch.stack([torch.full((), value, device=device) for value in values])


def autocast(compute: Compute, *, is_used: bool = True) -> torch.autocast:
    """Return a context for matrix products in `compute.precision`."""
    is_used &= compute.precision == "bfloat16"
    return torch.autocast(compute.device, dtype=torch.bfloat16, enabled=is_used)


@contextmanager
def fast_backward(network: nn.Module, compute: Compute) -> Iterator[None]:
    """Compute strided depthwise convolutions in float32 on a CPU.

    In bfloat16, their backward pass is nine times as slow.
    """

    def in_float32(forward: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(inputs.float())

    is_slow = compute.device == "cpu" and compute.precision == "bfloat16"
    slow = [
        layer
        for layer in network.modules()
        if is_slow
        and isinstance(layer, nn.Conv2d)
        and layer.groups > 1
        and layer.stride[0] > 1
        and layer.weight.requires_grad
    ]
    for layer in slow:
        layer.forward = partial(in_float32, layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in slow:
            del layer.forward
