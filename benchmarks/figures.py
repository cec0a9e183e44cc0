"""A measured figure, with its bar, the command that makes it, the machine and the commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the table.

    Attributes:
        name: `benchmark: what`.
        value: What was measured.
        unit: Its unit.
        bar: What it has to be, such as `<= 1.5`; empty where nothing is asked.
        holds: Whether it is; None without a bar.
        command: Makes it again.
        machine: Cores, memory, processor.
        commit: Of the code that was measured; with `+` where the tree had changes.
    """

    name: str
    value: float
    unit: str
    bar: str
    holds: bool | None
    command: str
    machine: str
    commit: str


def figure(name: str, value: float, unit: str, bar: str = "") -> Figure:
    """A figure of this machine and commit.

    Args:
        name: `benchmark: what`.
        value: What was measured.
        unit: Its unit.
        bar: `<= N`, `>= N` or `N to M`, or nothing.
    """
    only = name.partition(":")[0].partition(",")[0]
    return Figure(
        name=name,
        value=round(value, 4),
        unit=unit,
        bar=bar,
        holds=_holds(value, bar) if bar else None,
        command=f"make bench ONLY={only}",
        machine=machine(),
        commit=commit(),
    )


def _holds(value: float, bar: str) -> bool:
    if " to " in bar:
        low, high = bar.split(" to ")
        return float(low) <= value <= float(high)
    sign, _, limit = bar.partition(" ")
    return value <= float(limit) if sign == "<=" else value >= float(limit)


def machine() -> str:
    """Cores, memory and processor, in words."""
    model = platform.processor() or platform.machine()
    for line in (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if Path("/proc/cpuinfo").exists()
        else ()
    ):
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {model}"


def commit() -> str:
    """The short hash of HEAD."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False
        ).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (
        "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    )


def write(figures: Iterable[Figure]) -> None:
    """Put figures into `results.json`, in place of those of the same name."""
    new = {one.name: asdict(one) for one in figures}
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    kept = [row for row in old if row["name"] not in new]
    rows = sorted([*kept, *new.values()], key=lambda row: row["name"])
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    RESULTS.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def table(figures: Iterable[Figure]) -> str:
    """The figures as text in columns."""
    rows = [("figure", "value", "unit", "bar", "")] + [
        (
            one.name,
            f"{one.value:g}",
            one.unit,
            one.bar,
            {True: "holds", False: "MISSED", None: ""}[one.holds],
        )
        for one in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
