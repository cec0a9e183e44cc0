"""The wall time that a study has used, summed over all starts, kept in `wall.json`."""

from __future__ import annotations

import time
from pathlib import Path

from xraytune.base.files import read_json, write_json


def read_seconds(path: Path) -> float:
    """Return the seconds that a study has used; none if the file is missing or damaged."""
    try:
        return float(read_json(path)["seconds"])
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return 0.0


class StudyClock:
    """A clock that starts when created.

    Saved every few seconds, so that the time of a killed search counts too.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._earlier = read_seconds(path)
        self._started = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """The seconds used until now."""
        return self._earlier + time.monotonic() - self._started

    def save(self, *, after_seconds: float = 0.0) -> None:
        """Save the time if the last save was that long ago."""
        if time.monotonic() - self._saved >= after_seconds:
            self._saved = time.monotonic()
            write_json(self._path, {"seconds": self.seconds})
