"""Searches in processes of their own that are killed, and what must hold after a restart."""

import json
import os
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from tests.faults.crash import Cut, Operation, Operations, cut_off, die
from tests.faults.picture import picture
from tests.faults.tiny import GAN_CHECKPOINT_STEPS, Marks, Tree
from xraytune.study.status import status

Command: TypeAlias = Callable[[Tree, Marks], None]
Before: TypeAlias = Callable[[int, Operation], None]
Point: TypeAlias = tuple[int, Cut]
"""Before which operation a search is killed, and how much of an unflushed write is on disk."""


def read_marks(path: Path) -> Counter[tuple[Any, ...]]:
    """How often each thing happened."""
    return Counter(tuple(json.loads(line)) for line in path.read_text().splitlines())


class Lab:
    """A folder of searches that all begin alike.

    Args:
        base: Where they lie, beside `start/`.
        name: Begins the names of their folders.
        command: What runs.
    """

    def __init__(self, base: Path, name: str, command: Command) -> None:
        self.base = base
        self.name = name
        self.command = command
        self.unbroken: dict[str, Any] = {}
        self.trained: Counter[tuple[Any, ...]] = Counter()

    def undisturbed(self) -> list[Operation]:
        """Run it once to its end; gives its operations."""
        tree, marks = self.copy("unbroken")
        log = marks.with_name("operations.jsonl")

        def note(_: int, operation: Operation) -> None:
            with log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([operation.kind, operation.path, operation.added_from]))
                stream.write("\n")

        self.attempt(tree, marks, note)
        self.unbroken = picture(tree)
        self.trained = read_marks(marks)
        lines = map(json.loads, log.read_text().splitlines())
        return [Operation(kind=kind, path=path, added_from=start) for kind, path, start in lines]

    def copy(self, name: str) -> tuple[Tree, Path]:
        """A new tree, and the file for its marks beside it."""
        tree = Tree(self.base / f"{self.name}-{name}")
        shutil.copytree(self.base / "start", tree.path)
        marks = tree.path.with_suffix(".marks") / "marks.jsonl"
        marks.parent.mkdir()
        marks.touch()
        return tree, marks

    def attempt(self, tree: Tree, marks: Path, before: Before | None = None) -> None:
        """Start the command in a process of its own, and wait for its end, or its being killed."""
        process = os.fork()
        if process == 0:
            _attempt(self.command, tree, marks, before)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code not in (0, -9):
            raise RuntimeError(marks.with_name("error.txt").read_text())

    def check(self, point: Point) -> list[str]:
        """Kill a search at a point, and see whether it resumes; return what is wrong."""
        tree, marks = self.copy(f"{os.getpid()}")
        try:
            self.attempt(tree, marks, partial(_kill, *point))
            if tree.study.space_path.exists():
                status(tree.study.path)
            faults = [*self.resume(tree, marks, losses=1)]
        except Exception:  # noqa: BLE001  whatever it is, a person would have to do something
            faults = [traceback.format_exc()]
        shutil.rmtree(tree.path)
        shutil.rmtree(marks.parent)
        return [f"{point}: {fault}" for fault in faults]

    def resume(self, tree: Tree, marks: Path, *, losses: int) -> Iterator[str]:
        """Restart a search that was killed, and again after its end; yield what is wrong."""
        self.attempt(tree, marks)
        found = picture(tree)
        trained = read_marks(marks)
        for name in sorted(self.unbroken.keys() | found.keys()):
            expected = self.unbroken.get(name)
            if expected != found.get(name):
                yield f"{name}\n    unbroken {expected}\n    found    {found.get(name)}"
        for what, allowed in (("epoch", losses), ("GAN step", losses * GAN_CHECKPOINT_STEPS)):
            again = {
                mark: count for mark, count in (trained - self.trained).items() if mark[0] == what
            }
            if sum(again.values()) > allowed:
                yield f"trained again, of which {allowed} may be: {again}"
        self.attempt(tree, marks)
        if picture(tree) != found or read_marks(marks) != trained:
            yield "started once more after its end, it did something"


def _attempt(command: Command, tree: Tree, marks: Path, before: Before | None) -> None:
    """In the forked process; never returns."""
    try:
        notes = Marks(marks)
        notes.count_training()
        if before:
            Operations(tree.path, before)
        command(tree, notes)
    except BaseException:  # noqa: BLE001  told to who forked
        marks.with_name("error.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def _kill(at: int, cut: Cut, number: int, operation: Operation) -> None:
    if number == at:
        cut_off(operation, cut)
        die()
