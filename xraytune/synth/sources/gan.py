"""`source: gan`: images of a GAN, trained once for all trials with its settings."""

from __future__ import annotations

from pathlib import Path

from xraytune.data.images import ImageIndex
from xraytune.data.prepare import ImageSource, Prepared, RunContext, side_images
from xraytune.space.settings import GanSettings, Settings
from xraytune.synth.masks import MaskRange, binarise, mask_range
from xraytune.synth.saved_generator import NETWORK_FILE, read_generator
from xraytune.synth.sources.generator import usable_generator
from xraytune.synth.sources.source import Images, Source, choose_block_findings, file_content


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

    @property
    def details(self) -> str:
        """The steps of the GAN."""
        return f"({self.settings.steps} steps)"

    @property
    def place(self) -> str:
        """The GAN that an error is about."""
        gan = self.settings
        size = f"{gan.steps} steps, {gan.image_size} px, width {gan.width}"
        return f"gan of {size}, seed {gan.seed}"

    def seen_images(self) -> frozenset[str]:
        """Return the images that the generator has seen from which training starts."""
        start = self.settings.start_from
        return frozenset(read_generator(start).train_images) if start else frozenset()

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
        """Return the SHA-256 of the generator to start from, or of the weights of `features`."""
        if setting == "start_from":
            return usable_generator(path, prepared, is_start=True)
        return file_content(path)

    def train(self, context: RunContext) -> None:
        """Train the GAN, unless the cache has it."""
        from xraytune.synth.synthesize import trained_generator  # loads torch

        trained_generator(self.settings, context)

    def block(
        self, settings: Settings, context: RunContext, label: int, number: int
    ) -> ImageSource:
        """Return a block that the trained GAN draws."""
        from xraytune.synth.checkpoint import load_generator
        from xraytune.synth.pool import draw_block
        from xraytune.synth.synthesize import trained_generator

        gan = self.settings
        prepared = context.prepared
        balance = self.parameters.balance
        generator = trained_generator(gan, context)
        inputs = {"generator": generator.name, "label": label, "block": number, "seed": gan.seed}
        findings = choose_block_findings(prepared, number, gan.seed, balance)
        if findings is not None and balance == "equal":
            inputs["balance"] = balance

        def draw() -> Images:
            network = load_generator(generator / NETWORK_FILE)
            return draw_block(
                network.to(context.compute.device),
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
    from xraytune.synth.train import resize_pixels

    masks = side_images("train", prepared, cache).read_masks()
    return mask_range(binarise(resize_pixels(masks, settings.image_size)))
