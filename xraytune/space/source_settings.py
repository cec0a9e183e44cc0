"""Settings of a source of extra images: a GAN, a saved generator, a folder."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat

from xraytune.space.contract import refuses
from xraytune.space.paths import FilePath
from xraytune.space.strict_model import StrictModel


class GanSettings(StrictModel):
    """A GAN. The defaults suit a few hundred images."""

    architecture: Literal["dcgan", "pca"] = "pca"
    """`dcgan`: as published, with noise as latent codes, batch norm and binary cross-entropy.
    `pca`: latent codes are principal components of training images, which it also learns to
    reconstruct; spectral norm, a hinge loss, shifts of all images that the discriminator sees, and
    an average of the generator's weights. See docs/generators.md."""
    image_size: Literal[32, 64, 128, 256] = 64
    steps: NonNegativeInt = 10_000
    batch_size: Annotated[int, Field(ge=2, le=4096)] = 16
    features: Literal["imagenet"] | FilePath | None = None
    """ImageNet weights of a MobileNetV2, whose features generated images then keep, too: for a
    generator that is to help a classifier of other patients. `imagenet` is the official file, as
    for a backbone. Half of the components are then those of the features, so `z_dim` should be
    128."""
    z_dim: Annotated[int, Field(ge=1, le=512)] = 64
    """Size of the latent code; with `architecture: pca`, the number of principal components."""
    width: Annotated[int, Field(ge=4, le=512)] = 64
    """Feature maps of the generator's last and of the discriminator's first layer."""
    lr_g: PositiveFloat = 6e-4
    lr_d: PositiveFloat = 1e-3
    """Suits `pca`; with `dcgan`, use 2e-4 for both networks."""
    start_from: FilePath | None = None
    """A folder from `xraytune generator train` whose weights training starts from; with it,
    `steps` may be 0."""
    seed: int = 0

    @property
    def length(self) -> float:
        """The setting by which trainings of one generator differ in length."""
        return self.steps

    @property
    def lineage(self) -> Self:
        """All settings but the length: a longer run continues a shorter one of its lineage."""
        return self.model_copy(update={"steps": 0})


@refuses("gan.steps", "gan.start_from", instead=1000)
def _train_gan(steps: int | None, start_from: str | None) -> bool:
    """An untrained generator makes noise."""
    return steps == 0 and start_from is None


@refuses("gan.architecture", "gan.features", instead="pca")
def _reconstruct_features(architecture: str | None, features: str | None) -> bool:
    """Features are those of reconstructed images, which only `pca` makes."""
    return features is not None and architecture != "pca"


@refuses("gan.z_dim", "gan.features", instead=128)
def _halve_components(z_dim: int | None, features: str | None) -> bool:
    """Half of the components are those of the features, so their number is even."""
    return features is not None and z_dim is not None and z_dim % 2 == 1


class FolderSettings(StrictModel):
    """Extra images from a folder with one subfolder per class.

    With findings, they are those of a table, whose data file (YAML) is given.
    """

    path: FilePath
    seen: FilePath | None = None
    """Folder of the images that the extra ones were made from, or a text file with the SHA-256 of
    one per line; null: those that `generator sample` recorded, otherwise unknown."""
    donor: FilePath | None = None
    """A folder from `xraytune generator train` or `xraytune train`, with a classifier of the
    hospital that the extra images come from."""


class GivenFolder(StrictModel):
    """A folder from `xraytune generator train`, with a generator to use as it is, or statistics."""

    path: FilePath
