"""The CPU cores that this process may use, and threads for work on them or beside it."""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_READ_AHEAD = 256
"""Maximum number of results that wait to be consumed."""


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use.

    A scheduler, a container or the environment variable LOKY_MAX_CPU_COUNT may allow only some.
    """
    import joblib  # takes a quarter of a second

    return int(joblib.cpu_count())


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
def repeated(call: Callable[[], None], every_seconds: float) -> Iterator[None]:
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
