"""A search with Ray refuses a second one, survives kills and ends each trial exactly once.

`XRAYTUNE_FAULTS=all` kills 40 times, any kind of process; else three times.
"""

import json
import random
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped]
import pytest

from tests.faults.ray_processes import (
    HEADS,
    IS_LONG,
    SPACE,
    TRIAL,
    Killable,
    Kind,
    asked,
    descendants,
    kill,
    killable,
)
from xraytune.search.ray.setup import processes_of

ALL: tuple[Kind, ...] = ("worker", "raylet", "gcs", "ray driver", "driver", "all at once")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for temporary files, with a short path; the home folder is empty too."""
    for name in ("RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(
        "TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor")
    )  # torch creates it and leaves it
    with TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def listeners(pid: int) -> dict[int, tuple[str, str]]:
    """The TCP ports on which the processes below a process listen: address and command line."""
    found = {}
    for one, line in descendants(pid):
        with suppress(psutil.NoSuchProcess):
            for connection in psutil.Process(one).net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found[connection.laddr.port] = connection.laddr.ip.removeprefix("::ffff:"), line
    return found


def require_private(search: Killable, temporary: Path) -> None:
    """Ray listens only on this machine, and the dashboard asks for a private token."""
    found = listeners(search.process.pid)
    assert {line for address, line in found.values() if address != "127.0.0.1"} == set()
    for name in (
        "gcs_server",
        "raylet/raylet",
        "dashboard/dashboard.py",
        "ray::DashboardAgent",
        TRIAL,
    ):
        assert any(re.search(name, line) for _, line in found.values()), f"{name} was not looked at"
    (folder,) = temporary.glob("xray-*")
    token = search.root / "home/.ray/auth_token"
    assert [*folder.glob("ray/session_*")]
    assert (folder.stat().st_mode & 0o077, token.parent.stat().st_mode & 0o077) == (0, 0)
    port = search.dashboard_port()
    text = token.read_text()
    assert [
        asked(port, *request)[0] for request in (("/",), ("/api/jobs/",), ("/api/jobs/", text))
    ] == [200, 401, 200]
    actors = json.loads(asked(port, "/logical/actors", text)[1])["data"]["actors"].values()
    assert any(actor["state"] == "ALIVE" for actor in actors)


def require_empty(temporary: Path) -> None:
    """Wait until the folder is empty: the Ray of a killed search ends after it."""
    until = time.monotonic() + 180
    while [*temporary.iterdir()] and time.monotonic() < until:
        time.sleep(0.1)
    assert [*temporary.iterdir()] == []


def require_ended(folder: Path) -> None:
    """Ray and its trials see that the processes that could have ended them are gone.

    Ray's agents, which hold nothing of the search, look for its dead server for a minute first.
    """
    until = time.monotonic() + 180
    while processes_of(folder) and time.monotonic() < until:
        time.sleep(0.1)
    assert processes_of(folder) == {}


@pytest.mark.ray
def test_search_is_private_resumes_after_any_kill_and_leaves_no_temporary_files(
    tmp_path: Path, temporary: Path
) -> None:
    dice = random.Random(7)
    search = killable(tmp_path, space=SPACE if IS_LONG else HEADS)
    search.train_on(more_epochs=1)
    require_private(search, temporary)
    assert [*search.study.rglob(".tune/*")]
    assert [*search.study.rglob("events.out.*")] == [], "Tune writes no logs for TensorBoard"
    kinds: list[Kind] = ["worker", "raylet", "driver"]
    if IS_LONG:
        kinds = [dice.choice(ALL) for _ in range(40)]
    for kind in kinds:
        search.train_on(more_epochs=1)
        time.sleep(dice.random())
        search.wait_for(lambda kind=kind: kill(kind, search.process, dice))  # type: ignore[misc]
    require_empty(temporary)
    search.train_on(more_epochs=1)
    (folder,) = temporary.glob("xray-*")
    kill("both drivers", search.process, dice)
    require_ended(folder)
    search.finish()
    require_empty(temporary)
    assert "its process was lost" in search.log()
