"""`source: gan`: images of a GAN, trained once for all trials with its settings.

`source: generator` has images of a saved generator.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from xraytune.base.arrays import UInt8Array
from xraytune.base.artifacts import releases
from xraytune.base.errors import ConfigError, DataError, join_names
from xraytune.base.files import sha256_of
from xraytune.data.findings import in_order_of
from xraytune.data.image_set import ImageSet
from xraytune.data.prepare import RunContext, SplitData, side_image_set
from xraytune.space.settings import Settings
from xraytune.space.source_settings import GanSettings, GivenFolder
from xraytune.space.task_settings import TaskName
from xraytune.synth.gan import CHECKPOINT_FILE, train_generator
from xraytune.synth.generator_inputs import (
    GAN_PROGRESS,
    GAN_STAGE,
    NETWORK_FILE,
    inputs_of,
    with_features,
)
from xraytune.synth.saved_generator import (
    GENERATOR_FILE,
    MaskRange,
    generate_block,
    load_generator,
    read_generator,
    resize_images,
)
from xraytune.synth.sources.source import Source
from xraytune.synth.trained import train_once


class _Generated(Source):
    """Images of a generator, which may have been given."""

    def seen_images_sha256(self) -> frozenset[str]:
        """Return the training images of the given generator."""
        donor = self.parameters.donor
        return frozenset(read_generator(donor).train_images) if donor else frozenset()


class Gan(_Generated):
    """Images of a GAN that the trials train, at the GAN's size."""

    colour = "#2288cc"
    settings: GanSettings

    def trained(self, settings: Settings, context: RunContext) -> Path:
        """Return the artifact of the trained GAN."""
        return trained_generator(with_features(self.settings, settings.weights_dir), context)

    def block(self, settings: Settings, context: RunContext, label: int, number: int) -> ImageSet:
        """Return a block that the trained GAN makes."""
        gan = self.settings
        prepared = context.prepared
        generator = self.trained(settings, context)
        inputs = {"generator": generator.name, "label": label, "block": number, "seed": gan.seed}
        findings = self.block_findings(prepared, number, gan.seed)
        if findings is not None and self.parameters.balance == "equal":
            inputs["balance"] = "equal"

        def generate() -> UInt8Array:
            return generate_block(
                generator / NETWORK_FILE,
                label,
                number,
                seed=gan.seed,
                compute=context.compute,
                typical=typical_masks(gan, prepared, context.cache),
                findings=findings,
            )

        return self.store_block(context, inputs, generate, findings)


def trained_generator(settings: GanSettings, context: RunContext) -> Path:
    """Return the artifact of a generator, and train the generator first if the artifact is missing.

    The artifact has the files `generator.safetensors` and `checkpoint.pt`; see `train_generator`.
    """
    prepared = context.prepared
    inputs = inputs_of(settings, prepared, context.compute)

    def train(folder: Path) -> None:
        if not (folder / CHECKPOINT_FILE).exists():
            context.on_progress(GAN_PROGRESS, 0, settings.steps)  # the pace is known sooner
        images = side_image_set("train", prepared, context.cache)
        for step in train_generator(
            settings,
            images.read_channels(),
            images.targets,
            len(inputs["class_names"]),
            compute=context.compute,
            folder=folder,
        ):
            context.on_progress(GAN_PROGRESS, step, settings.steps)

    waits_for = "waiting for the GAN, which another process trains (steps)"
    waiting = partial(context.on_progress, waits_for, 0, settings.steps)
    return train_once(context.cache, GAN_STAGE, inputs, train, waiting=waiting)


def typical_masks(settings: GanSettings, prepared: SplitData, cache: Path) -> MaskRange | None:
    """Return the ranges of the training masks at the generator's size, or None without masks."""
    train = side_image_set("train", prepared, cache)
    if train.masks is None:
        return None
    return MaskRange.of(resize_images(train.read_channels(), settings.image_size)[:, 1])


class GivenGenerator(_Generated):
    """Images of a saved generator; larger ones are reduced to the study's size."""

    colour = "#d55e00"
    settings: GivenFolder

    def block(self, settings: Settings, context: RunContext, label: int, number: int) -> ImageSet:
        """Return a block that the generator makes."""
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
        findings = self.block_findings(prepared, number, settings.seed)
        learnt = None
        if findings is not None:
            learnt = in_order_of(saved.findings, prepared.outputs, findings)
            inputs["findings"] = learnt.tolist()

        def generate() -> UInt8Array:
            generated = generate_block(
                self.settings.path / NETWORK_FILE,
                [*saved.class_counts].index(name),
                number,
                seed=settings.seed,
                compute=compute,
                typical=saved.masks,
                findings=learnt,
            )
            return resize_images(generated, min(prepared.image_size_px, saved.settings.image_size))

        return self.store_block(context, inputs, generate, findings)


OF_NETWORK = ("architecture", "image_size", "z_dim", "width")
"""The settings that a GAN shares with the generator that it starts from."""


def require_same_network(settings: GanSettings) -> None:
    """Refuse (ConfigError) to start from a generator with another network."""
    if settings.start_from is None:
        return
    saved = read_generator(settings.start_from).settings
    saved_values = {name: getattr(saved, name) for name in OF_NETWORK}
    changes = [
        f"gan.{name}: {value}"
        for name, value in saved_values.items()
        if getattr(settings, name) != value
    ]
    generator = load_generator(settings.start_from / NETWORK_FILE)
    keeps_features = bool(generator.prior and generator.prior.keeps_features(generator.channels))
    if keeps_features != (settings.features is not None):
        changes.append(f"gan.features: {'imagenet' if keeps_features else 'null'}")
    if changes:
        raise ConfigError(
            f"gan.start_from: {settings.start_from} has a network of other settings",
            fix=f"write {' and '.join(changes)}",
        )


def usable_generator_hash(folder: Path, prepared: SplitData, *, is_start: bool) -> str:
    """Return the SHA-256 of the record of a generator.

    Raises DataError if the generator cannot make the study's images. A network that training starts
    from must have learnt the same classes or findings in the same order.
    """
    saved = read_generator(folder)
    names = prepared.outputs
    learnt_names = saved.outputs
    fits = learnt_names == names if is_start else {*names} <= {*learnt_names}
    if not fits or saved.task != prepared.task:
        makes = _describe_images(learnt_names, saved.task)
        needed = _describe_images(names, prepared.task)
        what = f"this GAN makes images of {makes}, but the study's are of {needed}"
        fix = "train one on images that are labelled like the study's"
        if is_start:
            fix += ", in the same order"
        raise DataError(what, folder, fix)
    return sha256_of(folder / GENERATOR_FILE)


def _describe_images(names: Sequence[str], task: TaskName) -> str:
    return f"{join_names(names)}{', with masks' if task == 'segmentation' else ''}"
