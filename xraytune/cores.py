"""The CPU cores that this process may use, and a thread for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


def cpu_count() -> int:
    """CPU cores that this process may use: a scheduler may have given it two of a hundred."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@contextmanager
def core_threads() -> Iterator[ThreadPoolExecutor]:
    """A thread for each core, for work that gives Python's lock back.

    An interruption does not wait for what nobody has begun.
    """
    threads = ThreadPoolExecutor(cpu_count())
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)
