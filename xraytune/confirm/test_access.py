"""The test-set access log.

Each further evaluation on a sealed test folder weakens its scores as evidence.

A test folder is identified by its content, so a copy under another name is the same folder; of
unused patients, the log has each image, because studies with other draws score some of the same.
Each access is logged in the study's own `test_access.jsonl` and in the one next to the studies,
which survives them: a second study on the same test images is no independent confirmation.
"""

import uuid
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from xraytune.base.files import append_jsonl, read_jsonl
from xraytune.base.locks import build_lock
from xraytune.space.paths import relative_path

TEST_ACCESS_FILE = "test_access.jsonl"
CONFIRM = "confirm"
"""The command that scores sealed images, in the log."""

TestAccess: TypeAlias = dict[str, Any]
"""A row of a test-set access log."""


def log_test_access(
    *folders: Path,
    command: str,
    fingerprint: str,
    reason: str,
    image_count: int,
    model: Path | None = None,
    **fields: Any,
) -> None:
    """Add one access by `evaluate` or `confirm` to the log of each folder.

    The folders are a study and that of the studies (`study_logs`), or a model; `fingerprint` is
    that of the test images.
    """
    row = {
        "version": 1,
        "id": uuid.uuid4().hex,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "reason": reason,
        "fingerprint": fingerprint,
        **fields,
        "images": image_count,
    }
    for folder in folders:
        with build_lock(folder / f".{TEST_ACCESS_FILE}.turn"):  # several processes may append to it
            append_jsonl(
                folder / TEST_ACCESS_FILE,
                row | ({"model": relative_path(model, folder)} if model else {}),
            )


def study_logs(study: Path) -> tuple[Path, Path]:
    """Return the folders whose logs record a study's accesses.

    Its own comes first, so that it knows its rows in the other.
    """
    return study, study.parent


def accesses(
    study: Path, fingerprint: str, contents: Collection[str] = (), *, before: str = ""
) -> list[TestAccess]:
    """Return the accesses to some of these test images, each once and in order.

    They are those of a study and of the studies next to it.

    The log next to the studies has all of them, except those of a study that was moved here. Only
    those before the study's first one by the command `before`, if it is given.
    """
    rows = read_jsonl(study.parent / TEST_ACCESS_FILE)
    for path in sorted({study, *(file.parent for file in study.parent.glob("[!.]*/study.yaml"))}):
        rows += [{"study": path.name, **row} for row in read_jsonl(path / TEST_ACCESS_FILE)]
    each: dict[str, TestAccess] = {}
    for row in rows:
        each.setdefault(str(row.get("id")), row)
    own = read_jsonl(study / TEST_ACCESS_FILE)
    known = {row.get("id") for row in own if row["command"] == before}
    same = []
    for row in sorted(each.values(), key=lambda row: str(row.get("time"))):
        shared = {*contents}.intersection(row.get("contents", ()))
        if shared or row.get("fingerprint") == fingerprint:
            if row.get("id") in known:
                break
            same.append(row)
    return same
