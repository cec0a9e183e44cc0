"""`python -m benchmarks.mutation [FILE ...]`: make small changes to the pure files, and count those that no test finds.

The few tests of a file are collected once. Each mutant then runs in a forked process: the tests that call the mutated
function, fastest first, until one fails. Hypothesis draws the same examples in each run. A test that takes far more CPU time
than without the change counts as failed, since the mutant may never end.

`docs/mutation.md` lists the surviving mutants that need no test. The exit code is 1 if fewer than 95 % of the others
are found.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

from benchmarks.mutants import CONSTANTS, Mutant, mutants_of

_Answer: TypeAlias = dict[str, Any]
_TESTS: dict[str, tuple[str, ...]] = {
    "xraytune/trial/mix.py": ("tests/trial/test_mix.py",),
    "xraytune/trial/sampler.py": ("tests/trial/test_sampler.py",),
    "xraytune/stats/classification.py": ("tests/stats/test_classification.py",),
    "xraytune/stats/intervals.py": ("tests/stats/test_intervals.py", "tests/stats/test_breakdown.py"),
    "xraytune/stats/placements.py": ("tests/stats/test_placements.py", "tests/stats/test_binormal.py"),
    "xraytune/synth/memorisation.py": ("tests/synth/test_memorisation.py",),
    "xraytune/stats/verdict.py": ("tests/stats/test_verdict.py", "tests/stats/test_interval.py"),
    "xraytune/space/grammar.py": ("tests/space/test_load.py",),
    "xraytune/space/domains.py": ("tests/space/test_domains.py",),
    "xraytune/search/asha.py": ("tests/search/test_asha.py",),
}
_LISTED = Path("docs/mutation.md")
_LEAST_FOUND = 0.95
_MOST_BYTES = 8 * 2**30


def main(files: list[str]) -> int:
    """Print a row per file and its missed mutants; return 1 if too few were found."""
    if unknown := set(files) - set(_TESTS):
        raise SystemExit(f"no tests are listed for {', '.join(sorted(unknown))}; files with tests: {', '.join(_TESTS)}")
    page = _LISTED.read_text(encoding="utf-8")
    mutants, found, listed = 0, 0, 0
    print(f"{'file':36} mutants found listed missed seconds")
    for path in files or _TESTS:
        started = time.monotonic()
        trial: _Answer = _in_child(partial(_try_all, path, _TESTS[path])) or {"error": "its process died"}
        if "error" in trial:
            raise SystemExit(f"{path}: {trial['error']}")
        section = page.partition(f"## {path}\n")[2].partition("\n## ")[0]
        missed = [place for place in trial["missed"] if not _is_listed(place, section)]
        of_file = trial["mutants"], trial["mutants"] - len(trial["missed"]), len(trial["missed"]) - len(missed)
        mutants, found, listed = mutants + of_file[0], found + of_file[1], listed + of_file[2]
        seconds = time.monotonic() - started
        print(f"{path:36} {of_file[0]:7} {of_file[1]:5} {of_file[2]:6} {len(missed):6} {seconds:7.0f}", flush=True)
        print("".join(f"  {path}:{place}\n" for place in missed), end="", flush=True)
    share = found / (mutants - listed)
    print(f"{found} of {mutants} mutants found: {found / mutants:.1%}, or {share:.1%} without the listed ones")
    return int(share < _LEAST_FOUND)


def _is_listed(place: str, section: str) -> bool:
    """Whether an entry, a function with parts of changed lines, describes this mutant."""
    _, function, text = place.split(" ", 2)
    entries = re.findall(r"^- (`[^`]+`:) ((?:`[^`]+`[,:]\s)+)", section, re.MULTILINE)
    return any(part in text for name, parts in entries if name == function for part in re.findall("`([^`]+)`", parts))


def _in_child(work: Callable[[], Any]) -> Any:
    """Run `work` in a forked process and return its result, passed as JSON; None if the process died."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(write, json.dumps(work()).encode())
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        content = answer.read()
    os.waitpid(child, 0)
    return json.loads(content) if content else None


def _try_all(path: str, tests: tuple[str, ...]) -> _Answer:
    """Try all mutants of a file: return their number and those that no test found, or an error."""
    import pytest

    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    trial = _Trial(path=path)
    pytest.main(["-q", "-p", "no:cacheprovider", *tests], plugins=[trial])
    return trial.answer


@dataclass
class _Trial:
    """A pytest plugin that runs the tests for each mutant."""

    path: str
    answer: _Answer = field(default_factory=dict)
    failed: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    called: dict[str, list[int]] = field(default_factory=dict)

    def pytest_configure(self) -> None:
        import hypothesis

        hypothesis.settings.register_profile(
            "mutation", derandomize=True, database=None, deadline=None, report_multiple_bugs=False,
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        )  # fmt: skip
        hypothesis.settings.load_profile("mutation")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed |= report.failed

    def pytest_runtestloop(self, session: Any) -> bool:
        for item in session.items:
            first = _in_child(partial(self._unchanged, item))
            if first is None:
                self.answer = {"error": f"{item.nodeid} fails on the unchanged code"}
                return True
            self.seconds[item.nodeid], self.called[item.nodeid] = first["seconds"], first["called"]
        mutants = mutants_of(Path(self.path).read_text(encoding="utf-8"), self.path)
        items = sorted(session.items, key=lambda item: self.seconds[item.nodeid])
        missed = [mutant for mutant in mutants if _in_child(partial(self._is_missed, mutant, items))]
        places = [f"{mutant.line} `{mutant.function}`: `{mutant.text}`" for mutant in missed]
        self.answer = {"mutants": len(mutants), "missed": places}
        return True

    def _unchanged(self, item: Any) -> _Answer | None:
        """Return the CPU time of a test and the first lines of the functions that it calls; None if it fails."""
        called: set[int] = set()
        whole = str(Path(self.path).resolve())

        def note(frame: FrameType, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_filename == whole:
                called.add(frame.f_code.co_firstlineno)

        started = time.process_time()
        sys.setprofile(note)
        self._run(item)
        sys.setprofile(None)
        return None if self.failed else {"seconds": time.process_time() - started, "called": sorted(called)}

    def _is_missed(self, mutant: Mutant, items: list[Any]) -> bool:
        first, last = mutant.lines
        mutant.put_into(sys.modules, self.path.removesuffix(".py").replace("/", "."))
        for item in items:
            if mutant.function == CONSTANTS or any(first <= line <= last for line in self.called[item.nodeid]):
                signal.setitimer(signal.ITIMER_PROF, 3 + 8 * self.seconds[item.nodeid])
                self._run(item)
                if self.failed:
                    return False
        return True

    def _run(self, item: Any) -> None:
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    sys.exit(main(sys.argv[1:]))
