"""Which images the makers of extra images have seen: no patient in them may be validated or tested on.

Images are recognised by the SHA-256 of their files. What a saved generator has seen is in its
record, and what made the images of a folder in its provenance file, or where `folder.seen` says.
"""

from __future__ import annotations

from collections.abc import Iterable

from xraytune.base.errors import DataError, Problem
from xraytune.base.files import read_bytes, read_json, sha256_of
from xraytune.data.folders import PROVENANCE_FILE, list_images
from xraytune.space.fields import parameters_from
from xraytune.space.paths import PATHS
from xraytune.space.settings import FolderSettings, Parameters
from xraytune.space.space import Space
from xraytune.synth.saved_generator import read_generator

_MIX = ("source", "synthetic_ratio", "synthetic_weight", "balance", "mixing", "batch_size")


def mixes_of(space: Space) -> tuple[Parameters, ...]:
    """Return the possible mixes of a space, apart from the settings of generators that its trials train."""
    names = (*_MIX, *PATHS)
    combined = (dict(zip(names, values, strict=True)) for values in space.combinations(*names))
    return tuple(
        parameters_from({name: value for name, value in mix.items() if value is not None})
        for mix in combined
    )


def seen_by(mixes: Iterable[Parameters]) -> frozenset[str]:
    """Return the SHA-256 of all images that the makers of some extra images are known to have seen; see `seen_images`."""
    return frozenset().union(*(seen_images(mix) or () for mix in mixes))


def seen_images(mix: Parameters) -> frozenset[str] | None:
    """Return the SHA-256 of all images that the maker of a trial's extra images has seen besides those of the study.

    None if they are not known.

    Raises:
        ArtifactError: A saved generator is damaged.
        DataError: What `folder.seen` says, or the provenance file there, cannot be read.
    """
    if mix.folder:
        return _seen_for_folder(mix.folder)
    started_from = mix.gan.start_from if mix.gan else None
    given = mix.generator.path if mix.generator else started_from
    return frozenset(read_generator(given).train_images) if given else frozenset()


def _seen_for_folder(folder: FolderSettings) -> frozenset[str] | None:
    seen = folder.seen
    provenance = folder.path / PROVENANCE_FILE
    if seen is not None and seen.is_dir():
        return frozenset(map(sha256_of, list_images(seen)))
    try:
        if seen is not None:
            return frozenset(read_bytes(seen, DataError).decode().split())
        recorded = read_json(provenance).get("train_images") if provenance.is_file() else None
        return None if recorded is None else frozenset(map(str, recorded))
    except (ValueError, OSError, AttributeError, TypeError) as error:
        fix = "write one SHA-256 per line" if seen else "draw the images again; or remove the file"
        what = "the record of the images that these were made from cannot be read"
        raise DataError(Problem(what, seen or provenance, fix)) from error
