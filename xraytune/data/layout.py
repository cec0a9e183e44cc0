"""Find the image files of a data folder, their part (train, val, test) and their class.

A data folder holds `train/`, `val/` and `test/` with class folders in them, or class folders only; images may be nested
deeper. An image outside of class folders gets its class from `patients.csv` or its Kermany file name. Hidden files are
ignored, other files are counted, and links are followed only to files inside the data folder.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal, NoReturn, TypeAlias

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.class_words import OTHER_WORDS
from xraytune.data.dicom import require_pydicom
from xraytune.data.formats import DICOM_SUFFIXES, NAMING_SUFFIXES, is_dicom
from xraytune.data.patients import PATIENTS_CSV, patient_of, pneumonia_type
from xraytune.data.table import PARTS, LabelTable, PartName

ClassChoice: TypeAlias = Literal["binary", "three", "auto"]
BINARY_CLASSES = ("NORMAL", "PNEUMONIA")
THREE_CLASSES = ("normal", "bacterial", "viral")
_NO_IMAGES = frozenset({PATIENTS_CSV, "provenance.json"})
"""Files that xraytune itself writes next to images."""
_ADD_IMAGES = (
    "put JPEG, PNG, TIFF or DICOM files (.jpeg, .jpg, .png, .tif, .tiff, .dcm, .dicom) {}; "
    "links that lead out of the data folder are not followed"
)
_CLASS_FOLDERS = f"put the images of each class into a folder of its own, or give {PATIENTS_CSV} a column class"
_NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a data folder.

    Attributes:
        folder: Contains the class folders, or images/ and masks/.
        labels: Its images, sorted, each with the position of its class.
        masks: The masks of each image; empty for classes.
        unknown: Names of the images whose class is unknown, by the direct subfolder that they are in.
        loose: Number of images outside of class folders, which are ignored.
        problems: Contradictions between the table and the folders, or images and masks that are unpaired.
    """

    folder: Path
    labels: Mapping[Path, int]
    masks: Mapping[Path, tuple[Path, ...]] = field(default_factory=dict)
    unknown: Mapping[Path, Sequence[str]] = field(default_factory=dict)
    loose: int = 0
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The images of a data folder, before any is read.

    Attributes:
        parts: `train` always; `val` and `test` if there are any.
        problems: Those of the parts, images of unknown class, and classes without images.
        warnings: Without those of the parts.
    """

    class_names: tuple[str, ...]
    parts: Mapping[PartName, Part]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


def list_images(folder: Path) -> tuple[Path, ...]:
    """List all images below a folder, sorted. Raises DataError if there is no such folder, or no image in it."""
    require_folder(folder)
    images = image_files(folder, folder)
    if not images:
        raise DataError(Problem("no images in it", folder, _ADD_IMAGES.format("there")))
    others = (image for image in images if image.suffix.lower() not in NAMING_SUFFIXES)
    if dicom := next(filter(_starts_as_dicom, others), None):
        require_pydicom(dicom)
    return images


def image_files(folder: Path, root: Path) -> tuple[Path, ...]:
    """List the image files below `folder`, which is the data folder `root` or lies in it, sorted; possibly none."""
    return walk_folder(folder, root)[0]


def pair_folders(folder: Path) -> dict[str, Path]:
    """Return the subfolders `images` and `masks` of a folder, in any case, as far as they exist."""
    folders = {inner.name.casefold(): inner for inner in subfolders(folder)} if folder.is_dir() else {}
    return {name: folders[name] for name in ("images", "masks") if name in folders}


def images_of(part: Path) -> Path:
    """Return the folder of the images of a part: `images` in a folder of pairs."""
    pairs = pair_folders(part)
    return pairs["images"] if len(pairs) == 2 else part


def holds_pairs(root: Path) -> bool:
    """Return whether a data folder, or a part of it (train/, val/, test/), holds pairs: it has images/ and masks/."""
    parts = [folder for folder in subfolders(root) if folder.name.casefold() in PARTS] if root.is_dir() else []
    return any(images_of(folder) != folder for folder in (root, *parts))


def bare_name(file: str) -> str:
    """Return a file's name in lower case, without an image suffix; other suffixes stay, since DICOM UIDs contain dots."""
    path = PurePosixPath(file)
    is_image_suffix = path.suffix.lower() in NAMING_SUFFIXES | DICOM_SUFFIXES
    return (path.stem if is_image_suffix else path.name).casefold()


def part_folders(root: Path) -> dict[PartName, Path]:
    """Return the existing folders of train, val and test; without any of them, `train` is the root itself.

    Raises:
        DataError: There is no such folder, val/ or test/ has no train/ next to it, or the parts are one folder deeper.
    """
    require_folder(root)
    by_name = {folder.name.casefold(): folder for folder in subfolders(root)}
    parts = {name: by_name[name] for name in PARTS if name in by_name}
    if parts and "train" not in parts:
        have = " and ".join(f"{name}/" for name in parts)
        fix = "add train/, or give a folder that contains only class folders"
        raise DataError(Problem(f"it contains {have} but no train/", root, fix))
    if parts:
        return parts
    folders = subfolders(root)
    inner = [folder for folder in folders if any(each.name.casefold() == "train" for each in subfolders(folder))]
    if inner:  # otherwise the test images in them would be trained on
        where = " and in ".join(f"{folder.name}/" for folder in inner)
        raise DataError(Problem(f"train/ is one folder deeper, in {where}", root, f"give {inner[0]}"))
    return {"train": root}


def unused_folders(root: Path, folders: Mapping[PartName, Path]) -> tuple[str, ...]:
    """Return warnings about folders next to the parts, which are ignored, and about a missing test part."""
    if folders["train"] == root:
        return ()
    warnings = []
    if "val" in folders and "test" not in folders:
        warnings.append(f"{root}: without test/ no images are held out")
    if others := [folder.name for folder in subfolders(root) if folder not in folders.values()]:
        warnings.append(f"{root}: folders next to train/ are ignored: {join_names(others)}")
    return tuple(warnings)


def class_layout(
    root: Path,
    folders: Mapping[PartName, Path],
    base: Path,
    patients_csv: LabelTable | None,
    classes: ClassChoice | tuple[str, ...],
) -> Layout:
    """Find the images of class folders, and their classes.

    `root` is what the user gave: the data folder `base`, or a folder without parts in it. `patients_csv` is the table of
    `base`, which may give the classes of images outside of class folders. `classes` are `data.classes`; or those of a model
    or a study, of which some may have no images.

    Raises:
        DataError: It is a folder of pairs, of which `auto` would make images/ and masks/ the classes; or `auto` finds fewer
            than two classes.
    """
    in_table: dict[str, str] = {}
    if patients_csv is not None:
        images = sorted(image for folder in folders.values() for image in image_files(folder, base))
        in_table = patients_csv.classes_of([image.relative_to(base).as_posix() for image in images])
    if not in_table and holds_pairs(root):
        what = "this is a folder of pairs (images/ and masks/), for segmentation; a classifier needs class folders"
        raise DataError(Problem(what, root, "use task: segmentation, or give a folder with a subfolder for each class"))
    names = classes if isinstance(classes, tuple) else standard_classes(classes)
    names = names or _auto_classes(folders["train"], base, in_table)
    parts = {name: _class_part(folder, base, names, in_table) for name, folder in folders.items()}
    layout = Layout(class_names=names, parts=parts)
    problems = _class_problems(root, layout, classes, has_classes=bool(in_table))
    return replace(layout, problems=tuple(problems))


def standard_classes(classes: ClassChoice) -> tuple[str, ...] | None:
    """Return the classes in the order of their labels; None for `auto`, whose classes are found."""
    return {"binary": BINARY_CLASSES, "three": THREE_CLASSES}.get(classes)


def _auto_classes(train: Path, root: Path, in_table: Mapping[str, str]) -> tuple[str, ...]:
    """Return the subfolders of `train` or, if `patients.csv` gives classes, these and the folders of other images."""
    names = tuple(folder.name for folder in subfolders(train))
    have = f"there is only one class folder, {names[0]}" if names else "there are no class folders in it"
    if in_table:
        spelled = {name.casefold(): name for name in in_table.values()}
        for image in image_files(train, root):
            inner = image.relative_to(train).parts[:-1]
            if inner and image.relative_to(root).as_posix() not in in_table:
                spelled[inner[0].casefold()] = inner[0]
        names = tuple(sorted(spelled.values()))
        have = f"there is only one class, {names[0]}, in it and in {PATIENTS_CSV}"
    if len(names) < 2:
        raise DataError(Problem(have, train, _CLASS_FOLDERS))
    return names


def _class_part(folder: Path, root: Path, class_names: Sequence[str], in_table: Mapping[str, str]) -> Part:
    images, warnings = walk_folder(folder, root)
    labels: dict[Path, int] = {}
    loose: list[str] = []
    unknown: dict[Path, list[str]] = defaultdict(list)
    problems: list[Problem] = []
    for image in images:
        inner = image.relative_to(folder).parts[:-1]
        written = in_table.get(image.relative_to(root).as_posix())
        by_table = spelled_class(written, class_names) if written else None
        by_folder = folder_class(inner, image, class_names)
        name = by_folder or by_table
        if not inner and written is None:
            name = _file_name_class(image, class_names)
        if written is not None and (name is None or name != by_table):
            what = f"{PATIENTS_CSV} gives it the class {written}, which is not one of {', '.join(class_names)}"
            fix = "correct the table, or use data.classes: auto"
            if by_folder and by_table:
                what = f"{PATIENTS_CSV} gives it the class {written}, its folder the class {by_folder}"
                fix = "correct the one that is wrong"
            problems.append(Problem(what, image, fix))
        elif name is not None:
            labels[image] = class_names.index(name)
        elif inner:
            unknown[folder / inner[0]].append(image.name)
        else:
            loose.append(image.name)
    if (more := len(problems) - _NAMES_SHOWN) > 0:
        problems[_NAMES_SHOWN:] = [Problem(f"... and {more} more")]
    if loose:
        ignored = f"{folder}: images outside of class folders are ignored: {len(loose)} ({join_names(loose, 3)})"
        warnings = (ignored, *warnings)
    return Part(
        folder=folder,
        labels=labels,
        unknown=unknown,
        loose=len(loose),
        problems=tuple(problems),
        warnings=warnings,
    )


def _class_problems(
    root: Path, layout: Layout, classes: ClassChoice | tuple[str, ...], *, has_classes: bool
) -> list[Problem]:
    """Return files and folders of unknown class or, if there are none, classes without images.

    `has_classes`: whether `patients.csv` gives classes. Given `classes` may have no images.
    """
    problems = _unknown_classes(root, layout, classes, has_classes=has_classes)
    problems += [problem for part in layout.parts.values() for problem in part.problems]
    if problems or (isinstance(classes, tuple) and layout.parts["train"].labels):
        return problems
    return _classes_without_images(layout)


def _unknown_classes(
    root: Path, layout: Layout, classes: ClassChoice | tuple[str, ...], *, has_classes: bool
) -> list[Problem]:
    """Return a problem about all folders of unknown class, or about file names that do not say which pneumonia it is."""
    unknown = {folder: files for part in layout.parts.values() for folder, files in part.unknown.items()}
    if not unknown:
        return []
    where = next(iter(unknown)) if len(unknown) == 1 else root
    names = sorted({folder.name for folder in unknown})
    files = [file for names_there in unknown.values() for file in names_there]
    if has_classes:
        what = f"{len(files)} images have no class, neither in {PATIENTS_CSV} nor by their folder: {join_names(files)}"
        return [Problem(what, where, "fill in the column class")]
    if tuple(layout.class_names) == THREE_CLASSES and {name.casefold() for name in names} == {"pneumonia"}:
        what = f"file names that do not indicate bacterial or viral: {len(files)} ({join_names(files, 3)})"
        return [Problem(what, where, "name them like person1_bacteria_1.jpeg, or put them into bacterial/ and viral/")]
    fix = "rename them to one of these classes, or move them away"
    if classes in ("binary", "three"):
        fix = f"use data.classes: auto to make each folder a class; or {fix}"
        if tables := sorted(root.glob("*.csv")):
            fix = (
                f"if {tables[0].name} has the labels, describe it in a data file (docs/data.md, Label tables); or {fix}"
            )
        elif all(spelled_class(name, THREE_CLASSES) for name in names):
            fix = f"use data.classes: three; or {fix}"
    what = f"folders that are none of the classes {join_names(layout.class_names)}: {join_names(names)}"
    return [Problem(what, where, fix)]


def _classes_without_images(layout: Layout) -> list[Problem]:
    """Return a problem for `train` and `val` together, and one for `test`, if they lack classes."""
    present = {name: set(part.labels.values()) for name, part in layout.parts.items()}
    present["train"] |= present.pop("val", set())
    problems = []
    for name, labels in present.items():
        part = layout.parts[name]
        missing = [each for label, each in enumerate(layout.class_names) if label not in labels]
        what = f"class{'es' * (len(missing) > 1)} without images: {join_names(missing)}"
        fix = _ADD_IMAGES.format(f"into {'/, '.join(missing)}/ there")
        if not labels and part.loose:
            what = f"none of the {part.loose} images has a class, by a class folder or by its file name"
            fix = _CLASS_FOLDERS
        if not labels:
            fix += "; or give the parent folder, if it contains the class folders"
        if missing:
            problems.append(Problem(what, part.folder, fix))
    return problems


def require_folder(folder: Path) -> None:
    """Raise DataError if the folder is missing, or a file."""
    if not folder.is_dir():
        what = "this is a file, not a folder" if folder.exists() else "there is no such folder"
        raise DataError(Problem(what, folder, "give the folder that contains the images"))


def subfolders(folder: Path) -> list[Path]:
    """List the visible direct subfolders, sorted, without links."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        _refuse_unreadable(error)
    return sorted(entry for entry in entries if entry.is_dir() and not entry.is_symlink())


def walk_folder(folder: Path, root: Path, *, report_others: bool = True) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the images of a folder tree, sorted, and warnings about what was ignored."""
    inside = root.resolve()
    images: list[Path] = []
    others: Counter[str] = Counter()
    links = 0
    for parent, folder_names, file_names in os.walk(folder, onerror=_refuse_unreadable):
        folder_names[:] = [name for name in folder_names if not name.startswith(".")]
        links += sum((Path(parent) / name).is_symlink() for name in folder_names)
        for file in (Path(parent, name) for name in file_names if not name.startswith(".")):
            # Unlike Path's methods, these do not raise if access is refused, which decoding reports.
            if os.path.islink(file) and not _leads_inside(file, inside):  # noqa: PTH114
                links += 1
            elif os.path.exists(file) and not os.path.isfile(file):  # noqa: PTH110, PTH113  reading it may never end
                others["pipe or device"] += 1
            elif _is_image_name(file):
                images.append(file)
            elif file.name not in _NO_IMAGES:
                others[file.suffix.lower() or "no suffix"] += 1
    _refuse_unwritable_names(folder, images)
    warnings = []
    if others and report_others:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        warnings.append(f"{folder}: files without an image suffix are ignored: {counts}")
    if links:
        warnings.append(f"{folder}: links to folders, or out of the data folder, are not followed: {links}")
    return tuple(sorted(images, key=lambda image: image.parts)), tuple(warnings)


def _is_image_name(file: Path) -> bool:
    """Return whether a file counts as an image: by its suffix or, if that is not known, by its DICOM marker.

    DICOM files are often named IM000001, or with a UID of numbers and dots. DICOMDIR is a medium's table of contents.
    """
    suffix = file.suffix.lower()
    if suffix in NAMING_SUFFIXES or suffix in DICOM_SUFFIXES:
        return True
    says_nothing = not suffix or suffix[1:].isdigit()
    return says_nothing and file.name.upper() != "DICOMDIR" and _starts_as_dicom(file)


def _starts_as_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return is_dicom(stream.read(132))
    except OSError:  # if it counts as an image, decoding reports this
        return False


def _leads_inside(link: Path, inside: Path) -> bool:
    try:
        return link.resolve().is_relative_to(inside)
    except (OSError, RuntimeError):  # a loop of links
        return False


def _refuse_unwritable_names(folder: Path, images: Sequence[Path]) -> None:
    """Raise DataError for names that are not UTF-8, which no study could store."""
    names = [image.relative_to(folder).as_posix() for image in images]
    if bad := [text for name in names if (text := os.fsencode(name).decode(errors="replace")) != name]:
        raise DataError(Problem(f"file names that are not UTF-8: {join_names(bad)}", folder, "rename the files"))


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise DataError(
        Problem(f"cannot be read ({error.strerror})", str(error.filename), "check its permissions")
    ) from error


def folder_class(inner: Sequence[str], image: Path, class_names: Sequence[str]) -> str | None:
    """Return the class named by the outermost possible folder of an image, at any depth."""
    for folder_name in inner:
        if name := spelled_class(folder_name, class_names):
            return name
        if tuple(class_names) == THREE_CLASSES and folder_name.casefold() == "pneumonia":
            name = _file_name_class(image, class_names)
            return None if name == "normal" else name
    return None


def spelled_class(name: str, class_names: Sequence[str]) -> str | None:
    """Return a class by its name, in upper or lower case; of three classes also by another word for it."""
    if name in class_names:
        return name
    if tuple(class_names) == THREE_CLASSES:
        name = OTHER_WORDS.get(name.casefold(), name)
    return next((known for known in class_names if known.casefold() == name.casefold()), None)


def _file_name_class(image: Path, class_names: Sequence[str]) -> str | None:
    """Return the class that a file name states, among two or three classes; None for other names and classes.

    It is a Kermany file name or, with three classes, begins with a word for one of them: `VIRUS-17-0001.jpeg`.
    """
    is_three = tuple(class_names) == THREE_CLASSES
    if patient_of(image.name) and (is_three or tuple(class_names) == BINARY_CLASSES):
        pneumonia = pneumonia_type(image.name)
        return (pneumonia or "normal") if is_three else BINARY_CLASSES[pneumonia is not None]
    return spelled_class(re.split("[^a-zA-Z]", image.stem)[0], class_names) if is_three else None
