"""What one GPU does for a search: `make gpu-bench`, about eight minutes, writes gpu.json.

    python -m benchmarks.gpu [PART ...] [--out FOLDER]

runs the parts that are named, or all: README's commands from `search` to `evaluate` with a smaller
budget (`dashboard.json` is what Ray's dashboard shows meanwhile); tests of trials on a GPU; the
first epoch of a process beside its later ones; images per second of our training step, eager and
replayed as a CUDA graph, and a GAN's steps, beside bare loops; trials per hour of README's space
with less training, 1 to 8 at once; tests of a search. Each row is written once it is known. Without
a GPU, it says so and runs the same code on a few images, which shows that the benchmark works and
measures nothing.
"""

from __future__ import annotations

import json
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import requests
import torch
from torchvision.models import get_model

from benchmarks import classifier, gan
from benchmarks.figures import Figure, figure, machine, table
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import RunContext, prepare
from xraytune.nets.compute import choose_compute, configure_torch, gpu_count
from xraytune.nets.cuda_graph import with_cuda_graph
from xraytune.nets.optimizer import build_optimizer
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment, Settings
from xraytune.trial.run import trial_epochs
from xraytune.trial.training import TrialTraining

GPUS = gpu_count()
_IMAGE_PX, _PATIENTS, _STEPS, _WARM_UP = (128, 400, 200, 20) if GPUS else (32, 30, 2, 1)
_XRAYS, _WEIGHTS = "xrays", "mobilenet_v2.pth"
_SPACE = Path(__file__).parents[1] / "search_spaces" / "gan_ratio.yaml"
_LESS = {
    "weights": "none",
    "trainable": "all",
    "backbone": "{values: [resnet18, mobilenet_v2]}" if GPUS else "small_cnn",
    "source": "{values: [none, duplicate, gan]}" if GPUS else "gan",
    "gan.image_size": 64 if GPUS else 32,
    "gan.steps": "{values: [300, 600]}" if GPUS else "2",
    "data.image_size": _IMAGE_PX,
    "data.train_patients": "null",
    "quality.allow_memorised": "true",
    "budget": f"{{trials: {12 if GPUS else 2}, max_epochs: 4, steps_per_epoch: {30 if GPUS else 1}}}",
    "scheduler": "{name: none}",
    "sampler": "{name: random, seed: 42}",
    "points_to_evaluate": "[]",
}  # the same trials in each search, all to their end
_MISSION_PATIENTS = 2000 if GPUS else 60
_MISSION = {
    "weights": "none",
    "trainable": "all",
    "gan.steps": "{values: [1500, 4500]}",
    "quality.allow_memorised": "true",
    "budget": "{trials: 24, max_epochs: 9}",
    "confirm": "{finalists: 1, replicates: 3}",
    "points_to_evaluate": "[]",
}
_DASHBOARD_PAGES = ("/logical/actors", "/api/v0/tasks?detail=1&limit=1000")
_CUDNN_LIMIT = "BENCHMARK_CUDNN_LIMIT"
_STARTS: dict[str, dict[str, str]] = {
    "as it is": {},
    "kernels loaded at once": {"CUDA_MODULE_LOADING": "EAGER"},
    "cuDNN tries one algorithm": {_CUDNN_LIMIT: "1"},
}
"""Environment variables that may shorten the first epoch of a process."""


def _tests(file: str, _: Path, __: Path) -> Iterator[Figure]:
    """Run tests that need a GPU; without one, all of them are skipped."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/gpu/{file}"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    summary = said.strip().splitlines()[-1]
    counts = {
        outcome: int(count)
        for count, outcome in pairwise(summary.replace(",", "").split())
        if count.isdigit()
    }
    print(said if counts.get("failed") or counts.get("error") else summary, file=sys.stderr)
    yield figure(f"gpu: {file}, passed", counts.get("passed", 0), "tests", ">= 1" if GPUS else "")
    yield figure(
        f"gpu: {file}, failed", counts.get("failed", 0) + counts.get("error", 0), "tests", "<= 0"
    )


def _mission(root: Path, out: Path) -> Iterator[Figure]:
    """README's commands on a node with GPUs, with random weights and a smaller budget: seconds of each."""
    settings = _MISSION if GPUS else _LESS
    xrays = root / "chest_xray"
    paint_phantoms(xrays, patients=_MISSION_PATIENTS, seed=4, image_size_px=_IMAGE_PX)
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    study = "studies/gan-ratio"
    commands = {
        "search": ["--space", "gan_ratio.yaml", "--data", "chest_xray", *options],
        "confirm": [study, "--yes"],
        "export": [study, "-o", "best.yaml"],
        "train": ["--config", "best.yaml", "-o", "model"],
        "evaluate": ["model", "--data", "chest_xray/test"],
    }
    for command, arguments in commands.items():
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "xraytune", command, *arguments],
            cwd=root,
            stdout=sys.stderr,
            stderr=subprocess.PIPE,
            text=True,
        )
        _follow(process, out / "dashboard.json")
        if process.wait():
            raise RuntimeError(f"xraytune {command} ended with exit code {process.returncode}")
        yield figure(f"gpu: README's {command}", time.monotonic() - started, "s")


def _follow(process: subprocess.Popen[str], file: Path) -> None:
    """Pass on what a command logs; after each trial, write what Ray's dashboard shows to `file`."""
    assert process.stderr
    address = ""
    for line in process.stderr:
        sys.stderr.write(line)
        if found := re.search(r"Ray dashboard: (\S+)", line):
            address = found.group(1)
        if address and re.search(r"#\d+ complete", line):
            shown = {path: _ask(address + path) for path in _DASHBOARD_PAGES}
            file.write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")


def _ask(url: str) -> Any:
    token = Path("~/.ray/auth_token").expanduser()
    key = token.read_text(encoding="utf-8") if token.exists() else ""
    answer = requests.get(url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    return answer.json() if answer.ok else answer.text


def _first_epochs(root: Path, _: Path) -> Iterator[Figure]:
    """The last stage of MobileNetV2, as in `confirm`: one process, others, then several at once."""
    network = get_model("mobilenet_v2", weights=None)
    torch.save(network.state_dict(), root / _WEIGHTS)  # frozen layers need a file
    for name, variables in _STARTS.items():
        ((first, *later),) = _epoch_seconds(root, 1, variables)
        yield figure(f"gpu: first epoch of a process, {name}", first, "s")
        yield figure(f"gpu: later epochs, {name}", statistics.median(later), "s")
    if GPUS:
        seconds = _epoch_seconds(root, 8, {})
        first = statistics.median(epochs[0] for epochs in seconds)
        yield figure("gpu: first epoch, 8 processes at once", first, "s")


def _epoch_seconds(root: Path, processes: int, variables: dict[str, str]) -> list[list[float]]:
    """Start processes at once, each with a trial of its own, and return the seconds of their epochs."""
    name = "-".join([*variables, str(processes)]) or "plain"
    started = []
    for number in range(processes):
        code = f"from benchmarks.gpu import print_epochs; print_epochs({str(root)!r}, '{name}-{number}')"
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | variables
        )
        started.append(process)
    return [json.loads(process.communicate()[0]) for process in started]


def print_epochs(root: str, name: str) -> None:
    """Train in this process and print the seconds of each epoch."""
    if limit := os.environ.get(_CUDNN_LIMIT):
        torch.backends.cudnn.benchmark_limit = int(limit)
    values = {
        "backbone": "mobilenet_v2",
        "weights": str(Path(root) / _WEIGHTS),
        "trainable": "last_stage",
    }
    experiment, context = _prepared(Path(root), values, epochs=4)
    times = [time.perf_counter()]
    with closing(trial_epochs(experiment, context, Path(root) / name)) as epochs:
        times += [time.perf_counter() for _ in epochs]
    print(json.dumps([end - start for start, end in pairwise(times)]))


def _prepared(root: Path, values: dict[str, Any], *, epochs: int) -> tuple[Experiment, RunContext]:
    configure_torch(compute := choose_compute(gpus=min(1, GPUS), threads=1))
    data = {"path": root / _XRAYS, "image_size": _IMAGE_PX}
    settings = Settings.model_validate(
        {"name": "speed", "data": data, "budget": {"max_epochs": epochs}}
    )
    prepared, _ = prepare(settings, root / "cache")
    context = RunContext(prepared=prepared, cache=root / "cache", compute=compute)
    return Experiment(settings=settings, parameters=Parameters.model_validate(values)), context


def _speed(root: Path, _: Path) -> Iterator[Figure]:
    yield from _steps(root)
    if GPUS:
        yield from gan.measure()
        yield from classifier.measure()


def _steps(root: Path) -> Iterator[Figure]:
    """Images per second of a whole MobileNetV2 with augmentation, in batches of 32."""
    augmented = {"augmentation": "affine", "degrees": 7}
    values = {"backbone": "mobilenet_v2", "weights": "none", "batch_size": 32, **augmented}
    experiment, context = _prepared(root, values, epochs=100)
    speeds = []
    for how in ("eager", "replayed"):
        training = TrialTraining(experiment, context)
        optimizer = build_optimizer("adam", training.trained.train(), lr=experiment.parameters.lr)
        step = partial(training.step, optimizer)
        update = step if how == "eager" else with_cuda_graph(step, context.compute)
        loss = torch.zeros((), device=context.compute.device)
        started = time.perf_counter()
        for number, draws in enumerate(training.batches.step_inputs(range(_WARM_UP + _STEPS))):
            if number == _WARM_UP:
                float(loss)  # waits for the device
                started = time.perf_counter()
            loss += update(draws)
        float(loss)
        speeds.append(32 * _STEPS / (time.perf_counter() - started))
        bar = ">= 8000" if GPUS and how == "replayed" else ""
        yield figure(f"gpu: mobilenet_v2, {how}", speeds[-1], "images/s", bar)
    yield figure("gpu: mobilenet_v2, replayed / eager", speeds[1] / speeds[0], "x")


def _searches(root: Path, _: Path) -> Iterator[Figure]:
    for at_once in (1, 8, 2, 4) if GPUS else (1,):
        speed = _trials_per_hour(
            root, f"{at_once}-on-a-gpu", 1 / at_once if GPUS else 0, devices="0"
        )
        yield figure(f"gpu: trials per hour, {at_once} at once on one GPU", speed, "trials/h")
    if GPUS > 1:
        speed = _trials_per_hour(root, "all", 0.5, devices=os.environ.get("CUDA_VISIBLE_DEVICES"))
        yield figure(f"gpu: trials per hour, 2 at once on each of {GPUS} GPUs", speed, "trials/h")


def _trials_per_hour(root: Path, name: str, share: float, *, devices: str | None) -> float:
    """Run a search, and return its trials per hour from the start of the first to the end of the last."""
    command = [sys.executable, "-m", "xraytune", "search", "--space", str(_SPACE), "--data", _XRAYS]
    command += ["--cache", f"cache-{name}"]  # each search trains its generators
    for key, value in (_LESS | {"name": name, "resources.gpus_per_trial": share}).items():
        command += ["--set", f"{key}={value}"]
    visible = {} if devices is None or not GPUS else {"CUDA_VISIBLE_DEVICES": devices}
    subprocess.run(command, cwd=root, check=True, stdout=sys.stderr, env=os.environ | visible)
    study = root / "studies" / name
    rows = [json.loads(line) for line in (study / "trials.jsonl").read_text("utf-8").splitlines()]
    assert all(row["status"] == "complete" for row in rows), [row.get("reason") for row in rows]
    first = min(config.stat().st_mtime for config in study.glob("trials/*/config.json"))
    return 3600 * len(rows) / ((study / "trials.jsonl").stat().st_mtime - first)


_PARTS: dict[str, Callable[[Path, Path], Iterator[Figure]]] = {
    "mission": _mission,
    "trials": partial(_tests, "test_trials.py"),
    "first-epoch": _first_epochs,
    "speed": _speed,
    "searches": _searches,
    "search-tests": partial(_tests, "test_search.py"),
}


def main() -> int:
    """Run the parts, and print a table of each; 1 where a bar is missed or a part failed."""
    parser = ArgumentParser(description="What one GPU does for a search.")
    parser.add_argument("parts", nargs="*", help=", ".join(_PARTS))
    parser.add_argument("--out", type=Path, default=Path(), help="folder of gpu.json")
    asked = parser.parse_args()
    if unknown := {*asked.parts} - {*_PARTS}:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(_PARTS)}")
    if not GPUS:
        print(
            "NO GPU WAS FOUND: this run measures nothing, it only shows that the benchmark works",
            file=sys.stderr,
        )
    names = (
        ", ".join(torch.cuda.get_device_name(number) for number in range(GPUS))
        or "no GPU was found"
    )
    where, prefix = f"{names}, {machine()}", "" if GPUS else f"{names}: "
    figures, failed = list[Figure](), False
    with tempfile.TemporaryDirectory() as folder:
        paint_phantoms(Path(folder) / _XRAYS, patients=_PATIENTS, seed=3, image_size_px=_IMAGE_PX)
        for name in asked.parts or _PARTS:
            started, before = time.monotonic(), len(figures)
            try:
                for one in _PARTS[name](Path(folder), asked.out):
                    figures += [
                        replace(
                            one, name=prefix + one.name, command="make gpu-bench", machine=where
                        )
                    ]
                    rows = json.dumps([asdict(row) for row in figures], indent=1)
                    (asked.out / "gpu.json").write_text(rows + "\n", encoding="utf-8")
            except Exception:  # the other parts still run
                logging.exception("%s failed", name)
                failed = True
            print(
                table(figures[before:]),
                f"\n{prefix}{name} took {time.monotonic() - started:.0f} s",
                flush=True,
            )
    return int(failed or any(one.holds is False for one in figures))


if __name__ == "__main__":
    sys.exit(main())
