"""A search is killed at any of its writes, and resumes as if nothing had happened.

In short; with `XRAYTUNE_FAULTS=all` at every write, which takes many minutes, and `pytest -s`
prints what came out.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.lab import Verdict

_IS_ALL = os.environ.get("XRAYTUNE_FAULTS") == "all"
_ROOT = Path(__file__).parents[2]
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def verdict_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Verdict]]:
    """Waits for the verdict of a drill. All run one after the other in one process that forks, so it has no threads."""
    folder = tmp_path_factory.mktemp("drill")
    command = [
        sys.executable,
        "-m",
        "tests.faults.drill",
        str(folder),
        *(["--all"] if _IS_ALL else []),
    ]
    verdicts: dict[str, Verdict] = {}
    with subprocess.Popen(
        command, cwd=_ROOT, env=os.environ | _ONE_THREAD, stdout=subprocess.PIPE, text=True
    ) as process:

        def wait_for(name: str) -> Verdict:
            assert process.stdout is not None
            while name not in verdicts:
                line = process.stdout.readline()
                assert line, "the drills ended early; their own error is above"
                drilled, verdict = json.loads(line)
                verdicts[drilled] = Verdict(**verdict)
            print(f"\n{name}: {verdicts[name].points} points")  # noqa: T201  for `pytest -s`
            return verdicts[name]

        yield wait_for
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def require_no_faults(verdict: Verdict) -> None:
    assert verdict.points
    assert verdict.faults == []


def test_search_killed_at_any_write_resumes_identically(
    verdict_of: Callable[[str], Verdict],
) -> None:
    """The same trials, settings, values, ends, rungs and networks as in an undisturbed search, bit for bit."""
    require_no_faults(verdict_of("kill at each write"))


def test_raised_budget_equals_larger_initial_budget(verdict_of: Callable[[str], Verdict]) -> None:
    require_no_faults(verdict_of("a budget raised after the end"))


def test_confirm_runs_killed_at_any_write_resume(verdict_of: Callable[[str], Verdict]) -> None:
    require_no_faults(verdict_of("kill a list of runs at each write"))
