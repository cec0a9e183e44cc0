"""Searches in processes of their own, which are cut off; and what must be true of them after they were begun again."""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from tests.faults.crash import Cut, Operation, Operations, cut_off, die
from tests.faults.picture import picture, read_marks, told_and_missing, wall
from tests.faults.tiny import GAN_CHECKPOINT_STEPS, Marks, Tree
from xraytune.study.status import status

Command: TypeAlias = Callable[[Tree, Marks], None]
Before: TypeAlias = Callable[[int, Operation], None]
_PATIENCE_SECONDS = 120.0


@dataclass(slots=True)
class Verdict:
    """What a drill came to: how many searches were cut off, and each fault found, with its kind and place.

    The kinds: `lost` had been written, and was not there; `twice` was trained again beyond what may
    be; `counted twice`, time; `by hand`, a search that did not go on by itself; `different`, a
    study unlike that of an undisturbed search.
    """

    points: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, kind: str, faults: Iterable[str]) -> None:
        """Note faults of a kind."""
        self.faults.extend(f"{kind}: {fault}" for fault in faults)


Point: TypeAlias = tuple[int, Cut]
"""Before which operation a search is killed, and how much of what a flush was to confirm is in the file."""


class Lab:
    """A folder of searches that all begin alike.

    Args:
        base: Where they lie, beside `start/`.
        name: Begins the names of their folders.
        command: What runs.
    """

    def __init__(self, base: Path, name: str, command: Command) -> None:
        self.base, self.name, self.command = base, name, command
        self.unbroken: dict[str, Any] = {}
        self.trained: Counter[tuple[Any, ...]] = Counter()

    def undisturbed(self) -> list[Operation]:
        """Run it once to its end; gives its operations."""
        tree, marks = self.copy("unbroken")
        log = marks.with_name("operations.jsonl")

        def note(number: int, operation: Operation) -> None:
            del number
            with log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(operation)) + "\n")

        if problem := self.attempt(tree, marks, note):
            raise RuntimeError(problem)
        self.unbroken, self.trained = _plain(picture(tree)), read_marks(marks)
        return [
            Operation(**json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()
        ]

    def copy(self, name: str) -> tuple[Tree, Path]:
        """A new tree, and the file for its marks beside it."""
        tree = Tree(self.base / f"{self.name}-{name}")
        shutil.copytree(self.base / "start", tree.path)
        marks = tree.path.with_suffix(".marks") / "marks.jsonl"
        marks.parent.mkdir()
        marks.touch()
        return tree, marks

    def attempt(self, tree: Tree, marks: Path, before: Before | None = None) -> str:
        """One start of the command in a process of its own; gives "", or how it ended."""
        process = os.fork()
        if process == 0:
            _attempt(self.command, tree, marks, before)
        return _outcome(process, marks.with_name("error.txt"))

    def check(self, point: Point) -> Verdict:
        """Kill a search at a point, and see whether it resumes."""
        tree, marks = self.copy(f"{os.getpid()}")
        verdict = Verdict(points=1)
        with told_of(point, verdict):
            outcome = self.attempt(tree, marks, partial(_kill, *point))
            if outcome not in ("killed", ""):
                raise RuntimeError(outcome)
            verdict.add("lost", told_and_missing(tree, marks))
            if tree.study.space_path.exists():
                status(tree.study.path)
            self.go_on(tree, marks, verdict, losses=1)
        shutil.rmtree(tree.path)
        shutil.rmtree(marks.parent)
        return verdict

    def go_on(self, tree: Tree, marks: Path, verdict: Verdict, *, losses: int) -> None:
        """Start a search again after it was cut off, and once more after its end, and look at what it left."""
        before, seconds = read_marks(marks), wall(tree)["seconds"]
        if outcome := self.attempt(tree, marks):
            raise RuntimeError(outcome)
        verdict.add("lost", _lost(tree, marks, before, seconds))
        found, trained = _plain(picture(tree)), read_marks(marks)
        verdict.add("different", _differences(self.unbroken, found))
        verdict.add("twice", _trained_again(self.trained, trained, losses))
        if counted := wall(tree)["trials"]:
            verdict.add(
                "counted twice", [f"the clock still counts trials that have ended: {counted}"]
            )
        outcome = self.attempt(tree, marks)
        if outcome or _plain(picture(tree)) != found or read_marks(marks) != trained:
            verdict.add("by hand", [f"started once more after its end, it did something {outcome}"])


@contextmanager
def told_of(point: object, verdict: Verdict) -> Iterator[None]:
    """Say with each fault where it was; a search that does not go on, or cannot be read, is one."""
    try:
        yield
    except Exception:  # noqa: BLE001  whatever it is, a person would have to do something
        verdict.add("by hand", [traceback.format_exc()])
    verdict.faults[:] = [f"{point}: {fault}" for fault in verdict.faults]


def _lost(
    tree: Tree, marks: Path, before: Counter[tuple[Any, ...]], seconds: float
) -> Iterator[str]:
    """Yield what was reported, before this start or since, but is missing now; also the time used, if some is lost."""
    yield from told_and_missing(tree, marks)
    if wall(tree)["seconds"] < seconds:
        yield "time that was used"
    trained = read_marks(marks)
    for what, *about in before:
        epoch = ("epoch", *about)
        if what == "told" and trained[epoch] > before[epoch]:
            yield f"the checkpoint: {epoch} was told, and trained again"


def _attempt(command: Command, tree: Tree, marks: Path, before: Before | None) -> None:
    """In the forked process; never returns."""
    try:
        notes = Marks(marks)
        notes.count_training()
        if before:
            Operations(tree.path, before)
        command(tree, notes)
    except BaseException:  # noqa: BLE001  told to who forked
        marks.with_name("error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        os._exit(1)
    os._exit(0)


def _outcome(process: int, error: Path) -> str:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(process, 9)
            os.waitpid(process, 0)
            return f"hung for {_PATIENCE_SECONDS:.0f} s"
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    if code == -9:
        return "killed"
    return (
        ""
        if code == 0
        else f"ended with {code}\n" + (error.read_text(encoding="utf-8") if error.exists() else "")
    )


def _kill(at: int, cut: Cut, number: int, operation: Operation) -> None:
    if number == at:
        cut_off(operation, cut)
        die()


def _trained_again(
    once: Counter[tuple[Any, ...]], found: Counter[tuple[Any, ...]], losses: int
) -> Iterator[str]:
    """What was trained again beyond what each loss may cost: an epoch, or a GAN's steps since its checkpoint."""
    for what, allowed in (("epoch", losses), ("GAN step", losses * GAN_CHECKPOINT_STEPS)):
        again = {
            mark: count - once[mark]
            for mark, count in found.items()
            if mark[0] == what and count > once[mark]
        }
        if sum(again.values()) > allowed:
            yield f"trained again, of which {allowed} may be: {again}"


def _differences(expected: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            yield f"{name}\n    unbroken {expected.get(name)}\n    found    {found.get(name)}"


def _plain(content: Any) -> Any:
    return json.loads(json.dumps(content))
