"""The source of a trial, and what the sources of several trials have in common.

A new source is a file with its class here, its name in `SOURCES` and, if it has settings, their
block in `Parameters` (space/parameters.py).
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from xraytune.base.files import sha256_of
from xraytune.data.images import content_fingerprint
from xraytune.space.encoders import is_model
from xraytune.space.parameters import Parameters
from xraytune.space.paths import PATHS
from xraytune.space.space import Space
from xraytune.synth.donor import DONOR_FILE, donor_images_sha256, donor_records_sha256, read_donor
from xraytune.synth.sources.extension import ExtensionImages
from xraytune.synth.sources.folder import Folder, list_seen, provenance_of, store_folder
from xraytune.synth.sources.gan import Gan, GivenGenerator, usable_generator_hash
from xraytune.synth.sources.source import (
    Duplicates,
    RealImages,
    Source,
    StudyImages,
    weights_file_sha256,
)
from xraytune.synth.sources.statistics import Statistics

SOURCE_CLASSES: dict[str, type[Source]] = {
    "none": Source,
    "duplicate": Duplicates,
    "folder": Folder,
    "generator": GivenGenerator,
    "gan": Gan,
    "statistics": Statistics,
}
"""The sources that a space can name; all others are extensions."""
_MIX = (
    "source",
    "synthetic_ratio",
    "pool_size",
    "synthetic_weight",
    "balance",
    "labels",
    "mixing",
    "batch_size",
)


def source_of(parameters: Parameters, *, has_real_extra: bool = False) -> Source:
    """Return the source of a trial; `has_real_extra` is as in `Experiment`."""
    if has_real_extra:
        return RealImages(parameters)
    return SOURCE_CLASSES.get(parameters.source, ExtensionImages)(parameters)


def read_input(name: str, path: Path, study: StudyImages) -> str:
    """Return a fingerprint of what the path of a source's setting holds, such as `folder.path`.

    This must not change during a study. Images of a folder are decoded, which finds broken ones.

    Raises:
        ArtifactError: A saved generator is damaged.
        DataError: The content cannot be used for the study's images.
        MachineError: A file is missing.
    """
    if name == "gan.features":
        return weights_file_sha256(path)
    if name == "folder.donor":
        return donor_records_sha256(path)
    if name == "folder.seen":
        return sha256(" ".join(sorted(list_seen(path))).encode()).hexdigest()
    if name == "statistics.path":
        read_donor(path)
        return sha256_of(path / DONOR_FILE)
    if name == "folder.path":
        images, _ = store_folder(path, study)
        provenance = provenance_of(path)
        provenance_hash = sha256_of(provenance) if provenance.is_file() else ""
        return content_fingerprint(images) + provenance_hash
    is_start = name == "gan.start_from"  # the other one is generator.path
    generator_hash = usable_generator_hash(path, study.prepared, is_start=is_start)
    return generator_hash + donor_records_sha256(path)


def mixes_of(space: Space) -> list[Parameters]:
    """Return the possible mixes of a space, without the settings of GANs that its trials train."""
    return space.extreme_parameters(*_MIX, "weights", *PATHS)


def seen_by(mixes: Sequence[Parameters]) -> frozenset[str]:
    """Return the SHA-256 of all images that sources and encoders are known to have seen.

    The images of an encoder are known only if `xraytune train` made it.
    """
    models = {Path(mix.weights) for mix in mixes if is_model(mix.weights)}
    return seen_by_sources(mixes).union(*map(donor_images_sha256, models))


def seen_by_sources(mixes: Sequence[Parameters]) -> frozenset[str]:
    """Return the SHA-256 of all images that the sources of some mixes are known to have seen.

    This includes the images that the classifiers of their donors have seen.
    """
    sources = {(mix.source, mix.folder, mix.donor): source_of(mix) for mix in mixes}
    contents = [source.seen_images_sha256() or () for source in sources.values()]
    donors = {mix.donor for mix in mixes if mix.donor}
    return frozenset().union(*contents, *map(donor_images_sha256, donors))
