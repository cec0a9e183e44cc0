"""The changes that CONTRIBUTING.md shows can be applied to the package, and then work."""

import os
import shutil
import sys
from pathlib import Path

from tests.docs.commands import BLOCKS, ROOT
from tests.in_process import other_process

ADDITIONS = """
from pathlib import Path

import numpy as np

from xraytune.base.records import Compute
from xraytune.data.prepare import RunContext
from xraytune.space.fields import parameters_from
from xraytune.space.load import load_space
from xraytune.space.task_settings import TASK_RULES
from xraytune.stats.classification import METRICS, ScoredImages, weighted_metrics
from xraytune.synth.sources.registry import source_of
from xraytune.tasks import TASKS

labels = np.array([0, 0, 1, 1])
probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
images = ScoredImages(labels, probabilities, positive=1, threshold=0.7)
assert "youden" in [metric.name for metric in METRICS]
assert weighted_metrics(images, np.ones((1, 4)))["youden"].tolist() == [0.5]

assert type(TASKS["smoothed"]).__name__ == "Smoothed"
for name, task in TASKS.items():
    assert TASK_RULES[name].has_classes == task.has_classes

Path("space.yaml").write_text(
    "name: a\\ntask: smoothed\\ndata: {path: images, image_size: 32, classes: binary}\\n"
    "parameters: {source: {value: noise}}"
)
space = load_space(Path("space.yaml"))
cpu = Compute(device="cpu", threads=1, precision="float32")
context = RunContext(prepared=None, cache=Path("cache").resolve(), compute=cpu)
source = source_of(parameters_from({"source": "noise"}))
block = source.block(space.settings, context, 1, 0)
assert block.pixels.shape == (256, 32, 32)
assert block.targets.tolist() == [1] * 256
"""


def apply(diff: str, root: Path) -> None:
    """Change the files of a diff whose `...` stand for lines that are left out."""
    file, new, place = root, [], 0
    for line in diff.splitlines():
        kind, text = line[:1], line[1:]
        if line.startswith(("--- ", "+++ ")):
            file, place = root / line[4:], 0
            new = file.read_text("utf-8").splitlines() if kind == "-" else []
        elif text.strip() == "...":
            continue
        elif kind == "+":
            new.insert(place, text)
            place += 1
        else:
            assert text in new[place:], f"{file.name} has no line {text!r} after line {place}"
            place += new[place:].index(text) + 1
            if kind == "-":
                place -= 1
                del new[place]
        file.write_text("\n".join(new) + "\n", encoding="utf-8")


def test_the_metric_the_task_and_the_source_of_contributing_can_be_added(tmp_path: Path) -> None:
    package = tmp_path / "xraytune"
    shutil.copytree(ROOT / "xraytune", package, ignore=shutil.ignore_patterns("__pycache__"))
    for page, block in BLOCKS:
        if page == "CONTRIBUTING.md" and block.language == "diff":
            apply(block.text, tmp_path)

    path = {"PYTHONPATH": str(tmp_path)}
    found = other_process(sys.executable, "-c", ADDITIONS, cwd=tmp_path, env=os.environ | path)

    assert found.returncode == 0, found.stderr
