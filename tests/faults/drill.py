"""Kill a search at each of its operations on files, resume it, and compare it with an uninterrupted one.

    python -m tests.faults.drill FOLDER [--all]

Works in FOLDER, prints one line of JSON for each drill. A process of its own, without threads: it
forks the searches.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from tests.faults.crash import CUTS, Operation
from tests.faults.lab import Lab, Point, Verdict, told_of
from tests.faults.tiny import TRIALS, make_start, run_list, search
from tests.in_process import CPU
from xraytune.nets.compute import pin

Drill: TypeAlias = Callable[[], Verdict]
_FORKS = multiprocessing.get_context("fork")
_LANES = len(os.sched_getaffinity(0))


def points_of(operations: Sequence[Operation]) -> list[Point]:
    """Before each operation, and with half or nothing of what each flush was to confirm; and after the last one."""
    points: list[Point] = []
    for number, operation in enumerate(operations):
        cuts = CUTS if operation.is_flush_of_file else CUTS[:1]
        points += [(number, cut) for cut in cuts]
    return [*points, (len(operations), "whole")]


def one_of_each_kind(
    operations: Sequence[Operation], points: Sequence[Point], count: int
) -> list[Point]:
    """Some points: as many different kinds of operations as there are places, drawn with a fixed seed."""
    kinds = defaultdict(list)
    for point in points:
        number, cut = point
        if number < len(operations):
            kinds[operations[number].kind, _role(operations[number].path), cut].append(point)
    draw = random.Random(5)
    return [draw.choice(kinds[kind]) for kind in draw.sample(sorted(kinds), min(count, len(kinds)))]


def _role(path: str) -> str:
    name = Path(path).name
    return name.strip(".").split(".")[0] if name.startswith(".") else name


def all_at(check: Callable[[Any], Verdict], points: Sequence[Any]) -> Verdict:
    """Check points side by side; one verdict of all."""
    with _FORKS.Pool(_LANES) as pool:
        return _together(pool.imap_unordered(check, points))


def _together(verdicts: Iterable[Verdict]) -> Verdict:
    total = Verdict()
    for verdict in verdicts:
        total.points += verdict.points
        total.faults += verdict.faults
    return total


def drills(base: Path, *, is_all: bool) -> Iterator[tuple[str, Drill]]:
    """All drills by their names, the short or the long version."""
    if not (base / "start").exists():
        process = _FORKS.Process(target=make_start, args=(base,))  # its threads end with it
        process.start()
        process.join()
        assert process.exitcode == 0, "its error is above"
    lab = Lab(base, "search", search)
    operations = lab.undisturbed()
    points = points_of(operations)
    some = points if is_all else one_of_each_kind(operations, points, 2)
    yield "kill at each write", partial(all_at, lab.check, some)

    yield "a budget raised after the end", partial(_raised, lab)

    runs = Lab(base, "runs", run_list)
    operations = runs.undisturbed()
    points = points_of(operations)
    some = points if is_all else one_of_each_kind(operations, points, 1)
    yield "kill a list of runs at each write", partial(all_at, runs.check, some)


def _raised(lab: Lab) -> Verdict:
    """Search to the end of a smaller budget, then to that of the whole one."""
    verdict = Verdict(points=1)
    smaller = Lab(lab.base, "raised", partial(search, trials=TRIALS - 2))
    with told_of("raised", verdict):
        tree, marks = smaller.copy("")
        if outcome := smaller.attempt(tree, marks):
            raise RuntimeError(outcome)
        lab.go_on(tree, marks, verdict, losses=0)
    return verdict


def main() -> None:
    """Run the drills of the command line."""
    folder, is_all = Path(sys.argv[1]).resolve(), "--all" in sys.argv
    gc.disable()  # a collection would touch, and so copy, all that the forks share
    pin(CPU)  # also brings in what torch imports then, before the forks
    for name, drill in drills(folder, is_all=is_all):
        sys.stdout.write(json.dumps([name, asdict(drill())]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
