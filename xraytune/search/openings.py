"""Every look at a sealed test folder is written down: a figure on it means less, the more often it was looked at.

The test folder is known by its content, so a copy of it under another name is the same folder.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xraytune.files import append_jsonl, read_jsonl
from xraytune.records import Json

OPENINGS_FILE = "test_openings.jsonl"


def write_opening(log: Path, *, command: str, fingerprint: str, reason: str, image_count: int, **about: Json) -> None:
    """Add a line to a log of openings.

    Args:
        log: `test_openings.jsonl` of a study or of a model.
        command: `evaluate` or `confirm`.
        fingerprint: The test folder's content.
        reason: Why, in the person's words.
        image_count: Images that were looked at.
        **about: What was measured on them.

    Raises:
        MachineError: The disk is full.
    """
    time = datetime.now(UTC).isoformat(timespec="seconds")
    row = {"version": 1, "time": time, "command": command, "reason": reason, "fingerprint": fingerprint}
    append_jsonl(log, {**row, **about, "images": image_count})


def last_opening(log: Path, command: str) -> dict[str, Any] | None:
    """The last opening that a command wrote down, of whichever folder; None where there is none."""
    return next((row for row in reversed(read_jsonl(log)) if row["command"] == command), None)


def openings(log: Path, fingerprint: str) -> list[dict[str, Any]]:
    """The openings of one test folder that a log knows."""
    return [row for row in read_jsonl(log) if row["fingerprint"] == fingerprint]
