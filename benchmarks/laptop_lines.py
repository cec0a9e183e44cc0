"""Whether README's lines lead from a folder of X-rays to a verdict, or say before the search what is missing.

    make bench ONLY=laptop_lines FOLDERS=nih:sakha_tb WEIGHTS=weights

`data inspect` and `plan` are run on each folder, and then each command that they propose (`next:`).
Nothing is chosen but a small budget. A dead end is a proposed command that fails, a first command
that is refused without a fix, or a search without a verdict that nothing had announced.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.figures import Figure, figure

NEEDS = ("FOLDERS", "WEIGHTS")
BUDGET = (
    *("budget.trials=8", "data.image_size=64"),
    *("gan.image_size=32", "gan.width=4", "gan.steps=50", "gan.features=null"),
    *("quality.allow_memorised=true", "final.max_epochs=1", "final.image_size=64"),
)
"""The settings that make a search and a final model short. Networks train for as many epochs, and
as many replicates, as without them, since the width of an interval depends on both."""
_PROPOSED = re.compile(r"^(?:next|then|without a verdict)[^:]*: xraytune (.*)$", re.MULTILINE)
_PLANNED = re.compile(r"interval of\s+about ± ([\d.]+)")
_ANNOUNCED = re.compile(r"no verdict can be had|cannot score|nothing to confirm")

Run = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a command of `xraytune`, and returns its exit code and all that it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Where the lines led.

    Attributes:
        commands: The commands that were run, in order.
        ending: `verdict`, `announced`, or `refused` before the search.
        dead_ends: The commands that led nowhere, with what they printed last.
        half_width: Half-width of the verdict's interval that the search expected in the end; None
            if it expected none.
    """

    commands: tuple[str, ...]
    ending: str
    dead_ends: tuple[str, ...]
    half_width: float | None = None


def walk(data: str, run: Run, budget: Sequence[str] = BUDGET) -> Walk:
    """Run the first commands on some data, and then each that is proposed, once."""
    first = [["data", "inspect", data], ["plan", "--data", data]]
    queue = [*first]
    done: list[str] = []
    dead_ends: list[str] = []
    ending = "refused"
    announced = False
    half_width = None
    while queue:
        words = queue.pop(0)
        done.append(shlex.join(words))
        settings = [word for line in budget for word in ("--set", line)]
        code, output = run([*words, *(settings if words[0] == "search" else [])])
        announced |= _ANNOUNCED.search(output) is not None
        is_explained = words in first and "fix:" in output
        if code and not is_explained:
            dead_ends.append(f"{done[-1]}: {output.strip().splitlines()[-3:]}")
        if words[0] == "search" and not code:
            ending = "announced" if announced else "searched"
            half_width = next(map(float, reversed(_PLANNED.findall(output))), None)
        if words[0] == "confirm" and not code:
            ending = "verdict"
        for proposed in map(shlex.split, _PROPOSED.findall(output)):
            is_known = shlex.join(proposed) in done or proposed in queue
            if not is_known and "OTHER_XRAYS" not in proposed:
                queue.append(proposed)
    if ending == "searched":
        dead_ends.append(f"{data}: searched, but without a verdict")
    return Walk(
        commands=tuple(done), ending=ending, dead_ends=tuple(dead_ends), half_width=half_width
    )


def half_widths(verdict: Path) -> Iterator[float]:
    """Yield the half-width of the first finalist's interval with each control, of `verdict.json`."""
    for pair in json.loads(verdict.read_text(encoding="utf-8"))["finalists"][0]["comparisons"]:
        yield (pair["high"] - pair["low"]) / 2


def measure() -> Iterator[Figure]:
    """Yield the number of commands and of dead ends, and the half-width, of each folder."""
    folders, weights = (os.environ[name] for name in NEEDS)
    for folder in map(Path, folders.split(":")):
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / folder.name).symlink_to(folder.resolve())

            def run(words: Sequence[str], place: str = place) -> tuple[int, str]:
                given = ("--weights-dir", str(Path(weights).resolve()))
                needs_weights = words[0] in ("plan", "search") and given[0] not in words
                done = subprocess.run(
                    [sys.executable, "-m", "xraytune", *words, *(given if needs_weights else ())],
                    cwd=place,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
                print(f"$ xraytune {shlex.join(words)}\n{done.stdout}", file=sys.stderr)
                return done.returncode, done.stdout

            walked = walk(folder.name, run)
            verdicts = [*Path(place).glob("studies/*/confirm/verdict.json")]
            got = [width for verdict in verdicts for width in half_widths(verdict)]
        for dead_end in walked.dead_ends:
            print(f"dead end: {dead_end}", file=sys.stderr)
        name = f"laptop_lines: {folder.name}, {walked.ending}"
        if got and walked.half_width:
            ratio = walked.half_width / fmean(got)
            yield figure(f"{name}, half-width, planned to got", ratio, "times", "0.67 to 1.5")
        yield figure(f"{name}, commands", len(walked.commands), "commands")
        yield figure(f"{name}, dead ends", len(walked.dead_ends), "commands", "<= 0")


if __name__ == "__main__":
    for measured in measure():
        print(measured)
