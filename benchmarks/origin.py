"""The origin probe on folders with a known answer: a mark in the images of one class, in both, or in none.

Needs a folder of X-rays in Kaggle's layout and MobileNetV2's official weights:

    make bench ONLY=origin DATA=chest_xray WEIGHTS=weights [PER_CLASS=128]

Real images of other patients play the synthetic ones, so nothing but the mark tells them apart: a square of 6 px at 128 px
near a corner, with an intensity of its own in each image, 180 to 255. Each of 20 folders has patients drawn anew and as many
images of each class as there are real ones (ratio 1, `balance: natural`). In "other marks", each class has its own corner.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, figure
from xraytune.compute import choose_compute, pin
from xraytune.config.load import load_space
from xraytune.config.settings import Experiment, Parameters
from xraytune.metrics.classification import Floats
from xraytune.metrics.origin import origin_aurocs, origin_gap
from xraytune.pipeline.prepare import Prepared, RunContext, prepare, training_pixels
from xraytune.pipeline.quality import Features, small_images
from xraytune.seeding import numpy_generator

NEEDS = ("DATA", "WEIGHTS")
_FOLDERS = 20
_PER_CLASS = int(os.environ.get("PER_CLASS", "128"))
_SPACE = Path("search_spaces/gan_quality.yaml")
_SIZE_PX, _MARK_PX, _NEAR, _FAR = 128, 6, 4, 118
_CORNERS = ((_NEAR, _NEAR), (_NEAR, _FAR), (_FAR, _NEAR), (_FAR, _FAR))
_MARKED = {"no mark": (False, False), "a mark in one class": (True, False), "the same mark in both": (True, True)}


def measure() -> Iterator[Figure]:
    """Probe all folders, and count those that are flagged."""
    compute = choose_compute(gpus=0, threads=2)
    pin(compute)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(os.environ.get("KEEP", folder)).resolve() / "cache"
        changes = ("data.train_patients=null",)
        space = load_space(_SPACE, changes, data=Path(os.environ["DATA"]), weights_dir=Path(os.environ["WEIGHTS"]))
        prepared, _ = prepare(space.settings, cache)
        network = Parameters(backbone="mobilenet_v2")
        experiment = Experiment(settings=space.settings, parameters=network)
        features = Features(experiment, network, _SIZE_PX, RunContext(prepared=prepared, cache=cache, compute=compute))
        stored = training_pixels(prepared, cache)
        gaps = [_gaps(prepared, stored, features, seed) for seed in range(_FOLDERS)]
    bars = {"a mark in one class": ">= 20", "the same mark in both": "<= 1", "no mark": "<= 1"}
    for name in gaps[0]:
        found = [one[name] for one in gaps]
        about = f"origin: {name}, {_PER_CLASS} images per class"
        flagged = sum(is_large for _, is_large in found)
        yield figure(f"{about}, flagged of {_FOLDERS}", flagged, "folders", bars.get(name, "") * (_PER_CLASS == 128))
        values = sorted(gap for gap, _ in found)
        yield figure(f"{about}, smallest gap", values[0], "")
        yield figure(f"{about}, largest gap", values[-1], "")


def _gaps(
    prepared: Prepared, stored: NDArray[np.uint8], features: Features, seed: int
) -> dict[str, tuple[float, bool]]:
    """Return the gap of each kind of folder, and whether it is flagged."""
    random = numpy_generator(seed, "origin")
    names = prepared.class_names
    corner = int(random.integers(len(_CORNERS)))
    views: list[dict[str, tuple[tuple[Floats, Floats], tuple[Floats, Floats]]]] = []
    for label in range(len(names)):
        real, other = _drawn(prepared, label, random)
        intensities = random.integers(180, 256, size=(len(other), 1, 1))
        shown = {
            "real": stored[real],
            "plain": stored[other],
            "marked": _marked(stored[other], corner, intensities),
            "marked elsewhere": _marked(stored[other], (corner + 1) % len(_CORNERS), intensities),
        }
        rows = np.arange(_PER_CLASS)
        computed = features.of("probed", [(pixels, rows, 0.0) for pixels in shown.values()])
        small = [small_images(pixels, _SIZE_PX) for pixels in shown.values()]
        (real_computed, *others), (real_small, *other_small) = computed, small
        views.append(
            {
                kind: ((real_computed, one), (real_small, pixels))
                for kind, one, pixels in zip([*shown][1:], others, other_small, strict=True)
            }
        )
    kinds = {
        name: tuple("marked" if is_marked else "plain" for is_marked in of_class) for name, of_class in _MARKED.items()
    }
    kinds["other marks"] = ("marked", "marked elsewhere")
    result = {}
    for name, of_class in kinds.items():
        aurocs = origin_aurocs([own[kind] for own, kind in zip(views, of_class, strict=True)])
        by_name = {one: dict(zip(names, row, strict=True)) for one, row in zip(names, aurocs.tolist(), strict=True)}
        gap = origin_gap(by_name, dict.fromkeys(names, 0.5))
        result[name] = gap.gap, gap.is_large
    return result


def _drawn(prepared: Prepared, label: int, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of real images and of images of other patients, with those of a patient next to each other."""
    of_patient: dict[str, list[int]] = {}
    for image in prepared.images:
        if image.label == label:
            of_patient.setdefault(image.patient, []).append(image.row)
    groups: list[list[int]] = [[], []]
    for patient in random.permutation(sorted(of_patient)).tolist():
        group = groups[len(groups[0]) >= _PER_CLASS]
        group += of_patient[patient]
    first, second = (np.array(group[:_PER_CLASS], dtype=np.int64) for group in groups)
    return first, second


def _marked(pixels: NDArray[np.uint8], corner: int, intensities: NDArray[np.int64]) -> NDArray[np.uint8]:
    top, left = _CORNERS[corner]
    marked = pixels.copy()
    marked[:, top : top + _MARK_PX, left : left + _MARK_PX] = intensities
    return marked
