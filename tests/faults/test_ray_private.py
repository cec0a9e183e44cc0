"""Other users and machines stay out of the Ray that a search starts, and it leaves nothing in temporary folders."""

from __future__ import annotations

import http.client
import json
import random
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faults.ray_processes import Killable, descendants, kill, killable


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for temporary files, of a short path."""
    with TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        yield Path(folder)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without a token."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def listeners(pid: int) -> dict[int, tuple[str, str]]:
    """The TCP ports on which the processes below a process listen: address and command line."""
    owners: dict[str, str] = {}
    for one, line in descendants(pid):
        for descriptor in Path(f"/proc/{one}/fd").glob("*"):
            try:
                owners[str(descriptor.readlink())] = line.strip()
            except FileNotFoundError:
                continue
    found = {}
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for row in Path(f"/proc/net/{table}").read_text(encoding="utf-8").splitlines()[1:]:
            fields = row.split()
            owner = owners.get(f"socket:[{fields[9]}]")
            if fields[3] != "0A" or owner is None:  # listens
                continue
            address, port = fields[1].split(":")
            words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
            found[int(port, 16)] = (socket.inet_ntop(family, b"".join(words)).removeprefix("::ffff:"), owner)
    return found


def asked(port: int, path: str, token: str = "") -> tuple[int, str]:
    """The status and the text with which an HTTP server of this machine answers."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def running(root: Path) -> Killable:
    """A search that has trained an epoch."""
    search = killable(root)
    search.train_on(more_epochs=1)
    return search


@pytest.mark.ray
@pytest.mark.slow
def test_ray_listens_on_loopback_and_dashboard_requires_token(tmp_path: Path, temporary: Path, home: Path) -> None:
    search = running(tmp_path)
    try:
        (folder,) = temporary.glob("xray-*")
        found = listeners(search.process.pid)
        (port,) = (int(text) for text in re.findall(r"http://127\.0\.0\.1:(\d+)", search.log()))
        token = (home / ".ray" / "auth_token").read_text(encoding="utf-8")

        assert {line for address, line in found.values() if address != "127.0.0.1"} == set()
        for name in ("gcs_server", "raylet/raylet", "dashboard/dashboard.py", "ray::DashboardAgent", "ray::TrialActor"):
            assert any(name in line for _, line in found.values()), f"{name} was not looked at"
        assert folder.stat().st_mode & 0o077 == 0
        assert (home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
        assert asked(port, "/")[0] == 200
        assert asked(port, "/api/jobs/")[0] == 401
        assert asked(port, "/api/jobs/", token)[0] == 200
        actors = json.loads(asked(port, "/logical/actors", token)[1])["data"]["actors"].values()
        assert any(actor["state"] == "ALIVE" for actor in actors)
        search.process.send_signal(signal.SIGINT)
        assert search.process.wait() == 130
        require_empty(temporary)
    finally:
        search.process.kill()
        search.process.wait()


def require_empty(temporary: Path) -> None:
    """Wait until the folder is empty: the Ray of a killed search ends after it."""
    until = time.monotonic() + 60
    while [*temporary.iterdir()] and time.monotonic() < until:
        time.sleep(0.1)
    assert [*temporary.iterdir()] == []


def killed(search: Killable) -> None:
    """Its Ray ends itself."""
    search.process.kill()
    search.process.wait()


def bereft(search: Killable) -> None:
    """Ray dies, is started again, and the search ends."""
    assert kill("raylet", search.process, random.Random(1))
    search.finish()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    [
        killed,
        *(pytest.param(end, marks=pytest.mark.nightly) for end in (Killable.finish, bereft)),
    ],
    ids=["killed", "finished", "bereft"],
)
def test_search_leaves_no_temporary_files(tmp_path: Path, temporary: Path, end: Callable[[Killable], None]) -> None:
    search = running(tmp_path)
    (folder,) = temporary.iterdir()
    assert [*folder.glob("ray/session_*")]

    end(search)

    require_empty(temporary)
