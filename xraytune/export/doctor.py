"""What this machine has of what xraytune needs, and how to get the rest.

Nothing is started or downloaded, and nothing that is written stays. torch and Ray are imported in processes of their
own, so that a broken install is a finding and not a crash. It stands this high because it looks at every layer below, down
to the tracker's key.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from xraytune.config.load import load_space
from xraytune.errors import ConfigError, MachineError
from xraytune.files import free_inodes, nearest_folder
from xraytune.limits import LIMITS, likely_shortage
from xraytune.records import Json
from xraytune.search.ray_needs import open_doors, ray_parent, why_ray_cannot_start
from xraytune.tracking.wandb import has_key

_GIB = 2**30
_LITTLE_DISK_GIB, _LITTLE_MEMORY_GIB, _LITTLE_SHARED_MEMORY_GIB = 10, 4, 0.5
_FEW_INODES = 10_000
_OTHER_DISK = "free some space, or put studies and cache on another disk (--studies, --cache)"
_USUAL_NETWORKS = tuple((backbone, "imagenet") for backbone in ("mobilenet_v2", "resnet18", "resnet50"))
_REINSTALL = "install from requirements.lock again (`make install`): it names versions that belong together"
_TORCH_PROBE = """
import torch, torchvision
boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
torchvision.ops.nms(boxes, torch.ones(1), 0.5)
print("torch", torch.__version__, "with torchvision", torchvision.__version__)
"""
_RAY_PROBE = """
import ray, ray.tune, ray.dashboard.optional_deps
print("Ray", ray.__version__, "with Tune and the dashboard")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        status: `missing` keeps xraytune from running, `warning` keeps it from something.
        found: What is there.
        fix: How to get what is not; empty where all is well.
    """

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    fix: str = ""

    def to_json(self) -> dict[str, Json]:
        """The record as JSON values."""
        return asdict(self)


def doctor(*, space: Path | None = None, weights_dir: Path | None = None, folder: Path = Path()) -> tuple[Check, ...]:
    """Look at this machine.

    Args:
        space: A space file, whose trials' weights are looked for; by default those of three usual backbones.
        weights_dir: A folder of official weight files; by default the file's, else torch's own cache, filled by downloads.
        folder: Where studies and the cache will lie; the disk it is on is looked at.

    Raises:
        ConfigError: The space file.
    """
    networks = _USUAL_NETWORKS
    if space:
        loaded = load_space(space, data=Path(), weights_dir=weights_dir)  # its images are not looked at
        networks, weights_dir = loaded.networks(), loaded.settings.weights_dir
    torch = probe("torch", _TORCH_PROBE, fix=_REINSTALL)
    checks = [Check(name="Python", status="ok", found=platform.python_version()), torch]
    if torch.status == "ok":
        checks += [_cpu(), *_gpus(), *_weights(networks, weights_dir)]
    checks += [
        probe("Ray", _RAY_PROBE, fix=_REINSTALL),
        _ray_start(),
        *_ray_doors(),
        _memory(),
        _shared_memory(),
        _disk(folder),
        _inodes(folder),
        _limits(),
        _wandb(),
    ]
    return tuple(checks)


def probe(name: str, code: str, *, fix: str) -> Check:
    """Run a few lines of Python in a process of their own; what they print last is what was found."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
    if done.returncode:
        return Check(name=name, status="missing", found=lines[-1], fix=fix)
    return Check(name=name, status="ok", found=lines[-1])


def _cpu() -> Check:
    from xraytune.compute import choose_compute
    from xraytune.cores import cpu_count

    precision = choose_compute(gpus=0, threads=1).precision
    return Check(name="CPU", status="ok", found=f"{cpu_count()} cores, matrix products in {precision}")


def _gpus() -> Iterator[Check]:
    import torch

    from xraytune.compute import gpu_count

    for number in range(gpu_count()):
        device = torch.cuda.get_device_properties(number)
        found = f"{device.name}, {device.total_memory / _GIB:.0f} GiB"
        yield Check(name=f"GPU {number}", status="ok", found=found)
    if gpu_count():
        return
    if Path("/proc/driver/nvidia").exists():
        fix = "install a torch for CUDA that the driver is new enough for (`nvidia-smi` tells)"
        yield Check(name="GPU", status="missing", found="there is an NVIDIA driver, but torch sees no GPU", fix=fix)
    else:
        fix = "nothing to do for small searches (search_spaces/gan_ratio_cpu.yaml); large ones need a GPU"
        yield Check(name="GPU", status="warning", found="none", fix=fix)


def _weights(networks: Iterable[tuple[str, str]], weights_dir: Path | None) -> Iterator[Check]:
    import torch

    from xraytune.classifier.weights import find_weights

    downloads = Path(torch.hub.get_dir()) / "checkpoints"
    for backbone, weights in networks:
        name = f"weights of {backbone}" + (f", {weights}" if weights != "imagenet" else "")
        try:
            file = find_weights(backbone, weights, weights_dir or downloads)
        except (ConfigError, MachineError) as error:
            problem = error.problems[0]
            is_downloaded = weights_dir is None and problem.where == downloads
            fix = f"downloaded when first used; without a network, {problem.fix}" if is_downloaded else problem.fix
            yield Check(name=name, status="warning", found=f"{problem.what} in {problem.where}", fix=fix)
        else:
            yield Check(name=name, status="ok", found=str(file) if file else "none are needed")


def _ray_start() -> Check:
    if problem := why_ray_cannot_start():
        found = f"{problem.where}: {problem.what}" if str(problem.where) else problem.what
        return Check(name="Ray's start", status="missing", found=found, fix=problem.fix)
    return Check(name="Ray's start", status="ok", found=f"in {ray_parent()}")


def _ray_doors() -> Iterator[Check]:
    for door in open_doors():
        yield Check(name="Ray's privacy", status="warning", found=f"{door.where}: {door.what}", fix=door.fix)


def _memory() -> Check:
    total_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text(encoding="utf-8").strip()).isdigit():
        total_bytes = min(total_bytes, int(text))
    return _enough("memory", total_bytes, _LITTLE_MEMORY_GIB, "run fewer trials at once: --set resources.concurrent=1")


def _shared_memory() -> Check:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return Check(name="shared memory", status="ok", found="not used on this system")
    fix = "in a container, start it with --shm-size=2g; else Ray falls back to the disk"
    return _enough("shared memory", shutil.disk_usage(shared).total, _LITTLE_SHARED_MEMORY_GIB, fix)


def _disk(folder: Path) -> Check:
    return _enough(
        f"free disk at {folder}", shutil.disk_usage(nearest_folder(folder)).free, _LITTLE_DISK_GIB, _OTHER_DISK
    )


def _inodes(folder: Path) -> Check:
    inodes = free_inodes(folder)
    name, found = f"free inodes at {folder}", "no limit" if inodes is None else f"for {inodes} more files"
    if inodes is not None and inodes < _FEW_INODES:
        return Check(name=name, status="warning", found=found, fix=_OTHER_DISK)
    return Check(name=name, status="ok", found=found)


def _limits() -> Check:
    """What is too low for Ray is told with its start."""
    found = ", ".join(f"{limit.name} {limit.shown(limit.value)}" for limit in LIMITS)
    if problem := likely_shortage():
        return Check(name="limits", status="warning", found=found, fix=problem.fix)
    return Check(name="limits", status="ok", found=found)


def _enough(name: str, there_bytes: int, little_gib: float, fix: str) -> Check:
    found = f"{there_bytes / _GIB:.1f} GiB"
    if there_bytes < little_gib * _GIB:
        return Check(name=name, status="warning", found=f"{found}, less than {little_gib:g}", fix=fix)
    return Check(name=name, status="ok", found=found)


def _wandb() -> Check:
    if has_key():
        return Check(name="W&B", status="ok", found="a key is there")
    fix = "nothing to do: runs are written offline; `wandb login` puts them online"
    return Check(name="W&B", status="warning", found="no key", fix=fix)
