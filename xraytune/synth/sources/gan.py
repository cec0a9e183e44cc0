"""`source: gan`: images of a GAN, trained once for all trials with its settings.

`source: generator`: of a saved one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xraytune.base.arrays import UInt8Array
from xraytune.base.artifacts import releases
from xraytune.base.errors import DataError, join_names
from xraytune.base.files import sha256_of
from xraytune.data.findings import in_order_of
from xraytune.data.prepare import ImageSource, Prepared, RunContext, side_images
from xraytune.space.settings import GanSettings, GivenFolder, Settings
from xraytune.synth.saved_generator import (
    GENERATOR_FILE,
    NETWORK_FILE,
    MaskRange,
    draw_block,
    mask_range,
    read_generator,
    resize_planes,
)
from xraytune.synth.sources.source import Source, StudyImages, choose_findings, file_content
from xraytune.synth.synthesize import trained_generator


class Gan(Source):
    """Images of a GAN of these trials, at its size."""

    name = "gan"
    colour = "#2288cc"
    settings: GanSettings

    def seen_images(self) -> frozenset[str]:
        """Return the images that the generator has seen from which training starts."""
        start = self.settings.start_from
        return frozenset(read_generator(start).train_images) if start else frozenset()

    @classmethod
    def read_input(cls, setting: str, path: Path, study: StudyImages) -> str:
        """Return the SHA-256 of the generator to start from, or of the weights of `features`."""
        if setting == "start_from":
            return usable_generator(path, study.prepared, is_start=True)
        return file_content(path)

    def block(
        self, settings: Settings, context: RunContext, label: int, number: int
    ) -> ImageSource:
        """Return a block that the trained GAN draws."""
        gan = self.settings
        prepared = context.prepared
        generator = trained_generator(gan, context)
        inputs = {"generator": generator.name, "label": label, "block": number, "seed": gan.seed}
        findings = None
        if prepared.findings:
            balance = self.parameters.balance
            findings = choose_findings(prepared.side("train").targets, number, gan.seed, balance)
            if balance == "equal":
                inputs["balance"] = balance

        def draw() -> UInt8Array:
            return draw_block(
                generator / NETWORK_FILE,
                label,
                number,
                seed=gan.seed,
                compute=context.compute,
                typical=typical_masks(gan, prepared, context.cache),
                findings=findings,
            )

        return self.store_block(context, inputs, draw, findings)


def typical_masks(settings: GanSettings, prepared: Prepared, cache: Path) -> MaskRange | None:
    """Return the ranges of the training masks at the generator's size; None without masks."""
    if not prepared.has_masks:
        return None
    train = side_images("train", prepared, cache)
    planes = train.planes(np.arange(len(train.rows)))
    return mask_range(resize_planes(planes, settings.image_size)[:, 1])


class GivenGenerator(Source):
    """Images of a saved generator; larger ones are reduced to the study's size."""

    name = "generator"
    colour = "#d55e00"
    settings: GivenFolder

    def seen_images(self) -> frozenset[str]:
        """Return the training images of the generator."""
        return frozenset(read_generator(self.settings.path).train_images)

    @classmethod
    def read_input(cls, setting: str, path: Path, study: StudyImages) -> str:
        """Return the SHA-256 of the record of the generator, which makes the study's images."""
        return usable_generator(path, study.prepared, is_start=False)

    def block(
        self, settings: Settings, context: RunContext, label: int, number: int
    ) -> ImageSource:
        """Return a block that the generator draws."""
        prepared = context.prepared
        compute = context.compute
        saved = read_generator(self.settings.path)
        name = prepared.class_names[label]
        inputs = {
            "files": saved.generators,
            "compute": [compute.device, compute.threads, compute.precision],
            "releases": releases("torch"),
            "size_px": prepared.image_size_px,
            "class": name,
            "label": label,
            "block": number,
            "seed": settings.seed,
        }
        findings = learnt = None
        if prepared.findings:
            train = prepared.side("train").targets
            findings = choose_findings(train, number, settings.seed, self.parameters.balance)
            learnt = in_order_of(saved.findings, prepared.findings, findings)
            inputs["findings"] = learnt.tolist()

        def draw() -> UInt8Array:
            planes = draw_block(
                self.settings.path / NETWORK_FILE,
                [*saved.class_counts].index(name),
                number,
                seed=settings.seed,
                compute=compute,
                typical=saved.masks,
                findings=learnt,
            )
            return resize_planes(planes, min(prepared.image_size_px, saved.settings.image_size))

        return self.store_block(context, inputs, draw, findings)


def usable_generator(folder: Path, prepared: Prepared, *, is_start: bool) -> str:
    """Return the SHA-256 of the record of a generator.

    Raises DataError if it cannot make the study's images. A network that training starts from must
    have learnt the same classes or findings in the same order.
    """
    saved = read_generator(folder)
    names = prepared.outputs
    known = saved.findings or (*saved.class_counts,)
    has_masks = saved.masks is not None
    fits = known == names if is_start else {*names} <= {*known}
    is_alike = bool(saved.findings) == bool(prepared.findings)
    if not fits or not is_alike or has_masks != prepared.has_masks:
        makes = f"{join_names(known)}{', with masks' if has_masks else ''}"
        needed = f"{join_names(names)}{', with masks' if prepared.has_masks else ''}"
        what = f"this GAN makes images of {makes}, but the study's are of {needed}"
        fix = "train one on images that are labelled like the study's"
        if is_start:
            fix += ", in the same order"
        raise DataError(what, folder, fix)
    return sha256_of(folder / GENERATOR_FILE)
