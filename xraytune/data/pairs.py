"""List the pairs of a data folder: X-rays in `images/`, and their masks in `masks/`.

Both folders are at the root, or in each of `train/`, `val/` and `test/`; files may be nested
deeper. A mask belongs to the image with the same stem. If there is none, it belongs to the image
with the longest stem that the mask's stem continues with `_` or `-`: `X.png` has the masks
`left/X.png`, `X_right.png` and `X-mask.tif`. All masks of an image are merged. The index has a
single class. Of the masks in `test/`, only names and hashes are read.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.folders import (
    bare_name,
    list_images,
    pair_folders,
    subfolders,
    walk_folder,
)
from xraytune.data.guesses import PartName
from xraytune.data.images import SINGLE_CLASS, ImageFile, ImageIndex
from xraytune.data.table import LabelTable, add_rows


def list_pairs(
    folders: Mapping[PartName, Path], root: Path, patients_csv: LabelTable | None
) -> ImageIndex:
    """Pair the images and masks of parts, which are the data folder `root` or folders in it.

    `patients_csv` is the table of `root`.

    Raises DataError if a part lacks images or masks.
    """
    pairs = []
    problems = []
    warnings = []
    for part, folder in folders.items():
        if len(folders) == 1:
            walk_folder(folder, root, refuse_parts=True)
        folder_of = pair_folders(folder)
        if len(folder_of) < 2:
            folder_names = join_names([inner.name for inner in subfolders(folder)]) or "none"
            raise DataError(
                f"segmentation needs images/ and masks/ here (folders found: {folder_names})",
                folder,
                "put the X-rays into images/, and their masks under the same names into masks/",
            )
        images = list_images(folder_of["images"], root)
        masks, notes = walk_folder(folder_of["masks"], root)
        warnings += [f"{folder_of['masks']}: {note}" for note in notes]

        stems = {bare_name(image): image for image in reversed(images)}
        masks_of: dict[str | None, list[str]] = {image: [] for image in (*images, None)}
        for mask in masks:
            masks_of[_find_image(bare_name(mask), stems)].append(mask)
        counts = Counter(map(bare_name, images))
        faults = {
            "images have the same name": [name for name in images if counts[bare_name(name)] > 1],
            "images have no mask": [image for image in images if not masks_of[image]],
            "masks have no image": masks_of[None],
        }
        found_faults = [
            f"{len(files)} {what}: {join_names(files)}" for what, files in faults.items() if files
        ]
        if found_faults:
            fix = "add, rename or remove them; masks of X.png are X.png, X_left.png or X-mask.tif"
            problems.append(Problem("; ".join([*found_faults, *notes]), folder, fix))
        several = [image for image in images if len(masks_of[image]) > 1]
        if several:
            example = f"{' and '.join(masks_of[several[0]])} for {several[0]}"
            warnings.append(
                f"{folder}: {len(several)} of {len(images)} images have several masks, which are "
                f"merged ({example})"
            )
        pairs += [
            ImageFile(file=image, label=0, part=part, masks=tuple(masks_of[image]))
            for image in images
        ]
    return ImageIndex(
        root=root,
        class_names=SINGLE_CLASS,
        all_images=add_rows(pairs, patients_csv),
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
