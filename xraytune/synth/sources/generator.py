"""`source: generator`: images of a generator trained before, here or in another hospital."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraytune.base.artifacts import releases
from xraytune.base.errors import DataError, Problem, join_names
from xraytune.base.files import sha256_of
from xraytune.base.records import Compute
from xraytune.data.findings import in_order_of
from xraytune.data.images import ImageIndex
from xraytune.data.prepare import ImageSource, Prepared, RunContext
from xraytune.space.settings import Settings
from xraytune.synth.saved_generator import (
    GENERATOR_FILE,
    NETWORK_FILE,
    SavedGenerator,
    read_generator,
)
from xraytune.synth.sources.source import Images, Source, choose_block_findings


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
    def read_input(
        cls,
        setting: str,
        path: Path,
        settings: Settings,
        prepared: Prepared,
        cache: Path,
        index: ImageIndex | None,
    ) -> str:
        """Return the SHA-256 of the record of the generator, which makes the study's images."""
        return usable_generator(path, prepared, is_start=False)

    def block(
        self, settings: Settings, context: RunContext, label: int, number: int
    ) -> ImageSource:
        """Return a block that the generator draws."""
        prepared = context.prepared
        compute = context.compute
        size_px = prepared.image_size_px
        saved = read_generator(self._path)
        name = prepared.class_names[label]
        findings = choose_block_findings(prepared, number, settings.seed, self.parameters.balance)
        inputs = {
            "files": saved.generators,
            "compute": [compute.device, compute.threads, compute.precision],
            "releases": releases("torch"),
            "size_px": size_px,
            "class": name,
            "label": label,
            "block": number,
            "seed": settings.seed,
        }
        learnt = None
        if findings is not None:
            learnt = in_order_of(saved.findings, prepared.findings, findings)
            inputs["findings"] = learnt.tolist()

        def draw() -> Images:
            from xraytune.synth.train import resize_planes  # loads torch

            pixels, masks = draw_saved(
                self._path,
                saved,
                name,
                number,
                seed=settings.seed,
                compute=compute,
                findings=learnt,
            )
            planes = resize_planes(pixels, masks, min(size_px, saved.settings.image_size))
            return Images(planes[:, 0], planes[:, 1] if prepared.has_masks else None)

        return self.store_block(context, inputs, draw, findings)


def draw_saved(
    folder: Path,
    saved: SavedGenerator,
    class_name: str,
    block: int,
    *,
    seed: int,
    compute: Compute,
    findings: NDArray[np.int64] | None = None,
) -> Images:
    """Draw a block of a class, or of findings [256, C] in the generator's order.

    See `draw_block`.
    """
    from xraytune.synth.checkpoint import load_generator  # loads torch
    from xraytune.synth.pool import draw_block

    network = load_generator(folder / NETWORK_FILE)
    return draw_block(
        network.to(compute.device),
        [*saved.class_counts].index(class_name),
        block,
        seed=seed,
        compute=compute,
        typical=saved.masks,
        findings=findings,
    )


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
