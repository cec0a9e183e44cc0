"""Find the class of each image by its folders, `patients.csv` or its Kermany file name.

A data folder holds `train/`, `val/` and `test/` with class folders in them, or class folders only;
images may be nested deeper.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.file_names import OTHER_WORDS, class_in_name
from xraytune.data.folders import (
    holds_pairs,
    missing_classes,
    no_images_error,
    subfolders,
    walk_folder,
)
from xraytune.data.guesses import (
    PartName,
    casefold_text,
    inner_folders,
    means_no_disease,
    normalise_text,
    shows_generated,
    shows_overlays,
)
from xraytune.data.images import ImageFile, ImageIndex, ImageTable
from xraytune.data.patients import PATIENTS_CSV
from xraytune.data.table import LabelTable, add_rows

BINARY_CLASSES = ("NORMAL", "PNEUMONIA")
THREE_CLASSES = ("normal", "bacterial", "viral")
STANDARD_CLASSES: Mapping[str, tuple[str, ...]] = {
    "binary": BINARY_CLASSES,
    "three": THREE_CLASSES,
}
"""The classes of each setting, in the order of the labels; `auto` finds its classes."""
_MOST_SMALL_FOLDERS = 20
_SMALL = 10
"""More folders than this, with fewer images each on average, are no classes."""
_TABLE = (
    f"give {PATIENTS_CSV} a column class, or describe a label table in a data file (docs/data.md, "
    "Label tables)"
)
_FIX = f"put the images of each class into a folder of its own, give their parent folder, {_TABLE}"


def list_class_folders(
    folders: Mapping[PartName, Path],
    base: Path,
    patients_csv: LabelTable | None,
    classes: str | tuple[str, ...],
    site: str | None,
) -> ImageIndex:
    """Find the images of class folders, and their classes.

    `folders` are the data folder `base` or its parts. `patients_csv` is the table of `base`, which
    may give the classes of images outside of class folders. `classes` is `data.classes`, or the
    classes of a model or a study, of which some may have no images. `site` is `data.split.site`.

    Raises DataError if there are no images, the folder is one of pairs, or `auto` finds fewer than
    two classes.
    """
    root = base if len(folders) > 1 else folders["train"]
    images, notes = _list_images(folders, base, root, patients_csv)
    class_in_csv = {
        image.file: image.in_table.class_name for image in images if image.in_table.class_name
    }
    folders_of = {image.file: inner_folders(image.file) for image in images}
    class_paths = [
        folders_of[image.file]
        for image in images
        if image.part == "train" and image.file not in class_in_csv and folders_of[image.file]
    ]
    outermost = [parents[0] for parents in class_paths]
    words_of = folders_of | {file: (name,) for file, name in class_in_csv.items()}
    if classes == "auto" and are_binary(words_of):
        classes = "binary"
    words = class_words(class_paths, site)
    names = name_classes(classes, [*class_in_csv.values(), *words], folders["train"], _FIX)
    if classes == "auto":
        if words == outermost:
            _require_class_folders(class_paths, folders["train"])
        empty = _find_empty_folders(folders["train"], outermost)
        if empty and outermost:
            notes.append(f"folders without images are no classes: {join_names(empty)}")
    labelled, unknown, outside_classes = _label_images(images, names, class_in_csv)

    problems = []
    if unknown or not labelled:
        folder_names = sorted({parents[0] for parents in folders_of.values() if parents})
        what = (
            f"{len(unknown) or len(images)} images are in none of the classes {join_names(names)}, "
            f"or in two: {join_names(unknown or outside_classes, 3)}; "
            f"folders found: {join_names(folder_names) or 'none'}"
        )
        fix = _FIX
        if isinstance(classes, tuple):
            fix = "rename their folders to these classes, or move them away"
        problems = [Problem(what, root, fix)]
    elif not isinstance(classes, tuple):
        problems = missing_classes(labelled, folders, names, f"add them; or {_FIX}")
    notes += _note_mixed_folders(images, folders, names)
    if outside_classes and labelled:
        examples = join_names(outside_classes, 3)
        notes.append(
            f"images outside of class folders are ignored: {len(outside_classes)} ({examples})"
        )
    return ImageIndex(
        root=base,
        class_names=names,
        all_images=ImageTable(labelled),
        problems=tuple(problems),
        warnings=tuple(notes),
    )


def _list_images(
    folders: Mapping[PartName, Path], base: Path, root: Path, patients_csv: LabelTable | None
) -> tuple[ImageTable, list[str]]:
    """Return the images of class folders with their rows of the table, and notes.

    Raises DataError if there are none, or if they are pairs without a class in the table.
    """
    files = []
    notes = []
    for part, folder in folders.items():
        paths, folder_notes = walk_folder(folder, base, refuse_parts=len(folders) == 1)
        notes += [f"{folder}: {note}" for note in folder_notes]
        files += [ImageFile(file=path, label=0, part=part) for path in paths]
    if not files:
        raise no_images_error(root, notes)
    images = add_rows(files, patients_csv)
    if not any(image.in_table.class_name for image in images) and holds_pairs(root):
        raise DataError(
            "this is a folder of pairs (images/ and masks/), for segmentation",
            root,
            f"use task: segmentation; or {_FIX}",
        )
    return images, notes


def _find_empty_folders(folder: Path, with_images: Iterable[str]) -> list[str]:
    """Return the names of the subfolders that have no images, though they might be classes."""
    empty = {path.name for path in subfolders(folder)}.difference(with_images)
    return sorted(
        name
        for name in empty
        if inner_folders(f"{name}/file") and not (shows_overlays(name) or shows_generated(name))
    )


def _label_images(
    images: Iterable[ImageFile], names: tuple[str, ...], class_in_csv: Mapping[str, str]
) -> tuple[list[ImageFile], list[str], list[str]]:
    """Return the images with their labels, and the files of unknown classes and of none.

    A file of an unknown class is in a folder of no class, or its row in the table has no class or
    another one than its folder.
    """
    labelled = []
    unknown = []
    outside_classes = []
    for image in images:
        file = image.file
        parents = inner_folders(file)
        name = folder_class(parents, file, names) if parents else _file_name_class(file, names)
        if file in class_in_csv:
            in_table = spelled_class(class_in_csv[file], names)
            if in_table is None or (parents and name not in (None, in_table)):
                unknown.append(f"{file} ({class_in_csv[file]} in {PATIENTS_CSV})")
                continue
            name = in_table
        if name is not None:
            labelled.append(replace(image, label=names.index(name)))
        elif parents:
            unknown.append(file)
        else:
            outside_classes.append(file)
    return labelled, unknown, outside_classes


def _note_mixed_folders(
    images: Iterable[ImageFile], folders: Mapping[PartName, Path], names: tuple[str, ...]
) -> list[str]:
    """Return a note for each part that has class folders both in it and in its other folders."""
    places_of = defaultdict(set)  # the outermost folders that hold classes, "" for a class itself
    for image in images:
        parents = inner_folders(image.file)
        name = folder_class(parents, image.file, names) if parents else None
        if name:
            is_class = folder_class(parents[:1], image.file, names) is not None
            is_class = is_class and folder_class(parents[1:], image.file, names) in (None, name)
            places_of[image.part].add("" if is_class else parents[0])
    return [
        f"{folders[part]}: class folders are both in it and in "
        f"{join_names(sorted(places - {''}))}, and all of them are used; if some hold "
        "generated images or copies, move these out of the data folder"
        for part, places in places_of.items()
        if {""} < places
    ]


def are_binary(words_of: Mapping[str, Sequence[str]]) -> bool:
    """Return whether all images with words are NORMAL or PNEUMONIA, and there are both.

    `words_of` has the folders of each image, or its class in a table. A Kermany file name states
    the class of an image without words.
    """
    names = set()
    for file, words in words_of.items():
        name = _file_name_class(file, BINARY_CLASSES)
        if words:
            names.add(folder_class(words, file, BINARY_CLASSES))
        elif name:
            names.add(name)
    return names == {*BINARY_CLASSES}


def class_words(of_images: Sequence[tuple[str, ...]], site: str | None) -> list[str]:
    """Return, for each image, the one of the folders around it that is its class with `auto`.

    This is the outermost folder or, if the outermost folders are sites, the next one. Outermost
    folders are sites if `data.split.site` is `folder`, or if all of them contain the same folders,
    one of which means no disease.
    """
    names_inside = defaultdict(set)
    for outermost, *further in of_images:
        names_inside[casefold_text(outermost)].add(casefold_text(further[0]) if further else "")
    shared = set.union(*names_inside.values()) if names_inside else set()
    are_alike = len(names_inside) > 1 and len(shared) > 1 and "" not in shared
    are_alike = are_alike and all(names == shared for names in names_inside.values())
    says_healthy = any(means_no_disease(name) and not name.isdigit() for name in shared)
    is_class = any(map(means_no_disease, names_inside)) or not shared.isdisjoint(names_inside)
    if site == "folder" or (are_alike and says_healthy and not is_class):
        return [image_folders[1] for image_folders in of_images if len(image_folders) > 1]
    return [image_folders[0] for image_folders in of_images]


def _require_class_folders(of_images: Iterable[tuple[str, ...]], where: Path) -> None:
    """Raise DataError if the outermost folders around images are hospitals or patients.

    Folders are hospitals if they contain a class without disease, if they contain folders with the
    names of their neighbours, or if all contain the same folders.
    """
    names_inside: dict[str, set[str]] = defaultdict(set)
    sites = set()
    count = 0
    for outermost, *further in of_images:
        count += 1
        names_inside[outermost].update(name for name in further[:1] if not name.isdigit())
        if any(means_no_disease(name) and not name.isdigit() for name in further):
            sites.add(outermost)
    sites |= {
        name for name, names in names_inside.items() if (names - {name}) & names_inside.keys()
    }
    shared = set.intersection(*names_inside.values()) if names_inside else set()
    if len(shared) > 1:
        sites |= names_inside.keys()
    if sites and not any(map(means_no_disease, sites)):
        folders = sorted(set.union(*(names_inside[site] for site in sites)))
        raise DataError(
            f"{join_names(sorted(sites))} would be classes, but contain the folders "
            f"{join_names(folders)}, which seem to be the classes",
            where,
            "give data.split.site: folder, if they are hospitals; put the folder of each class "
            f"outermost, such as NORMAL/hospital1; or {_TABLE}",
        )
    if len(names_inside) > _MOST_SMALL_FOLDERS and count < _SMALL * len(names_inside):
        raise DataError(
            f"{len(names_inside)} folders with {count} images would be classes, but seem to be "
            f"patients or studies: {join_names(sorted(names_inside))}",
            where,
            f"put the images of each class into a folder of its own, {_TABLE}",
        )


def name_classes(
    classes: str | tuple[str, ...], words: Iterable[str], where: Path, fix: str
) -> tuple[str, ...]:
    """Return the classes in the order of their labels: the given ones, or `words` for `auto`."""
    if isinstance(classes, tuple):
        return classes
    if classes in STANDARD_CLASSES:
        return STANDARD_CLASSES[classes]
    names = tuple(sorted({casefold_text(word): normalise_text(word) for word in words}.values()))
    if len(names) < 2:
        raise DataError(
            f"there are fewer than two classes: {join_names(names) or 'none'}", where, fix
        )
    return names


def folder_class(folder_names: Sequence[str], file: str, class_names: Sequence[str]) -> str | None:
    """Return the class named by the outermost possible folder of an image, at any depth."""
    for folder_name in folder_names:
        name = spelled_class(folder_name, class_names)
        if name:
            return name
        if tuple(class_names) == THREE_CLASSES and folder_name.casefold() == "pneumonia":
            name = _file_name_class(file, class_names)
            if name:
                return None if name == "normal" else name
    return None


def spelled_class(name: str, class_names: Sequence[str]) -> str | None:
    """Return a class by its name or, for `three`, by another word; case does not matter."""
    class_of_word = {casefold_text(class_name): class_name for class_name in class_names}
    word = casefold_text(name)
    return class_of_word.get(word) or class_of_word.get(OTHER_WORDS.get(word, word))


def _file_name_class(file: str, class_names: Sequence[str]) -> str | None:
    """Return the class that a Kermany file name states, among two or three classes.

    Return None for other names and classes.
    """
    name = class_in_name(file)
    if name and tuple(class_names) == BINARY_CLASSES:
        return BINARY_CLASSES[name != "normal"]
    return name if tuple(class_names) == THREE_CLASSES else None
