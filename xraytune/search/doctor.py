"""Check what a user of this machine cannot see otherwise, and explain how to get what is missing.

Nothing is downloaded or left behind. torch and Ray are imported in separate processes, so that a
broken installation is reported and does not crash `doctor`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xraytune.base.errors import ConfigError, MachineError
from xraytune.base.files import nearest_folder
from xraytune.search.ray.setup import ray_parent, why_ray_cannot_start
from xraytune.space.load import load_space
from xraytune.space.space import missing_packages

_GIB = 2**30
_MIN_DISK_GIB = 10
_TORCH_PROBE = 'import torch, torchvision; print(torch.__version__, "with torchvision", torchvision.__version__)'
_RAY_PROBE = 'import ray, ray.tune; print(ray.__version__, "with Tune")'


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: `missing` prevents xraytune from running, `warning` limits it. `fix` is empty if ok."""

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
    checks = [probe("torch", _TORCH_PROBE), probe("Ray", _RAY_PROBE)]
    if checks[0].status == "ok":
        checks[1:1] = _devices()
    problem = why_ray_cannot_start()
    if problem:
        found = f"{problem.where}: {problem.what}"
        checks.append(Check("Ray startup", "missing", found, problem.fix))
    else:
        checks.append(Check("Ray startup", "ok", f"in {ray_parent()}"))
    free_gib = shutil.disk_usage(nearest_folder(folder)).free / _GIB
    name, found = f"free disk at {folder}", f"{free_gib:.1f} GiB"
    fix = "free some space, or use another disk (--studies, --cache)"
    is_enough = free_gib >= _MIN_DISK_GIB
    checks.append(Check(name, "ok", found) if is_enough else Check(name, "warning", found, fix))
    if space:
        # Its images are not needed.
        loaded = load_space(space, data=Path(), weights_dir=weights_dir)
        missing = missing_packages(loaded)
        checks += [Check("packages", "missing", problem.what, problem.fix) for problem in missing]
        checks += _weights(loaded.networks(), loaded.settings.weights_dir)
    return tuple(checks)


def probe(name: str, code: str) -> Check:
    """Run Python code in a separate process; its last line of output is the finding."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    output = done.stderr if done.returncode else done.stdout
    last_line = output.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
    if done.returncode == 0:
        return Check(name, "ok", last_line)
    fix = "reinstall the matching versions of requirements.lock (`make install`)"
    return Check(name, "missing", last_line, fix)


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
            fix = problem.fix
            if weights_dir is None and problem.where == downloads:
                fix = f"downloaded on first use; without network access: {fix}"
            yield Check(name, "warning", f"{problem.what} in {problem.where}", fix)
