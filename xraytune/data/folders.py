"""The parts of a data folder (train, val, test), and the image files in them, before any is read.

Hidden files and links to folders are ignored, and other files are counted.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.decoding import IMAGE_SUFFIXES, without_suffix
from xraytune.data.dicom import is_dicom
from xraytune.data.guesses import (
    PARTS,
    PartName,
    folded,
    part_named,
    shows_drawings,
    shows_generated,
)
from xraytune.data.images import ImageFile
from xraytune.data.patients import PATIENTS_CSV

PROVENANCE_FILE = "provenance.json"
"""The origin of images that `generator sample` drew, next to them: they show nobody."""
_OTHER_FILES = "files without an image suffix are ignored"
_logger = logging.getLogger(__name__)


def missing_classes(
    images: Iterable[ImageFile],
    parts: Mapping[PartName, Path],
    class_names: Sequence[str],
    fix: str,
) -> list[Problem]:
    """Return a problem for train and val, and one for test, if they lack images of some classes."""
    there = {(image.part == "test", image.label) for image in images}
    problems = []
    for part, where in parts.items():
        missing = [
            name for label, name in enumerate(class_names) if (part == "test", label) not in there
        ]
        if part != "val" and missing:
            what = f"no {'training' if part == 'train' else part} images of {join_names(missing)}"
            problems.append(Problem(what, where, fix))
    return problems


def list_images(folder: Path) -> tuple[Path, ...]:
    """List all images below a folder, sorted; warn of what is left out.

    Raises DataError if there is no such folder, or no image in it.
    """
    require_folder(folder)
    images, notes = walk_folder(folder, folder)
    if not images:
        raise no_images(folder, notes)
    for note in notes:
        if not note.startswith(_OTHER_FILES):  # such as the table itself
            _logger.warning("%s: %s", folder, note)
    return images


def no_images(folder: Path, notes: Sequence[str]) -> DataError:
    """Return the error for a folder without images.

    The notes of `walk_folder` say what is there instead.
    """
    fix = f"put images there ({', '.join(sorted(IMAGE_SUFFIXES))}); unpack archives, copy what "
    fix += "links lead to, and convert other formats to PNG (docs/data.md, Other formats)"
    return DataError(Problem("; ".join(["no images in it", *notes]), folder, fix))


def pair_folders(folder: Path) -> dict[str, Path]:
    """Return the subfolders `images` and `masks` of a folder, in any case, as far as they exist."""
    folders = {path.name.casefold(): path for path in subfolders(folder)}
    return {name: folders[name] for name in ("images", "masks") if name in folders}


def holds_pairs(root: Path) -> bool:
    """Return whether a data folder, or a part of it, has images/ and masks/."""
    parts = [folder for folder in subfolders(root) if part_named(folder.name)]
    return any(len(pair_folders(folder)) == 2 for folder in (root, *parts))


def bare_name(file: str) -> str:
    """Return a file's name to compare with others, without an image suffix."""
    return folded(without_suffix(PurePosixPath(file).name))


def part_folders(root: Path) -> tuple[dict[PartName, Path], tuple[str, ...]]:
    """Return the existing folders of train, val and test, and warnings.

    Without any of them, `train` is the root itself.

    Raises DataError if there is no such folder, val/ or test/ has no train/ next to it, or two
    folders are the same part.
    """
    require_folder(root)
    folders = subfolders(root)
    parts = {}
    for part in PARTS:
        same = [folder for folder in folders if part_named(folder.name) == part]
        if len(same) > 1:
            what = f"{' and '.join(f'{folder.name}/' for folder in same)} are both {part}"
            raise DataError(what, root, "put their images into one of them")
        if same:
            parts[part] = same[0]
    if not parts:
        return {"train": root}, ()
    if "train" not in parts:
        have = " and ".join(f"{folder.name}/" for folder in parts.values())
        fix = "add train/, or give a folder that contains only class folders"
        raise DataError(f"it contains {have} but no train/", root, fix)
    warnings = []
    if "test" not in parts and "val" in parts:
        warnings.append(f"{root}: without test/ no images are held out")
    others = [folder.name for folder in folders if folder not in parts.values()]
    if others:
        warnings.append(f"{root}: folders next to train/ are ignored: {join_names(others)}")
    return parts, tuple(warnings)


def refuse_inner_parts(folder: Path, images: Iterable[Path]) -> None:
    """Raise DataError if images are in an inner train/ or test/, but would be used alike."""
    parents = {parent for image in images for parent in image.relative_to(folder).parents}
    inner = sorted(parent for parent in parents if part_named(parent.name) in ("train", "test"))
    if inner:
        names = join_names([f"{part}/" for part in inner], 4)
        what = f"it contains {names}, and it is unclear which of its images to use"
        fix = "give the folder that contains them; or, if these are in class folders, move train/ "
        raise DataError(what, folder, f"{fix}and test/ above them")


def require_folder(folder: Path) -> None:
    """Raise DataError if the folder is missing, or a file."""
    if not folder.is_dir():
        what = "this is a file, not a folder" if folder.exists() else "there is no such folder"
        fix = "give the folder that contains the images; unpack archives first"
        raise DataError(what, folder, fix)


def subfolders(folder: Path) -> list[Path]:
    """List the visible direct subfolders, sorted, without links; none if there is no folder."""
    if not folder.is_dir():
        return []
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        _refuse_unreadable(error)
    return sorted(entry for entry in entries if entry.is_dir() and not entry.is_symlink())


def walk_folder(folder: Path, root: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the images of a folder tree, the data folder `root` or in it, sorted.

    Also return notes about what was ignored. Below a folder `masks`, masks are images.
    """
    images = []
    others: Counter[str] = Counter()
    links = []
    drawings = []
    generated = []
    are_masks = folder.name.casefold() == "masks"
    is_of_pairs = are_masks or folder.name.casefold() == "images"
    for parent, folder_names, file_names in os.walk(folder, onerror=_refuse_unreadable):
        visible = sorted(name for name in folder_names if not name.startswith("."))
        folder_names.clear()
        for name in visible:
            inner = Path(parent, name)
            shown = inner.relative_to(folder).as_posix()
            if inner.is_symlink():
                links.append(shown)
            elif not are_masks and shows_drawings(name):
                drawings.append(shown)
            elif _holds_generated(inner, may_be_class=Path(parent) == folder and not is_of_pairs):
                generated.append(shown)
            else:
                folder_names.append(name)
        for file in (Path(parent, name) for name in file_names if not name.startswith(".")):
            if not _is_image(file):
                if file.name not in (PATIENTS_CSV, PROVENANCE_FILE) or file.parent != root:
                    others["".join(file.suffixes[-2:]).lower() or "no suffix"] += 1
            elif not are_masks and shows_drawings(without_suffix(file.name)):
                drawings.append(file.relative_to(folder).as_posix())
            else:
                images.append(file)
    bad = [
        repr(file.name) for file in images if os.fsencode(file).decode(errors="ignore") != str(file)
    ]
    if bad:
        what = f"file names that are not UTF-8: {join_names(bad)}"
        raise DataError(what, folder, "rename the files")
    counts = [f"{count} {suffix}" for suffix, count in sorted(others.items())]
    left_out = {
        _OTHER_FILES: counts,
        "masks or drawings are left out": sorted(drawings),
        "generated images are left out": sorted(generated),
        "links to folders are not followed": links,
    }
    notes = [f"{what}: {join_names(names, 3)}" for what, names in left_out.items() if names]
    return tuple(sorted(images, key=lambda image: image.parts)), tuple(notes)


def _holds_generated(folder: Path, *, may_be_class: bool) -> bool:
    """Return whether a folder holds generated images, by their record or by its name.

    A folder that is called so may also be a class; then it has no folders of classes in it.
    """
    return (folder / PROVENANCE_FILE).is_file() or (
        shows_generated(folder.name) and not (may_be_class and not subfolders(folder))
    )


def _is_image(file: Path) -> bool:
    """Return whether a file counts as an image, by its suffix or else by its DICOM marker.

    DICOM files are often named IM000001, or with a UID of numbers and dots. DICOMDIR is a medium's
    table of contents.
    """
    suffix = file.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    if (suffix and not suffix[1:].isdigit()) or file.name.upper() == "DICOMDIR":
        return False
    if not os.access(file, os.R_OK) or not file.is_file():
        return False
    with file.open("rb") as stream:
        return is_dicom(stream.read(132))


def _refuse_unreadable(error: OSError) -> NoReturn:
    what = f"cannot be read ({error.strerror})"
    raise DataError(what, str(error.filename), "check its permissions") from error
