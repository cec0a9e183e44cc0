"""A disk of some megabytes that a test fills and frees."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A mounted tmpfs."""

    path: Path

    @property
    def _filler(self) -> Path:
        return self.path / "filler"

    def fill(self, *, pages_left: int = 0) -> None:
        """Use up all but some pages of 4 KiB; a file's last page may have room of its own."""
        with self._filler.open("ab", buffering=0) as stream:
            for pages in (256, 1):
                with suppress(OSError):
                    while True:
                        stream.write(bytes(pages * PAGE_BYTES))
            whole = os.fstat(stream.fileno()).st_size // PAGE_BYTES
            stream.truncate(max(0, whole - pages_left) * PAGE_BYTES)

    def free(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(path: Path, size_bytes: int = 32 * 2**20, *, inodes: int = 0) -> Iterator[SmallDisk]:
    """Mount one at a new folder; the test is skipped where that is not allowed."""
    path.mkdir()
    options = f"size={size_bytes},nr_inodes={inodes},mode=755"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here to make a small disk with")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
