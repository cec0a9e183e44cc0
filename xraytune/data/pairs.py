"""List the pairs of a data folder: X-rays in `images/`, and their masks in `masks/`.

Both folders are at the root, or in each of `train/`, `val/` and `test/`; files may be nested
deeper. A mask belongs to the image with the same stem or, if there is none, to the one with the
longest stem that the mask's stem continues with `_` or `-`: `X.png` has the masks `left/X.png`,
`X_right.png` and `X-mask.tif`. All masks of an image are merged. The index has a single class; of
the masks in `test/`, only names and hashes are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.folders import (
    bare_name,
    list_images,
    pair_folders,
    refuse_inner_parts,
    subfolders,
    walk_folder,
)
from xraytune.data.guesses import PartName
from xraytune.data.images import SINGLE_CLASS, ImageFile, ImageIndex, Images

_MASK_SUFFIXES = frozenset({".bmp", ".gif", ".png", ".tif", ".tiff"})


def list_pairs(folders: Mapping[PartName, Path], root: Path) -> ImageIndex:
    """Pair the images and masks of parts, which are the data folder `root` or in it.

    Raises DataError if a part lacks them.
    """
    listed = []
    problems = []
    warnings = []
    for part, folder in folders.items():
        if len(folders) == 1:
            refuse_inner_parts(folder, walk_folder(folder, root)[0])
        there = pair_folders(folder)
        if len(there) < 2:
            found = join_names([inner.name for inner in subfolders(folder)]) or "none"
            what = f"segmentation needs images/ and masks/ here (folders found: {found})"
            fix = "put the X-rays into images/, and their masks under the same names into masks/"
            raise DataError(what, folder, fix)
        images = [image.relative_to(root).as_posix() for image in list_images(there["images"])]
        masks, notes = walk_folder(there["masks"], root)
        warnings += [f"{there['masks']}: {note}" for note in notes]

        stems = {bare_name(image): image for image in reversed(images)}
        counts = Counter(map(bare_name, images))
        masks_of: dict[str, list[str]] = {image: [] for image in images}
        without_image = []
        lossy = []
        for path in masks:
            mask = path.relative_to(root).as_posix()
            image = _find_image(bare_name(mask), stems)
            if image is None:
                without_image.append(mask)
            else:
                masks_of[image].append(mask)
            if path.suffix.lower() not in _MASK_SUFFIXES:
                lossy.append(mask)
        faults = {
            "images have the same name": [name for name in images if counts[bare_name(name)] > 1],
            "images have no mask": [name for name, its_masks in masks_of.items() if not its_masks],
            "masks have no image": without_image,
            "masks are not PNG, TIFF, BMP or GIF": lossy,
        }
        found_faults = [
            f"{len(files)} {what}: {join_names(files)}" for what, files in faults.items() if files
        ]
        if found_faults:
            fix = "add, rename or remove them; masks of X.png are named X.png, X_left.png or "
            fix += "X-mask.tif, and have no lossy format, which blurs the outline"
            problems.append(Problem("; ".join([*found_faults, *notes]), folder, fix))
        several = [name for name, its_masks in masks_of.items() if len(its_masks) > 1]
        if several:
            example = f"{' and '.join(masks_of[several[0]])} for {several[0]}"
            warnings.append(
                f"{folder}: {len(several)} of {len(images)} images have several masks, which are "
                f"merged ({example})"
            )
        listed += [
            ImageFile(file=image, label=0, part=part, masks=tuple(its))
            for image, its in masks_of.items()
        ]
    return ImageIndex(
        root=root,
        class_names=SINGLE_CLASS,
        all_images=Images(listed),
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _find_image(mask: str, stems: Mapping[str, str]) -> str | None:
    """Return the image that a mask belongs to, by its own stem."""
    while mask not in stems:
        end = max(mask.rfind("_"), mask.rfind("-"))
        if end < 0:
            return None
        mask = mask[:end]
    return stems[mask]
