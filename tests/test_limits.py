"""Under low system limits, messages name the limit instead of reporting a bug."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.small_disk import small_disk
from xraytune.errors import MachineError
from xraytune.files import write_text
from xraytune.limits import likely_shortage, shortage

GIB = 2**30


def under(limit: int, value: int) -> Callable[[], None]:
    """Return a `preexec_fn` that sets a limit, soft and hard."""
    return lambda: resource.setrlimit(limit, (value, value))


def python(code: str, limit: int, value: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], preexec_fn=under(limit, value), capture_output=True, text=True, check=False
    )


def xraytune(folder: Path, limit: int, value: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from xraytune.cli.main import main; main()", *arguments]
    return subprocess.run(
        command, cwd=folder, preexec_fn=under(limit, value), capture_output=True, text=True, check=False
    )


def test_a_file_larger_than_the_limit_is_explained(tmp_path: Path) -> None:
    code = f"from xraytune.files import *; write_text(Path({str(tmp_path / 'a.txt')!r}), 'x' * 5000)"
    output = python(code, resource.RLIMIT_FSIZE, 2048).stderr

    assert "MachineError" in output
    assert "a.txt: the file is too large: the limit on file size is 2 KiB (ulimit -f)\n  fix: raise it" in output
    assert not any(tmp_path.iterdir())


def test_too_many_open_files_are_explained(tmp_path: Path) -> None:
    code = f"""
from xraytune.files import *
several = [open('/dev/null') for _ in range(8)]
append_jsonl(Path({str(tmp_path / "log.jsonl")!r}), {{}})
"""
    output = python(code, resource.RLIMIT_NOFILE, 11).stderr

    assert "too many open files: the limit on open files is 11 (ulimit -n)\n  fix: raise it: ulimit -n 65536" in output


def test_a_disk_without_inodes_is_not_called_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", options="nr_inodes=8") as disk:
        with suppress(OSError):
            for number in range(8):
                (disk.path / str(number)).touch()

        with pytest.raises(MachineError, match="no inodes left for new files"):
            write_text(disk.path / "one more", "text")


def test_library_errors_about_missing_memory_or_threads_are_explained() -> None:
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ):
        assert "out of memory" in str(shortage(error))
    assert "ulimit -u" in str(shortage(RuntimeError("can't start new thread")))
    assert shortage(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert likely_shortage() is None  # here the address space is not limited


@pytest.mark.slow
def test_too_small_address_space_for_torch_is_explained(tmp_path: Path) -> None:
    out = tmp_path / "model"
    done = xraytune(tmp_path, resource.RLIMIT_AS, GIB, "train", "--config", "space.yaml", "-o", str(out))

    assert done.returncode == 4, done.stderr
    assert "out of memory: the limit on address space is 1 GiB (ulimit -v)" in done.stderr
    assert "fix: raise it: ulimit -v unlimited" in done.stderr
    assert "bug" not in done.stderr
    assert not out.exists()
