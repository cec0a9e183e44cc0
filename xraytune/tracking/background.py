"""Slow calls in a daemon thread, in order, so that whoever asks for them never waits.

A call that fails ends the thread, and later ones are dropped; a call that never returns holds up those behind it, until
`close` lets go of them. The first thing that goes wrong is said, once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress


class Background:
    """Makes calls in a thread of its own.

    Args:
        name: Of the thread.
        say: Told what went wrong, once.
        most_waiting: Calls that may wait; more are dropped.
    """

    def __init__(self, name: str, *, say: Callable[[str], None], most_waiting: int = 1000) -> None:
        self._say = say
        self._has_said = threading.Lock()  # taken once, and kept
        self._calls: queue.Queue[Callable[[], object] | None] = queue.Queue(most_waiting)
        self._let_go = threading.Event()
        self._ended = threading.Event()
        # A daemon: a process that ends does not wait for a call that never returns.
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def post(self, call: Callable[[], object]) -> None:
        """Have the call made after those before it; returns at once."""
        if self._ended.is_set():
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._say_once(
                f"it does not keep up, and what does not fit among {self._calls.maxsize} messages is dropped"
            )

    def close(self, last: Callable[[], object], seconds: float) -> None:
        """Wait for the calls that were posted, and a last one, but no longer than so many seconds; then let go of them."""
        deadline = time.monotonic() + seconds
        with suppress(queue.Full):
            for call in (last, None):
                if not self._ended.is_set():
                    self._calls.put(call, timeout=max(0.0, deadline - time.monotonic()))
            self._ended.wait(max(0.0, deadline - time.monotonic()))
        self._let_go.set()
        if not self._ended.is_set():
            self._say_once(f"it did not answer within {seconds:g} s, and is waited for no longer")

    def _work(self) -> None:
        try:
            while (call := self._calls.get()) is not None and not self._let_go.is_set():
                call()
        # Whatever a tracker raises, sys.exit included, is its own affair and never the trial's.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            self._say_once(f"{type(error).__name__}: {error}")
        finally:
            self._ended.set()

    def _say_once(self, text: str) -> None:
        if self._has_said.acquire(blocking=False):
            self._say(text)
