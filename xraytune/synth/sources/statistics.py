"""`source: statistics`: features sampled from the mean and covariance that another hospital sent.

The features can be used only with the same backbone, weights and size (synth/donor.py).
"""

from pathlib import Path

import numpy as np

from xraytune.base.artifacts import build_once, releases
from xraytune.base.files import sha256_of, write_array
from xraytune.base.seeding import numpy_generator
from xraytune.data.image_set import ImageSet
from xraytune.data.prepare import RunContext
from xraytune.space.settings import Settings
from xraytune.space.source_settings import GivenFolder
from xraytune.synth.donor import TENSORS_FILE, donor_tensors, read_donor
from xraytune.synth.sources.source import BLOCK, Source

_STAGE = "statistics-1"
_RIDGE = 1e-6
"""This share of the mean variance is added to the covariance, which rounding may have made
singular."""


class Statistics(Source):
    """Normally distributed features of each class, without pixels."""

    colour = "#cc79a7"
    settings: GivenFolder

    def seen_images_sha256(self) -> frozenset[str]:
        """Return the images that the statistics were computed from."""
        return frozenset(read_donor(self.settings.path).train_images)

    def block(self, settings: Settings, context: RunContext, label: int, number: int) -> ImageSet:
        """Return features of a class.

        Raises DataError if the statistics are for another network or other classes.
        """
        names = context.prepared.class_names
        tensors = donor_tensors(self.settings.path, names, self.parameters, settings)
        inputs = {
            "file": sha256_of(self.settings.path / TENSORS_FILE),
            "class": names[label],
            "block": number,
            "seed": settings.seed,
            "releases": releases("numpy"),
        }

        def build(folder: Path) -> None:
            covariance = tensors["covariances"][label].double().numpy()
            ridge = _RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
            factor = np.linalg.cholesky(covariance + ridge)
            generator = numpy_generator(settings.seed, "statistics", names[label], number)
            normal = generator.standard_normal((BLOCK, len(factor)))
            features = tensors["means"][label].numpy() + normal @ factor.T
            write_array(folder / "features.npy", features.astype(np.float32))

        path = build_once(context.cache, _STAGE, inputs, build)
        return ImageSet(
            name=f"{self.name} {label} {number}",
            pixels=np.empty((0, 0, 0), dtype=np.uint8),
            rows=np.arange(BLOCK),
            targets=np.full(BLOCK, label),
            inputs=inputs,
            features=np.load(path / "features.npy"),
        )
