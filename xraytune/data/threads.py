"""Threads for work that gives Python's lock back: drawing and filtering large arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def core_threads() -> Iterator[ThreadPoolExecutor]:
    """A thread for each core; an interruption does not wait for what nobody has begun."""
    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)
