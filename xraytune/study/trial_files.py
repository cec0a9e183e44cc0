"""The files, besides its epochs, in which a trial reports to `status` and the search.

    progress.json   what the trial does before its first epoch
    samples.json    the sample grid of the trial's generator
    quality.json    quality and memorisation of the trial's synthetic images

A file may be missing, since the trial has not written it yet, or damaged. Its content is then
treated as unknown.
"""

import json
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from xraytune.base.files import fenced, read_json, write_json, write_text
from xraytune.synth.generator_quality import QUALITY_FILE, PoolReport

_ATTEMPT_FILE = ".owner"
"""The file in a trial's folder with a token and the node of the latest attempt."""
_PROGRESS_FILE = "progress.json"
_SAMPLES_FILE = "samples.json"
_WRITE_EVERY_SECONDS = 1.0
_REPORT = TypeAdapter(PoolReport)
_UNREADABLE = (FileNotFoundError, ValueError, TypeError, LookupError)
"""The exceptions that readers raise for missing and damaged files."""


@dataclass(slots=True)
class ProgressFile:
    """A `Progress` callback that writes `progress.json` of a trial, at most once a second."""

    trial_dir: Path
    _written: float = field(default=0.0, init=False)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Write the progress."""
        now = time.monotonic()
        if now - self._written >= _WRITE_EVERY_SECONDS or done == total:
            self._written = now
            content = json.dumps({"what": what, "done": done, "total": total})
            write_text(self.trial_dir / _PROGRESS_FILE, f"{content}\n", durable=False)


class TakenOverError(Exception):
    """A later attempt at the trial has begun, so this attempt writes nothing more."""


@contextmanager
def attempt(trial_dir: Path) -> Iterator[None]:
    """Begin an attempt at a trial, which ends any earlier one.

    While the block runs, a write of this process raises TakenOverError if a later attempt has begun
    or the trial's folder is gone, and OSError if the storage does not answer.
    """
    token = f"{uuid.uuid4().hex} {socket.gethostname()}"
    write_text(trial_dir / _ATTEMPT_FILE, token, durable=False)

    def require_last() -> None:
        last = ""
        with suppress(FileNotFoundError):
            last = (trial_dir / _ATTEMPT_FILE).read_text(encoding="utf-8")
        if last != token:
            raise TakenOverError

    with fenced(require_last):
        yield


def read_node(trial_dir: Path) -> str:
    """Return the node of a trial's latest attempt; "" if it is this node or there is none."""
    try:
        node = (trial_dir / _ATTEMPT_FILE).read_text(encoding="utf-8").partition(" ")[2]
    except OSError:
        return ""
    return node if node != socket.gethostname() else ""


def read_progress(trial_dir: Path) -> tuple[str, int, int] | None:
    """Return the last arguments of a trial's `Progress` callback; None if they are unknown."""
    with suppress(*_UNREADABLE):
        content = read_json(trial_dir / _PROGRESS_FILE)
        return str(content["what"]), int(content["done"]), int(content["total"])
    return None


def write_samples(trial_dir: Path, grid: Path) -> None:
    """Record the sample grid of a trial's generator, which is a file in the study's `samples/`."""
    write_json(trial_dir / _SAMPLES_FILE, {"generator": f"samples/{grid.name}"})


def read_samples(trial_dir: Path) -> str:
    """Return a trial generator's sample grid, relative to the study; "" if there is none yet."""
    with suppress(*_UNREADABLE):
        return str(read_json(trial_dir / _SAMPLES_FILE)["generator"])
    return ""


def read_pool_report(trial_dir: Path) -> PoolReport | None:
    """Return a trial's report on its synthetic images; None if there is none yet."""
    with suppress(*_UNREADABLE):
        return _REPORT.validate_python(read_json(trial_dir / QUALITY_FILE))
    return None
