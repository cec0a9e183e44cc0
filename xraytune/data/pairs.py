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
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.folders import (
    bare_name,
    no_images,
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
    listed: list[ImageFile] = []
    problems: list[Problem] = []
    warnings: list[str] = []
    for part, folder in folders.items():
        if len(folders) == 1:
            refuse_inner_parts(folder, walk_folder(folder, root)[0])
        there = _require_pair_folders(folder)
        images, image_notes = walk_folder(there["images"], root)
        masks, mask_notes = walk_folder(there["masks"], root)
        if not images:
            raise no_images(there["images"], image_notes)
        by_stem: dict[str, list[Path]] = defaultdict(list)
        for image in images:
            by_stem[bare_name(image.name)].append(image)
        masks_of: dict[Path, list[Path]] = {image: [] for image in images}
        alone: list[Path] = []
        for mask in masks:
            stem = _stem_of_image(bare_name(mask.name), by_stem)
            for image in by_stem[stem] if stem else ():
                masks_of[image].append(mask)
            alone += [] if stem else [mask]
        notes = [*image_notes, *mask_notes]
        problems += _problems(folder, by_stem, masks, masks_of, alone, notes=notes)
        if several := [image for image, merged in masks_of.items() if len(merged) > 1]:
            example = f"{' and '.join(_names(folder, masks_of[several[0]]))} for {several[0].name}"
            notes.append(
                f"{len(several)} of {len(images)} images have several masks, which are merged ({example})"
            )
        warnings += [f"{folder}: {note}" for note in notes]
        for image, merged in masks_of.items():
            file, *mask_files = _names(root, [image, *merged])
            listed.append(ImageFile(file=file, label=0, part=part, masks=tuple(mask_files)))
    return ImageIndex(
        root=root,
        class_names=SINGLE_CLASS,
        all_images=Images(listed),
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _require_pair_folders(folder: Path) -> dict[str, Path]:
    there = pair_folders(folder)
    if missing := [f"{name}/" for name in ("images", "masks") if name not in there]:
        others = [f"{inner.name}/" for inner in subfolders(folder)]
        what = f"there is no {' and no '.join(missing)} here, and segmentation needs both"
        what += f" (folders found: {join_names(others)})" if others else ""
        fix = "put the X-rays into images/, and their masks under the same names into masks/"
        raise DataError(
            Problem(what, folder, f"{fix}; without masks, only task: classification is possible")
        )
    return there


def _stem_of_image(mask: str, stems: Collection[str]) -> str | None:
    """Return the stem of the image that a mask belongs to, by its own stem."""
    ends = [len(mask), *(sign.start() for sign in re.finditer("[_-]", mask))]
    return next((mask[:end] for end in sorted(ends, reverse=True) if mask[:end] in stems), None)


def _problems(
    folder: Path,
    by_stem: Mapping[str, Sequence[Path]],
    masks: Sequence[Path],
    masks_of: Mapping[Path, Sequence[Path]],
    alone: Sequence[Path],
    *,
    notes: Sequence[str],
) -> tuple[Problem, ...]:
    """Return masks in lossy formats, images with the same name, and unpaired images and masks."""
    problems = []
    if lossy := _names(
        folder, [mask for mask in masks if mask.suffix.lower() not in _MASK_SUFFIXES]
    ):
        what = (
            f"masks must be PNG, TIFF, BMP or GIF; {len(lossy)} of {len(masks)} have another format"
        )
        what += f": {join_names(lossy)}"
        problems.append(
            Problem(what, folder, "save them as PNG with two values; JPEG blurs the outline")
        )
    if same := [
        " and ".join(_names(folder, images)) for images in by_stem.values() if len(images) > 1
    ]:
        what = f"images with the same name, which makes their masks ambiguous: {join_names(same)}"
        problems.append(Problem(what, folder, "rename them and their masks, or remove all but one"))
    without = [image for image, masks_there in masks_of.items() if not masks_there]
    unpaired = {
        f"{len(masks_of)} images without a mask": without,
        f"{len(masks)} masks without an image": alone,
    }
    counts = [
        f"{len(files)} of {text}: {join_names(_names(folder, files))}"
        for text, files in unpaired.items()
        if files
    ]
    if counts:
        fix = "add the missing files or remove the others; "
        fix += "masks of X.png are named X.png, X_left.png or X-mask.tif"
        problems.append(
            Problem("; ".join(counts), folder, fix + "".join(f" ({note})" for note in notes))
        )
    return tuple(problems)


def _names(folder: Path, files: Sequence[Path]) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in files]
