"""What the search and its Ray process say to each other: one line of JSON each way, over a pipe."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

_LOOK_SECONDS = 2.0


class Link:
    """The Ray process's end.

    Args:
        connection: To the search.
        nodes: Gives the CPU cores and GPUs of Ray's nodes now; they may join and leave.
    """

    def __init__(self, connection: Connection, nodes: Callable[[], list[dict[str, float]]]) -> None:
        self._connection, self._nodes = connection, nodes
        self._looked, self._found = -_LOOK_SECONDS, nodes()

    def next(self) -> dict[str, Any] | str | None:
        """The config of a trial for a free slot; None: not now; "done": there are no more."""
        if (now := time.monotonic()) - self._looked >= _LOOK_SECONDS:
            self._looked, self._found = now, self._nodes()
        answer: dict[str, Any] | str | None = self._ask({"next": self._found})
        return answer

    def on_result(self, number: int, message: Mapping[str, Any]) -> bool:
        """Whether a trial that said this goes on."""
        return bool(self._ask({"on_result": [number, message]}))

    def lost(self, number: int, *, out_of_memory: bool) -> None:
        """The process of a trial is gone."""
        self._ask({"lost": [number, out_of_memory]})

    def _ask(self, question: Any) -> Any:
        send(self._connection, question)
        return receive(self._connection)


def send(connection: Connection, content: Any) -> None:
    """Write one message."""
    connection.send_bytes(json.dumps(content).encode())


def receive(connection: Connection) -> Any:
    """Read one message.

    Raises:
        EOFError: The other process is gone.
    """
    return json.loads(connection.recv_bytes())
