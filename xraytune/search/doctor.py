"""Check what a user of this machine cannot see otherwise, and explain how to get what is missing.

Nothing is downloaded or left behind. Packages are tried in processes of their own, and torch is
imported late, so that a broken installation is reported.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from xraytune.base.cores import cpu_count
from xraytune.base.errors import ConfigError, MachineError
from xraytune.base.files import nearest_folder
from xraytune.search.ray.setup import ray_parent, why_ray_cannot_start
from xraytune.space.load import load_space
from xraytune.space.space import Space, missing_packages

_GIB = 2**30
_MIN_DISK_GIB = 10
_MIN_SHARED_MIB = 256
"""Ray's object store is in shared memory; see search/ray/driver.py."""
_PACKAGES = {"torch": "torch, torchvision", "ray": "ray, ray.tune"}
"""What is imported of each package."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: `missing` prevents xraytune from running, `warning` limits it.

    `fix` is empty if ok.
    """

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    fix: str = ""


def doctor(
    *, space: Path | None = None, weights_dir: Path | None = None, folder: Path = Path()
) -> tuple[Check, ...]:
    """Check this machine.

    Args:
        space: Search space file; checks the packages and weights that its trials need, too.
        weights_dir: Folder of official weight files; default: that of the file, else torch's
            download cache.
        folder: Folder for studies and cache, whose disk is checked.

    Raises:
        ConfigError: The search space file is invalid.
    """
    checks = check_machine(folder)
    has_torch = checks[0].status == "ok"
    if space and has_torch:
        # Its images are not needed.
        checks += check_space(load_space(space, data=Path(), weights_dir=weights_dir))
    return tuple(checks)


def check_machine(folder: Path) -> list[Check]:
    """Check the packages, first of all torch, and devices, Ray and the disk of a folder."""
    checks = [_check_package(name) for name in _PACKAGES]
    if checks[0].status == "ok":
        checks += _check_devices()
    return [*checks, *_check_system(folder)]


def _check_package(name: str) -> Check:
    command = [sys.executable, "-P", "-c", f"import {_PACKAGES[name]}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Check(name, "ok", version(name))
    last_line = done.stderr.strip().rpartition("\n")[2]
    fix = "reinstall the matching versions of requirements.lock (`make install`)"
    return Check(name, "missing", last_line or f"exit code {done.returncode}", fix)


def _check_devices() -> Iterator[Check]:
    import torch

    from xraytune.nets.compute import choose_compute, gpu_count

    precision = choose_compute(gpus=0, threads=1).precision
    yield Check("CPU", "ok", f"{cpu_count()} cores, matrix products in {precision}")
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        yield Check(f"GPU {number}", "ok", f"{device.name}, {device.total_memory / _GIB:.0f} GiB")
    if gpu_count() == 0 and Path("/proc/driver/nvidia").exists():
        fix = "install a CUDA build of torch that the driver supports (see `nvidia-smi`)"
        yield Check("GPU", "missing", "there is an NVIDIA driver, but torch finds no GPU", fix)
    elif gpu_count() == 0:
        fix = "not needed for small searches (--space gan_ratio_cpu), but for large ones"
        yield Check("GPU", "warning", "none", fix)


def _check_system(folder: Path) -> Iterator[Check]:
    problem = why_ray_cannot_start()
    if problem:
        yield Check("Ray startup", "missing", f"{problem.where}: {problem.what}", problem.fix)
    else:
        yield Check("Ray startup", "ok", f"in {ray_parent()}")

    free_mib = shutil.disk_usage("/dev/shm").free / 2**20
    shared = Check("/dev/shm", "ok", f"{free_mib:,.0f} MiB")
    if free_mib < _MIN_SHARED_MIB:
        fix = "Ray is slow without it: start a container with --shm-size 1g, or remove files there"
        shared = Check(shared.name, "warning", shared.found, fix)
    yield shared

    free_gib = shutil.disk_usage(nearest_folder(folder)).free / _GIB
    disk = Check(f"free disk at {folder}", "ok", f"{free_gib:.1f} GiB")
    if free_gib < _MIN_DISK_GIB:
        fix = "free some space, or use another disk (--studies, --cache)"
        disk = Check(disk.name, "warning", disk.found, fix)
    yield disk


def check_space(space: Space) -> Iterator[Check]:
    """Yield whether the packages and weights are there that the trials of a space need."""
    import torch

    from xraytune.trial.prepare import require_network

    for problem in missing_packages(space):
        yield Check("packages", "missing", problem.what, problem.fix)
    downloads = Path(torch.hub.get_dir()) / "checkpoints"
    folder = space.settings.weights_dir or downloads
    settings = space.settings.model_copy(update={"weights_dir": folder})
    for trial in space.networks():
        name = f"weights of {trial.backbone}, {trial.weights}"
        try:
            file = require_network(settings, trial, may_download=False)
            yield Check(name, "ok", str(file) if file else "not needed")
        except (ConfigError, MachineError) as error:
            problem = error.problems[0]
            what = f"{problem.what} in {problem.where}"
            if problem.where == downloads:
                fix = f"downloaded on first use; without network access: {problem.fix}"
                yield Check(name, "warning", what, fix)
            else:
                yield Check(name, "missing", what, problem.fix)
