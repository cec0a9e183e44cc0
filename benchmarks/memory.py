"""Private memory of a worker process beyond that of `import torch`: by number of images, and over 200 consecutive trials.

Also the seconds in which a trial reads which images are on which side.

Private memory consists of the pages that only this process has written to. It excludes mapped files, such as the pixels:
the workers of a machine share these pages, and the kernel drops them when memory is short.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import Figure, figure
from xraytune.base.artifacts import build_once, content_sha256
from xraytune.base.files import write_json
from xraytune.base.lease import hold
from xraytune.base.records import Compute
from xraytune.data.pixels import PIXELS_FILE
from xraytune.data.prepare import PIXELS_STAGE, Prepared, PreparedImage, SideName, image_columns, read_prepared
from xraytune.nets.backbones import build_backbone
from xraytune.search.messages import Job
from xraytune.space.load import experiment_to_json, load_space
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study

_COUNTS, _TRIALS, _VAL = (1_000, 10_000, 100_000), 200, 100
_SPACE = """\
version: 1
name: memory
data: {{path: xrays, image_size: {image_px}}}
parameters: {{backbone: {{value: small_cnn}}, weights: {{value: {weights}}}, trainable: {{value: {trainable}}},
  batch_size: {{value: 8}}}}
budget: {{trials: 1, max_epochs: 2, steps_per_epoch: 4}}
"""
_PRIVATE = """
import json, sys, torch
def private():
    lines = dict(line.split(":", 1) for line in open("/proc/self/smaps_rollup") if ":" in line.split(" ")[0])
    return int(lines["Private_Dirty"].split()[0]) / 1024
bare = private()
from xraytune.search.messages import EpochEnded, Job, TrialEnded
from xraytune.search.worker import TrialWorker
for line in sys.stdin:
    worker = TrialWorker(Job(**json.loads(line)))
    while isinstance(message := worker.step(), EpochEnded):
        pass
    assert isinstance(message, TrialEnded), message
    worker.close()
    print(private() - bare, flush=True)
"""


def measure() -> Iterator[Figure]:
    """Train all layers of `small_cnn` on 224 px in batches of 8; the 200 trials train a head on cached features."""
    with tempfile.TemporaryDirectory() as name:
        private = {count: _private(Path(name, str(count)), count, 224, "all")[0] for count in _COUNTS}
        for count, megabytes in private.items():
            yield figure(f"memory: a worker, {count:,} images", megabytes, "MB", "<= 500")
        yield figure("memory: 100,000 images / 1,000 images", private[100_000] / private[1_000], "x", "<= 1.1")
        (split,) = Path(name, "100000").rglob("split.json")
        started = time.process_time()
        read_prepared(split)
        yield figure("memory: reading the split of 100,000 images", time.process_time() - started, "s", "<= 0.2")
        in_turn = _private(Path(name, "in turn"), 1_000, 32, "head", trials=_TRIALS)
        for trials in (10, _TRIALS):
            yield figure(f"memory: a worker after {trials} trials", in_turn[trials - 1], "MB")
        yield figure("memory: growth from trial 10 to 200", in_turn[-1] - in_turn[9], "MB", "<= 10")


def _private(root: Path, count: int, image_px: int, trainable: str, *, trials: int = 1) -> list[float]:
    """Return the megabytes after each trial; trials differ in their learning rates."""
    root.mkdir()
    weights = root / "small_cnn.pth"
    torch.save(build_backbone("small_cnn")[0].state_dict(), weights)
    chosen = weights if trainable == "head" else "none"
    (root / "space.yaml").write_text(_SPACE.format(image_px=image_px, weights=chosen, trainable=trainable), "utf-8")
    space, study = load_space(root / "space.yaml"), StudyFolder(root / "studies" / "memory")
    prepared = _prepared(root / "cache", count, image_px)
    create_study(study, space, prepared, Compute(device="cpu", threads=1, precision="float32"))
    with hold(study.lock_path) as owner:
        jobs = []
        for number in range(trials):
            folder, experiment = study.trial_path(number), space.experiment()
            values = experiment.parameters.model_copy(update={"lr": 1e-4 * (1 + number)})
            experiment = experiment.model_copy(update={"parameters": values})
            write_json(folder / "config.json", experiment_to_json(experiment, folder))
            jobs.append(
                Job(
                    study=str(study.path),
                    cache=str(root / "cache"),
                    number=number,
                    label="memory",
                    gpu_share=0.0,
                    lock=str(study.lock_path),
                    token=owner.token,
                )
            )
        lines = "".join(json.dumps(asdict(job)) + "\n" for job in jobs)
        ran = subprocess.run(
            [sys.executable, "-c", _PRIVATE], input=lines, stdout=subprocess.PIPE, text=True, check=True
        )
    return [float(line) for line in ran.stdout.split()]


def _prepared(cache: Path, count: int, image_px: int) -> Prepared:
    """Write images with a band of noise, black elsewhere, to a sparse file."""
    counts: dict[SideName, int] = {"val_a": _VAL, "val_b": _VAL, "train": count - 2 * _VAL}
    sides = [side for side, images in counts.items() for _ in range(images)]
    images = image_columns(
        PreparedImage(
            file=f"train/{'NORMAL' if number % 2 else 'PNEUMONIA'}/person{number}_bacteria_{number}.jpeg",
            patient=f"person{number}",
            label=number % 2,
            side=side,
            row=number,
            sha256=f"{number:064x}",
        )
        for number, side in enumerate(sides)
    )

    def build(folder: Path) -> None:
        shape = (count, image_px, image_px)
        pixels = np.lib.format.open_memmap(folder / PIXELS_FILE, mode="w+", dtype=np.uint8, shape=shape)
        band = pixels[:, :4]  # the rest stays black
        band[:] = np.random.default_rng(0).integers(0, 256, band.shape, dtype=np.uint8)

    store = build_once(cache, PIXELS_STAGE, {"images": count}, build)
    return Prepared(
        class_names=("NORMAL", "PNEUMONIA"),
        positive=1,
        image_size_px=image_px,
        resize="squash",
        pixels=str(store.relative_to(cache)),
        pixels_sha256=content_sha256(store, PIXELS_FILE),
        test_fingerprint=None,
        images=images,
    )
