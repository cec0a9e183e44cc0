"""The CPU cores that this process may use, and threads for work on them or beside it."""

import math
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_READ_AHEAD = 256
"""Maximum number of results that wait to be consumed."""


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use.

    A scheduler, a container or the environment variable LOKY_MAX_CPU_COUNT may allow only some.
    """
    import joblib  # takes a quarter of a second, and knows a container's quota

    return int(min(joblib.cpu_count(), quota_cores()))


def quota_cores(root: Path = Path("/")) -> float:
    """Return the number of cores that this process's cgroup and the groups above it allow.

    Slurm and systemd set such quotas. Without a quota, returns infinity.
    """
    cores = [math.inf]
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            top = root / "sys/fs/cgroup" / controllers  # none in version 2
            folder = top / group.lstrip("/")
            for place in (folder, *folder.parents):
                if place.is_relative_to(top):
                    cores += _read_quota(place)
    return min(cores)


def _read_quota(group: Path) -> Iterator[int]:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with suppress(OSError, ValueError):
            quota, period = " ".join((group / name).read_text() for name in names).split()
            if quota not in ("max", "-1"):
                yield math.ceil(int(quota) / int(period))


def map_on_cores(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> Generator[Result, None, None]:
    """Yield `function(item)` for each item, in order, computed in a thread for each core.

    When the caller stops early, calls that have not started are cancelled.
    """
    threads = ThreadPoolExecutor(cpu_count())
    try:
        for start in range(0, len(items), _READ_AHEAD):
            yield from threads.map(function, items[start : start + _READ_AHEAD])
    finally:
        threads.shutdown(cancel_futures=True)


@contextmanager
def call_repeatedly(call: Callable[[], None], every_seconds: float) -> Iterator[None]:
    """Call a function from a thread, again and again, while the block runs."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every_seconds):
            call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
