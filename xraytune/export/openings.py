"""Where `evaluate` writes down that a sealed test folder was opened: in the model's log, and in its study's."""

from __future__ import annotations

from pathlib import Path

from xraytune.config.resolved import relative_path
from xraytune.export.bundle import Bundle
from xraytune.search.openings import OPENINGS_FILE, openings, write_opening
from xraytune.search.study import StudyFolder


def record_opening(bundle: Bundle, fingerprint: str, *, reason: str, image_count: int) -> int:
    """Add a line to the bundle's and, where it is found, to the study's log; gives how many openings are known.

    Raises:
        MachineError: The disk is full.
    """
    logs = [bundle.path / OPENINGS_FILE]
    study = _study_with_test(bundle, fingerprint)
    if study is not None:
        logs.append(study / OPENINGS_FILE)
    for log in logs:
        write_opening(
            log,
            command="evaluate",
            fingerprint=fingerprint,
            reason=reason,
            image_count=image_count,
            model=relative_path(bundle.path.resolve(), log.parent),
            model_sha256=bundle.model_sha256,
        )
    return max(len(openings(log, fingerprint)) for log in logs)


def _study_with_test(bundle: Bundle, fingerprint: str) -> Path | None:
    """The bundle's study, if it lies where it did and has this very test folder."""
    if bundle.study is None:
        return None
    folder = StudyFolder(bundle.study)
    is_found = folder.space_path.is_file() and folder.prepared().test_fingerprint == fingerprint
    return folder.path if is_found else None
