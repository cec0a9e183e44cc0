"""`source: gan`: images of a GAN, trained once for all trials with its settings.

`source: generator`: of a saved one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xraytune.base.arrays import UInt8Array
from xraytune.base.artifacts import releases
from xraytune.base.errors import DataError, Problem, join_names
from xraytune.base.files import sha256_of
from xraytune.data.findings import in_order_of
from xraytune.data.prepare import ImageSource, Prepared, RunContext, side_images
from xraytune.space.settings import GanSettings, Settings
from xraytune.synth.masks import MaskRange, mask_range
from xraytune.synth.saved_generator import (
    GENERATOR_FILE,
    NETWORK_FILE,
    read_generator,
)
from xraytune.synth.sources.source import Source, StudyImages, choose_findings, file_content


class Gan(Source):
    """Images of a GAN of these trials, at its size."""

    name = "gan"
    colour = "#2288cc"
    noun = "GAN"
    remedy = "train fewer steps (gan.steps), add real images"

    @property
    def settings(self) -> GanSettings:
        """The settings of the GAN."""
        assert self.parameters.gan is not None, "source: gan has settings"
        return self.parameters.gan

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
        from xraytune.synth.pool import draw_block  # loads torch
        from xraytune.synth.synthesize import trained_generator

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
    from xraytune.synth.pool import resize_planes  # loads torch

    train = side_images("train", prepared, cache)
    planes = train.planes(np.arange(len(train.rows)))
    return mask_range(resize_planes(planes, settings.image_size)[:, 1])


class GivenGenerator(Source):
    """Images of a saved generator; larger ones are reduced to the study's size."""

    name = "generator"
    colour = "#d55e00"
    noun = "GAN"

    @property
    def _path(self) -> Path:
        assert self.parameters.generator is not None, "source: generator has a path"
        return self.parameters.generator.path

    def seen_images(self) -> frozenset[str]:
        """Return the training images of the generator."""
        return frozenset(read_generator(self._path).train_images)

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
        saved = read_generator(self._path)
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
            from xraytune.synth.pool import draw_block, resize_planes  # loads torch

            planes = draw_block(
                self._path / NETWORK_FILE,
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
    is_alike = bool(saved.findings) == bool(prepared.findings)
    missing = [name for name in names if not (is_alike and name in known)]
    if missing or prepared.has_masks != (saved.masks is not None):
        lack = missing[0] if missing else "masks" if prepared.has_masks else "images without masks"
        what = f"this GAN makes images of {join_names(known)}, but not {lack}"
        fix = "train one on images that are labelled like the study's"
        raise DataError(Problem(what, folder, fix))
    if is_start and known != names:
        what = f"training on {join_names(names)} cannot start from a GAN of {join_names(known)}"
        raise DataError(Problem(what, folder, "use one of the same, in the same order"))
    return sha256_of(folder / GENERATOR_FILE)
