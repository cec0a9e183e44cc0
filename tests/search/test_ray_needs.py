"""What keeps Ray from starting on a machine, told before it is tried."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.small_disk import small_disk
from tests.search.test_runner import run
from xraytune.errors import MachineError
from xraytune.export.doctor import doctor
from xraytune.search.ray_needs import ray_folder, why_ray_cannot_start
from xraytune.search.study import StudyFolder


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where Ray starts."""
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def told() -> str:
    """What keeps Ray from starting, where, and what to do."""
    return str(why_ray_cannot_start() or "")


@pytest.mark.slow
def test_the_folder_and_the_longest_path_are_those_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.utils import get_default_ray_temp_dir
    from ray.dashboard.subprocesses.utils import get_socket_path

    session = f"session_2026-01-31_23-59-59_123456_{os.getpid()}"
    for name in ("TMPDIR", "RAY_TMPDIR"):  # the second wins
        for length in range(20, 60):
            monkeypatch.setenv(name, "/tmp/" + name[0] * (length - 5))
            folder = get_default_ray_temp_dir()  # type: ignore[no-untyped-call]
            assert ray_folder() == Path(folder)
            try:
                get_socket_path(f"{folder}/{session}/sockets", "MetricsHead")
                is_short = True
            except OSError:
                is_short = False
            assert (told() == "") == is_short, length


def test_a_long_path_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", f"/tmp/{'s' * 80}")

    assert "bytes too long\n  fix: export RAY_TMPDIR=/tmp" in told()


def test_a_folder_where_nothing_can_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also to root, who is allowed everything but cannot."""
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")

    assert told().startswith("/proc/none/ray: Ray cannot write its temporary folder")


@pytest.mark.slow
def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = Path(f"/tmp/xt{os.getpid()}")  # a short path
    with small_disk(tmp_path / "disk") as disk:
        link.symlink_to(disk.path)
        try:
            monkeypatch.setenv("RAY_TMPDIR", str(link))
            assert told() == ""
            disk.fill(pages_left=256)
            assert "has 1 MiB of room" in told()
        finally:
            link.unlink()


def test_a_home_where_no_token_can_be_made_is_told_where_ray_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/nohome")

    assert told().startswith("/proc/nohome/.ray/auth_token: Ray cannot write its token (No such file or directory)")

    monkeypatch.setenv("RAY_AUTH_TOKEN", "one that is there")
    assert told() == ""


def test_a_token_that_is_there_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is left where one could be made."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (told(), [*tmp_path.iterdir()]) == ("", [])

    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token", encoding="utf-8")
    assert told() == ""


@pytest.mark.slow
def test_a_search_is_refused_before_anything_is_started(study: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/nohome")
    notes: list[str] = []

    with pytest.raises(MachineError, match="Ray cannot write its token") as refusal:
        run(study, note=notes.append)

    assert notes == []
    assert "export HOME=" in str(refusal.value)


@pytest.mark.slow
def test_doctor_tells_what_keeps_ray_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> tuple[str, str]:
        check = next(check for check in doctor() if check.name == "Ray's start")
        return check.status, check.fix

    assert start() == ("ok", "")

    monkeypatch.setenv("TMPDIR", f"/tmp/{'s' * 80}")
    assert start() == ("missing", "export RAY_TMPDIR=/tmp")
