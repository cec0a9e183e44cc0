"""How often README's example ends in a verdict: the whole pipeline, repeated with other seeds.

    make bench ONLY=example DATA=chest_xray WEIGHTS=weights KEEP=kept [REPETITIONS=20] [GENERATORS=20]

Each repetition has its own split, draws of patients and networks, and runs the commands of README
in KEEP/NUMBER. They take turns in using the GANs. What is done is not run again, so the same
command resumes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import Figure, figure
from xraytune.base.files import read_json, write_json

NEEDS = ("DATA", "WEIGHTS", "KEEP")
_REPETITIONS = int(os.environ.get("REPETITIONS", "20"))
_GENERATORS = int(os.environ.get("GENERATORS", _REPETITIONS))
_ALLOWED_UNDECIDED = 0.05


def measure() -> Iterator[Figure]:
    """Count the verdicts, and yield how many decide, and how wide the intervals are."""
    verdicts = Counter[str]()
    half_widths = []
    for number in range(1, _REPETITIONS + 1):
        finalist = _repeat(number)
        verdicts[finalist["verdict"]] += 1
        half_widths += [(row["high"] - row["low"]) / 2 for row in finalist["comparisons"]]
        _print_row(number, finalist)

    decided = _REPETITIONS - verdicts["undecided"]
    fewest = round(_REPETITIONS * (1 - _ALLOWED_UNDECIDED))
    yield figure(f"example: decided, of {_REPETITIONS}", decided, "repetitions", f">= {fewest}")
    for verdict, count in sorted(verdicts.items()):
        yield figure(f"example: {verdict}, of {_REPETITIONS}", count, "repetitions")
    yield figure("example: median half-width of the 95 % intervals", median(half_widths), "AUROC")


def _repeat(number: int) -> dict[str, Any]:
    """Run the commands of a repetition that have not run yet, and return its finalist from `verdict.json`."""
    folder = Path(os.environ["KEEP"]) / f"{number}"
    generator = _generator(1 + (number - 1) % _GENERATORS)
    study = folder / "studies" / "other-hospital-cpu"

    if not (study / "confirm" / "verdict.json").exists():
        seeds = [f"seed={number}", f"sampler.seed={number}", f"data.split.seed={number}"]
        studies = ["--studies", study.parent]
        settings = [f"generator.path={generator.resolve()}", *seeds]
        _run(folder, "search", "--space", "other_hospital_cpu", *studies, settings=settings)
        _run(folder, "confirm", study, "--yes")
    return dict(read_json(study / "confirm" / "verdict.json")["finalists"][0])


def _generator(number: int) -> Path:
    """Return the folder of a hospital's GAN; train it if it has not been trained yet."""
    folder = Path(os.environ["KEEP"]) / f"{number}"
    generator = folder / "hospital_a"
    if not generator.exists():
        settings = [
            "data.train_patients=1200",
            "gan.steps=4000",
            f"gan.seed={number}",
            f"data.split.seed={number}",
        ]
        _run(
            folder,
            "generator train",
            "--space",
            "gan_ratio_cpu",
            "-o",
            generator,
            settings=settings,
        )
    return generator


def _run(folder: Path, command: str, *arguments: object, settings: list[str] | None = None) -> None:
    """Run a command of xraytune, and add its seconds to `seconds.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*command.split(), *map(str, arguments), "--weights-dir", os.environ["WEIGHTS"]]
    words += ["--cache", str(folder.parent / "cache")]
    if settings is not None:
        words += ["--data", os.environ["DATA"]]
        words += [word for setting in settings for word in ("--set", setting)]
    started = time.monotonic()
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run(
            [sys.executable, "-m", "xraytune", *words], stdout=log, stderr=log, check=True
        )
    file = folder / "seconds.json"
    seconds = read_json(file) if file.exists() else {}
    write_json(file, {**seconds, command: round(time.monotonic() - started)})


def _print_row(number: int, finalist: dict[str, Any]) -> None:
    differences = ", ".join(
        f"{row['kind']} {row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
        for row in finalist["comparisons"]
    )
    print(
        f"{number}: {finalist['verdict']}, AUROC {finalist['score']:.4f}; minus {differences}",
        flush=True,
    )
