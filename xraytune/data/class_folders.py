"""Find the class of each image by its folders, `patients.csv` or its Kermany file name.

A data folder holds `train/`, `val/` and `test/` with class folders in them, or class folders only;
images may be nested deeper.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.folders import (
    ADD_IMAGES,
    holds_pairs,
    missing_classes,
    no_images,
    refuse_inner_parts,
    subfolders,
    walk_folder,
)
from xraytune.data.guesses import (
    OTHER_WORDS,
    PartName,
    composed,
    folded,
    inner_folders,
    patient_of,
    pneumonia_type,
    shows_drawings,
    shows_generated,
)
from xraytune.data.images import ImageFile, ImageIndex, Images
from xraytune.data.patients import PATIENTS_CSV
from xraytune.data.table import LabelTable

ClassChoice: TypeAlias = Literal["binary", "three", "auto"]
BINARY_CLASSES = ("NORMAL", "PNEUMONIA")
THREE_CLASSES = ("normal", "bacterial", "viral")
STANDARD_CLASSES: Mapping[ClassChoice, tuple[str, ...]] = {
    "binary": BINARY_CLASSES,
    "three": THREE_CLASSES,
}
"""In the order of the labels; the classes of `auto` are found."""
_CLASS_FOLDERS = (
    f"put the images of each class into a folder of its own, or give {PATIENTS_CSV} a column class"
)


def list_class_folders(
    folders: Mapping[PartName, Path],
    base: Path,
    patients_csv: LabelTable | None,
    classes: ClassChoice | tuple[str, ...],
) -> ImageIndex:
    """Find the images of class folders, and their classes.

    `folders` are the data folder `base` or its parts. `patients_csv` is the table of `base`, which
    may give the classes of images outside of class folders. `classes` are `data.classes`; or those
    of a model or a study, of which some may have no images. Raises DataError if there are no
    images, it is a folder of pairs, or `auto` finds fewer than two classes.
    """
    train = folders["train"]
    root = base if len(folders) > 1 else train
    parts: dict[str, PartName] = {}
    notes: list[str] = []
    for part, folder in folders.items():
        images, others = walk_folder(folder, base)
        notes += [f"{folder}: {note}" for note in others]
        parts |= {image.relative_to(base).as_posix(): part for image in images}
    if not parts:
        raise no_images(root, [note.partition(": ")[2] for note in notes])
    if len(folders) == 1:
        refuse_inner_parts(train, [base / file for file in parts])
    rows = patients_csv.rows_of(sorted(parts)) if patients_csv else {}
    in_table = (
        {file: patients_csv.rows[row].class_name for file, row in rows.items()}
        if patients_csv
        else {}
    )
    written = {file: name for file, name in in_table.items() if name}
    if not written and holds_pairs(root):
        what = (
            "this is a folder of pairs (images/ and masks/), for segmentation; "
            "a classifier needs class folders"
        )
        raise DataError(
            Problem(
                what,
                root,
                "use task: segmentation, or give a folder with a subfolder for each class",
            )
        )
    inner = {
        file: inner_folders(PurePosixPath((base / file).relative_to(folders[part]).as_posix()))
        for file, part in parts.items()
    }
    if isinstance(classes, tuple):
        names = classes
    else:
        in_train = [
            inner[file] for file, part in parts.items() if part == "train" and file not in written
        ]
        names = STANDARD_CLASSES.get(classes) or _auto_classes(root, train, in_train, written)

    listed: list[ImageFile] = []
    unknown: dict[Path, list[str]] = defaultdict(list)
    wrong: list[str] = []
    outside: dict[Path, list[str]] = defaultdict(list)
    for file, part in parts.items():
        path = PurePosixPath(file)
        by_folder = (
            folder_class(inner[file], path, names) if inner[file] else _file_name_class(path, names)
        )
        name = spelled_class(written[file], names) if file in written else by_folder
        if file in written and (name is None or (inner[file] and by_folder not in (None, name))):
            wrong.append(f"{file} ({written[file]})")
        elif name is not None:
            listed.append(ImageFile(file=file, label=names.index(name), part=part))
        elif inner[file]:
            unknown[folders[part] / inner[file][0]].append(path.name)
        else:
            outside[folders[part]].append(path.name)

    problems = _unknown_classes(root, unknown, names, classes, has_table=bool(written))
    if wrong:
        what = f"{PATIENTS_CSV} gives classes that are none of {', '.join(names)}, "
        what += "or not those of the folders"
        problems.append(
            Problem(f"{what}: {join_names(wrong)}", base, "correct them, or use data.classes: auto")
        )
    if not problems and not listed:
        what = f"none of the {len(parts)} images has a class, by a class folder or by its file name"
        fix = _class_fix(root, train)
        fix += "; or give the parent folder, if it contains the class folders"
        problems = [Problem(what, root, fix)]
    elif not problems and not isinstance(classes, tuple):
        problems = missing_classes(listed, folders, names, ADD_IMAGES)
    for folder, left_out in outside.items():
        shown = join_names(left_out, 3)
        notes.append(
            f"{folder}: images outside of class folders are ignored: {len(left_out)} ({shown})"
        )
    return ImageIndex(
        root=base,
        class_names=names,
        all_images=Images(listed),
        problems=tuple(problems),
        warnings=(*notes, *_empty_folders(folders, base, parts)),
        table=patients_csv,
    )


def _empty_folders(
    folders: Mapping[PartName, Path], base: Path, files: Collection[str]
) -> list[str]:
    """Return a note for each part with folders that have no images."""
    with_images = {parent for file in files for parent in (base / file).parents}
    notes = []
    for folder in folders.values():
        inner_names = [inner.name for inner in subfolders(folder) if inner not in with_images]
        empty = [
            name for name in inner_names if not shows_generated(name) and not shows_drawings(name)
        ]
        if empty:
            shown = join_names(empty, 3)
            notes.append(f"{folder}: folders without images are no classes: {len(empty)} ({shown})")
    return notes


def _auto_classes(
    root: Path, train: Path, inner: Sequence[Sequence[str]], in_table: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the classes of `patients.csv`, and the outermost folders of images without one."""
    outermost = [folders[0] for folders in inner if folders]
    names = {folded(name): composed(name) for name in (*in_table.values(), *outermost)}
    if len(names) < 2:
        what = (
            f"there is only one class, {', '.join(names.values())}"
            if names
            else "there are no class folders"
        )
        deeper = (
            f"give {train / outermost[0]}, if its folders are classes; or " if outermost else ""
        )
        raise DataError(Problem(what, train, f"{deeper}{_class_fix(root, train)}"))
    return tuple(sorted(names.values()))


def _unknown_classes(
    root: Path,
    unknown: Mapping[Path, Sequence[str]],
    class_names: tuple[str, ...],
    classes: ClassChoice | tuple[str, ...],
    *,
    has_table: bool,
) -> list[Problem]:
    """Return a problem about folders of unknown class, or names that lack the kind of pneumonia."""
    if not unknown:
        return []
    where = next(iter(unknown)) if len(unknown) == 1 else root
    names = sorted({folder.name for folder in unknown})
    files = [file for names_there in unknown.values() for file in names_there]
    what = f"folders that are none of the classes {join_names(class_names)}: {join_names(names)}"
    fix = "rename them to one of these classes, or move them away"
    if has_table:
        what = f"{len(files)} images have no class, neither in {PATIENTS_CSV} nor by their folder"
        what += f": {join_names(files)}"
        fix = "fill in the column class"
    elif class_names == THREE_CLASSES and {name.casefold() for name in names} == {"pneumonia"}:
        names_shown = join_names(files, 3)
        what = f"file names that do not indicate bacterial or viral: {len(files)} ({names_shown})"
        fix = "name them like person1_bacteria_1.jpeg, or put them into bacterial/ and viral/"
    elif classes in ("binary", "three"):
        choice = "three" if all(spelled_class(name, THREE_CLASSES) for name in names) else "auto"
        fix = f"use data.classes: {choice} (--classes), if each folder is a class, or rename them"
        fix += f"; or {_class_fix(root)}"
    return [Problem(what, where, fix)]


def _class_fix(*folders: Path) -> str:
    """Return how to give images their classes, perhaps by a table in one of these folders."""
    files = [
        file for folder in folders for file in sorted(folder.iterdir()) if file.name != PATIENTS_CSV
    ]
    tables = [
        file.name for file in files if not {".csv", ".tsv", ".xlsx"}.isdisjoint(file.suffixes)
    ]
    table = tables[0] if tables else "a label table"
    return f"{_CLASS_FOLDERS}, or describe {table} in a data file (docs/data.md, Label tables)"


def folder_class(
    inner: Sequence[str], file: PurePosixPath, class_names: Sequence[str]
) -> str | None:
    """Return the class named by the outermost possible folder of an image, at any depth."""
    for folder_name in inner:
        name = spelled_class(folder_name, class_names)
        if name:
            return name
        if tuple(class_names) == THREE_CLASSES and folder_name.casefold() == "pneumonia":
            name = _file_name_class(file, class_names)
            return None if name == "normal" else name
    return None


def spelled_class(name: str, class_names: Sequence[str]) -> str | None:
    """Return a class by its name, in upper or lower case.

    Of three classes also by another word for it.
    """
    if tuple(class_names) == THREE_CLASSES:
        name = OTHER_WORDS.get(name.casefold(), name)
    if name in class_names:
        return name
    return next((known for known in class_names if folded(known) == folded(name)), None)


def _file_name_class(file: PurePosixPath, class_names: Sequence[str]) -> str | None:
    """Return the class that a file name states, among two or three classes.

    None for other names and classes.

    It is a Kermany file name or, with three classes, begins with a word for one of them:
    `VIRUS-17-0001.jpeg`.
    """
    is_three = tuple(class_names) == THREE_CLASSES
    if patient_of(file.name) and (is_three or tuple(class_names) == BINARY_CLASSES):
        pneumonia = pneumonia_type(file.name)
        return (pneumonia or "normal") if is_three else BINARY_CLASSES[pneumonia is not None]
    return spelled_class(re.split("[^a-zA-Z]", file.stem)[0], class_names) if is_three else None
