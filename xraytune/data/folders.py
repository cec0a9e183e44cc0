"""The parts of a data folder (train, val, test), and the image files in them, before any is read.

Hidden files are ignored, other files are counted, and links are followed only to files inside the
data folder.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NoReturn

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.dicom import is_dicom
from xraytune.data.formats import IMAGE_SUFFIXES, without_suffix
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
ADD_IMAGES = (
    f"put images {{}} ({', '.join(sorted(IMAGE_SUFFIXES))}); unpack archives, "
    "and convert other formats to PNG (docs/data.md, Other formats)"
)


_LINKS = "links to folders, or out of the data folder, are not followed"


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
            problems.append(Problem(what, where, fix.format(f"into {'/, '.join(missing)}/ there")))
    return problems


def list_images(folder: Path) -> tuple[Path, ...]:
    """List all images below a folder, sorted.

    Raises DataError if there is no such folder, or no image in it.
    """
    require_folder(folder)
    images, notes = walk_folder(folder, folder)
    if not images:
        raise no_images(folder, notes)
    return images


def no_images(folder: Path, notes: Sequence[str]) -> DataError:
    """Return the error for a folder without images.

    The notes of `walk_folder` say what is there instead.
    """
    fix = ADD_IMAGES.format("there")
    if any(note.startswith(_LINKS) for note in notes):
        fix = "copy what the links lead to (cp -rL), or give the folder that they lead to"
    return DataError(Problem("; ".join(["no images in it", *notes]), folder, fix))


def pair_folders(folder: Path) -> dict[str, Path]:
    """Return the subfolders `images` and `masks` of a folder, in any case, as far as they exist."""
    folders = (
        {inner.name.casefold(): inner for inner in subfolders(folder)} if folder.is_dir() else {}
    )
    return {name: folders[name] for name in ("images", "masks") if name in folders}


def holds_pairs(root: Path) -> bool:
    """Return whether a data folder, or a part of it, has images/ and masks/."""
    parts = (
        [folder for folder in subfolders(root) if part_named(folder.name)] if root.is_dir() else []
    )
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
    folders, parts = subfolders(root), dict[PartName, Path]()
    for part in PARTS:
        same = [folder for folder in folders if part_named(folder.name) == part]
        if len(same) > 1:
            what = f"{' and '.join(f'{folder.name}/' for folder in same)} are both {part}"
            raise DataError(Problem(what, root, "put their images into one of them"))
        if same:
            parts[part] = same[0]
    if parts and "train" not in parts:
        have = " and ".join(f"{folder.name}/" for folder in parts.values())
        fix = "add train/, or give a folder that contains only class folders"
        raise DataError(Problem(f"it contains {have} but no train/", root, fix))
    if not parts:
        return {"train": root}, ()
    warnings = []
    if "val" in parts and "test" not in parts:
        warnings.append(f"{root}: without test/ no images are held out")
    if others := [folder.name for folder in folders if folder not in parts.values()]:
        warnings.append(f"{root}: folders next to train/ are ignored: {join_names(others)}")
    return parts, tuple(warnings)


def refuse_inner_parts(folder: Path, images: Iterable[Path]) -> None:
    """Raise DataError if images are in an inner train/ or test/, but would be used alike."""
    parents = {parent for image in images for parent in image.relative_to(folder).parents}
    if inner := sorted(
        parent for parent in parents if part_named(parent.name) in ("train", "test")
    ):
        names = join_names([f"{part}/" for part in inner], 4)
        places = sorted({folder / part.parent for part in inner})
        fix = f"give {folder / inner[0] if places == [folder] else places[0]}"
        fix += (
            "; or, if these are classes, move train/ and test/ above them"
            if len(places) > 1
            else ""
        )
        raise DataError(
            Problem(
                f"it contains {names}, and it is unclear which of its images to use", folder, fix
            )
        )


def require_folder(folder: Path) -> None:
    """Raise DataError if the folder is missing, or a file."""
    if not folder.is_dir():
        what = "this is a file, not a folder" if folder.exists() else "there is no such folder"
        raise DataError(
            Problem(what, folder, "give the folder that contains the images; unpack archives first")
        )


def subfolders(folder: Path) -> list[Path]:
    """List the visible direct subfolders, sorted, without links."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        _refuse_unreadable(error)
    return sorted(entry for entry in entries if entry.is_dir() and not entry.is_symlink())


def walk_folder(
    folder: Path, root: Path, *, report_others: bool = True
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the images of a folder tree, the data folder `root` or in it, sorted.

    Also return notes about what was ignored.
    """
    inside = root.resolve()
    images: list[Path] = []
    others: Counter[str] = Counter()
    links = 0
    drawings: list[str] = []
    generated: list[str] = []
    for parent, folder_names, file_names in os.walk(folder, onerror=_refuse_unreadable):
        visible = sorted(name for name in folder_names if not name.startswith("."))
        folder_names.clear()
        for name in visible:
            inner = Path(parent, name)
            if folder.name.casefold() != "masks" and shows_drawings(name):
                drawings.append(inner.relative_to(folder).as_posix())
            elif _holds_generated(inner):
                generated.append(inner.relative_to(folder).as_posix())
            else:
                folder_names.append(name)
        links += sum((Path(parent) / name).is_symlink() for name in folder_names)
        for file in (Path(parent, name) for name in file_names if not name.startswith(".")):
            # Unlike Path's methods, these do not raise if access is refused, which decoding
            # reports.
            if os.path.islink(file) and not _leads_inside(file, inside):  # noqa: PTH114
                links += 1
            elif os.path.exists(file) and not os.path.isfile(file):  # noqa: PTH110, PTH113  reading it may never end
                others["pipe or device"] += 1
            elif folder.name.casefold() != "masks" and shows_drawings(without_suffix(file.name)):
                drawings.append(file.relative_to(folder).as_posix())
            elif _is_image_name(file):
                images.append(file)
            elif file.name not in (PATIENTS_CSV, PROVENANCE_FILE) or parent != str(root):
                suffix = "".join(file.suffixes[-2:]) if file.suffix == ".gz" else file.suffix
                others[suffix.lower() or "no suffix"] += 1
    names = [image.relative_to(folder).as_posix() for image in images]
    if bad := [
        text for name in names if (text := os.fsencode(name).decode(errors="replace")) != name
    ]:
        raise DataError(
            Problem(f"file names that are not UTF-8: {join_names(bad)}", folder, "rename the files")
        )
    notes = []
    if others and report_others:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        notes.append(f"files without an image suffix are ignored: {counts}")
    if drawings:
        notes.append(f"masks or drawings are left out: {join_names(sorted(drawings), 3)}")
    if generated:
        notes.append(f"generated images are left out: {join_names(sorted(generated), 3)}")
    if links:
        notes.append(f"{_LINKS}: {links}")
    return tuple(sorted(images, key=lambda image: image.parts)), tuple(notes)


def _holds_generated(folder: Path) -> bool:
    """Return whether a folder holds generated images, by their record or by its name.

    A folder that is called so may also be a class; then it has no folders of classes in it.
    """
    return (folder / PROVENANCE_FILE).is_file() or (
        shows_generated(folder.name) and bool(subfolders(folder))
    )


def _is_image_name(file: Path) -> bool:
    """Return whether a file counts as an image, by its suffix or else by its DICOM marker.

    DICOM files are often named IM000001, or with a UID of numbers and dots. DICOMDIR is a medium's
    table of contents.
    """
    suffix = file.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    if (suffix and not suffix[1:].isdigit()) or file.name.upper() == "DICOMDIR":
        return False
    with suppress(OSError), file.open("rb") as stream:
        return is_dicom(stream.read(132))
    return False


def _leads_inside(link: Path, inside: Path) -> bool:
    try:
        with suppress(FileNotFoundError):
            link.stat()
        return link.resolve().is_relative_to(inside)
    except (OSError, RuntimeError):  # a loop of links: from Python 3.13 on, only `stat` raises
        return False


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise DataError(
        Problem(f"cannot be read ({error.strerror})", str(error.filename), "check its permissions")
    ) from error
