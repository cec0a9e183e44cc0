"""Which artifacts of the cache a study stands on, told from their manifests: what may go with it, and what another needs.

A study holds its pixels, every GAN that was trained on its train side, and whatever was made from these. What says less
of its origin (the pixels of a folder of extra images, of a test folder, looked-up weights) nobody holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraytune.pipeline.artifacts import artifacts_of, fingerprint
from xraytune.pipeline.features import FEATURES_STAGE
from xraytune.pipeline.prepare import PIXELS_STAGE, Prepared
from xraytune.pipeline.quality import QUALITY_STAGE
from xraytune.pipeline.synthesize import GAN_STAGE, POOL_STAGE

STAGES = (FEATURES_STAGE, QUALITY_STAGE, POOL_STAGE, GAN_STAGE, PIXELS_STAGE)
"""What is made from something else comes before it: removed in this order, nothing of unknown origin is left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactReferences:
    """What one study stands on.

    Attributes:
        pixels: Its pixel store, relative to the cache.
        gans: The fingerprints of its GANs, in the cache or not.
    """

    pixels: str
    gans: frozenset[str]

    def has(self, stage: str, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether an artifact of one of `STAGES` is among it.

        Args:
            stage: Of the artifact.
            name: Its fingerprint.
            inputs: Of its manifest.
        """
        if stage == PIXELS_STAGE:
            return f"{stage}/{name}" == self.pixels
        if stage == GAN_STAGE:
            return name in self.gans
        if stage == POOL_STAGE:
            return self._has_origin(inputs)
        if stage == QUALITY_STAGE:
            return all(pool["gan"] in self.gans for pool in inputs["pools"])
        _, made_from = inputs["group"]
        return self._has_origin(made_from)

    def _has_origin(self, inputs: Mapping[str, Any]) -> bool:
        return inputs.get("pixels") == self.pixels or inputs.get("gan") in self.gans


def artifact_references(prepared: Prepared, gan_inputs: Iterable[Mapping[str, Any]], cache: Path) -> ArtifactReferences:
    """What a study stands on.

    Args:
        prepared: Its images.
        gan_inputs: Of the GANs that its trials ask for.
        cache: Looked through for further GANs of its train side, such as those that `gan train` made.
    """
    of_its_images = {
        "train": prepared.train_fingerprint,
        "image_size_px": prepared.image_size_px,
        "class_names": list(prepared.class_names),
    }
    trained = {
        path.name
        for path, inputs in artifacts_of(cache, GAN_STAGE)
        if all(inputs.get(name) == value for name, value in of_its_images.items())
    }
    return ArtifactReferences(
        pixels=prepared.pixels, gans=frozenset(trained | {fingerprint(GAN_STAGE, one) for one in gan_inputs})
    )
