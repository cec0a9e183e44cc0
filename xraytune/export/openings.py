"""Every look at a sealed test folder is written down: a figure on it means less, the more often it was looked at.

The test folder is known by its content, so a copy of it under another name is the same folder.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from xraytune.config.resolved import relative_path
from xraytune.export.bundle import Bundle
from xraytune.files import append_jsonl, read_jsonl
from xraytune.search.study import StudyFolder

OPENINGS_FILE = "test_openings.jsonl"


def record_opening(bundle: Bundle, fingerprint: str, *, reason: str, image_count: int) -> int:
    """Add a line to the bundle's and, where it is found, to the study's log; gives how many openings are known.

    Raises:
        MachineError: The disk is full.
    """
    logs = [bundle.path / OPENINGS_FILE]
    study = _study_with_test(bundle, fingerprint)
    if study is not None:
        logs.append(study / OPENINGS_FILE)
    time = datetime.now(UTC).isoformat(timespec="seconds")
    for log in logs:
        row = {
            "version": 1,
            "time": time,
            "command": "evaluate",
            "reason": reason,
            "fingerprint": fingerprint,
            "model": relative_path(bundle.path.resolve(), log.parent),
            "model_sha256": bundle.model_sha256,
            "n": image_count,
        }
        append_jsonl(log, row)
    return max(len([row for row in read_jsonl(log) if row["fingerprint"] == fingerprint]) for log in logs)


def _study_with_test(bundle: Bundle, fingerprint: str) -> Path | None:
    """The bundle's study, if it lies where it did and has this very test folder."""
    if bundle.study is None:
        return None
    folder = StudyFolder(bundle.study)
    is_found = folder.space_path.is_file() and folder.prepared().test_fingerprint == fingerprint
    return folder.path if is_found else None
