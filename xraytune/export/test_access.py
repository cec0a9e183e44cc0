"""Where `evaluate` logs that a sealed test folder was opened: with the model, with its study and beside the studies."""

from __future__ import annotations

from pathlib import Path

from xraytune.export.bundle import Bundle
from xraytune.files import read_jsonl
from xraytune.search.study import StudyFolder
from xraytune.search.test_access import TEST_ACCESS_FILE, accesses, log_test_access, study_logs


def record_test_access(bundle: Bundle, fingerprint: str, *, reason: str, image_count: int) -> int:
    """Log an opening; gives how many are known, this one included.

    Raises:
        ArtifactError: A log is damaged.
        MachineError: The disk is full, or the system refuses access.
    """
    model, study = bundle.path.resolve(), _study_with_test(bundle, fingerprint)
    log_test_access(
        model,
        *(() if study is None else study_logs(study)),
        command="evaluate",
        fingerprint=fingerprint,
        reason=reason,
        image_count=image_count,
        model=model,
        model_sha256=bundle.model_sha256,
        **({} if study is None else {"study": study.name}),
    )
    with_model = [row for row in read_jsonl(model / TEST_ACCESS_FILE) if row["fingerprint"] == fingerprint]
    return max(len(with_model), 0 if study is None else len(accesses(study, fingerprint)))


def _study_with_test(bundle: Bundle, fingerprint: str) -> Path | None:
    """The bundle's study, if it lies where it did and has this very test folder."""
    if bundle.study is None:
        return None
    folder = StudyFolder(bundle.study.resolve())
    is_found = folder.space_path.is_file() and folder.prepared().test_fingerprint == fingerprint
    return folder.path if is_found else None
