"""Check that this machine or a Ray cluster has what xraytune needs, and explain how to get what is missing.

Nothing is downloaded or left behind. torch and Ray are imported in separate processes, so that a broken
installation is reported and does not crash `doctor`.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal
from uuid import uuid4

from xraytune.config.load import load_space
from xraytune.config.settings import PACKAGES
from xraytune.config.space import missing_packages, needed_by, needed_extras
from xraytune.errors import ConfigError, MachineError
from xraytune.files import free_inodes, nearest_folder, write_text
from xraytune.limits import LIMITS, likely_shortage
from xraytune.search.ray.setup import ray_parent, security_problems, why_ray_cannot_start
from xraytune.tracking.wandb import has_key

_GIB = 2**30
_MIN_DISK_GIB, _MIN_MEMORY_GIB, _MIN_SHARED_MEMORY_GIB = 10, 4, 0.5
_MIN_INODES = 10_000
_MAX_CLOCK_SECONDS = 2.0
_ONLY_WARNINGS = ("clocks", "limits", "shared memory")
_OTHER_DISK = "free some space, or use another disk for studies and cache (--studies, --cache)"
_MORE_SHARED_MEMORY = "start a container with --shm-size=2g; otherwise Ray uses the disk"
_NO_KEY = "none needed: runs are logged offline; `wandb login` puts them online"
_DEFAULT_NETWORKS = tuple((backbone, "imagenet") for backbone in ("mobilenet_v2", "resnet18", "resnet50"))
_REINSTALL = "reinstall the matching versions of requirements.lock (`make install`)"
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


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: `missing` prevents xraytune from running, `warning` limits it. `fix` is empty if ok."""

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    fix: str = ""


def doctor(
    *,
    space: Path | None = None,
    weights_dir: Path | None = None,
    folder: Path = Path(),
    address: str | None = None,
) -> tuple[Check, ...]:
    """Check this machine, or the nodes of a Ray cluster.

    Args:
        space: Search space file; checks the weights of its trials instead of those of three common backbones.
        weights_dir: Folder of official weight files; default: that of the file, else torch's download cache.
        folder: Folder for studies and cache; checks its disk or, with `address`, that all nodes share it.
        address: A Ray cluster to check instead of this machine.

    Raises:
        ConfigError: The search space file is invalid.
        MachineError: No cluster answers, it needs another token, or the folder is not writable.
    """
    if address:
        return tuple(_cluster(address, folder))
    networks, needed = _DEFAULT_NETWORKS, tuple[str, ...]()
    if space:
        loaded = load_space(space, data=Path(), weights_dir=weights_dir)  # its images are not needed
        networks, weights_dir, needed = loaded.networks(), loaded.settings.weights_dir, needed_extras(loaded)
    torch = probe("torch", _TORCH_PROBE, fix=_REINSTALL)
    checks = [Check("Python", "ok", platform.python_version()), torch]
    if torch.status == "ok":
        checks += [*_devices(), *_weights(networks, weights_dir)]
    return (
        *checks,
        *(_extra(name, is_needed=name in needed) for name in PACKAGES),
        probe("Ray", _RAY_PROBE, fix=_REINSTALL),
        *_ray(),
        *_resources(folder),
        Check("W&B", "ok", "an API key is set") if has_key() else Check("W&B", "warning", "no API key", _NO_KEY),
    )


def probe(name: str, code: str, *, fix: str) -> Check:
    """Run Python code in a separate process; its last line of output is the finding."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
    return Check(name, "missing", lines[-1], fix) if done.returncode else Check(name, "ok", lines[-1])


def _devices() -> Iterator[Check]:
    import torch

    from xraytune.compute import choose_compute, gpu_count
    from xraytune.cores import cpu_count

    precision = choose_compute(gpus=0, threads=1).precision
    yield Check("CPU", "ok", f"{cpu_count()} cores, matrix products in {precision}")
    for number in range(gpu_count()):
        device = torch.cuda.get_device_properties(number)
        yield Check(f"GPU {number}", "ok", f"{device.name}, {device.total_memory / _GIB:.0f} GiB")
    if gpu_count() == 0 and Path("/proc/driver/nvidia").exists():
        fix = "install a CUDA build of torch that the driver supports (see `nvidia-smi`)"
        yield Check("GPU", "missing", "there is an NVIDIA driver, but torch finds no GPU", fix)
    elif gpu_count() == 0:
        fix = "not needed for small searches (search_spaces/gan_ratio_cpu.yaml), but for large ones"
        yield Check("GPU", "warning", "none", fix)


def _weights(networks: Iterable[tuple[str, str]], weights_dir: Path | None) -> Iterator[Check]:
    import torch

    from xraytune.models.weights import find_weights

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
    for risk in security_problems():
        yield Check("Ray security", "warning", f"{risk.where}: {risk.what}", risk.fix)


def _resources(folder: Path) -> Iterator[Check]:
    """Check memory, shared memory, disk and the limits of this process."""
    memory_bytes, limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text(encoding="utf-8").strip()).isdigit():
        memory_bytes = min(memory_bytes, int(text))
    yield _size("memory", memory_bytes, _MIN_MEMORY_GIB, "run fewer trials at once: --set resources.concurrent=1")
    if (shared := Path("/dev/shm")).is_dir():
        yield _size("shared memory", shutil.disk_usage(shared).total, _MIN_SHARED_MEMORY_GIB, _MORE_SHARED_MEMORY)
    else:
        yield Check("shared memory", "ok", "not used on this system")
    free_bytes, inodes = shutil.disk_usage(nearest_folder(folder)).free, free_inodes(folder)
    yield _size(f"free disk at {folder}", free_bytes, _MIN_DISK_GIB, _OTHER_DISK)
    found = "no limit" if inodes is None else f"for {inodes} more files"
    is_short = inodes is not None and inodes < _MIN_INODES
    yield _warning_if(is_short, f"free inodes at {folder}", found, _OTHER_DISK)
    problem = likely_shortage()
    limits = ", ".join(f"{limit.name} {limit.format_value(limit.value)}" for limit in LIMITS)
    yield _warning_if(problem is not None, "limits", limits, problem.fix if problem else "")


def _size(name: str, size_bytes: int, minimum_gib: float, fix: str) -> Check:
    is_short = size_bytes < minimum_gib * _GIB
    found = f"{size_bytes / _GIB:.1f} GiB" + (f", less than {minimum_gib:g}" if is_short else "")
    return _warning_if(is_short, name, found, fix)


def _warning_if(is_bad: bool, name: str, found: str, fix: str) -> Check:
    return Check(name, "warning", found, fix) if is_bad else Check(name, "ok", found)


def _cluster(address: str, folder: Path) -> Iterator[Check]:
    """Check the nodes of a cluster. Each one looks for a file that this machine writes to the folder."""
    from xraytune.search.ray.actor import versions  # both import Ray
    from xraytune.search.ray.runner import inspect_cluster

    probe, ours, shared = nearest_folder(folder.resolve()) / f".doctor-{uuid4().hex}", versions(), f"shared {folder}"
    write_text(probe, probe.name)
    try:
        dashboard, nodes = inspect_cluster(address, probe)
    finally:
        probe.unlink(missing_ok=True)
    fixes = {
        "nodes": "install xraytune there, and open Ray's ports between the nodes",
        "versions": "install the same versions on all machines",
        shared: "mount one file system at this path on all machines, writable by the users that run Ray and xraytune",
        "clocks": "synchronise the clocks, for example with chrony",
        "limits": "raise them where `ray start` runs, for example with `ulimit -n 65536`",
        "shared memory": _MORE_SHARED_MEMORY,
    }
    faults: dict[str, list[str]] = {name: [] for name in fixes}
    for node, facts in nodes.items():
        if "problem" in facts:
            faults["nodes"].append(f"{node}: {facts['problem']}")
            continue
        other = {name: release for name, release in facts["versions"].items() if release != ours[name]}
        faults["versions"] += (f"{node}: {name} {release}, not {ours[name]}" for name, release in other.items())
        if facts["probe"] != probe.name:
            why = "not writable" if facts["probe"] else "it does not see a file written here"
            faults[shared].append(f"{node}: {why}")
        if abs(ahead := facts["ahead_seconds"]) > _MAX_CLOCK_SECONDS:
            faults["clocks"].append(f"{node}: {ahead:+.0f} s from this machine")
        if facts["limit"]:
            faults["limits"].append(f"{node}: {facts['limit']}")
        if (size_bytes := facts["shared_memory_bytes"]) is not None and size_bytes < _MIN_SHARED_MEMORY_GIB * _GIB:
            faults["shared memory"].append(f"{node}: {size_bytes / _GIB:.2f} GiB")
    for name, found in faults.items():
        status: Literal["warning", "missing"] = "warning" if name in _ONLY_WARNINGS else "missing"
        yield Check(name, status, "\n".join(found), fixes[name]) if found else Check(name, "ok", f"nodes: {len(nodes)}")
    url = dashboard.removeprefix("http://")
    host, _, port = url.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        fix = "if it listens only on the head node: ssh -L 8265:localhost:8265 HEAD; its log there is dashboard.log"
        yield Check("dashboard", "warning", f"{url or 'none'} does not answer: {error}", fix)
    else:
        yield Check("dashboard", "ok", url)
