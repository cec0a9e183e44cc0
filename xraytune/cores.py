"""The CPU cores that this process may use, and a thread pool of that size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use: a scheduler may allow only some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@contextmanager
def core_threads() -> Iterator[ThreadPoolExecutor]:
    """Open a pool with a thread for each core; leaving the block cancels calls that have not started."""
    threads = ThreadPoolExecutor(cpu_count())
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)
