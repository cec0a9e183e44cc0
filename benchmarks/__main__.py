"""`python -m benchmarks [NAME ...]`: run them, print one table, and write results.json."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from benchmarks.figures import table, write

NAMES = (
    "startup",
    "busy",
    "gan",
    "classifier",
    "driver",
    "memorisation",
    "generators",
    "statistics",
    "secondary",
    "worth",
    "draws",
    "sides",
    "ensemble",
    "final_model",
    "example",
    "laptop_lines",
    "time_left",
    "findings",
    "other_hospital",
    "networks",
    "two_hospitals",
    "opponents",
    "imbalance",
    "known_answers",
    "known_donors",
    "known_extensions",
    "known_hospitals",
    "known_groups",
    "judge",
    "pruning",
    "simulated_node",
    "peers",
)


def main(chosen: list[str]) -> int:
    """Run the chosen benchmarks, or all; 1 where a bar is missed, 2 where a name is unknown."""
    if unknown := set(chosen) - set(NAMES):
        print(
            f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}",
            file=sys.stderr,
        )
        return 2
    figures = []
    for name in chosen or NAMES:
        module: ModuleType = importlib.import_module(f"benchmarks.{name}")
        missing = [need for need in getattr(module, "NEEDS", ()) if need not in os.environ]
        if missing:
            print(
                f"{name}: not run; it needs {' '.join(f'{need}=...' for need in missing)}",
                file=sys.stderr,
            )
            continue
        figures += list(module.measure())
        write(figures)
    print(table(figures))
    return int(any(one.holds is False for one in figures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
