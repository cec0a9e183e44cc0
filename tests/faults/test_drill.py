"""A search is killed at any of its writes, and resumes as if nothing had happened.

In short; with `XRAYTUNE_FAULTS=all` at every write, which takes many minutes, and `pytest -s`
prints what came out.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

_IS_ALL = os.environ.get("XRAYTUNE_FAULTS") == "all"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def test_searches_and_runs_killed_at_any_write_resume_identically(tmp_path: Path) -> None:
    """Trials, settings, values, ends, rungs and networks equal an undisturbed search's bits."""
    command = [sys.executable, "-m", "tests.faults.drill", str(tmp_path)]

    done = subprocess.run(
        command + ["--all"] * _IS_ALL,
        cwd=Path(__file__).parents[2],
        env=os.environ | _ONE_THREAD,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    drills = [json.loads(line) for line in done.stdout.splitlines()]
    print([drill[:2] for drill in drills])  # noqa: T201  for `pytest -s`
    assert [name for name, *_ in drills] == ["search", "a budget raised after the end", "runs"]
    assert [faults for *_, faults in drills] == [[]] * 3
