"""Which X-rays the GAN behind a folder of images has learnt from: never those that a study validates or tests on.

    gan.json -> provenance.json    train_fingerprint, train_images: SHA-256 of each image of the GAN's train side

A GAN hands on what it has seen. One that was trained by hand may have had another split, and seen this study's val-A.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from xraytune.data.index import ImageFile
from xraytune.errors import DataError, Problem
from xraytune.files import read_json
from xraytune.pipeline.prepare import Prepared
from xraytune.records import Json

PROVENANCE_FILE = "provenance.json"
_IMAGES = "train_images"
_FINGERPRINT = "train_fingerprint"


def gan_origin(prepared: Prepared) -> dict[str, Json]:
    """What a GAN's record says of the images that it was trained on: hashes alone, no names and no patients."""
    hashes = sorted({image.sha256 for image in prepared.images if image.side == "train"})
    return {_FINGERPRINT: prepared.train_fingerprint, _IMAGES: [*hashes]}


def require_unseen(root: Path, prepared: Prepared, test: Iterable[ImageFile] = ()) -> None:
    """Refuse images of a GAN that has learnt from images of val-A, val-B or the sealed test folder.

    A GAN of other X-rays, or of some of the train side, is none. Folders that `gan sample` did not write are let through.

    Args:
        root: The folder of extra images.
        prepared: The study's images.
        test: Those of its test folder.

    Raises:
        DataError: It has, or it cannot be told.
    """
    content = _provenance(root)
    if _FINGERPRINT not in content or content[_FINGERPRINT] == prepared.train_fingerprint:
        return
    fix = "train the GAN with this study's data and data.split (`xraytune gan train`), and draw the images anew"
    learnt_from = content.get(_IMAGES)
    if not isinstance(learnt_from, list):
        what = "the GAN of these images was trained on another train side than this study's, and nothing tells which images"
        raise DataError(Problem(what, root / PROVENANCE_FILE, fix))
    learnt = {str(sha256) for sha256 in learnt_from}
    held_back = [image.sha256 for image in prepared.images if image.side != "train"] + [image.sha256 for image in test]
    if seen := sum(sha256 in learnt for sha256 in held_back):
        what = (
            f"the GAN of these images has learnt from {seen} of the {len(held_back)} images that the study holds back"
        )
        raise DataError(Problem(what, root / PROVENANCE_FILE, fix))


def _provenance(root: Path) -> dict[str, Json]:
    path = root / PROVENANCE_FILE
    if not path.is_file():
        return {}
    fix = "draw the images anew; or remove the file, if `xraytune gan sample` did not write it"
    try:
        content = read_json(path)
    except (ValueError, OSError) as error:
        raise DataError(Problem("cannot be read, and so not whose images these are", path, fix)) from error
    return content if isinstance(content, dict) else {}
