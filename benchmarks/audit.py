"""Whether `audit --quick` finds the fault of synthetic sets whose fault is known, on real X-rays.

    make bench ONLY=audit DATA=chest_xray WEIGHTS=weights [KEEP=folder]

Each seed splits the patients of the train folder at random: 900 provide the real images (200 of them for training), and the
others are "new patients". Four folders stand in for synthetic images: copies of real images in new files, noise, new
patients, and new patients with the classes swapped. The headline has to come from the right line: memorisation, realism,
none, labels. Some minutes on a core.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import copyfile

import numpy as np
from PIL import Image

from benchmarks.figures import Figure, figure
from xraytune.audit import audit
from xraytune.base.seeding import numpy_generator
from xraytune.data.index import ImageFile, ImageIndex, read_index
from xraytune.space.settings import DataSettings

NEEDS = ("DATA", "WEIGHTS")
_SEEDS = 5
_PATIENTS, _TRAIN_PATIENTS = 900, 200
_IMAGES_OF_CLASS = 300
RIGHT = {"copies": "memorisation", "noise": "realism", "new patients": "", "wrong labels": "labels"}
"""The first bad line of each kind."""


def measure() -> Iterator[Figure]:
    """The right headlines of each kind, and of all."""
    index = read_index(DataSettings(path=Path(os.environ["DATA"]).resolve()))
    right = Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        root = Path(os.environ.get("KEEP", name)).resolve()
        for seed in range(_SEEDS):
            folder = root / f"{seed}"
            draw(index, folder, seed)
            for kind, line in RIGHT.items():
                found = audit(
                    folder / "real",
                    folder / kind,
                    quick=True,
                    weights_dir=Path(os.environ["WEIGHTS"]).resolve(),
                    overrides=[f"data.train_patients={_TRAIN_PATIENTS}", f"data.split.seed={seed}"],
                    studies=folder / "studies",
                )
                first = next((one.name for one in found.lines if one.status == "bad"), "")
                right[kind] += first == line
                told = "; ".join(f"{one.name} {one.status}" for one in found.lines)
                print(f"seed {seed}, {kind}: {found.headline} {told}", file=sys.stderr, flush=True)
    for kind in RIGHT:
        yield figure(f"audit: {kind}, right of {_SEEDS}", float(right[kind]), "audits")
    total = _SEEDS * len(RIGHT)
    yield figure(f"audit: told apart by the right line, of {total}", float(right.total()), "audits", f">= {total}")


def draw(index: ImageIndex, folder: Path, seed: int) -> None:
    """Write the real images of some patients, and a folder of each kind."""
    random = numpy_generator(seed, "audit")
    patients = random.permutation(sorted({image.patient for image in index.images}))
    known = {*patients[:_PATIENTS].tolist()}
    real = [image for image in index.images if image.patient in known]
    others = [image for image in index.images if image.patient not in known]
    for image in real:
        file = folder / "real" / index.class_names[image.label] / Path(image.file).name
        file.parent.mkdir(parents=True, exist_ok=True)
        copyfile(index.root / image.file, file)
    for kind in RIGHT:
        for number, image in enumerate(_some(real if kind == "copies" else others, random)):
            pixels = np.asarray(Image.open(index.root / image.file).convert("L"))
            if kind == "noise":
                pixels = random.integers(0, 256, pixels.shape, dtype=np.uint8)
            label = 1 - image.label if kind == "wrong labels" else image.label
            file = folder / kind / index.class_names[label] / f"image_{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)


def _some(images: Sequence[ImageFile], random: np.random.Generator) -> list[ImageFile]:
    chosen = []
    for label in (0, 1):
        own = [image for image in images if image.label == label]
        chosen += [own[at] for at in random.permutation(len(own))[:_IMAGES_OF_CLASS].tolist()]
    return chosen
