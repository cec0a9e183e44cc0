"""Kill a search at each file operation, resume it, and compare it with an uninterrupted one.

    python -m tests.faults.drill FOLDER [--all]

Works in FOLDER, prints one line of JSON for each drill: its name, the number of points, the faults.
A process of its own, without threads: it forks the searches.
"""

import gc
import json
import multiprocessing
import os
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.faults.crash import CUTS, Operation
from tests.faults.lab import Command, Lab, Point
from tests.faults.tiny import TRIALS, make_start, run_list, search
from tests.in_process import CPU
from xraytune.nets.compute import configure_torch

_FORKS = multiprocessing.get_context("fork")
_LANES = len(os.sched_getaffinity(0))
_PROGRESS = 25
"""The number of kills between two lines of progress."""


def points_of(operations: Sequence[Operation]) -> list[Point]:
    """Before each operation, with half or nothing of each unflushed write; and after the last."""
    points = list[Point]()
    for number, operation in enumerate(operations):
        cuts = CUTS if operation.is_flush_of_file else CUTS[:1]
        points += [(number, cut) for cut in cuts]
    return [*points, (len(operations), "whole")]


def draw_points(operations: Sequence[Operation], count: int) -> list[Point]:
    """Some points, of as many different kinds of operations, drawn with a fixed seed."""
    kinds = defaultdict(list)
    for number, cut in points_of(operations)[:-1]:
        name = Path(operations[number].path).name
        role = name.strip(".").split(".")[0] if name.startswith(".") else name
        kinds[operations[number].kind, role, cut].append((number, cut))
    draw = random.Random(5)
    return [draw.choice(kinds[kind]) for kind in draw.sample(sorted(kinds), min(count, len(kinds)))]


def run(name: str, base: Path, command: Command, count: int) -> Lab:
    """Kill a command at `count` points, or at all of them if it is 0, and print what is wrong."""
    lab = Lab(base, name, command)
    operations = lab.undisturbed()
    points = draw_points(operations, count) if count else points_of(operations)
    faults = list[str]()
    with _FORKS.Pool(_LANES) as pool:
        for done, found in enumerate(pool.imap_unordered(lab.check, points), start=1):
            faults += found
            sys.stderr.writelines(f"{fault}\n" for fault in found)
            if done % _PROGRESS == 0:
                sys.stderr.write(f"{name}: {done} of {len(points)} kills, {len(faults)} faults\n")
    show(name, len(points), faults)
    return lab


def show(name: str, points: int, faults: list[str]) -> None:
    """Print the outcome of a drill."""
    sys.stdout.write(json.dumps([name, points, faults]) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the drills of the command line."""
    folder = Path(sys.argv[1]).resolve()
    is_all = "--all" in sys.argv
    gc.disable()  # a collection would touch, and so copy, all that the forks share
    configure_torch(CPU)  # also brings in what torch imports then, before the forks
    process = _FORKS.Process(target=make_start, args=(folder,))  # its threads end with it
    process.start()
    process.join()
    lab = run("search", folder, search, 0 if is_all else 2)
    smaller = Lab(folder, "raised", partial(search, trials=TRIALS - 2))
    tree, marks = smaller.copy("budget")
    smaller.attempt(tree, marks)
    show("a budget raised after the end", 1, [*lab.resume(tree, marks, losses=0)])
    run("runs", folder, run_list, 0 if is_all else 1)


if __name__ == "__main__":
    main()
