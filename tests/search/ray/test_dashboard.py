"""What Ray's dashboard shows of a search whose trials share a process."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.ray_processes import HEADS, Killable, asked, killable


def shown(search: Killable, path: str) -> str:
    """The answer of a search's dashboard."""
    token = Path("~/.ray/auth_token").expanduser().read_text(encoding="utf-8")
    status, text = asked(search.dashboard_port(), path, token)
    assert status == 200, text
    return text


def actors(search: Killable) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(shown(search, "/logical/actors"))["data"][
        "actors"
    ]
    return [*found.values()]


def log_of_only_process(search: Killable) -> str:
    (actor,) = actors(search)
    return shown(search, f"/api/v0/logs/file?actor_id={actor['actorId']}&suffix=out&lines=1000")


def shows_task(search: Killable, name: str) -> bool:
    answer = json.loads(shown(search, "/api/v0/tasks?detail=1&limit=1000"))
    return any(re.fullmatch(name, task["name"]) for task in answer["data"]["result"]["result"])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("searches", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_each_dashboard_names_the_trials_of_a_reused_process_with_their_scores(
    tmp_path: Path, searches: int
) -> None:
    """Also of several searches on one machine."""
    started = [killable(tmp_path / f"{number}", space=HEADS) for number in range(searches)]
    try:
        for search in started:
            search.trials = 100
            search.keep_running()
        for search in started:
            search.wait_for(lambda search=search: "#2 started" in search.log())  # type: ignore[misc]

        for search in started:
            log = log_of_only_process(search)
            for trial in ("killed #0 real_only", "killed #1 real_only"):
                assert re.search(rf"{trial}: epoch 12: val-A \d\.\d+", log)
                name = rf"{trial}: \d\.\d+ after epoch 11"  # Ray shows it a second later
                search.wait_for(lambda name=name, search=search: shows_task(search, name))  # type: ignore[misc]
    finally:
        for search in started:
            search.process.send_signal(signal.SIGINT)
            search.process.wait()
