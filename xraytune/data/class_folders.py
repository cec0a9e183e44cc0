"""Find the class of each image of a data folder by its folders, its `patients.csv` or its Kermany file name.

A data folder holds `train/`, `val/` and `test/` with class folders in them, or class folders only; images may be nested
deeper.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.class_words import OTHER_WORDS
from xraytune.data.folders import ADD_IMAGES, Listing, holds_pairs, image_files, subfolders, walk_folder
from xraytune.data.patients import PATIENTS_CSV, patient_of, pneumonia_type
from xraytune.data.table import LabelTable, PartName

ClassChoice: TypeAlias = Literal["binary", "three", "auto"]
BINARY_CLASSES = ("NORMAL", "PNEUMONIA")
THREE_CLASSES = ("normal", "bacterial", "viral")
_CLASS_FOLDERS = f"put the images of each class into a folder of its own, or give {PATIENTS_CSV} a column class"
_NAMES_SHOWN = 10


def list_class_folders(
    root: Path,
    folders: Mapping[PartName, Path],
    base: Path,
    patients_csv: LabelTable | None,
    classes: ClassChoice | tuple[str, ...],
) -> Listing:
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
        everywhere = sorted(image for folder in folders.values() for image in image_files(folder, base))
        in_table = patients_csv.classes_of([image.relative_to(base).as_posix() for image in everywhere])
    if not in_table and holds_pairs(root):
        what = "this is a folder of pairs (images/ and masks/), for segmentation; a classifier needs class folders"
        raise DataError(Problem(what, root, "use task: segmentation, or give a folder with a subfolder for each class"))
    names = classes if isinstance(classes, tuple) else standard_classes(classes)
    names = names or _auto_classes(folders["train"], base, in_table)
    labels, parts = dict[Path, int](), dict[Path, PartName]()
    unknown, loose = defaultdict[Path, list[str]](list), defaultdict[PartName, list[str]](list)
    contradictions, warnings = list[Problem](), list[str]()
    for part, folder in folders.items():
        images, notes = walk_folder(folder, base)
        for image in images:
            inner, written = image.relative_to(folder).parts[:-1], in_table.get(image.relative_to(base).as_posix())
            name = _class_of(image, inner, written, names)
            if isinstance(name, Problem):
                contradictions.append(name)
            elif name is not None:
                labels[image], parts[image] = names.index(name), part
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
    may_lack_classes = isinstance(classes, tuple) and "train" in parts.values()
    if not problems and not may_lack_classes:
        problems = _classes_without_images(folders, names, labels, parts, loose)
    return Listing(
        class_names=names,
        train_folder=folders["train"],
        labels=labels,
        parts=parts,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


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


def _unknown_classes(
    root: Path,
    unknown: Mapping[Path, Sequence[str]],
    class_names: tuple[str, ...],
    classes: ClassChoice | tuple[str, ...],
    *,
    has_table: bool,
) -> list[Problem]:
    """Return a problem about all folders of unknown class, or about file names that do not say which pneumonia it is.

    `has_table`: whether `patients.csv` gives classes.
    """
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
            fix = (
                f"if {tables[0].name} has the labels, describe it in a data file (docs/data.md, Label tables); or {fix}"
            )
        elif all(spelled_class(name, THREE_CLASSES) for name in names):
            fix = f"use data.classes: three; or {fix}"
    what = f"folders that are none of the classes {join_names(class_names)}: {join_names(names)}"
    return [Problem(what, where, fix)]


def _classes_without_images(
    folders: Mapping[PartName, Path],
    class_names: Sequence[str],
    labels: Mapping[Path, int],
    parts: Mapping[Path, PartName],
    loose: Mapping[PartName, Sequence[str]],
) -> list[Problem]:
    """Return a problem for `train` and `val` together, and one for `test`, if they lack classes."""
    sides: dict[PartName, set[int]] = {part: set() for part in folders if part != "val"}
    for image, label in labels.items():
        sides["test" if parts[image] == "test" else "train"].add(label)
    problems = []
    for part, present in sides.items():
        missing = [name for label, name in enumerate(class_names) if label not in present]
        what = f"class{'es' * (len(missing) > 1)} without images: {join_names(missing)}"
        fix = ADD_IMAGES.format(f"into {'/, '.join(missing)}/ there")
        if not present and (outside := loose.get(part)):
            what = f"none of the {len(outside)} images has a class, by a class folder or by its file name"
            fix = _CLASS_FOLDERS
        if not present:
            fix += "; or give the parent folder, if it contains the class folders"
        if missing:
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
