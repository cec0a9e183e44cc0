"""Check that this machine has what xraytune needs, and explain how to get what is missing.

Nothing is downloaded or left behind. torch and Ray are imported in separate processes, so that a
broken installation is reported and does not crash `doctor`.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from xraytune.base.errors import ConfigError, MachineError
from xraytune.base.files import nearest_folder
from xraytune.search.ray.setup import ray_parent, why_ray_cannot_start
from xraytune.space.load import load_space
from xraytune.space.settings import PACKAGES
from xraytune.space.space import missing_packages, needed_by, needed_extras

_GIB = 2**30
_MIN_DISK_GIB, _MIN_SHARED_MEMORY_GIB = 10, 0.5
_TORCH_PROBE = 'import torch, torchvision; print(torch.__version__, "with torchvision", torchvision.__version__)'
_RAY_PROBE = 'import ray, ray.tune; print(ray.__version__, "with Tune")'


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: `missing` prevents xraytune from running, `warning` limits it. `fix` is empty if ok."""

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    fix: str = ""


def doctor(*, space: Path | None = None, weights_dir: Path | None = None, folder: Path = Path()) -> tuple[Check, ...]:
    """Check this machine.

    Args:
        space: Search space file; checks the weights that its trials need, too.
        weights_dir: Folder of official weight files; default: that of the file, else torch's download cache.
        folder: Folder for studies and cache, whose disk is checked.

    Raises:
        ConfigError: The search space file is invalid.
    """
    networks, needed = tuple[tuple[str, str], ...](), tuple[str, ...]()
    if space:
        loaded = load_space(space, data=Path(), weights_dir=weights_dir)  # its images are not needed
        networks, weights_dir, needed = loaded.networks(), loaded.settings.weights_dir, needed_extras(loaded)
    torch = probe("torch", _TORCH_PROBE)
    checks = [Check("Python", "ok", platform.python_version()), torch]
    if torch.status == "ok":
        checks += [*_devices(), *_weights(networks, weights_dir)]
    checks += [_extra(name, is_needed=name in needed) for name in PACKAGES]
    checks += [probe("Ray", _RAY_PROBE), *_ray()]
    if (shared := Path("/dev/shm")).is_dir():
        fix = "start a container with --shm-size=2g; otherwise Ray uses the disk"
        checks.append(_size("shared memory", shutil.disk_usage(shared).total, _MIN_SHARED_MEMORY_GIB, fix))
    fix = "free some space, or use another disk for studies and cache (--studies, --cache)"
    free_bytes = shutil.disk_usage(nearest_folder(folder)).free
    return (*checks, _size(f"free disk at {folder}", free_bytes, _MIN_DISK_GIB, fix))


def probe(name: str, code: str) -> Check:
    """Run Python code in a separate process; its last line of output is the finding."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
    fix = "reinstall the matching versions of requirements.lock (`make install`)"
    return Check(name, "missing", lines[-1], fix) if done.returncode else Check(name, "ok", lines[-1])


def _devices() -> Iterator[Check]:
    import torch

    from xraytune.base.cores import cpu_count
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


def _weights(networks: Iterable[tuple[str, str]], weights_dir: Path | None) -> Iterator[Check]:
    import torch

    from xraytune.nets.weights import find_weights

    downloads = Path(torch.hub.get_dir()) / "checkpoints"
    for backbone, weights in networks:
        name = f"weights of {backbone}" + (f", {weights}" if weights != "imagenet" else "")
        try:
            file = find_weights(backbone, weights, weights_dir or downloads)
            yield Check(name, "ok", str(file) if file else "not needed")
        except (ConfigError, MachineError) as error:
            problem = error.problems[0]
            is_downloaded = weights_dir is None and problem.where == downloads
            fix = f"downloaded on first use; without network access: {problem.fix}" if is_downloaded else problem.fix
            yield Check(name, "warning", f"{problem.what} in {problem.where}", fix)


def _extra(name: str, *, is_needed: bool) -> Check:
    if missing := missing_packages(name):
        fix = f"pip install 'xraytune[{name}]'; only `{needed_by(name)}` needs it"
        return Check(name, "missing" if is_needed else "warning", f"not installed: {', '.join(missing)}", fix)
    return Check(name, "ok", " and ".join(f"{package} {version(package)}" for package in PACKAGES[name]))


def _ray() -> Iterator[Check]:
    if problem := why_ray_cannot_start():
        found = f"{problem.where}: {problem.what}" if str(problem.where) else problem.what
        yield Check("Ray startup", "missing", found, problem.fix)
    else:
        yield Check("Ray startup", "ok", f"in {ray_parent()}")


def _size(name: str, size_bytes: int, minimum_gib: float, fix: str) -> Check:
    found = f"{size_bytes / _GIB:.1f} GiB"
    if size_bytes >= minimum_gib * _GIB:
        return Check(name, "ok", found)
    return Check(name, "warning", f"{found}, less than {minimum_gib:g}", fix)
