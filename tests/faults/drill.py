"""Cut a search off at each of its operations on files, go on with it, and compare with one that nobody disturbed.

    python -m tests.faults.drill FOLDER [--all]

Works in FOLDER, prints one line of JSON for each drill. A process of its own, without threads: it forks the searches.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

from tests.faults.crash import CUTS, LOSSES, Cut, Disk, Loss, Operation, Operations, cut_off, die
from tests.faults.tiny import (
    CPU,
    GAN_CHECKPOINT_STEPS,
    TRIALS,
    Marks,
    Tree,
    ends,
    look,
    make_start,
    picture,
    read_marks,
    run_list,
    search,
    told_and_missing,
    wall,
)
from xraytune.pipeline.compute import pin

Command: TypeAlias = Callable[[Tree, Marks], None]
Before: TypeAlias = Callable[[int, Operation], None]
_PATIENCE_SECONDS = 120.0
_LANES = 2
_TOLD_EVERY = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a drill came to; each list has one line for each fault found.

    Attributes:
        name: Of the drill.
        points: Searches that were cut off.
        lost: Had been written, and was not there.
        twice: Ended twice, or trained again beyond what may be.
        counted_twice: Time, values or rows that count twice.
        by_hand: A search that did not go on by itself, or left what a person has to remove.
        different: A study unlike that of an undisturbed search.
    """

    name: str
    points: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    counted_twice: list[str] = field(default_factory=list)
    by_hand: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.points} points, lost {len(self.lost)}, twice {len(self.twice)}, "
            f"counted twice {len(self.counted_twice)}, by hand {len(self.by_hand)}, different {len(self.different)}"
        )

    def by_kind(self) -> list[list[str]]:
        """The lists of faults."""
        return [self.lost, self.twice, self.counted_twice, self.by_hand, self.different]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a search is cut off, once or several times.

    Attributes:
        kills: Before which operation of each start, and how much of a flush had got to the file.
    """

    kills: tuple[tuple[int, Cut], ...]

    def __str__(self) -> str:
        return ", then ".join(f"at {number} ({cut})" for number, cut in self.kills)


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
        return [Operation(**json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()]

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
        """Cut a search off at a point, and see whether it goes on."""
        tree, marks = self.copy(f"{os.getpid()}")
        verdict = Verdict(name=str(point), points=1)
        with _told_of(point, verdict):
            for number, cut in point.kills:
                before = _before(tree)
                outcome = self.attempt(tree, marks, partial(_kill, number, cut))
                if outcome not in ("killed", ""):
                    raise RuntimeError(outcome)
                verdict.lost.extend(_lost(tree, marks, before))
                look(tree)
            self.go_on(tree, marks, verdict, losses=len(point.kills))
        shutil.rmtree(tree.path)
        shutil.rmtree(marks.parent)
        return verdict

    def go_on(self, tree: Tree, marks: Path, verdict: Verdict, *, losses: int) -> None:
        """Start a search again after it was cut off, and once more after its end, and look at what it left."""
        before = _before(tree)
        if outcome := self.attempt(tree, marks):
            raise RuntimeError(outcome)
        verdict.lost.extend(_lost(tree, marks, before))
        found, trained = _plain(picture(tree)), read_marks(marks)
        verdict.different.extend(_differences(self.unbroken, found))
        verdict.twice.extend(_trained_again(self.trained, trained, losses))
        verdict.counted_twice.extend(_counted_twice(found, tree))
        outcome = self.attempt(tree, marks)
        if outcome or _plain(picture(tree)) != found or read_marks(marks) != trained:
            verdict.by_hand.append(f"started once more after its end, it did something {outcome}")


@contextmanager
def _told_of(point: object, verdict: Verdict) -> Iterator[None]:
    """Say with each fault where it was; a search that does not go on, or cannot be read, is one."""
    try:
        yield
    except Exception:  # noqa: BLE001  whatever it is, a person would have to do something
        verdict.by_hand.append(traceback.format_exc())
    for faults in verdict.by_kind():
        faults[:] = [f"{point}: {fault}" for fault in faults]


def _before(tree: Tree) -> tuple[dict[int, tuple[Any, ...]], float]:
    return ends(tree), wall(tree)["seconds"]


def _lost(tree: Tree, marks: Path, before: tuple[dict[int, tuple[Any, ...]], float]) -> Iterator[str]:
    """What had been told, or was on the disk earlier, and is not there now."""
    yield from told_and_missing(tree, marks)
    ended, seconds = before
    now = ends(tree)
    for number, end in ended.items():
        if now.get(number) != end:
            yield f"trial {number} ended as {end}, and is now {now.get(number)}"
    if wall(tree)["seconds"] < seconds:
        yield "time that was used"


def _counted_twice(found: dict[str, Any], tree: Tree) -> Iterator[str]:
    if counted := wall(tree)["trials"]:
        yield f"the clock still counts trials that have ended: {counted}"
    values = [(number, epoch) for number, epoch, _ in found.get("reports", [])]
    rows = [row["number"] for row in (*found.get("rows", []), *found["runs"])]
    for what in (values, rows):
        if len(set(what)) < len(what):
            yield f"{what}"


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
    return "" if code == 0 else f"ended with {code}\n" + (error.read_text(encoding="utf-8") if error.exists() else "")


def _kill(at: int, cut: Cut, number: int, operation: Operation) -> None:
    if number == at:
        cut_off(operation, cut)
        die()


def _trained_again(once: Counter[tuple[Any, ...]], found: Counter[tuple[Any, ...]], losses: int) -> Iterable[str]:
    """What was trained again beyond what each loss may cost: an epoch, or a GAN's steps since its checkpoint."""
    for what, allowed in (("epoch", losses), ("GAN step", losses * GAN_CHECKPOINT_STEPS)):
        again = {mark: count - once[mark] for mark, count in found.items() if mark[0] == what and count > once[mark]}
        if sum(again.values()) > allowed:
            yield f"trained again, of which {allowed} may be: {again}"


def _differences(expected: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            yield f"{name}\n    unbroken {expected.get(name)}\n    found    {found.get(name)}"


def _plain(content: Any) -> Any:
    return json.loads(json.dumps(content))


def points_of(operations: Sequence[Operation]) -> list[Point]:
    """Before each operation, and with half or nothing of what each flush was to confirm; and after the last one."""
    numbered = list(enumerate(operations))
    cuts = [(number, cut) for number, each in numbered for cut in CUTS if cut == "whole" or each.is_flush_of_file]
    return [Point(kills=(kill,)) for kill in (*cuts, (len(operations), "whole"))]


def one_of_each_kind(operations: Sequence[Operation], points: Sequence[Point], count: int) -> list[Point]:
    """Some points: as many different kinds of operations as there are places, drawn with a fixed seed."""
    kinds = defaultdict(list)
    for point in points:
        number, cut = point.kills[0]
        if number < len(operations):
            kinds[operations[number].kind, _role(operations[number].path), cut].append(point)
    draw = random.Random(5)
    return [draw.choice(kinds[kind]) for kind in draw.sample(sorted(kinds), min(count, len(kinds)))]


def _role(path: str) -> str:
    name = Path(path).name
    return name.strip(".").split(".")[0] if name.startswith(".") else name


def all_at(check: Callable[[Any], Verdict], points: Sequence[Any], name: str) -> Verdict:
    """Check points side by side; one verdict of all."""
    with multiprocessing.get_context("fork").Pool(_LANES) as pool:
        return _together(name, pool.imap_unordered(check, points))


def _together(name: str, verdicts: Iterable[Verdict]) -> Verdict:
    total = Verdict(name=name)
    for count, verdict in enumerate(verdicts, start=1):
        if count % _TOLD_EVERY == 0:
            sys.stderr.write(f"{total} ...\n")
        total = replace(total, points=total.points + verdict.points)
        for faults, more in zip(total.by_kind(), verdict.by_kind(), strict=True):
            faults.extend(more)
    return total


def power_loss(lab: Lab, flushes: Sequence[int]) -> Verdict:
    """Let the power fail at some of the flushes of one search, in each way, and go on from what the disk held."""
    name = f"power-{os.getpid()}"
    tree, marks = lab.copy(name)
    grave = lab.base / f"{name}.grave"
    verdicts = [Verdict(name="")]
    with _told_of("power", verdicts[0]):
        if outcome := lab.attempt(tree, marks, _Power(tree, marks, set(flushes), grave)):
            raise RuntimeError(outcome)
    for number, loss in product(flushes, LOSSES):
        fallen = Tree(_fallen(tree, number, loss))
        if not fallen.path.exists():  # the search had fewer operations: its threads took turns in another order
            continue
        notes, verdict = fallen.path.with_suffix(".marks") / marks.name, Verdict(name="", points=1)
        with _told_of(f"power lost at {number} ({loss})", verdict):
            verdict.lost.extend(told_and_missing(fallen, notes))
            lab.go_on(fallen, notes, verdict, losses=1)
        verdicts.append(verdict)
        shutil.rmtree(fallen.path)
        shutil.rmtree(notes.parent)
    for folder in (tree.path, marks.parent, grave):
        shutil.rmtree(folder)
    return _together(name, verdicts)


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


def drills(base: Path, *, is_all: bool) -> Iterator[Verdict]:
    """All drills, the short or the long version."""
    if not (base / "start").exists():
        _apart(partial(make_start, base))
    draw = random.Random(7)
    lab = Lab(base, "search", search)
    operations = lab.undisturbed()
    points = points_of(operations)
    some = points if is_all else one_of_each_kind(operations, points, 8)
    yield all_at(lab.check, some, "kill at each write")

    def random_kills() -> Point:
        further = [(draw.randrange(len(operations) // 5), draw.choice(CUTS)) for _ in range(draw.randint(1, 3))]
        return Point(kills=(*draw.choice(points).kills, *further))

    yield all_at(lab.check, [random_kills() for _ in range(60 if is_all else 2)], "kill again and again")

    flushes = [number for number, operation in enumerate(operations) if operation.kind == "flush"]
    at = flushes if is_all else draw.sample(flushes, 4)
    size = 20 if is_all else 2
    batches = [at[first : first + size] for first in range(0, len(at), size)]
    yield all_at(partial(power_loss, lab), batches, "power loss at each write")

    yield _raised(lab)

    runs = Lab(base, "runs", run_list)
    operations = runs.undisturbed()
    points = points_of(operations)
    some = points if is_all else one_of_each_kind(operations, points, 3)
    yield all_at(runs.check, some, "kill a list of runs at each write")


def _raised(lab: Lab) -> Verdict:
    """Search to the end of a smaller budget, then to that of the whole one."""
    verdict = Verdict(name="a budget raised after the end", points=1)
    smaller = Lab(lab.base, "raised", partial(search, trials=TRIALS - 2))
    with _told_of("raised", verdict):
        tree, marks = smaller.copy("")
        if outcome := smaller.attempt(tree, marks):
            raise RuntimeError(outcome)
        lab.go_on(tree, marks, verdict, losses=0)
    return verdict


def _apart(work: Callable[[], Any]) -> None:
    """In a process of its own, whose threads end with it."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  told by the code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        raise RuntimeError("see above")


def main() -> None:
    """Run the drills of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    gc.disable()  # a collection would touch, and so copy, all that the forks share
    pin(CPU)  # also brings in what torch imports then, before the forks
    for verdict in drills(arguments.folder.resolve(), is_all=arguments.all):
        sys.stdout.write(json.dumps(asdict(verdict)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
