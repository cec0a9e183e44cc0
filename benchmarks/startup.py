"""How long a person waits for the quick commands, and for the first steps of a search.

The quick commands are `xraytune --help` and `space check`, the median of seven whole processes. The
search is one of a GAN on phantoms with an empty cache: of three, the seconds from the command to
each event are those of the fastest.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from benchmarks.figures import Figure, figure

_PROGRAM = str(Path(sys.executable).with_name("xraytune"))
_SPACE = "search_spaces/gan_ratio.yaml"
_SEARCHES = 3
_FIRST_STEP = "its first 25 steps"
_SEARCH = """\
name: first
data: {path: xrays, image_size: 64, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {value: gan}
  synthetic_ratio: {value: 1.0}
  gan: {parameters: {width: {value: 16}, steps: {value: 25}}}
  backbone: {value: small_cnn}
  weights: {value: none}
budget: {trials: 1, max_epochs: 1, steps_per_epoch: 1}
scheduler: {name: none}
quality: {allow_memorised: true}
"""


def measure() -> Iterator[Figure]:
    """The two commands that a person uses while writing a file, and the search."""
    yield figure("startup: xraytune --help", _seconds("--help"), "s", "<= 0.5")
    yield figure("startup: space check", _seconds("space", "check", _SPACE), "s", "<= 1.5")
    searches = [_events() for _ in range(_SEARCHES)]
    for event, seconds in min(searches, key=lambda events: events[_FIRST_STEP]).items():
        bar = "<= 6" if event == _FIRST_STEP else ""
        yield figure(f"startup: search, {event}", seconds, "s", bar)


def _seconds(*arguments: str) -> float:
    times = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run([_PROGRAM, *arguments], capture_output=True, check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _events() -> dict[str, float]:
    """Run the search in a new process, and return the seconds to each event."""
    from xraytune.data.phantom import paint_phantoms

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paint_phantoms(folder / "xrays", patients=60, seed=1, image_size_px=64)
        (folder / "first.yaml").write_text(_SEARCH, encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.startup", name, str(time.time())]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    events: dict[str, float] = json.loads(done.stdout)
    return events


def search_in(folder: Path, started: float) -> dict[str, float]:
    """Search a folder, and return the seconds from `started`, a Unix time, to each event."""
    from xraytune.search.callbacks import Callbacks
    from xraytune.search.run import search
    from xraytune.synth.generator_inputs import GAN_PROGRESS

    seconds: dict[str, float] = {}

    def record(event: str, *_: object) -> None:
        seconds.setdefault(event, time.time() - started)

    def watch_trial() -> None:
        while _FIRST_STEP not in seconds:
            time.sleep(0.01)
            for file in (folder / "studies").glob("*/trials/*/progress.json"):
                with suppress(OSError):
                    what, done, total, _ = json.loads(file.read_bytes()).values()
                    if what == GAN_PROGRESS:
                        record("torch in the trial's process")
                        if done == total:
                            record(_FIRST_STEP)

    record("imports of the command")
    threading.Thread(target=watch_trial, daemon=True).start()
    callbacks = Callbacks(
        on_prepared=partial(record, "decoded images"),
        on_start=partial(record, "Ray and its driver"),
        on_trial_start=partial(record, "the trial is given to a process"),
    )
    search(folder / "first.yaml", studies=folder / "studies", callbacks=callbacks)
    return seconds


if __name__ == "__main__":
    print(json.dumps(search_in(Path(sys.argv[1]), float(sys.argv[2]))))
