"""What a trial is busy with before its first epoch (a GAN, features), as a small file that a view reads."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from xraytune.files import read_json, write_text

_NAME = "progress.json"
_EVERY_SECONDS = 1.0


@dataclass(slots=True)
class ProgressFile:
    """A `Progress` that writes `progress.json` of a trial, at most once a second."""

    trial_dir: Path
    _written: float = field(default=0.0, init=False)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Write what is done of what."""
        now = time.monotonic()
        if now - self._written >= _EVERY_SECONDS or done == total:
            self._written = now
            content = json.dumps({"what": what, "done": done, "total": total}, ensure_ascii=False)
            write_text(self.trial_dir / _NAME, f"{content}\n", durable=False)


def read_progress(trial_dir: Path) -> tuple[str, int, int] | None:
    """What the trial said last: what, done, total; None where it said nothing, or power loss tore it."""
    try:
        content = read_json(trial_dir / _NAME)
        return str(content["what"]), int(content["done"]), int(content["total"])
    except (FileNotFoundError, ValueError, LookupError, TypeError, OverflowError):
        return None
