"""Cut a search off at each of its operations on files, go on with it, and compare with one that nobody disturbed.

    python -m tests.faults.drill FOLDER [--all]

Works in FOLDER, prints one line of JSON for each drill. A process of its own, without threads: it forks the searches.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

from tests.faults.crash import CUTS, LOSSES, Disk, Loss, Operation
from tests.faults.lab import Lab, Point, Verdict, told_of
from tests.faults.picture import told_and_missing
from tests.faults.tiny import TRIALS, Tree, make_start, run_list, search
from tests.in_process import CPU
from xraytune.nets.compute import pin

Drill: TypeAlias = Callable[[], Verdict]
_FORKS = multiprocessing.get_context("fork")
_LANES = len(os.sched_getaffinity(0))


def points_of(operations: Sequence[Operation]) -> list[Point]:
    """Before each operation, and with half or nothing of what each flush was to confirm; and after the last one."""
    numbered = list(enumerate(operations))
    cuts = [(number, cut) for number, each in numbered for cut in CUTS if cut == "whole" or each.is_flush_of_file]
    return [(kill,) for kill in (*cuts, (len(operations), "whole"))]


def one_of_each_kind(operations: Sequence[Operation], points: Sequence[Point], count: int) -> list[Point]:
    """Some points: as many different kinds of operations as there are places, drawn with a fixed seed."""
    kinds = defaultdict(list)
    for point in points:
        number, cut = point[0]
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


def power_loss(lab: Lab, flushes: Sequence[int]) -> Verdict:
    """Let the power fail at some of the flushes of one search, in each way, and go on from what the disk held."""
    name = f"power-{os.getpid()}"
    tree, marks = lab.copy(name)
    grave = lab.base / f"{name}.grave"
    verdicts = [Verdict()]
    with told_of("power", verdicts[0]):
        if outcome := lab.attempt(tree, marks, _Power(tree, marks, set(flushes), grave)):
            raise RuntimeError(outcome)
    for number, loss in product(flushes, LOSSES):
        fallen = Tree(_fallen(tree, number, loss))
        if not fallen.path.exists():  # the search had fewer operations: its threads took turns in another order
            continue
        notes, verdict = fallen.path.with_suffix(".marks") / marks.name, Verdict(points=1)
        with told_of(f"power lost at {number} ({loss})", verdict):
            verdict.add("lost", told_and_missing(fallen, notes))
            lab.go_on(fallen, notes, verdict, losses=1)
        verdicts.append(verdict)
        shutil.rmtree(fallen.path)
        shutil.rmtree(notes.parent)
    for folder in (tree.path, marks.parent, grave):
        shutil.rmtree(folder)
    return _together(verdicts)


def _fallen(tree: Tree, number: int, loss: Loss) -> Path:
    return tree.path.with_name(f"{tree.path.name}-{number}-{LOSSES.index(loss)}")


class _Power:
    """Watches what a search flushes, and builds what is left when the power fails before some of its flushes."""

    def __init__(self, tree: Tree, marks: Path, at: set[int], grave: Path) -> None:
        self._tree, self._marks, self._at, self._grave = tree, marks, at, grave
        self._disk: Disk | None = None

    def __call__(self, number: int, operation: Operation) -> None:
        if self._disk is None:
            self._grave.mkdir()
            self._disk = Disk(self._tree.path, self._grave)
        if number in self._at:
            for loss in LOSSES:
                fallen = _fallen(self._tree, number, loss)
                self._disk.fallen(loss, fallen)
                fallen.with_suffix(".marks").mkdir()
                shutil.copy(self._marks, fallen.with_suffix(".marks"))
        if operation.kind == "flush":
            self._disk.flushed(Path(operation.path))


def drills(base: Path, *, is_all: bool) -> Iterator[tuple[str, Drill]]:
    """All drills by their names, the short or the long version."""
    if not (base / "start").exists():
        process = _FORKS.Process(target=make_start, args=(base,))  # its threads end with it
        process.start()
        process.join()
        assert process.exitcode == 0, "its error is above"
    draw = random.Random(7)
    lab = Lab(base, "search", search)
    operations = lab.undisturbed()
    points = points_of(operations)
    some = points if is_all else one_of_each_kind(operations, points, 2)
    yield "kill at each write", partial(all_at, lab.check, some)

    def random_kills() -> Point:
        further = [(draw.randrange(len(operations) // 5), draw.choice(CUTS)) for _ in range(draw.randint(1, 3))]
        return (*draw.choice(points), *further)

    if is_all:
        yield "kill again and again", partial(all_at, lab.check, [random_kills() for _ in range(60)])

    flushes = [number for number, operation in enumerate(operations) if operation.kind == "flush"]
    at = flushes if is_all else draw.sample(flushes, 1)
    size = 6 if is_all else 1
    batches = [at[first : first + size] for first in range(0, len(at), size)]
    yield "power loss at each write", partial(all_at, partial(power_loss, lab), batches)

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
