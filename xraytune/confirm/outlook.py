"""What can be said before a study starts: what this machine lacks, and what the study could tell.

Nothing is left behind but decoded images and the space that is written for them, and nothing is
downloaded but official weights that `gan.features: imagenet` names. Packages are tried in processes
of their own, and torch is imported late, so that a broken installation is reported.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xraytune.base.cores import cpu_count
from xraytune.base.errors import ConfigError, MachineError
from xraytune.base.files import StrPath, nearest_folder, optional_path
from xraytune.base.records import Note, Progress, frozen, ignore_note, ignore_progress, to_json
from xraytune.data.first_space import open_first_space
from xraytune.search.ray.setup import ray_parent, why_ray_cannot_start
from xraytune.space.load import load_space, with_data_options
from xraytune.space.shipped import describe_space
from xraytune.space.space import Space, missing_packages, require_extensions
from xraytune.stats.precision import REPLICATE_SD
from xraytune.study.samplers import require_sampler

if TYPE_CHECKING:
    from xraytune.confirm.design import Design

_GIB = 2**30
_MIN_DISK_GIB = 10
_MIN_SHARED_MIB = 256
"""Ray's object store is in shared memory; see search/ray/driver.py."""
_PACKAGES = {"torch": "torch, torchvision", "ray": "ray, ray.tune"}
"""The modules of each package that are imported to check it."""
_OF_DESIGN = {"torch", "packages", "images"}
"""The checks that a design depends on."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: `missing` prevents xraytune from running, `warning` limits it.

    `fix` is empty if the status is `ok`.
    """

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    fix: str = ""


@frozen
class Outlook:
    """What this machine has and lacks for a study, and what the study could tell.

    Attributes:
        checks: What was checked on this machine, and with which result.
        design: The design of the study; None without a space, torch, packages or images.
    """

    checks: tuple[Check, ...]
    design: Design | None = None

    @property
    def is_ready(self) -> bool:
        """Whether nothing is missing."""
        return all(check.status != "missing" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the outlook as a JSON object."""
        return {"ok": self.is_ready} | to_json(self)


def study_outlook(
    *,
    space: StrPath | None = None,
    data: StrPath | None = None,
    classes: str | None = None,
    group_regex: str | None = None,
    weights_dir: StrPath | None = None,
    overrides: Sequence[str] = (),
    cache: StrPath | None = None,
    skip_broken: bool = False,
    extensions: Sequence[str | type] = (),
    auroc: float | None = None,
    sd: float = REPLICATE_SD,
    gpus: int | None = None,
    on_progress: Progress = ignore_progress,
    note: Note = ignore_note,
) -> Outlook:
    """Say what a study would do and could tell, and what this machine lacks, without any training.

    Args:
        space: Search space (YAML); without it, that of `data` as in `search`, or without `data`,
            only the machine is checked.
        data: Image folder, or data file (YAML); overrides `data` of the space.
        classes: Overrides `data.classes` of the space.
        group_regex: Overrides `data.split.group_regex` of the space.
        weights_dir: Folder of official weight files, for machines without network access; default:
            `weights_dir` of the space, else torch's download cache.
        overrides: `key=value` settings that override those of the space.
        cache: Artifact cache, which keeps the decoded images; its disk is checked for free space.
        skip_broken: Leave out broken images.
        extensions: Your own code that the space names: `FILE.py:CLASS`, or the class itself.
        auroc: Expected AUROC of the finalist and its controls, in (0.5, 1); default: that of frozen
            features, measured on validation patients, or .95 if there is none.
        sd: Assumed standard deviation of an arm's AUROC over replicates.
        gpus: Number of GPUs that trials compute on; default: all GPUs of this machine.
        on_progress: Called with progress.
        note: Called with messages for the user.

    Raises:
        ConfigError: The space is invalid, or there are overrides without a space and images.
        DataError: The images cannot be used.
        MachineError: An extension is missing.
    """
    if auroc is not None and not 0.5 < auroc < 1:
        raise ConfigError(f"--auroc {auroc:g} is not between 0.5 and 1", fix="give one that is")
    data = optional_path(data)
    cache = Path(cache or "cache").resolve()
    overrides = with_data_options(overrides, classes, group_regex)
    checks = check_machine(cache)
    if space is None:
        if not (data or overrides) or not _has_all(checks):
            return Outlook(checks=tuple(checks))
        from xraytune.nets.compute import gpu_count

        has_gpu = (gpu_count() if gpus is None else gpus) > 0
        space = open_first_space(
            data, overrides, has_gpu=has_gpu, note=note, on_progress=on_progress
        )
    note(describe_space(space))
    loaded_space = load_space(
        space, overrides, data=data, weights_dir=weights_dir, extensions=extensions
    )
    if _has_all(checks):
        checks += check_space(loaded_space)
    if not _has_all(checks):
        return Outlook(checks=tuple(checks))
    from xraytune.confirm.design import design_study
    from xraytune.trial.baseline import expected_auroc
    from xraytune.trial.preflight import prepare_space

    require_extensions(loaded_space)
    require_sampler(loaded_space.settings.sampler)
    prepared, index = prepare_space(
        loaded_space, cache, skip_broken=skip_broken, note=note, on_progress=on_progress
    )
    if auroc is None:
        auroc = expected_auroc(loaded_space, prepared, cache, on_progress=on_progress)
    design = design_study(loaded_space, prepared, index, auroc=auroc, sd=sd, gpus=gpus)
    return Outlook(checks=tuple(checks), design=design)


def _has_all(checks: Sequence[Check]) -> bool:
    """Return whether everything that a design needs is there."""
    return not any(check.status == "missing" and check.name in _OF_DESIGN for check in checks)


def check_machine(folder: Path) -> list[Check]:
    """Check the packages, starting with torch, then devices, Ray and the disk of a folder."""
    checks = [_check_package(name) for name in _PACKAGES]
    if checks[0].status == "ok":
        checks += _check_devices()
    return [*checks, *_check_system(folder)]


def _check_package(name: str) -> Check:
    command = [sys.executable, "-P", "-c", f"import {_PACKAGES[name]}"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode == 0:
        return Check(name, "ok", version(name))
    last_line = process.stderr.strip().rpartition("\n")[2]
    fix = "reinstall the matching versions of requirements.lock (`make install`)"
    return Check(name, "missing", last_line or f"exit code {process.returncode}", fix)


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
    fix = "Ray is slow without it: start a container with --shm-size 1g, or remove files there"
    yield _check_free("/dev/shm", f"{free_mib:,.0f} MiB", free_mib < _MIN_SHARED_MIB, fix)

    free_gib = shutil.disk_usage(nearest_folder(folder)).free / _GIB
    fix = "free some space, or use another disk (--studies, --cache)"
    where = f"free disk at {folder}"
    yield _check_free(where, f"{free_gib:.1f} GiB", free_gib < _MIN_DISK_GIB, fix)


def _check_free(name: str, free: str, is_little: bool, fix: str) -> Check:
    return Check(name, "warning", free, fix) if is_little else Check(name, "ok", free)


def check_space(space: Space) -> Iterator[Check]:
    """Yield a check of each package, image folder and weight file that a space's trials need."""
    import torch

    from xraytune.trial.preflight import require_network

    for problem in missing_packages(space):
        yield Check("packages", "missing", problem.what, problem.fix)
    images = space.settings.data.path
    if not images.exists():
        yield Check("images", "missing", f"there is no {images}", "give their folder: --data DIR")
    downloads = Path(torch.hub.get_dir()) / "checkpoints"
    folder = space.settings.weights_dir or downloads
    settings = space.settings.with_values({"weights_dir": folder})
    for trial in space.networks():
        name = f"weights of {trial.backbone}, {trial.weights}"
        try:
            file = require_network(settings, trial, may_download=False)
            if file or trial.weights != "hub":
                yield Check(name, "ok", str(file) if file else "not needed")
            else:
                what = "they are not in the cache of the Hugging Face Hub"
                yield Check(name, "warning", what, "downloaded on first use")
        except (ConfigError, MachineError) as error:
            problem = error.problems[0]
            what = f"{problem.what} in {problem.where}"
            if problem.where == downloads:
                fix = f"downloaded on first use; without network access: {problem.fix}"
                yield Check(name, "warning", what, fix)
            else:
                yield Check(name, "missing", what, problem.fix)
