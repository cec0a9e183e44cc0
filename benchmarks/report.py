"""What the page about a study costs, with 24 and with 1,000 trials: to build, to send, and to open in a browser."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from benchmarks.figures import Figure, figure
from xraytune.base.files import write_array, write_json
from xraytune.base.records import Compute
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import prepare
from xraytune.present.page import write_report
from xraytune.space.load import experiment_to_json, load_space
from xraytune.space.settings import Experiment
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.start import create_study

_SPACE = """\
version: 1
name: report-{trials}
data: {{path: xrays, image_size: 32, split: {{val_a: 0.2, val_b: 0.2}}}}
parameters:
  source: {{values: [none, duplicate, gan]}}
  synthetic_ratio: {{values: [0.25, 0.5, 1.0, 2.0], when: {{source: [duplicate, gan]}}}}
  gan:
    when: {{source: gan}}
    parameters: {{steps: {{values: [1500, 5000]}}, image_size: {{value: 32}}}}
  classical: {{min: 0, max: 2, distribution: int_uniform}}
  backbone: {{values: [small_cnn, resnet18, mobilenet_v2]}}
  weights: {{value: none}}
  lr: {{min: 1e-4, max: 1e-1, distribution: log_uniform_values}}
  dropout: {{min: 0.0, max: 0.5}}
budget: {{trials: {trials}, max_epochs: 45}}
scheduler: {{name: asha, grace: 5, reduction: 3}}
sampler: {{name: random}}
"""
_PRUNED_AFTER = 5, 15
"""ASHA's rungs. With half of the trials pruned, a trial has 27 epochs on average."""
_LONG_TASKS = """() => new Promise((done) => {
  let end = 0;
  new PerformanceObserver((list) => {
    for (const task of list.getEntries()) end = Math.max(end, task.startTime + task.duration);
  }).observe({ type: "longtask", buffered: true });
  setTimeout(() => done(end), 3000);
})"""


def build_study(root: Path, trials: int) -> StudyFolder:
    """Write a study of random scores below `root/studies`: half of its trials are pruned, as ASHA does."""
    if not (root / "xrays").exists():
        draw_phantoms(root / "xrays", patients=120, seed=4, image_size_px=32)
    (root / "space.yaml").write_text(_SPACE.format(trials=trials), encoding="utf-8")
    space = load_space(root / "space.yaml")
    folder = StudyFolder(root / "studies" / space.settings.name)
    prepared, _ = prepare(space.settings, root / "cache")
    create_study(folder, space, prepared, Compute(device="cpu", threads=1, precision="float32"))
    journal, draw = Journal(folder.journal_path, space, writable=True), np.random.default_rng(1)
    val_b = prepared.side("val_b").labels
    for number in range(trials):
        parameters = journal.ask(()).parameters
        is_pruned, best = number % 2 == 1, draw.normal(0.86, 0.03)
        epochs = int(draw.choice(_PRUNED_AFTER)) if is_pruned else space.settings.budget.max_epochs
        scores = np.maximum.accumulate(best - 0.2 * np.exp(-np.arange(epochs) / 8) - 0.02 * draw.random(epochs))
        for epoch, score in enumerate(scores.tolist(), start=1):
            journal.report(number, epoch, score)
        outcome = {"seconds": 3.0 * epochs, "gpu_seconds": 0.0, "reason": "not promising" if is_pruned else ""}
        path = folder.trial_path(number)
        path.mkdir(parents=True)
        experiment = Experiment(settings=space.settings, parameters=parameters)
        write_json(path / "config.json", experiment_to_json(experiment, path))
        if not is_pruned:
            outcome |= {"val_b_score": float(scores[-1] - 0.01), "best_epoch": epochs, "threshold": 0.5}
            positive = 1 / (1 + np.exp(draw.normal(0, 1.5, len(val_b)) - 3 * (val_b - 0.5)))
            write_array(path / "val_b.npy", np.stack([1 - positive, positive], axis=1), is_recorded=True)
        if parameters.generator:
            write_json(path / "samples.json", {"generator": f"samples/gan-{parameters.generator.steps}.png"})
        journal.tell(number, "pruned" if is_pruned else "complete", float(scores[-1]), outcome)
    return folder


def seconds_until_interactive(page: Path) -> float:
    """Open a page in Chromium; the seconds to the end of the last task over 50 ms, when all of the first screen is drawn."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.goto(page.as_uri())
        ended = float(opened.evaluate(_LONG_TASKS)) / 1000
        browser.close()
    return ended


def measure() -> Iterator[Figure]:
    """Build each page; open the large one three times and take the median."""
    bars = {24: "<= 5", 1000: "<= 20"}
    with tempfile.TemporaryDirectory() as root:
        for trials, bar in bars.items():
            study = build_study(Path(root), trials).path
            started = time.perf_counter()
            page = write_report(study)
            yield figure(f"report: build the page, {trials:,} trials", time.perf_counter() - started, "s", bar)
        yield figure("report: size of the page, 1,000 trials", page.stat().st_size / 1e6, "MB", "<= 8")
        opened = sorted(seconds_until_interactive(page) for _ in range(3))[1]
        yield figure("report: until interactive, 1,000 trials", opened, "s", "<= 2")
