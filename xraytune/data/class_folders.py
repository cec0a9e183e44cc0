"""Find the class of each image of a data folder by its folders, its `patients.csv` or its Kermany file name.

A data folder holds `train/`, `val/` and `test/` with class folders in them, or class folders only; images may be nested
deeper.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.folders import ADD_IMAGES, Listed, Listing, holds_pairs, missing_classes, subfolders, walk_folder
from xraytune.data.guesses import OTHER_WORDS, PartName, patient_of, pneumonia_type, shows_drawings
from xraytune.data.patients import PATIENTS_CSV
from xraytune.data.table import LabelTable

ClassChoice: TypeAlias = Literal["binary", "three", "auto"]
BINARY_CLASSES = ("NORMAL", "PNEUMONIA")
THREE_CLASSES = ("normal", "bacterial", "viral")
STANDARD_CLASSES: Mapping[ClassChoice, tuple[str, ...]] = {"binary": BINARY_CLASSES, "three": THREE_CLASSES}
"""In the order of the labels; the classes of `auto` are found."""
_CLASS_FOLDERS = f"put the images of each class into a folder of its own, or give {PATIENTS_CSV} a column class"
_NAMES_SHOWN = 10


def list_class_folders(
    folders: Mapping[PartName, Path],
    base: Path,
    patients_csv: LabelTable | None,
    classes: ClassChoice | tuple[str, ...],
) -> Listing:
    """Find the images of class folders, and their classes.

    `folders` are the data folder `base` or its parts. `patients_csv` is the table of `base`, which may give the classes of
    images outside of class folders. `classes` are `data.classes`; or those of a model or a study, of which some may have no
    images.

    Raises:
        DataError: It is a folder of pairs, of which `auto` would make images/ and masks/ the classes; or `auto` finds fewer
            than two classes.
    """
    root = base if len(folders) > 1 else folders["train"]
    walked = {part: walk_folder(folder, base) for part, folder in folders.items()}
    files = {image: image.relative_to(base).as_posix() for images, _ in walked.values() for image in images}
    rows = patients_csv.rows_of(sorted(files.values())) if patients_csv else {}
    in_table = {
        file: written for file, row in rows.items() if patients_csv and (written := patients_csv.rows[row].class_name)
    }
    if not in_table and holds_pairs(root):
        what = "this is a folder of pairs (images/ and masks/), for segmentation; a classifier needs class folders"
        raise DataError(Problem(what, root, "use task: segmentation, or give a folder with a subfolder for each class"))
    if isinstance(classes, tuple):
        names = classes
    else:
        without = [image for image in walked["train"][0] if files[image] not in in_table]
        names = STANDARD_CLASSES.get(classes) or _auto_classes(folders["train"], without, in_table)
    listed = dict[Path, Listed]()
    unknown, loose = defaultdict[Path, list[str]](list), defaultdict[PartName, list[str]](list)
    contradictions, warnings = list[Problem](), list[str]()
    for part, folder in folders.items():
        images, notes = walked[part]
        for image in images:
            inner = image.relative_to(folder).parts[:-1]
            name = _class_of(image, inner, in_table.get(files[image]), names)
            if isinstance(name, Problem):
                contradictions.append(name)
            elif name is not None:
                listed[image] = Listed(names.index(name), part)
            elif inner:
                unknown[folder / inner[0]].append(image.name)
            else:
                loose[part].append(image.name)
        if outside := loose[part]:
            what = f"images outside of class folders are ignored: {len(outside)} ({join_names(outside, 3)})"
            warnings.append(f"{folder}: {what}")
        warnings += notes
    if (more := len(contradictions) - _NAMES_SHOWN) > 0:
        contradictions[_NAMES_SHOWN:] = [Problem(f"... and {more} more")]
    problems = [*_unknown_classes(root, unknown, names, classes, has_table=bool(in_table)), *contradictions]
    may_lack_classes = isinstance(classes, tuple) and any(image.part == "train" for image in listed.values())
    if not problems and not may_lack_classes:
        problems = _classes_without_images(folders, names, listed.values(), loose)
    return Listing(names, folders["train"], listed, tuple(problems), tuple(warnings))


def _class_of(
    image: Path, inner: Sequence[str], written: str | None, class_names: tuple[str, ...]
) -> str | Problem | None:
    """Return the class of an image by its folders below its part, or as `patients.csv` has it; None if it is unknown."""
    by_folder = folder_class(inner, image, class_names)
    if written is None:
        return by_folder if inner else _file_name_class(image, class_names)
    by_table = spelled_class(written, class_names)
    if by_table is None:
        what = f"{PATIENTS_CSV} gives it the class {written}, which is not one of {', '.join(class_names)}"
        return Problem(what, image, "correct the table, or use data.classes: auto")
    if by_folder not in (None, by_table):
        what = f"{PATIENTS_CSV} gives it the class {written}, its folder the class {by_folder}"
        return Problem(what, image, "correct the one that is wrong")
    return by_table


def _auto_classes(train: Path, without: Sequence[Path], in_table: Mapping[str, str]) -> tuple[str, ...]:
    """Return the subfolders of `train` or, if `patients.csv` gives classes, these and the folders of images `without`."""
    names = {name.casefold(): name for name in in_table.values()}
    inner = [image.relative_to(train).parts[0] for image in without if image.parent != train]
    names |= {
        name.casefold(): name
        for name in (inner if in_table else [each.name for each in subfolders(train) if not shows_drawings(each.name)])
    }
    if len(names) < 2:
        places = f"in it and in {PATIENTS_CSV}" if in_table else "in it"
        have = f"there is only one class, {', '.join(names.values())}," if names else "there are no class folders"
        raise DataError(Problem(f"{have} {places}", train, _CLASS_FOLDERS))
    return tuple(sorted(names.values()))


def _unknown_classes(
    root: Path,
    unknown: Mapping[Path, Sequence[str]],
    class_names: tuple[str, ...],
    classes: ClassChoice | tuple[str, ...],
    *,
    has_table: bool,
) -> list[Problem]:
    """Return a problem about all folders of unknown class, or about file names that do not say which pneumonia it is."""
    if not unknown:
        return []
    where = next(iter(unknown)) if len(unknown) == 1 else root
    names = sorted({folder.name for folder in unknown})
    files = [file for names_there in unknown.values() for file in names_there]
    if has_table:
        what = f"{len(files)} images have no class, neither in {PATIENTS_CSV} nor by their folder: {join_names(files)}"
        return [Problem(what, where, "fill in the column class")]
    if class_names == THREE_CLASSES and {name.casefold() for name in names} == {"pneumonia"}:
        what = f"file names that do not indicate bacterial or viral: {len(files)} ({join_names(files, 3)})"
        return [Problem(what, where, "name them like person1_bacteria_1.jpeg, or put them into bacterial/ and viral/")]
    fix = "rename them to one of these classes, or move them away"
    if classes in ("binary", "three"):
        fix = f"use data.classes: auto to make each folder a class; or {fix}"
        if tables := sorted(root.glob("*.csv")):
            first = f"if {tables[0].name} has the labels, describe it in a data file (docs/data.md, Label tables)"
            fix = f"{first}; or {fix}"
        elif all(spelled_class(name, THREE_CLASSES) for name in names):
            fix = f"use data.classes: three; or {fix}"
    what = f"folders that are none of the classes {join_names(class_names)}: {join_names(names)}"
    return [Problem(what, where, fix)]


def _classes_without_images(
    folders: Mapping[PartName, Path],
    class_names: Sequence[str],
    listed: Iterable[Listed],
    loose: Mapping[PartName, Sequence[str]],
) -> list[Problem]:
    problems = []
    for part, missing in missing_classes(listed, folders, class_names).items():
        what = f"no images of {join_names(missing)}"
        fix = ADD_IMAGES.format(f"into {'/, '.join(missing)}/ there")
        if len(missing) == len(class_names):
            if outside := loose.get(part):
                what = f"none of the {len(outside)} images has a class, by a class folder or by its file name"
                fix = _CLASS_FOLDERS
            fix += "; or give the parent folder, if it contains the class folders"
        problems.append(Problem(what, folders[part], fix))
    return problems


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
    if tuple(class_names) == THREE_CLASSES:
        name = OTHER_WORDS.get(name.casefold(), name)
    if name in class_names:
        return name
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
