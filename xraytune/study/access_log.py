"""The test-set access log.

Each further evaluation on sealed images weakens their scores as evidence.

The log has a hash of each image. A copy under another name is therefore the same image, and scoring
only some of the images is an access, too. Each access is logged in the study's own
`test_access.jsonl` and in the one next to the studies, which remains if a study is removed: a
second study on the same test images is no independent confirmation.
"""

import uuid
from collections.abc import Collection
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias

from xraytune.base.files import append_jsonl, read_jsonl
from xraytune.base.locks import build_lock
from xraytune.space.paths import relative_path

TEST_ACCESS_FILE = "test_access.jsonl"
CONFIRM = "confirm"
"""The name in the log of the command that scores sealed images."""

TestAccess: TypeAlias = dict[str, Any]
"""A row of a test-set access log."""


def log_test_access(
    *folders: Path,
    command: str,
    contents: Collection[str],
    reason: str,
    model: Path | None = None,
    **fields: Any,
) -> None:
    """Add one access by `predict`, `evaluate` or `confirm` to the log of each folder.

    A log that has an access with this `id` already stays as it is, so that after a kill between
    two logs, the same call completes them.

    The folders are those of `folders_with_logs`, or the folder of a model. `contents` has the
    `short_sha256` of each image.
    """
    row = {
        "version": 1,
        "id": uuid.uuid4().hex,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "reason": reason,
        **fields,
        "images": len(contents),
        "contents": sorted(contents),
    }
    for folder in folders:
        with build_lock(folder / f".{TEST_ACCESS_FILE}.turn"):  # several processes may append to it
            if row["id"] in {logged.get("id") for logged in _read(folder)}:
                continue
            append_jsonl(
                folder / TEST_ACCESS_FILE,
                row | ({"model": relative_path(model, folder)} if model else {}),
                is_chained=True,
            )


def folders_with_logs(study: Path) -> tuple[Path, Path]:
    """Return the folders whose logs record a study's accesses: its own, then the one around it.

    An access is logged in the study's own folder first, so that the study recognises its rows in
    the other log.
    """
    return study, study.parent


def accesses(study: Path, contents: Collection[str], *, before: str = "") -> list[TestAccess]:
    """Return the accesses by a study and the studies next to it to any of these images.

    Each access is returned once, in order of time. If `before` is given, only accesses before the
    study's first access by that command are returned. The log next to the studies has all accesses
    except those of studies that were moved here, so the logs of all studies are read as well.
    """
    rows = _read(study.parent)
    for path in sorted({study, *(file.parent for file in study.parent.glob("[!.]*/study.yaml"))}):
        rows += [{"study": path.name, **row} for row in _read(path)]
    row_of_id: dict[str, TestAccess] = {}
    for row in rows:
        row_of_id.setdefault(str(row.get("id")), row)
    own_ids = {row.get("id") for row in _read(study) if row["command"] == before}
    images = {*contents}
    rows_in_order = sorted(row_of_id.values(), key=lambda row: str(row.get("time")))
    access_rows = [row for row in rows_in_order if not images.isdisjoint(row["contents"])]
    return [*takewhile(lambda row: row.get("id") not in own_ids, access_rows)]


def _read(folder: Path) -> list[TestAccess]:
    return read_jsonl(folder / TEST_ACCESS_FILE, is_chained=True)
