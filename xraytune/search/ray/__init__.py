"""Trials on Ray: `driver.py`, `actor.py` and `metrics.py` run in Ray's processes, and only they import Ray.

The search itself, which survives Ray, uses the other files: `setup.py` and `runner.py`.
"""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from typing import Any


def send(connection: Connection, content: Any) -> None:
    """Write one message."""
    connection.send_bytes(json.dumps(content).encode())


def receive(connection: Connection) -> Any:
    """Read one message; raise EOFError if the other process is gone."""
    return json.loads(connection.recv_bytes())
