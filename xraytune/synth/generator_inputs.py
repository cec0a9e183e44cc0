"""What a trained generator depends on, and whether it is in the cache.

Ray's process asks this of each trial, so this file does not import torch, which takes seconds,
unless it has to look for official weights.
"""

from pathlib import Path
from typing import Any, TypeAlias

from xraytune.base.artifacts import artifact_path, fingerprint, is_intact, releases
from xraytune.base.files import sha256_of
from xraytune.base.records import Compute, frozen
from xraytune.base.seeding import derive_seed
from xraytune.data.prepare import SplitData
from xraytune.space.domains import Value
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment, Settings
from xraytune.space.source_settings import GanSettings

NETWORK_FILE = "generator.safetensors"
GAN_STAGE = "gan-1"
"""The stage of the artifacts of GANs."""
EXTENSION_STAGE = "extension-1"
GAN_PROGRESS = "training the GAN (steps)"
"""The name of a training in progress reports."""
FEATURE_BACKBONE = "mobilenet_v2"
"""The backbone of `gan.features`."""


@frozen
class ExtensionTraining:
    """A generator of an extension: its name, its settings, and the seed of its training."""

    name: str
    settings: tuple[tuple[str, Value], ...]
    seed: int

    @property
    def length(self) -> float:
        """The setting by which trainings of one generator differ in length, or 0."""
        length = dict(self.settings).get(EXTENSIONS.declared[self.name].longer_by)
        return length if isinstance(length, int | float) else 0


Training: TypeAlias = GanSettings | ExtensionTraining
"""A generator that a trial trains; for a GAN, its settings name the file of `features`."""


def with_features(gan: GanSettings, weights_dir: Path | None) -> GanSettings:
    """Return the settings with the file that `features: imagenet` stands for.

    So the word and the path of the same file give the same generator.

    Raises MachineError if the file cannot be found or downloaded; see `find_weights`.
    """
    if gan.features != "imagenet":
        return gan
    from xraytune.nets.backbones import find_weights

    alternative = "gan.features: null"
    file = find_weights(FEATURE_BACKBONE, "imagenet", weights_dir, without_weights=alternative)
    return gan.model_copy(update={"features": file})


def training_of(experiment: Experiment) -> Training | None:
    """Return the generator that a trial trains; None if it trains none.

    The errors are those of `with_features`.
    """
    parameters = experiment.parameters
    settings = experiment.settings
    if parameters.gan:
        return with_features(parameters.gan, settings.weights_dir)
    return extension_training(parameters, settings) if parameters.trains_generator else None


def extension_training(parameters: Parameters, settings: Settings) -> ExtensionTraining:
    """Return the generator of a trial whose source is an extension."""
    return ExtensionTraining(
        name=parameters.source,
        settings=tuple(parameters.settings_of(parameters.source).items()),
        seed=derive_seed(settings.seed, "extension", parameters.source) % 2**31,
    )


def inputs_of(training: Training, prepared: SplitData, compute: Compute) -> dict[str, Any]:
    """Return everything that a trained generator depends on.

    The settings of a GAN must name the file of `features`; see `with_features`.
    """
    inputs: dict[str, Any] = {
        "train": prepared.train_fingerprint,
        "pixels_sha256": prepared.pixels_sha256,
        "image_size_px": prepared.image_size_px,
        "compute": [compute.device, compute.threads, compute.precision],
    }
    names = [*prepared.outputs]
    if isinstance(training, ExtensionTraining):
        extension = EXTENSIONS.declared[training.name]
        return inputs | {
            "extension": extension.identity,
            "releases": extension.releases,
            "longer_by": extension.longer_by,
            "settings": dict(training.settings),
            "seed": training.seed,
            "outputs": names,
        }
    if len(prepared.findings) == 1:  # a network of a single class ignores the class
        names.append(f"no {names[0]}")
    inputs |= {
        "settings": training.model_dump(exclude={"start_from", "features"}),
        "makes_masks": prepared.has_masks,
        "class_names": names,
        "releases": releases("torch"),
    }
    if training.start_from:
        inputs["start"] = sha256_of(training.start_from / NETWORK_FILE)
    if training.features:
        inputs["features"] = sha256_of(Path(training.features))
    return inputs


def lineage_to_train(
    training: Training | None,
    draw: int | None,
    size_px: int,
    prepared: SplitData,
    compute: Compute,
    cache: Path,
) -> str | None:
    """Return the lineage of the generator that a trial must train first.

    Returns None if no generator is needed or the cache has it. `draw` is as in `Experiment`, and
    `size_px` is the side of the study's images. Runs of one lineage differ only in their length, so
    that one can start from another.
    """
    if training is None:
        return None
    stage = GAN_STAGE if isinstance(training, GanSettings) else EXTENSION_STAGE
    inputs = inputs_of(training, prepared.sizes[size_px].of_draw(draw), compute)
    if is_intact(artifact_path(cache, stage, inputs)):
        return None
    return fingerprint(stage, without_length(inputs))


def without_length(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs that all runs of a lineage have in common."""
    longer_by = inputs.get("longer_by", "steps")
    return {**inputs, "settings": {**inputs["settings"], longer_by: None}}


def length_of(inputs: dict[str, Any]) -> float:
    """Return the length of a run, such as its number of steps."""
    length: float = inputs["settings"].get(inputs.get("longer_by", "steps"), 0)
    return length
