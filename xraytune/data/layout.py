"""Which image files a data folder holds, in which part (train, val, test) and of which class.

Takes `train/ val/ test/` of class folders, or one folder of class folders; images may lie deeper in them. An image in no
class folder has the class that `patients.csv` gives, else the one that a Kermany file name tells. Hidden files are
ignored, other files are counted, links are followed to files inside the data folder alone.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xraytune.data.dicom import require_pydicom
from xraytune.data.formats import is_dicom
from xraytune.data.patients import PATIENTS_CSV, PatientTable, ambiguity_problems, patient_of
from xraytune.errors import DataError, Problem, listed

BINARY_CLASSES = ("NORMAL", "PNEUMONIA")
THREE_CLASSES = ("normal", "bacterial", "viral")
NAMING_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".tif", ".tiff"})
DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
_DICOM_DIRECTORY = "DICOMDIR"
"""The table of contents of a DICOM medium: DICOM by its first bytes, and no image."""
_CLASSES_OF_SERIES = {
    "IM": ("NORMAL", "normal"),
    "NORMAL2-IM": ("NORMAL", "normal"),
    "bacteria": ("PNEUMONIA", "bacterial"),
    "virus": ("PNEUMONIA", "viral"),
}
"""The class of a Kermany file name, of two and of three."""
_ABOUT_IMAGES = frozenset({PATIENTS_CSV, "provenance.json"})
"""What xraytune itself writes beside images."""
_NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a data folder.

    Attributes:
        folder: Whose subfolders are the classes.
        labels: Its images, sorted, each with the position of its class.
        class_folders: Names of the folders directly in it that hold images, sorted.
        problems: Folders and files whose class is unknown.
        warnings: What was passed over.
    """

    folder: Path
    labels: Mapping[Path, int]
    class_folders: tuple[str, ...]
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
        MachineError: There are DICOM files, and pydicom is not installed.
    """
    require_folder(folder)
    images = image_files(folder, folder)
    if not images:
        raise DataError(Problem("no images in it", folder, _add_images("there")))
    for image in images:
        if image.suffix.lower() not in NAMING_SUFFIXES and _starts_as_dicom(image):
            require_pydicom(image)
            break
    return images


def image_files(folder: Path, root: Path) -> tuple[Path, ...]:
    """The image files below `folder`, which is the data folder `root` or lies in it, sorted; maybe none."""
    return _walk(folder, root).images


def part_folders(root: Path) -> dict[str, Path]:
    """The folders of train, val and test that there are; `train` is the root itself when there is none of them.

    Raises:
        DataError: There is no such folder, a val/ or test/ without a train/, or the parts lie one folder further in.
    """
    require_folder(root)
    found = {folder.name.casefold(): folder for folder in subfolders(root)}
    parts: dict[str, Path] = {name: found[name] for name in ("train", "val", "test") if name in found}
    if parts and "train" not in parts:
        have = " and ".join(f"{name}/" for name in parts)
        fix = "add train/, or give one folder that holds nothing but class folders"
        raise DataError(Problem(f"it holds {have} but no train/", root, fix))
    inner = [] if parts else [folder for folder in subfolders(root) if _holds_train(folder)]
    if inner:  # walked through, the test images in them would be trained on
        where = " and in ".join(f"{folder.name}/" for folder in inner)
        raise DataError(Problem(f"train/ lies one folder further in, in {where}", root, f"give {inner[0]}"))
    return parts or {"train": root}


def class_names_of(
    classes: Literal["binary", "three", "auto"],
    train: Path,
    root: Path | None = None,
    table: PatientTable | None = None,
) -> tuple[str, ...]:
    """The classes in the order of their labels.

    `auto` takes the folders directly in `train`; where the `table` of the data folder `root` has classes, those, and the
    folders of the images that it gives none.

    Raises:
        DataError: `auto`, and there are fewer than two classes.
    """
    if classes == "binary":
        return BINARY_CLASSES
    if classes == "three":
        return THREE_CLASSES
    if table is not None and table.classes:
        names = _names_with_table(train, root or train, table)
        have = f"there is only one class, {names[0]}, in it and in {PATIENTS_CSV}"
    else:
        names = tuple(folder.name for folder in subfolders(train))
        have = f"there is only one class folder, {names[0]}" if names else "there are no class folders in it"
    if len(names) < 2:
        fix = "put the images of each class into a folder of its own, two or more"
        raise DataError(Problem(have, train, f"{fix}, or give {PATIENTS_CSV} a column class"))
    return names


def read_part(folder: Path, root: Path, class_names: Sequence[str], table: PatientTable | None = None) -> Part:
    """The images in `folder`, which is the data folder `root` or lies in it, with their classes."""
    walk = _walk(folder, root)
    labels: dict[Path, int] = {}
    loose: list[Path] = []
    unknown: dict[str, list[str]] = defaultdict(list)
    problems: list[Problem] = []
    for image in walk.images:
        inner = image.relative_to(folder).parts[:-1]
        by_folder = _folder_class(inner, image, class_names)
        by_table = table.class_of(image.relative_to(root).as_posix()) if table else None
        name = by_folder or (_named(by_table, class_names) if by_table else None)
        if not inner and name is None and by_table is None:
            name = _file_name_class(image, class_names)
        if by_table is not None and (name is None or _named(by_table, class_names) != name):
            problems.append(_table_problem(image, by_table, by_folder, class_names))
        elif name is not None:
            labels[image] = class_names.index(name)
        elif inner:
            unknown[inner[0]].append(image.name)
        else:
            loose.append(image)
    if (more := len(problems) - _NAMES_SHOWN) > 0:
        problems = [*problems[:_NAMES_SHOWN], Problem(f"... and {more} more")]
    if table is not None:  # a class by a name that several images have would contradict the folders of some
        files = [image.relative_to(root).as_posix() for image in walk.images]
        problems = ambiguity_problems(table, files) or problems
    problems = [_unknown_class(folder / name, files, class_names, table) for name, files in unknown.items()] + problems
    return Part(
        folder=folder,
        labels=labels,
        class_folders=tuple(sorted({inner[0] for image in walk.images if (inner := _inner(image, folder))})),
        problems=tuple(problems),
        warnings=_passed_over(folder, walk, loose),
    )


def differing_classes_problems(root: Path, parts: Mapping[str, Part], class_names: Sequence[str]) -> list[Problem]:
    """A single problem where test (or val) has other class folders than train, and so lacks a class or has one more."""
    train = parts["train"]
    for name in ("test", "val"):
        part = parts.get(name)
        if part is None or {n.casefold() for n in part.class_folders} == {n.casefold() for n in train.class_folders}:
            continue
        lacks = name == "test" and set(part.labels.values()) != set(range(len(class_names)))
        if part.class_folders and train.class_folders and (part.problems or lacks):
            have = f"train/ has {listed(train.class_folders)}; {name}/ has {listed(part.class_folders)}"
            fix = "give both the same class folders"
            return [Problem(f"the class folders of train/ and {name}/ differ: {have}", root, fix)]
    return []


def empty_class_problems(folder: Path, class_names: Sequence[str], labels: Mapping[Path, int]) -> list[Problem]:
    """One problem for each class without images, or a single one when no class has any."""
    present = set(labels.values())
    if not present:
        found = listed([each.name for each in subfolders(folder)]) or "none"
        what = f"no images of the classes {', '.join(class_names)}; class folders found: {found}"
        return [Problem(what, folder, f"{_add_images('there')}; or set data.classes: auto for one class a folder")]
    why, above = "", ""
    if not subfolders(folder):
        why = ": there are no class folders, and no file name or table gives an image this class"
        above = "; or give the folder above, where it holds the class folders"
    return [
        Problem(f"class {name} has no images{why}", folder, f"{_add_images(f'into {name}/ there')}{above}")
        for label, name in enumerate(class_names)
        if label not in present
    ]


def _add_images(where: str) -> str:
    return (
        f"put JPEG, PNG, TIFF or DICOM files (.jpeg, .jpg, .png, .tif, .tiff, .dcm, .dicom) {where}; "
        "links that lead out of the data folder are not followed"
    )


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


def _holds_train(folder: Path) -> bool:
    try:
        return any(inner.name.casefold() == "train" for inner in subfolders(folder))
    except OSError:
        return False


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
            elif _is_image_name(file):
                images.append(file)
            elif file.name not in _ABOUT_IMAGES:
                others[file.suffix.lower() or "no suffix"] += 1
    _refuse_unwritable_names(folder, images)
    return _Walk(images=tuple(sorted(images)), other_suffixes=others, links=links)


def _is_image_name(file: Path) -> bool:
    """Whether to take a file for an image: by its suffix, or where that says nothing, by the mark of DICOM in it.

    DICOM files are often called IM000001, or by a UID of numbers and dots.
    """
    suffix = file.suffix.lower()
    if suffix in NAMING_SUFFIXES or suffix in DICOM_SUFFIXES:
        return True
    is_telling = suffix and not suffix[1:].isdigit()
    return not is_telling and file.name.upper() != _DICOM_DIRECTORY and _starts_as_dicom(file)


def _starts_as_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return is_dicom(stream.read(132))
    except OSError:  # where it is to be an image, decoding meets it again, and says why
        return False


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


def _refuse_unwritable_names(folder: Path, images: Sequence[Path]) -> None:
    """Refuse names that a study could not write down: bytes that are no UTF-8."""
    problems = []
    for image in images:
        try:
            name = image.relative_to(folder).as_posix()
            name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(name).decode(errors="replace")
            problems.append(Problem(f"the name of this file is not UTF-8: {shown}", folder, "rename the file"))
    if problems:
        raise DataError(*problems[:_NAMES_SHOWN])


def _refuse_unreadable(error: OSError) -> None:
    raise DataError(Problem(f"cannot be read ({error.strerror})", str(error.filename), "allow reading it")) from error


def _inner(image: Path, folder: Path) -> tuple[str, ...]:
    return image.relative_to(folder).parts[:-1]


def _folder_class(inner: Sequence[str], image: Path, class_names: Sequence[str]) -> str | None:
    """The class that the outermost of an image's folders names, at any depth; None when none of them does."""
    for folder_name in inner:
        if found := _named(folder_name, class_names):
            return found
        if tuple(class_names) == THREE_CLASSES and folder_name.casefold() == "pneumonia":
            name = _file_name_class(image, class_names)
            return None if name == "normal" else name
    return None


def _named(name: str, class_names: Sequence[str]) -> str | None:
    """A class by its name, however it is spelled."""
    if name in class_names:
        return name
    return next((own for own in class_names if own.casefold() == name.casefold()), None)


def _file_name_class(image: Path, class_names: Sequence[str]) -> str | None:
    """The class that a Kermany file name tells, among two or three classes; None for other names and classes."""
    series = (patient_of(image.name) or "").partition(":")[0]
    told = _CLASSES_OF_SERIES.get(series)
    if told is None or tuple(class_names) not in (BINARY_CLASSES, THREE_CLASSES):
        return None
    return told[tuple(class_names) == THREE_CLASSES]


def _names_with_table(train: Path, root: Path, table: PatientTable) -> tuple[str, ...]:
    names = {name.casefold(): name for name in table.classes.values()}
    for image in _walk(train, root).images:
        inner = _inner(image, train)
        if inner and not table.class_of(image.relative_to(root).as_posix()):
            names[inner[0].casefold()] = inner[0]
    return tuple(sorted(names.values()))


def _table_problem(image: Path, by_table: str, by_folder: str | None, class_names: Sequence[str]) -> Problem:
    if by_folder is not None and _named(by_table, class_names):
        what = f"{PATIENTS_CSV} gives it the class {by_table}, its folder the class {by_folder}"
        return Problem(what, image, "correct the one that is wrong")
    what = f"{PATIENTS_CSV} gives it the class {by_table}, which is none of {', '.join(class_names)}"
    return Problem(what, image, "correct the table, or set data.classes: auto")


def _unknown_class(
    folder: Path, files: Sequence[str], class_names: Sequence[str], table: PatientTable | None
) -> Problem:
    if tuple(class_names) == THREE_CLASSES and folder.name.casefold() == "pneumonia":
        what = f"file names that do not tell bacterial from viral: {len(files)} ({listed(files)})"
        return Problem(what, folder, "name them like person1_bacteria_1.jpeg, or set data.classes: binary")
    if table is not None and table.classes:
        what = f"{len(files)} images have no class in {PATIENTS_CSV}, and their folder tells none: {listed(files)}"
        return Problem(what, folder, "fill in the column class")
    what = f"this folder is none of the classes {', '.join(class_names)}"
    return Problem(what, folder, "set data.classes: auto for one class a folder, or move the folder away")


def _passed_over(folder: Path, walk: _Walk, loose: Sequence[Path]) -> tuple[str, ...]:
    warnings = []
    if loose:
        names = listed([image.name for image in loose], 3)
        warnings.append(f"{folder}: images in no class folder are ignored: {len(loose)} ({names})")
    if walk.other_suffixes:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(walk.other_suffixes.items()))
        warnings.append(f"{folder}: files that are no images by their suffix are ignored: {counts}")
    if walk.links:
        warnings.append(f"{folder}: links to folders, or out of the data folder, are not followed: {walk.links}")
    return tuple(warnings)
