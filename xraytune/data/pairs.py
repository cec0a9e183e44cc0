"""List the pairs of a data folder: X-rays in `images/`, and their masks in `masks/`.

Both folders are at the root, or in each of `train/`, `val/` and `test/`; files may be nested
deeper. A mask belongs to the image with the same stem or, if there is none, to the one with the
longest stem that the mask's stem continues with `_` or `-`: `X.png` has the masks `left/X.png`,
`X_right.png` and `X-mask.tif`. All masks of an image are merged. The index has a single class; of
the masks in `test/`, only names and hashes are read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
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
            raise DataError(Problem(what, folder, fix))
        images = [image.relative_to(root).as_posix() for image in list_images(there["images"])]
        masks, notes = walk_folder(there["masks"], root)
        warnings += [f"{there['masks']}: {note}" for note in notes]

        by_stem = defaultdict(list)
        for image in images:
            by_stem[bare_name(image)].append(image)
        masks_of: dict[str, list[str]] = {image: [] for image in images}
        faults = {
            "images have the same name": [
                image for same in by_stem.values() if len(same) > 1 for image in same
            ],
            "images have no mask": [],
            "masks have no image": [],
            "masks are not PNG, TIFF, BMP or GIF": [],
        }
        for path in masks:
            mask = path.relative_to(root).as_posix()
            stem = _stem_of_image(bare_name(mask), by_stem)
            if stem is None:
                faults["masks have no image"].append(mask)
            else:
                masks_of[by_stem[stem][0]].append(mask)
            if path.suffix.lower() not in _MASK_SUFFIXES:
                faults["masks are not PNG, TIFF, BMP or GIF"].append(mask)
        faults["images have no mask"] += [image for image, its in masks_of.items() if not its]
        found_faults = [
            f"{len(files)} {what}: {join_names(files)}" for what, files in faults.items() if files
        ]
        if found_faults:
            fix = "add, rename or remove them; masks of X.png are named X.png, X_left.png or "
            fix += "X-mask.tif, and have no lossy format, which blurs the outline"
            problems.append(Problem("; ".join([*found_faults, *notes]), folder, fix))
        if several := [image for image, its in masks_of.items() if len(its) > 1]:
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


def _stem_of_image(mask: str, stems: Collection[str]) -> str | None:
    """Return the stem of the image that a mask belongs to, by its own stem."""
    ends = [len(mask), *(sign.start() for sign in re.finditer("[_-]", mask))]
    return next((mask[:end] for end in sorted(ends, reverse=True) if mask[:end] in stems), None)
