"""The CPU cores that this process may use, and threads for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_READ_AHEAD = 256
"""Maximum number of results that wait to be consumed."""


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use: a scheduler may allow only some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def map_on_cores(function: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result, None, None]:
    """Yield `function(item)` for each item, in order, computed in a thread for each core.

    When the caller stops early, calls that have not started are cancelled.
    """
    threads = ThreadPoolExecutor(cpu_count())
    try:
        for start in range(0, len(items), _READ_AHEAD):
            yield from threads.map(function, items[start : start + _READ_AHEAD])
    finally:
        threads.shutdown(cancel_futures=True)
