"""The parts of a data folder (train, val, test), and the image files in them, without reading any.

Hidden files, deleted files and links to folders are ignored, and other files are counted.
"""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.decoding import IMAGE_SUFFIXES, without_suffix
from xraytune.data.dicom import is_dicom
from xraytune.data.guesses import (
    PARTS,
    PartName,
    casefold_text,
    part_named,
    shows_generated,
    shows_overlays,
)
from xraytune.data.images import ImageFile
from xraytune.data.patients import PATIENTS_CSV

PROVENANCE_FILE = "provenance.json"
"""The file next to images that `generator sample` drew, with their origin; they show nobody."""
_SYSTEM = ("$", "#", "@")
"""Windows and network drives keep deleted files in $RECYCLE.BIN and #recycle, thumbnails in @eaDir:
folders that begin with these signs are left out."""
_PAIRS = ("images", "masks")
_OVERLAYS = "masks or drawings are left out"
_OTHER_FILES = "files without an image suffix are ignored"
_logger = logging.getLogger(__name__)


def missing_classes(
    images: Iterable[ImageFile],
    parts: Mapping[PartName, Path],
    class_names: Sequence[str],
    fix: str,
) -> list[Problem]:
    """Return a problem for train and val, and one for test, if they lack images of some classes."""
    parts_and_labels = {(image.part == "test", image.label) for image in images}
    problems = []
    for part, where in parts.items():
        names = [
            name
            for label, name in enumerate(class_names)
            if (part == "test", label) not in parts_and_labels
        ]
        if part != "val" and names:
            what = f"no {'training' if part == 'train' else part} images of {join_names(names)}"
            way_out = "; if they have no labels, move them away, and use `predict` later"
            problems.append(Problem(what, where, fix + (way_out if part == "test" else "")))
    return problems


def list_images(folder: Path, root: Path | None = None) -> tuple[str, ...]:
    """List all images below a folder, sorted, by their paths below `root`, by default the folder.

    The log warns of files that are left out.

    Raises DataError if there is no such folder, or no image in it.
    """
    require_folder(folder)
    images, notes = walk_folder(folder, root or folder)
    if not images:
        raise no_images_error(folder, notes)
    for note in notes:
        if not note.startswith(_OTHER_FILES):  # such as the table itself
            _logger.warning("%s: %s", folder, note)
    return images


def no_images_error(folder: Path, notes: Sequence[str]) -> DataError:
    """Return the error for a folder without images.

    The notes of `walk_folder` say what is there instead.
    """
    return DataError(
        Problem(
            "; ".join(["no images in it", *notes]),
            folder,
            f"put images there ({', '.join(sorted(IMAGE_SUFFIXES))}); unpack archives, copy what "
            "links lead to, and convert other formats to PNG (docs/data.md, Other formats)",
        )
    )


def pair_folders(folder: Path) -> dict[str, Path]:
    """Return the existing subfolders `images` and `masks` of a folder, whatever their case."""
    folders = {path.name.casefold(): path for path in subfolders(folder)}
    return {name: folders[name] for name in _PAIRS if name in folders}


def holds_pairs(root: Path) -> bool:
    """Return whether a data folder, or a part of it, has images/ and masks/."""
    parts = [folder for folder in subfolders(root) if part_named(folder.name)]
    return any(len(pair_folders(folder)) == 2 for folder in (root, *parts))


def bare_name(file: str) -> str:
    """Return a file's name to compare with others, without an image suffix."""
    return casefold_text(without_suffix(PurePosixPath(file).name))


def part_folders(root: Path) -> tuple[dict[PartName, Path], tuple[str, ...]]:
    """Return the existing folders of train, val and test, and warnings.

    If none of them exists, `train` is the root itself.

    Raises DataError if there is no such folder, val/ or test/ has no train/ next to it, or two
    folders are the same part.
    """
    require_folder(root)
    folders = subfolders(root)
    parts = {}
    for part in PARTS:
        matching = [folder for folder in folders if part_named(folder.name) == part]
        if len(matching) > 1:
            raise DataError(
                f"{' and '.join(f'{folder.name}/' for folder in matching)} are both {part}",
                root,
                "put their images into one of them",
            )
        if matching:
            parts[part] = matching[0]
    if not parts:
        return {"train": root}, ()
    if "train" not in parts:
        names = " and ".join(f"{folder.name}/" for folder in parts.values())
        raise DataError(
            f"it contains {names} but no train/",
            root,
            "add train/, or give a folder that contains only class folders",
        )
    warnings = []
    if "test" not in parts and "val" in parts:
        warnings.append(f"{root}: without test/ no images are held out")
    ignored = [folder.name for folder in folders if folder not in parts.values()]
    if ignored:
        warnings.append(f"{root}: folders next to train/ are ignored: {join_names(ignored)}")
    return parts, tuple(warnings)


def require_folder(folder: Path) -> None:
    """Raise DataError if the folder is missing, or a file."""
    if not folder.is_dir():
        what = "this is a file, not a folder" if folder.exists() else "there is no such folder"
        raise DataError(
            what, folder, "give the folder that contains the images; unpack archives first"
        )


def subfolders(folder: Path) -> list[Path]:
    """List the visible direct subfolders, sorted, without links; none if there is no folder."""
    if not folder.is_dir():
        return []
    try:
        entries = [
            entry for entry in folder.iterdir() if not entry.name.startswith((".", *_SYSTEM))
        ]
    except OSError as error:
        _refuse_unreadable(error)
    return sorted(entry for entry in entries if entry.is_dir() and not entry.is_symlink())


def walk_folder(
    folder: Path, root: Path, *, refuse_parts: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the images of a folder tree, sorted, by their paths below the data folder `root`.

    Also returns notes about what was ignored. Below a folder `masks`, masks count as images. With
    `refuse_parts`, raises DataError if images are in an inner train/ or test/, since they would all
    be used in the same way.
    """
    images = []
    suffixes: Counter[str] = Counter()
    left_out = defaultdict(list)
    are_masks = folder.name.casefold() == "masks"
    for parent, folder_names, file_names in os.walk(folder, onerror=_refuse_unreadable):
        visible = [Path(parent, name) for name in folder_names if not name.startswith(".")]
        folder_names.clear()
        for path in visible:
            reason = _why_left_out(path, folder)
            if reason:
                left_out[reason].append(path)
            else:
                folder_names.append(path.name)
        for file in (Path(parent, name) for name in file_names if not name.startswith(".")):
            if not _is_image(file):
                if file.name not in (PATIENTS_CSV, PROVENANCE_FILE) or file.parent != root:
                    suffixes["".join(file.suffixes[-2:]).lower() or "no suffix"] += 1
            elif not are_masks and shows_overlays(without_suffix(file.name)):
                left_out[_OVERLAYS].append(file)
            else:
                images.append(file)
    bad = [
        repr(file.name) for file in images if os.fsencode(file).decode(errors="ignore") != str(file)
    ]
    if bad:
        raise DataError(
            f"file names that are not UTF-8: {join_names(bad)}", folder, "rename the files"
        )
    counts = [f"{count} {suffix}" for suffix, count in sorted(suffixes.items())]
    notes = [f"{_OTHER_FILES}: {join_names(counts, 3)}"] if counts else []
    for what, paths in sorted(left_out.items()):
        names = sorted(path.relative_to(folder).as_posix() for path in paths)
        notes.append(f"{what}: {join_names(names, 3)}")
    if refuse_parts:
        _refuse_inner_parts(folder, images)
    in_order = tuple(image.relative_to(root).as_posix() for image in sorted(images))
    if folder == root:
        _refuse_copy(root, in_order)
    return in_order, tuple(notes)


def _why_left_out(path: Path, folder: Path) -> str:
    """Return why the images of `path`, a folder below `folder`, are left out; "" if they are not.

    A class may be called `generated`; then it has no folders of classes in it.
    """
    name = folder.name.casefold()
    if path.name.startswith(_SYSTEM):
        return "deleted files and thumbnails are left out"
    if path.is_symlink():
        return "links to folders are not followed"
    if name != "masks" and shows_overlays(path.name):
        return _OVERLAYS
    may_be_class = path.parent == folder and name not in _PAIRS and not subfolders(path)
    is_generated = shows_generated(path.name) and not may_be_class
    if is_generated or (path / PROVENANCE_FILE).is_file():
        return "generated images are left out"
    return ""


def _refuse_inner_parts(folder: Path, images: Iterable[Path]) -> None:
    """Refuse (DataError) images in an inner train/ or test/, of which only some may be meant."""
    parents = {parent for image in images for parent in image.relative_to(folder).parents}
    parts = sorted(parent for parent in parents if part_named(parent.name) in ("train", "test"))
    if parts:
        part_names = join_names([f"{part}/" for part in parts], 4)
        what = f"it contains {part_names}, and it is unclear which of its images to use"
        fix = "give the folder that contains them; or, if these are in class folders, move "
        raise DataError(what, folder, f"{fix}train/ and test/ above them")


def _refuse_copy(root: Path, images: Sequence[str]) -> None:
    """Raise DataError if a folder repeats the paths around it, as when a set was unpacked twice."""
    paths_below = defaultdict(list)
    for image in images:
        top, _, inner_path = image.partition("/")
        paths_below[top].append(inner_path)
    for top, inner_paths in paths_below.items():
        if not set(inner_paths).difference(images):
            raise DataError(
                f"{top}/ seems to be a copy of what is around it: its {len(inner_paths)} images "
                f"have the same paths there, such as {inner_paths[0]}",
                root,
                "move it out of the data folder; or rename it and all images, if it is none",
            )


def _is_image(file: Path) -> bool:
    """Return whether a file counts as an image, by its suffix or else by its DICOM marker.

    DICOM files are often named IM000001, X.img, or with a UID of numbers and dots. DICOMDIR is a
    medium's table of contents.
    """
    suffix = file.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    if file.name.upper() == "DICOMDIR" or not (os.access(file, os.R_OK) and file.is_file()):
        return False
    with file.open("rb") as stream:
        start = stream.read(132)
    if suffix.strip(".0123456789"):  # another format may begin like DICOM without its marker
        return start.endswith(b"DICM")
    return is_dicom(start)


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise DataError(
        f"cannot be read ({error.strerror})", str(error.filename), "check its permissions"
    ) from error
