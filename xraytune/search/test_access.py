"""The log of openings: each look at a sealed test folder, because every further look makes a figure on it mean less.

A test folder is identified by its content, so a copy of it under another name is the same folder. An opening is written to
the study's own `test_access.jsonl` and to the one beside the studies, which outlives them: a second study on the same test
images is not a confirmation, whoever opened them first.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias

from xraytune.config.resolved import relative_path
from xraytune.files import append_jsonl, explained_disk_errors, read_jsonl
from xraytune.lease import turn
from xraytune.records import Json

TEST_ACCESS_FILE = "test_access.jsonl"

TestAccess: TypeAlias = dict[str, Any]
"""A row of a log of openings."""


def log_test_access(
    *folders: Path,
    command: str,
    fingerprint: str,
    reason: str,
    image_count: int,
    model: Path | None = None,
    **about: Json,
) -> None:
    """Add one opening to the log of each folder.

    Args:
        *folders: Of a study, of the studies beside it (`study_logs`), or of a model.
        command: `evaluate` or `confirm`.
        fingerprint: The test folder's content.
        reason: Why, in the person's words.
        image_count: Images that were looked at.
        model: The model that was evaluated; its path is written relative to each log.
        **about: Further fields.

    Raises:
        MachineError: The disk is full, or the system refuses access.
    """
    row = {
        "version": 1,
        "id": uuid.uuid4().hex,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "reason": reason,
        "fingerprint": fingerprint,
        **about,
        "images": image_count,
    }
    for folder in folders:
        with turn(folder / f".{TEST_ACCESS_FILE}.turn"):  # several processes may append to it
            append_jsonl(folder / TEST_ACCESS_FILE, row | ({"model": relative_path(model, folder)} if model else {}))


def study_logs(study: Path) -> tuple[Path, Path]:
    """The folders whose logs hold a study's openings: its own first, so that it recognises its own rows in the other."""
    return study, study.parent


def last_access(log: Path, command: str) -> TestAccess | None:
    """The last opening that a command wrote to a log, of whichever test folder; None if there is none."""
    return next((row for row in reversed(read_jsonl(log)) if row["command"] == command), None)


def accesses(study: Path, fingerprint: str) -> list[TestAccess]:
    """All known openings of one test folder, by a study and those beside it, each once and in order.

    The log beside the studies has them all, except those that an earlier version wrote and those of a study that was
    moved here: these stand in that study's own log, and come first.

    Raises:
        ArtifactError: A log is damaged.
        MachineError: The system refuses access.
    """
    with explained_disk_errors(study.parent):
        shared = read_jsonl(study.parent / TEST_ACCESS_FILE)
        studies = {study, *(path.parent for path in study.parent.glob("[!.]*/study.yaml"))}
        own = [{"study": one.name, **row} for one in sorted(studies) for row in read_jsonl(one / TEST_ACCESS_FILE)]
    known = {_key(row) for row in shared}
    elsewhere = sorted((row for row in own if _key(row) not in known), key=lambda row: str(row.get("time")))
    each = {_key(row): row for row in (*elsewhere, *shared)}
    return [row for row in each.values() if row.get("fingerprint") == fingerprint]


def accesses_before(study: Path, fingerprint: str) -> list[TestAccess]:
    """The openings of a test folder before the first one by this study's `confirm`."""
    own = {_key(row) for row in read_jsonl(study / TEST_ACCESS_FILE) if row["command"] == "confirm"}
    return list(takewhile(lambda row: _key(row) not in own, accesses(study, fingerprint)))


def as_text(earlier: Sequence[TestAccess]) -> str:
    """Why a verdict on a test folder that was opened earlier is exploratory."""
    times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
    by = dict.fromkeys(f"`{row['command']}` of study {row['study']}" for row in earlier)
    return f"the test folder had been opened {times} before, by {' and '.join(by)}"


def _key(row: TestAccess) -> str:
    """The same for the rows of one opening in several logs; an earlier version wrote no `id`."""
    return str(row.get("id") or json.dumps({**row, "study": None}, sort_keys=True))
