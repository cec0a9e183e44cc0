"""Small folders of images: phantoms, and pairs with a bright block in the place of their mask."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.seeding import numpy_generator
from xraytune.data.phantom import paint_phantoms

HEIGHT_PX = 32
WIDTH_PX = 48


def block(number: int) -> NDArray[np.bool_]:
    """Return a mask, [32, 48], of a block whose place and size depend on a number."""
    mask = np.zeros((HEIGHT_PX, WIDTH_PX), dtype=np.bool_)
    top = 4 * (number % 4)
    left = 4 * (number % 5)
    mask[top : top + 16, left : left + 16 + number % 8] = True
    return mask


def draw_xrays(root: Path, patients: int, **options: Any) -> None:
    """Draw phantoms in `root / "xrays"`, by default of 32 px and with seed 1."""
    paint_phantoms(root / "xrays", patients=patients, **{"seed": 1, "image_size_px": 32, **options})


def swap_classes(folder: Path) -> Path:
    """Give each of two class folders the name of the other."""
    (folder / "NORMAL").rename(folder / "healthy")
    (folder / "PNEUMONIA").rename(folder / "NORMAL")
    (folder / "healthy").rename(folder / "PNEUMONIA")
    return folder


def draw_others(folder: Path, patients: int, **options: Any) -> None:
    """Draw phantoms of other patients: the names of their files begin with that of the folder."""
    paint_phantoms(folder, patients=patients, **{"image_size_px": 32, **options})
    for file in [*folder.rglob("*.*")]:
        file.rename(file.with_name(f"{folder.name}_{file.name}"))


def write_patients(folder: Path, patients: Mapping[Any, object]) -> None:
    """Write `patients.csv`, which names the patient of each file."""
    rows = [f"{file},{patient}\n" for file, patient in patients.items()]
    (folder / "patients.csv").write_text("file,patient\n" + "".join(rows), "utf-8")


def save(path: Path, pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> None:
    """Write an image, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_pairs(root: Path, stems: Iterable[str]) -> Path:
    """Write `images/STEM.png`, bright inside `masks/STEM.png` and dark outside, for each stem."""
    for number, stem in enumerate(stems):
        mask = block(number)
        noise = numpy_generator(number, stem).integers(0, 100, mask.shape, dtype=np.uint8)
        save(root / "images" / f"{stem}.png", np.where(mask, 155 + noise, noise).astype(np.uint8))
        save(root / "masks" / f"{stem}.png", mask)
    return root


def write_discs(root: Path, seed: int) -> Path:
    """Write 40 noisy dark images with a bright disc of random place and size, and the discs.

    A small GAN learns their masks in a hundred steps.
    """
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:48, 0:48]
    for number in range(40):
        y, x = random.uniform(18, 30, 2)
        disc = np.hypot(rows - y, columns - x) < random.uniform(12, 22)
        pixels = np.where(disc, 200, 40) + random.integers(0, 20, disc.shape)
        save(root / f"images/p{seed}_{number}.png", pixels.astype(np.uint8))
        save(root / f"masks/p{seed}_{number}.png", disc)
    return root
