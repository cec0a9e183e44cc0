"""A saved generator: its record, its network, its plausible masks, and the images that it makes.

The record is in a folder that `xraytune generator train` wrote. Images come in numbered
blocks of 256, with masks in segmentation. A block depends only on the generator, the pool's seed,
its class and its number. So a larger pool starts with the images of a smaller one, and half the
synthetic ratio uses the first half of the images. Pairs with implausible masks are replaced from
further rounds, each with its own random numbers.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors import safe_open
from torch.nn import functional as F

from xraytune.base.arrays import Float64Array, Int64Array, UInt8Array
from xraytune.base.errors import ArtifactError, TrialError
from xraytune.base.files import read_json, sha256_of
from xraytune.base.records import Compute, frozen
from xraytune.base.seeding import derive_seed
from xraytune.base.tensors import explain_unreadable, save_state
from xraytune.nets.compute import autocast
from xraytune.space.data_settings import ClassName
from xraytune.space.source_settings import GanSettings
from xraytune.space.task_settings import TaskName
from xraytune.synth.gan_networks import Generator
from xraytune.synth.sources.source import BLOCK

GENERATOR_FILE = "generator.json"
_MIN_PART = 0.002
"""Smallest component that counts, as a share of the image: 8 pixels of 64 x 64.

Smaller components are specks at a mask's edge.
"""
_MIN_KEPT = 0.25
"""The smallest share of plausible masks allowed in the first round of a block."""
_RESIZE_BATCH = 256
_Record = TypeVar("_Record")


@frozen
class MaskRange:
    """The smallest and largest values of some masks.

    Attributes:
        area: Shares of the image.
        parts: Numbers of connected components of at least `_MIN_PART` of the image.
    """

    area: tuple[float, float]
    parts: tuple[int, int]

    @classmethod
    def of(cls, masks: UInt8Array) -> MaskRange:
        """Return the ranges of training masks [n, S, S], n >= 1, at the size of the GAN."""
        areas, parts = _measure(masks)
        return cls(
            area=(float(areas.min()), float(areas.max())),
            parts=(int(parts.min()), int(parts.max())),
        )

    def includes(self, masks: UInt8Array) -> NDArray[np.bool_]:
        """Return whether area and components of each mask [n, S, S] are in range, bool [n]."""
        is_typical = np.ones(len(masks), dtype=np.bool_)
        for values, (least, most) in zip(_measure(masks), (self.area, self.parts), strict=True):
            is_typical &= (least <= values) & (values <= most)
        return is_typical

    def __str__(self) -> str:
        """Describe the ranges: "18.5 to 45.8 % of the image, 2 to 3 components"."""
        smallest, largest = self.area
        fewest, most = self.parts
        area = f"{100 * smallest:.3g} to {100 * largest:.3g} % of the image"
        return f"{area}, {fewest} to {most} components"


def _measure(masks: UInt8Array) -> tuple[Float64Array, Int64Array]:
    """Return the area and the number of components of each mask [n, S, S].

    Pixels that touch only at a corner are not connected.
    """
    from scipy.ndimage import label as label_components  # type: ignore[import-untyped]  # slow

    areas = (masks > 0).mean(axis=(1, 2))
    sizes = [np.bincount(label_components(mask)[0].ravel())[1:] for mask in masks]
    parts = [int((of_mask >= _MIN_PART * masks[0].size).sum()) for of_mask in sizes]
    return areas, np.array(parts, dtype=np.int64)


@frozen
class SavedGenerator:
    """The content of `generator.json`.

    Of the training images, it holds only hashes, neither names nor patients. `generators` has the
    SHA-256 of each file, and `masks` the ranges of plausible masks. `train_images` includes the
    images of the generator that training started from. `findings` are in the order that the network
    has learnt; `findings_counts` has the number of training images with each combination of
    findings, such as `10?`. `report` is a `PoolReport`, or its JSON if the record was read.
    """

    version: Literal[1] = 1
    settings: GanSettings
    class_counts: dict[ClassName, int]
    findings: tuple[str, ...]
    findings_counts: dict[str, int]
    train_fingerprint: str
    train_images: list[str]
    generators: dict[str, str]
    compute: Compute
    packages: dict[str, str]
    masks: MaskRange | None
    report: Any

    @property
    def outputs(self) -> tuple[str, ...]:
        """The findings or classes that the network has learnt."""
        return self.findings or (*self.class_counts,)

    @property
    def task(self) -> TaskName:
        """The task that the images are for."""
        if self.masks is not None:
            return "segmentation"
        return "findings" if self.findings else "classification"


def read_generator(folder: Path) -> SavedGenerator:
    """Read the record of a generator.

    Raise ArtifactError if there is none, or a file is missing or damaged.
    """
    return read_record(folder / GENERATOR_FILE, SavedGenerator, "generators")


def read_record(file: Path, kind: type[_Record], hashes: str) -> _Record:
    """Return a record; its field `hashes` has the SHA-256 of the file of tensors beside it.

    Raise ArtifactError if the record or the file of tensors is missing or damaged.
    """
    fix = "give a folder that `xraytune generator train` wrote, or copy it again"
    tensors = file.with_suffix(".safetensors")
    if not file.is_file():
        raise ArtifactError(f"there is no {file.name} here", file.parent, fix)
    try:
        record = TypeAdapter(kind).validate_python(read_json(file))
    except ValueError as error:
        raise ArtifactError("the record is damaged, or from another version", file, fix) from error
    if not tensors.is_file() or sha256_of(tensors) != getattr(record, hashes).get(tensors.name):
        raise ArtifactError("the file is missing or damaged", tensors, fix)
    return record


def save_generator(generator: Generator, path: Path) -> None:
    """Write a generator as safetensors.

    The metadata holds what `load_generator` needs to rebuild it.
    """
    metadata = {
        "kind": "gan",
        "settings": generator.settings.model_dump_json(exclude={"start_from", "features"}),
        "class_count": generator.class_count,
        "channels": generator.channels,
    }
    # One entry: their order is random.
    save_state(generator.state_dict(), path, {"generator": json.dumps(metadata)})


def load_generator(path: Path) -> Generator:
    """Load a generator from its safetensors file, in evaluation mode, on the CPU."""
    with explain_unreadable("cannot read this generator", path, "train the generator again"):
        with safe_open(path, framework="pt") as file:
            description = json.loads(file.metadata()["generator"])
            weights = {name: file.get_tensor(name) for name in file.keys()}
        settings = GanSettings.model_validate_json(description["settings"])
        with torch.random.fork_rng(devices=[]):
            generator = Generator(settings, description["class_count"], description["channels"])
        generator.load_state_dict(weights)
    return generator.eval().requires_grad_(False)


def generate_block(
    file: Path,
    label: int,
    block: int,
    *,
    seed: int,
    compute: Compute,
    typical: MaskRange | None = None,
    findings: Int64Array | None = None,
) -> UInt8Array:
    """Generate a block of class `label` from a saved generator, uint8 [256, C, S, S].

    If `typical` is given, rounds of 256 images are made until 256 have plausible masks. If
    `findings`, int64 [256, C], are given, images are made for them and not for a class. The label
    also seeds the noise, so two unconditional generators give different images.

    Raises:
        TrialError: In the first round, too few masks are plausible.
    """
    generator = load_generator(file).to(compute.device)
    labels = torch.full((BLOCK,), label) if findings is None else torch.from_numpy(findings)
    accepted = []
    for number in count():
        purpose = ("pool", label, block, *(("round", number) if number else ()))
        # The noise is sampled on the CPU, so that it is the same for every device.
        random = torch.Generator().manual_seed(derive_seed(seed, *purpose))
        z = torch.randn(BLOCK, generator.settings.z_dim, generator=random)
        with torch.inference_mode(), autocast(compute):
            outputs = generator(z.to(compute.device), labels.to(compute.device)).float()
            pixels = ((outputs + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        images = with_binary_masks(pixels.cpu().numpy())
        if typical is not None:
            images = images[typical.includes(images[:, 1])]
        if number == 0 and len(images) < _MIN_KEPT * BLOCK:
            raise TrialError(
                f"only {len(images)} of the GAN's first {BLOCK} masks are plausible, fewer than "
                f"{100 * _MIN_KEPT:.0f} %: area and number of components must be as in the "
                f"training masks ({typical})",
                fix="train more steps (gan.steps)",
            )
        accepted.append(images)
        if sum(map(len, accepted)) >= BLOCK:
            break
    return np.concatenate(accepted)[:BLOCK]


def resize_images(images: UInt8Array, size_px: int) -> UInt8Array:
    """Resize images [N, C, h, w] with antialiasing; the second channel is a mask of 0 and 255.

    They are resized in batches, since they may be memory-mapped.
    """
    resized = np.empty((*images.shape[:2], size_px, size_px), dtype=np.uint8)
    for start in range(0, len(images), _RESIZE_BATCH):
        batch = slice(start, start + _RESIZE_BATCH)
        pixels = torch.from_numpy(np.array(images[batch])).float()
        small = F.interpolate(
            pixels.flatten(0, 1)[:, None],
            size=(size_px, size_px),
            mode="bilinear",
            antialias=True,
        )
        whole = small.round().clamp(0, 255).to(torch.uint8).numpy()
        resized[batch] = whole.reshape(resized[batch].shape)
    return with_binary_masks(resized)


def with_binary_masks(images: UInt8Array) -> UInt8Array:
    """Return images [N, C, S, S] after making their masks, the second channel, 0 and 255."""
    images[:, 1:] = np.where(images[:, 1:] >= 128, 255, 0)
    return images
