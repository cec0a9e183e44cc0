"""Write randomly transformed copies of X-rays: flip, rotation, shift, zoom, shear, contrast, elastic deformation.

The output is itself a data folder, to inspect or to use as the extra images of `source: folder`:

    OUT/CLASS/STEM__t1.png      8-bit grey, in the size of its original
    OUT/patients.csv            the patient of each copy, for splits
    OUT/provenance.json         the original and the random parameters of each copy

Only the training part is transformed, never test/. The parameters of a copy depend only on the seed, the original's path and
the copy's number: adding images to the folder does not change the other copies.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.config.load import data_settings
from xraytune.config.settings import DataSettings
from xraytune.cores import map_on_cores
from xraytune.data.decoding import BrokenImage, read_image
from xraytune.data.formats import LARGEST_SIDE_PX, ignore_decoder_warnings
from xraytune.data.index import ImageFile, ImageIndex, read_index
from xraytune.data.layout import holds_pairs
from xraytune.data.patients import PATIENTS_CSV
from xraytune.data.pixels import broken_images_error
from xraytune.errors import ConfigError, DataError, Problem
from xraytune.files import csv_table, new_folder, require_new, write_json, write_text
from xraytune.records import Progress, ignore_progress
from xraytune.seeding import numpy_generator

_ELASTIC_NODES = 6
"""Nodes of the lattice of displacements along the shorter side: deformations are about half a lung wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strengths:
    """Ranges of the random parameters, each drawn uniformly from [-strength, strength].

    Attributes:
        flip: Mirror half of the copies, left to right.
        rotate: Degrees, 0 to 180.
        shift: Share of width and height, 0 to 0.5.
        zoom: Share of the size, 0 to 0.5; 0.1 scales by 0.9 to 1.1.
        shear: Degrees along both axes, 0 to 45.
        contrast: Share, 0 to 0.9; 0.2 multiplies differences from the mean grey by 0.8 to 1.2.
        elastic: Root mean square displacement, in per cent of the shorter side, 0 to 5; drawn from [0, elastic].
    """

    flip: bool = True
    rotate: float = 10.0
    shift: float = 0.05
    zoom: float = 0.1
    shear: float = 5.0
    contrast: float = 0.2
    elastic: float = 1.0


_DEFAULT = Strengths()
_LARGEST = Strengths(rotate=180, shift=0.5, zoom=0.5, shear=45, contrast=0.9, elastic=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformParameters:
    """The random parameters of one copy: clockwise rotation, shifts as shares of the sides, factors of zoom and contrast."""

    flip: bool
    rotate_degrees: float
    shift_x: float
    shift_y: float
    zoom: float
    shear_x_degrees: float
    shear_y_degrees: float
    contrast: float
    elastic_percent: float
    elastic_seed: int


def sample_parameters(strengths: Strengths, file: str, copy: int, seed: int) -> TransformParameters:
    """Draw the parameters of a copy of `file` (a path below the data folder); copies are numbered from 1.

    Strengths only scale the draws: other strengths give the same transformation, weaker or stronger.
    """
    random = numpy_generator(seed, "transform", file, copy)
    flipped = bool(random.random() < 0.5)
    rotate, shift_x, shift_y, zoom, shear_x, shear_y, contrast = random.uniform(-1, 1, 7).tolist()
    return TransformParameters(
        flip=strengths.flip and flipped,
        rotate_degrees=strengths.rotate * rotate,
        shift_x=strengths.shift * shift_x,
        shift_y=strengths.shift * shift_y,
        zoom=1 + strengths.zoom * zoom,
        shear_x_degrees=strengths.shear * shear_x,
        shear_y_degrees=strengths.shear * shear_y,
        contrast=1 + strengths.contrast * contrast,
        elastic_percent=strengths.elastic * float(random.random()),
        elastic_seed=int(random.integers(2**32)),
    )


def transform_image(pixels: NDArray[np.uint8], drawn: TransformParameters) -> NDArray[np.uint8]:
    """Transform an image, uint8 [H, W]; areas from outside of it are black, before the contrast changes."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    height, width = pixels.shape
    image = torch.from_numpy(pixels.astype(np.float32))[None]
    if drawn.flip:
        image = functional.horizontal_flip(image)
    image = functional.affine(
        image,
        angle=drawn.rotate_degrees,
        translate=[drawn.shift_x * width, drawn.shift_y * height],
        scale=drawn.zoom,
        shear=[drawn.shear_x_degrees, drawn.shear_y_degrees],
        interpolation=InterpolationMode.BILINEAR,
    )
    if drawn.elastic_percent:
        image = functional.elastic(image, torch.from_numpy(_displacements(drawn, height, width)))
    moved: NDArray[np.float32] = image[0].numpy()
    # NumPy's sum in double precision does not depend on the number of threads.
    grey = moved.mean(dtype=np.float64)
    changed: NDArray[np.uint8] = np.clip(np.rint((moved - grey) * drawn.contrast + grey), 0, 255).astype(np.uint8)
    return changed


def _displacements(drawn: TransformParameters, height: int, width: int) -> NDArray[np.float32]:
    """Return a smooth random field with zero mean for torchvision's `elastic`, [1, H, W, 2], in units of half a side.

    Independent normal numbers on a coarse lattice, with bicubic interpolation. Source: Simard et al. 2003, "Best Practices
    for Convolutional Neural Networks Applied to Visual Document Analysis"; they smooth white noise by a Gaussian instead.
    """
    import torch
    from torch.nn.functional import interpolate

    shorter = min(height, width)
    lattice = (2, *(max(2, round(_ELASTIC_NODES * side / shorter)) for side in (height, width)))
    noise = np.random.default_rng(drawn.elastic_seed).standard_normal(lattice)
    smooth = interpolate(torch.from_numpy(noise)[None], size=(height, width), mode="bicubic", align_corners=True)
    field: NDArray[np.float64] = smooth[0].numpy()
    field = field - field.mean(axis=(1, 2), keepdims=True)
    root_mean_square = max(1e-9, float(np.sqrt((field**2).sum(axis=0).mean())))  # 0 for a single pixel
    pixels = field * (drawn.elastic_percent / 100 * shorter / root_mean_square)
    return np.stack([pixels[0] * 2 / width, pixels[1] * 2 / height], axis=-1)[None].astype(np.float32)


def strength_problems(strengths: Strengths) -> list[Problem]:
    """Return one problem for each strength out of bounds, or a single one if all transformations are off."""
    given, largest = asdict(strengths), asdict(_LARGEST)
    del given["flip"]
    problems = [
        Problem(f"{name} out of bounds: {value:g}", fix=f"give 0 to {largest[name]:g}")
        for name, value in given.items()
        if not 0 <= value <= largest[name]
    ]
    if not strengths.flip and not any(given.values()):
        fix = "raise one of them; for more of the same images, use source: duplicate"
        problems.append(Problem("every transformation is off", fix=fix))
    return problems


_PACKAGES = ("xraytune", "torch", "torchvision", "numpy", "pillow")
_MOST_COPIES = 100
_PNG_LEVEL = 3
"""The default of 6 takes four times as long, for a tenth less."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformSummary:
    """The result of `transform_folder`.

    `counts` is the number of copies of each class, made from `source_count` images; `sealed_count` test images and broken
    ones were skipped.
    """

    path: Path
    counts: dict[str, int]
    source_count: int
    patient_count: int
    sealed_count: int
    broken: tuple[BrokenImage, ...]
    warnings: tuple[str, ...]


def transform_folder(
    folder: Path | DataSettings,
    out: Path,
    strengths: Strengths = _DEFAULT,
    *,
    copies: int = 2,
    seed: int = 0,
    skip_broken: bool = False,
    on_progress: Progress = ignore_progress,
) -> TransformSummary:
    """Write transformed copies of every training image into a new folder.

    Args:
        folder: The data folder, or settings with its path, classes and the expression for patients.
        out: The new folder; it appears only when it is complete.
        strengths: Ranges of the random parameters.
        copies: Per image, 1 to 100; more copies begin with the same ones.
        seed: The same arguments give the same bytes.
        skip_broken: Skip broken images, and list them in the result.
        on_progress: Called after each image.

    Raises:
        ConfigError: Arguments out of bounds, all transformations off, or an `out` that exists or is inside the data folder.
        DataError: The data folder is invalid (see `read_index`), or images are broken.
    """
    settings = data_settings(folder, DataSettings(path=folder)) if isinstance(folder, Path) else folder
    _check_arguments(settings.path, out, strengths, copies)
    if settings.table is None and holds_pairs(settings.path):
        what = "these are pairs of images and masks, but only images with classes can be transformed"
        raise DataError(Problem(what, settings.path, "augment pairs while training instead: classical above 0"))
    index = read_index(settings, needs_positive=False, on_progress=on_progress)
    names = _names_without_number(index)
    import torchvision.transforms.v2  # noqa: F401  once, not in all threads at the same time

    ignore_decoder_warnings()
    broken: list[BrokenImage] = []
    originals: list[ImageFile] = []
    rows: list[dict[str, Any]] = []
    with new_folder(out) as folder:
        for name in index.class_names:
            (folder / name).mkdir()

        def copy(image: ImageFile) -> list[dict[str, Any]] | BrokenImage:
            """Write the copies of an image; return their provenance."""
            try:
                original = np.asarray(read_image(index.root / image.file, LARGEST_SIDE_PX).image)
            except DataError as error:
                return BrokenImage(file=image.file, reason=error.problems[0].what)
            source = {"source": image.file, "source_sha256": image.sha256, "patient": image.patient}
            made = []
            for number in range(1, copies + 1):
                file = f"{names[image.file]}__t{number}.png"
                drawn = sample_parameters(strengths, image.file, number, seed)
                Image.fromarray(transform_image(original, drawn)).save(folder / file, compress_level=_PNG_LEVEL)
                made.append({"file": file, **source, "drawn": asdict(drawn)})
            return made

        for done, (image, made) in enumerate(zip(index.images, map_on_cores(copy, index.images), strict=True), start=1):
            if isinstance(made, BrokenImage):
                broken.append(made)
            else:
                originals.append(image)
                rows += made
            on_progress("transforming images", done, len(index.images))
        if broken and (not skip_broken or not rows):
            raise broken_images_error(broken, index.root)
        patients = ((PurePosixPath(row["file"]), row["patient"]) for row in rows)
        write_text(folder / PATIENTS_CSV, csv_table(("file", "patient"), patients))
        arguments = {"seed": seed, "copies": copies, "strengths": asdict(strengths)}
        packages = {name: version(name) for name in _PACKAGES}
        write_json(folder / "provenance.json", {"version": 1, **arguments, "packages": packages, "images": rows})
    counts = Counter(image.label for image in originals)
    return TransformSummary(
        path=out,
        counts={name: copies * counts[label] for label, name in enumerate(index.class_names)},
        source_count=len(originals),
        patient_count=len({image.patient for image in originals}),
        sealed_count=len(index.test),
        broken=tuple(broken),
        warnings=index.warnings,
    )


def _names_without_number(index: ImageIndex) -> dict[str, str]:
    """Return a unique `CLASS/STEM` for each file of the index, valid on every file system."""
    stems = {image.file: PurePosixPath(image.file).stem for image in index.images}
    times = Counter((image.label, stems[image.file].casefold()) for image in index.images)
    names = {}
    for image in index.images:
        stem = stems[image.file]
        if times[image.label, stem.casefold()] > 1 or not _PLAIN_NAME.fullmatch(stem):
            plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem)[:80]
            stem = f"{plain}__{hashlib.sha256(image.file.encode()).hexdigest()[:12]}"
        names[image.file] = f"{index.class_names[image.label]}/{stem}"
    return names


def _check_arguments(data: Path, out: Path, strengths: Strengths, copies: int) -> None:
    require_new(out)
    problems = strength_problems(strengths)
    if out.resolve().is_relative_to(data.resolve()):
        what = "copies in the image folder would count as new images"
        problems.insert(0, Problem(what, out, "give a folder outside of it"))
    if not 1 <= copies <= _MOST_COPIES:
        problems.insert(0, Problem(f"copies out of bounds: {copies}", fix=f"give 1 to {_MOST_COPIES}"))
    if problems:
        raise ConfigError(*problems)
