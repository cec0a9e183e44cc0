"""How long a person waits for `xraytune --help` and `space check`: the median of seven whole processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, figure

_PROGRAM = str(Path(sys.executable).with_name("xraytune"))
_SPACE = "search_spaces/gan_ratio.yaml"


def measure() -> Iterator[Figure]:
    """The two commands that a person uses while writing a file."""
    yield figure("startup: xraytune --help", _seconds("--help"), "s", "<= 0.5")
    yield figure("startup: space check", _seconds("space", "check", _SPACE), "s", "<= 1.5")


def _seconds(*arguments: str) -> float:
    times = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run([_PROGRAM, *arguments], capture_output=True, check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)
