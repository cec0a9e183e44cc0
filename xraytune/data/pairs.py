"""List the pairs of a data folder: X-rays in `images/`, and their masks in `masks/`.

Both folders are at the root, or in each of `train/`, `val/` and `test/`; files may be nested deeper. A mask belongs to the
image with the same stem or, if there is none, to the one with the longest stem that the mask's stem continues with `_` or
`-`: `X.png` has the masks `left/X.png`, `X_right.png` and `X-mask.tif`. All masks of an image are merged. The index has a
single class; of the masks in `test/`, only names and hashes are read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from xraytune.config.settings import DataSettings
from xraytune.data.index import (
    ImageFile,
    ImageIndex,
    LabelledImages,
    layout_warnings,
    read_index,
    read_labelled,
    read_one_part,
)
from xraytune.data.layout import (
    Layout,
    Part,
    bare_name,
    holds_pairs,
    pair_folders,
    part_folders,
    subfolders,
    walk_folder,
)
from xraytune.data.table import LabelTable
from xraytune.errors import ConfigError, DataError, Problem, join_names
from xraytune.records import Progress, ignore_progress

PAIR_CLASSES = ("image",)
_MASK_SUFFIXES = frozenset({".png", ".tif", ".tiff"})


def read_pairs(settings: DataSettings, *, on_progress: Progress = ignore_progress) -> ImageIndex:
    """Read the folder of pairs of `settings`.

    Raises:
        ConfigError: There is a label table, or `group_regex` is not a regular expression with a group.
        DataError: All problems of folders and pairs; if there are none, all problems of the patients.
    """
    _refuse_table(settings)
    settings = settings.model_copy(update={"positive": None})
    return read_index(settings, layout_of=_read_parts, on_progress=on_progress)


def read_folder(settings: DataSettings, *, on_progress: Progress = ignore_progress) -> ImageIndex:
    """Read a data folder: pairs if it has images/ and masks/ and no label table, else classes."""
    is_pairs = settings.table is None and holds_pairs(settings.path)
    return (read_pairs if is_pairs else read_index)(settings, on_progress=on_progress)


def read_labelled_pairs(
    source: Path, *, group_regex: str | None = None, on_progress: Progress = ignore_progress
) -> LabelledImages:
    """Read pairs to score models on, from a folder without parts or a data file; for the rest, see `read_labelled`.

    Raises:
        ConfigError: The file or `group_regex` is invalid, or there is a label table.
        DataError: The folder has no pairs, or contains train/ or test/; or images or masks are unpaired.
    """
    found = read_labelled(source, PAIR_CLASSES, group_regex=group_regex, layout_of=_read_part, on_progress=on_progress)
    _refuse_table(found.data)
    return found


def read_pair_folder(root: Path) -> tuple[ImageFile, ...]:
    """Read the pairs of a folder without parts, sorted by file; raises like `read_labelled_pairs`."""
    return read_one_part(DataSettings(path=root), _read_part).images


def _refuse_table(settings: DataSettings) -> None:
    if settings.table is not None:
        what = "label tables are for classification, and segmentation has no classes"
        raise ConfigError(Problem(what, "data.table", "remove it; patients.csv names the patients of pairs"))


def _read_parts(settings: DataSettings, _: LabelTable | None) -> Layout:
    folders = part_folders(settings.path)
    layouts = {name: _read_part(folder, settings.path) for name, folder in folders.items()}
    return Layout(
        class_names=PAIR_CLASSES,
        parts={name: one.parts["train"] for name, one in layouts.items()},
        problems=tuple(problem for one in layouts.values() for problem in one.problems),
        warnings=layout_warnings(settings.path, folders),
        masks={image: masks for one in layouts.values() for image, masks in one.masks.items()},
    )


def _read_part(folder: Path, root: Path, _: LabelTable | None = None) -> Layout:
    """Pair the images and masks of a folder, which is the data folder `root` or lies in it.

    Raises:
        DataError: It has no images/ or no masks/.
    """
    here = pair_folders(folder)
    if missing := [f"{name}/" for name in ("images", "masks") if name not in here]:
        others = [f"{inner.name}/" for inner in subfolders(folder)]
        what = f"there is no {' and no '.join(missing)} here, and segmentation needs both"
        what += f" (folders found: {join_names(others)})" if others else ""
        fix = "put the X-rays into images/, and their masks under the same names into masks/"
        raise DataError(Problem(what, folder, f"{fix}; without masks, only task: classification is possible"))
    images, image_notes = walk_folder(here["images"], root)
    masks, mask_notes = walk_folder(here["masks"], root)
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_stem[bare_name(image.name)].append(image)
    masks_of: dict[Path, tuple[Path, ...]] = dict.fromkeys(images, ())
    alone: list[Path] = []
    for mask in masks:
        own = by_stem[stem] if (stem := _stem_of_image(bare_name(mask.name), by_stem.keys())) else []
        alone += [] if own else [mask]
        masks_of |= {image: (*masks_of[image], mask) for image in own}
    warnings = (*image_notes, *mask_notes, *_several_masks(folder, masks_of))
    part = Part(folder=folder, labels=dict.fromkeys(images, 0), warnings=warnings)
    problems = _problems(folder, by_stem, masks, masks_of, alone, notes=(*image_notes, *mask_notes))
    return Layout(class_names=PAIR_CLASSES, parts={"train": part}, problems=problems, masks=masks_of)


def _stem_of_image(mask: str, stems: Collection[str]) -> str | None:
    """Return the stem of the image that a mask belongs to, by its own stem."""
    ends = [len(mask), *(found.start() for found in re.finditer("[_-]", mask))]
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
    found = []
    if lossy := _names(folder, [mask for mask in masks if mask.suffix.lower() not in _MASK_SUFFIXES]):
        what = f"masks must be PNG or TIFF, but {len(lossy)} of {len(masks)} have another format: {join_names(lossy)}"
        found.append((what, "save them as PNG with two values; JPEG blurs the outline"))
    if same := [" and ".join(_names(folder, images)) for images in by_stem.values() if len(images) > 1]:
        what = f"images with the same name, so that their masks are ambiguous: {join_names(same)}"
        found.append((what, "rename them and their masks, or remove all but one"))
    unpaired = {
        f"{len(masks_of)} images without a mask": _names(folder, [image for image, own in masks_of.items() if not own]),
        f"{len(masks)} masks without an image": _names(folder, alone),
    }
    if what := "; ".join(f"{len(names)} of {text}: {join_names(names)}" for text, names in unpaired.items() if names):
        fix = "add the missing files or remove the others; masks of X.png are named X.png, X_left.png or X-mask.tif"
        fix += "".join(f" ({note})" for note in notes)
        found.append((what, fix))
    if not masks_of:
        found = [("no images in images/", "put JPEG, PNG, TIFF or DICOM files there, and their masks into masks/")]
    return tuple(Problem(what, folder, fix) for what, fix in found)


def _several_masks(folder: Path, masks_of: Mapping[Path, Sequence[Path]]) -> list[str]:
    several = [image for image, own in masks_of.items() if len(own) > 1]
    examples = [f"{' and '.join(_names(folder, masks_of[image]))} for {image.name}" for image in several[:1]]
    count = f"{folder}: {len(several)} of {len(masks_of)} images have several masks"
    return [f"{count}, which are merged ({example})" for example in examples]


def _names(folder: Path, files: Sequence[Path]) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in files]
