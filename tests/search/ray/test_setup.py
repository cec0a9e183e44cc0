"""Checks before Ray starts, and what keeps other users out of Ray."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faults.small_disk import small_disk
from tests.in_process import other_process
from tests.search.ray.conftest import run
from xraytune.base.errors import MachineError
from xraytune.search.ray.setup import (
    private_folder,
    processes_of,
    protect_token,
    ray_parent,
    why_ray_cannot_start,
)
from xraytune.study.folder import StudyFolder


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where Ray starts."""
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def told() -> str:
    """What keeps Ray from starting, where, and what to do."""
    return str(why_ray_cannot_start() or "")


def test_the_private_folder_is_in_tmpdir_or_in_tmp_if_that_path_is_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder, expected in (("short", "/tmp/short"), ("s" * 80, "/tmp")):
        monkeypatch.setenv("TMPDIR", f"/tmp/{folder}")
        assert ray_parent() == Path(expected)
    assert told() == ""
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'s' * 80}")
    assert "Ray's temporary folder" in told()
    assert "\n  fix: export RAY_TMPDIR=DIR" in told()


@pytest.mark.parametrize(
    ("size_bytes", "inodes", "left"), [(2**25, 0, "32 MiB"), (2**28, 40, "39 inodes")]
)
def test_a_full_disk_is_reported(
    monkeypatch: pytest.MonkeyPatch, size_bytes: int, inodes: int, left: str
) -> None:
    with (
        TemporaryDirectory(dir="/tmp") as short,
        small_disk(Path(short) / "disk", size_bytes, inodes=inodes) as disk,
    ):
        monkeypatch.setenv("RAY_TMPDIR", str(disk.path))

        assert f"{disk.path}: Ray's temporary folder has {left} left" in told()


@pytest.mark.parametrize("is_titled", [False, True])
def test_processes_of_ray_end_with_its_folder_even_if_their_title_hides_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_titled: bool
) -> None:
    """As that of Ray's agents does: they would write into the folder until it is there again."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    with private_folder() as folder:
        environment = {} if is_titled else {"RAY_TMPDIR": str(folder)}
        works_in = folder if is_titled else tmp_path
        process = subprocess.Popen(["/bin/sleep", "60"], cwd=works_in, env=environment)
        assert process.pid in processes_of(folder)

    assert process.wait(timeout=10) < 0
    assert not folder.exists()


def test_a_users_shell_in_the_private_folder_does_not_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    with private_folder() as folder:
        shell = subprocess.Popen(["/bin/sleep", "60"], cwd=folder, env={"PATH": "/bin"})

    try:
        assert shell.poll() is None
    finally:
        shell.kill()
        shell.wait()


def test_only_this_user_can_open_the_folder_of_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".ray"
    folder.mkdir()

    protect_token()

    assert oct(folder.stat().st_mode & 0o777) == "0o700"


@pytest.mark.parametrize("variable", ["RAY_AUTH_TOKEN=given", "RAY_AUTH_MODE=disabled"])
def test_without_a_token_of_its_own_ray_needs_no_home(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under any user."""
    monkeypatch.setenv("HOME", "/proc/nohome")
    monkeypatch.setenv(*variable.split("="))

    protect_token()


def test_a_token_that_other_users_can_read_or_nobody_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv("HOME", "/proc/nohome")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    with pytest.raises(MachineError, match=f"{token}: Ray cannot read its token"):
        protect_token()
    token.write_text("a token")
    token.chmod(0o640)
    with pytest.raises(MachineError, match=f"other users can read.*\n.*chmod 600 {token}"):
        protect_token()

    token.chmod(0o600)

    protect_token()


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("prlimit --nofile=128:128", "ulimit -n: only 128 "),
        ("prlimit --nproc=99:99", "ulimit -u: only 99 "),
        ("prlimit --fsize=99:99", "ulimit -f: only 99 "),
        ("unshare --net", "127.0.0.1: "),
    ],
)
def test_low_limits_and_a_missing_loopback_interface_are_reported(before: str, words: str) -> None:
    report = "from xraytune.search.ray import setup; print(setup.why_ray_cannot_start())"

    done = other_process(before, sys.executable, "-c", report)

    if "Operation not permitted" in done.stderr:
        pytest.skip(f"{before} is not allowed here")
    assert done.stdout.startswith(words), done.stderr


def test_a_search_is_refused_before_anything_is_started(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc/nohome")
    notes = list[str]()

    with pytest.raises(MachineError, match="Ray cannot write its token") as refusal:
        run(study, note=notes.append)

    assert notes == []
    assert "export HOME=" in str(refusal.value)
