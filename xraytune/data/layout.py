"""Which image files a data folder holds, in which part (train, val, test) and of which class; nothing is opened.

Takes `train/ val/ test/` of class folders, or one folder of class folders. Hidden files are ignored, other files are
counted, links are followed to files inside the data folder alone.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xraytune.data.patients import PATIENTS_CSV, patient_of
from xraytune.errors import DataError, Problem, listed

BINARY_CLASSES = ("NORMAL", "PNEUMONIA")
THREE_CLASSES = ("normal", "bacterial", "viral")
IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
_CLASS_OF_SERIES = {"bacteria": "bacterial", "virus": "viral"}
_NAMES_SHOWN = 10
_ADD_IMAGES = "put JPEG or PNG files (.jpeg, .jpg, .png) there; links that lead out of the data folder are not followed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a data folder.

    Attributes:
        folder: Whose subfolders are the classes.
        labels: Its images, sorted, each with the position of its class.
        problems: Folders and files whose class is unknown.
        warnings: What was passed over.
    """

    folder: Path
    labels: Mapping[Path, int]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    """The files of a folder tree: its images, sorted, and how many others are passed over."""

    images: tuple[Path, ...]
    other_suffixes: Mapping[str, int]
    links: int


def list_images(folder: Path) -> tuple[Path, ...]:
    """All images below a folder, sorted.

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    require_folder(folder)
    images = _walk(folder, folder).images
    if not images:
        raise DataError(Problem("no images in it", folder, _ADD_IMAGES))
    return images


def part_folders(root: Path) -> dict[str, Path]:
    """The folders of train, val and test that there are; `train` is the root itself when there is none of them.

    Raises:
        DataError: There is no such folder, or there is a val/ or test/ without a train/.
    """
    require_folder(root)
    found = {folder.name.casefold(): folder for folder in subfolders(root)}
    parts: dict[str, Path] = {name: found[name] for name in ("train", "val", "test") if name in found}
    if parts and "train" not in parts:
        have = " and ".join(f"{name}/" for name in parts)
        fix = "add train/, or give one folder that holds nothing but class folders"
        raise DataError(Problem(f"it holds {have} but no train/", root, fix))
    return parts or {"train": root}


def class_names_of(classes: Literal["binary", "three", "auto"], train: Path) -> tuple[str, ...]:
    """The classes in the order of their labels.

    Raises:
        DataError: `auto`, and there are fewer than two class folders.
    """
    if classes == "binary":
        return BINARY_CLASSES
    if classes == "three":
        return THREE_CLASSES
    names = tuple(folder.name for folder in subfolders(train))
    if len(names) < 2:
        have = f"there is only one class folder, {names[0]}" if names else "there are no class folders in it"
        raise DataError(Problem(have, train, "put the images of each class into a folder of its own, two or more"))
    return names


def read_part(folder: Path, root: Path, class_names: Sequence[str]) -> Part:
    """The images in the class folders of `folder`, which is the data folder `root` or lies in it."""
    walk = _walk(folder, root)
    by_class_folder: dict[str, list[Path]] = defaultdict(list)
    for image in walk.images:
        inner = image.relative_to(folder).parts[:-1]
        by_class_folder[inner[0] if inner else ""].append(image)
    loose = by_class_folder.pop("", [])
    labels: dict[Path, int] = {}
    problems: list[Problem] = []
    for name, images in by_class_folder.items():
        classes = {image: _class_of(name, image, class_names) for image in images}
        labels |= {image: class_names.index(found) for image, found in classes.items() if found is not None}
        unknown = [image.name for image, found in classes.items() if found is None]
        if unknown:
            problems.append(_unknown_class(folder / name, unknown, class_names))
    return Part(folder=folder, labels=labels, problems=tuple(problems), warnings=_passed_over(folder, walk, loose))


def empty_class_problems(folder: Path, class_names: Sequence[str], labels: Mapping[Path, int]) -> list[Problem]:
    """One problem for each class without images, or a single one when no class has any."""
    present = set(labels.values())
    if not present:
        found = listed([each.name for each in subfolders(folder)]) or "none"
        what = f"no images of the classes {', '.join(class_names)}; class folders found: {found}"
        return [Problem(what, folder, f"{_ADD_IMAGES}; or set data.classes: auto for one class a folder")]
    return [
        Problem(f"class {name} has no images", folder, _ADD_IMAGES)
        for label, name in enumerate(class_names)
        if label not in present
    ]


def require_folder(folder: Path) -> None:
    """Refuse what is not a folder.

    Raises:
        DataError: It is missing, or a file.
    """
    if not folder.is_dir():
        what = "this is a file, not a folder" if folder.exists() else "there is no such folder"
        raise DataError(Problem(what, folder, "give the folder that holds the images"))


def subfolders(folder: Path) -> list[Path]:
    """The visible folders directly in `folder`, sorted; links to folders are not among them."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return sorted(entry for entry in entries if entry.is_dir() and not entry.is_symlink())


def _walk(folder: Path, root: Path) -> _Walk:
    inside = root.resolve()
    images: list[Path] = []
    others: Counter[str] = Counter()
    links = 0
    for parent, folder_names, file_names in os.walk(folder, onerror=_refuse_unreadable):
        folder_names[:] = [name for name in folder_names if not name.startswith(".")]
        links += sum((Path(parent) / name).is_symlink() for name in folder_names)
        for file in (Path(parent) / name for name in file_names if not name.startswith(".")):
            if file.is_symlink() and not _leads_inside(file, inside):
                links += 1
            elif _is_device(file):
                others["pipe or device"] += 1
            elif file.suffix.lower() in IMAGE_SUFFIXES:
                images.append(file)
            elif file.name != PATIENTS_CSV:
                others[file.suffix.lower() or "no suffix"] += 1
    _refuse_unwritable_names(images)
    return _Walk(images=tuple(sorted(images)), other_suffixes=others, links=links)


def _leads_inside(link: Path, inside: Path) -> bool:
    try:
        return link.resolve().is_relative_to(inside)
    except (OSError, RuntimeError):  # links that lead round in a circle
        return False


def _is_device(file: Path) -> bool:
    """Whether this is a pipe, a socket or a device, the reading of which may never end."""
    try:
        return not stat.S_ISREG(file.stat().st_mode)
    except OSError:  # decoding meets it again, and says why
        return False


def _refuse_unwritable_names(images: Sequence[Path]) -> None:
    """Refuse names that a study could not write down: bytes that are no UTF-8."""
    problems = []
    for image in images:
        try:
            image.name.encode()
        except UnicodeEncodeError:
            name = os.fsencode(image.name).decode(errors="replace")
            problems.append(Problem(f"the name of this file is not UTF-8: {name}", image.parent, "rename the file"))
    if problems:
        raise DataError(*problems[:_NAMES_SHOWN])


def _refuse_unreadable(error: OSError) -> None:
    raise DataError(Problem(f"cannot be read ({error.strerror})", str(error.filename), "allow reading it")) from error


def _class_of(folder_name: str, image: Path, class_names: Sequence[str]) -> str | None:
    if folder_name in class_names:
        return folder_name
    for name in class_names:
        if name.casefold() == folder_name.casefold():
            return name
    if tuple(class_names) == THREE_CLASSES and folder_name.casefold() == "pneumonia":
        series = (patient_of(image.name) or "").partition(":")[0]
        return _CLASS_OF_SERIES.get(series)
    return None


def _unknown_class(folder: Path, files: Sequence[str], class_names: Sequence[str]) -> Problem:
    if tuple(class_names) == THREE_CLASSES and folder.name.casefold() == "pneumonia":
        what = f"file names that do not tell bacterial from viral: {len(files)} ({listed(files)})"
        return Problem(what, folder, "name them like person1_bacteria_1.jpeg, or set data.classes: binary")
    what = f"this folder is none of the classes {', '.join(class_names)}"
    return Problem(what, folder, "set data.classes: auto for one class a folder, or move the folder away")


def _passed_over(folder: Path, walk: _Walk, loose: Sequence[Path]) -> tuple[str, ...]:
    warnings = []
    if loose:
        names = listed([image.name for image in loose], 3)
        warnings.append(f"{folder}: images in no class folder are ignored: {len(loose)} ({names})")
    if walk.other_suffixes:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(walk.other_suffixes.items()))
        warnings.append(f"{folder}: files that are not .jpeg, .jpg or .png are ignored: {counts}")
    if walk.links:
        warnings.append(f"{folder}: links to folders, or out of the data folder, are not followed: {walk.links}")
    return tuple(warnings)
