"""How well a search with two GANs says how long it still takes.

    make bench ONLY=time_left DATA=chest_xray WEIGHTS=weights

The time left is read every few seconds, as `status` shows it, and at each tenth of the search it is
compared with the time that the search still took. Other processes may run meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, figure
from xraytune.base.errors import XraytuneError
from xraytune.study.status import status

NEEDS = ("DATA", "WEIGHTS")
SPACE = ("--space", "gan_ratio_cpu", "--set", "name=time-left")
_EVERY_SECONDS = 2.0
_FACTOR = 1.5


def observe(folder: Path) -> tuple[list[tuple[float, float]], float]:
    """Search, and return the times at which it named a time left, with this, and its end.

    Seconds count from the first trial's start.
    """
    data, weights = (str(Path(os.environ[name]).resolve()) for name in NEEDS)
    words = ["search", *SPACE, "--data", data, "--weights-dir", weights]
    looks: list[tuple[float, float]] = []
    began = 0.0
    with (folder / "search.log").open("w", encoding="utf-8") as log:
        search = subprocess.Popen(
            [sys.executable, "-m", "xraytune", *words], cwd=folder, stdout=log, stderr=log
        )
        while search.poll() is None:
            time.sleep(_EVERY_SECONDS)
            now = time.monotonic()
            try:
                view = status(folder / "studies/time-left")
            except XraytuneError:  # not yet there
                continue
            if view.trials and not began:
                began = now
            if view.seconds_left is not None:
                looks.append((now - began, view.seconds_left))
    print((folder / "search.log").read_text(encoding="utf-8"), file=sys.stderr)
    return looks, time.monotonic() - began


def measure() -> Iterator[Figure]:
    """Yield the ratio of the time left to what it was, at each tenth, and how many are right."""
    with tempfile.TemporaryDirectory() as place:
        looks, total = observe(Path(place))
    right = 0
    for tenth in range(10):
        moment = total * tenth / 10
        before = [look for look in looks if look[0] <= moment]
        if not before:
            continue
        seen, left = before[-1]
        ratio = left / (total - seen)
        right += 1 / _FACTOR <= ratio <= _FACTOR
        yield figure(f"time_left: after {tenth} tenths, named to true", ratio, "times")
    yield figure("time_left: right within a factor of 1.5", right, "of ten tenths", ">= 9")


if __name__ == "__main__":
    for measured in measure():
        print(measured)
