"""The images of a data folder before any is read: its parts (train, val, test), and the image files in them.

Three readers fill a `Listing`: class folders, pairs, and label tables.

Hidden files are ignored, other files are counted, and links are followed only to files inside the data folder.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn
from unicodedata import normalize

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.dicom import require_pydicom
from xraytune.data.formats import DICOM_SUFFIXES, NAMING_SUFFIXES, is_dicom
from xraytune.data.guesses import PARTS, PartName, part_named, shows_drawings
from xraytune.data.patients import PATIENTS_CSV

_NO_IMAGES = frozenset({PATIENTS_CSV, "provenance.json"})
"""Files that xraytune itself writes next to images."""
ADD_IMAGES = (
    "put JPEG, PNG, TIFF or DICOM files (.jpeg, .jpg, .png, .tif, .tiff, .dcm, .dicom) {}; "
    "links that lead out of the data folder are not followed"
)


class Listed(NamedTuple):
    """What a reader says about an image: the position of its class, its part, and its masks, which are to be merged."""

    label: int
    part: PartName
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """What a reader finds in a data folder; `problems` are of unknown classes, unpaired masks or classes without images."""

    class_names: tuple[str, ...]
    train_folder: Path
    images: Mapping[Path, Listed]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


def missing_classes(
    images: Iterable[Listed], parts: Iterable[PartName], class_names: Sequence[str]
) -> dict[PartName, list[str]]:
    """Return the classes without images: under `train` for train and val together, and under `test`."""
    sides: dict[PartName, set[int]] = {part: set() for part in parts if part != "val"}
    for image in images:
        sides["test" if image.part == "test" else "train"].add(image.label)
    missing = {
        part: [name for label, name in enumerate(class_names) if label not in there] for part, there in sides.items()
    }
    return {part: names for part, names in missing.items() if names}


def list_images(folder: Path) -> tuple[Path, ...]:
    """List all images below a folder, sorted. Raises DataError if there is no such folder, or no image in it."""
    require_folder(folder)
    images, _ = walk_folder(folder, folder)
    if not images:
        raise DataError(Problem("no images in it", folder, ADD_IMAGES.format("there")))
    others = (image for image in images if image.suffix.lower() not in NAMING_SUFFIXES)
    if dicom := next(filter(_starts_as_dicom, others), None):
        require_pydicom(dicom)
    return images


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
    parts = [folder for folder in subfolders(root) if part_named(folder.name)] if root.is_dir() else []
    return any(len(pair_folders(folder)) == 2 for folder in (root, *parts))


def bare_name(file: str) -> str:
    """Return a file's name in lower case, without an image suffix; other suffixes stay, since DICOM UIDs contain dots."""
    path = PurePosixPath(file)
    is_image_suffix = path.suffix.lower() in NAMING_SUFFIXES | DICOM_SUFFIXES
    return normalize("NFC", path.stem if is_image_suffix else path.name).casefold()


def part_folders(root: Path) -> tuple[dict[PartName, Path], tuple[str, ...]]:
    """Return the existing folders of train, val and test, and warnings; without any of them, `train` is the root itself.

    Raises:
        DataError: There is no such folder, val/ or test/ has no train/ next to it, two folders are the same part, or the
            parts are one folder deeper.
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
        inner = [folder for folder in folders if any(part_named(each.name) == "train" for each in subfolders(folder))]
        if inner:  # otherwise the test images in them would be trained on
            where = " and in ".join(f"{folder.name}/" for folder in inner)
            raise DataError(Problem(f"train/ is one folder deeper, in {where}", root, f"give {inner[0]}"))
        return {"train": root}, ()
    warnings = []
    if "val" in parts and "test" not in parts:
        warnings.append(f"{root}: without test/ no images are held out")
    if others := [folder.name for folder in folders if folder not in parts.values()]:
        warnings.append(f"{root}: folders next to train/ are ignored: {join_names(others)}")
    return parts, tuple(warnings)


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
    """Return the images of a folder tree, the data folder `root` or in it, sorted; and warnings about what was ignored."""
    inside = root.resolve()
    images: list[Path] = []
    others: Counter[str] = Counter()
    links, drawings = 0, list[str]()
    for parent, folder_names, file_names in os.walk(folder, onerror=_refuse_unreadable):
        visible = [name for name in folder_names if not name.startswith(".")]
        folder_names[:] = [name for name in visible if not shows_drawings(name)]
        drawings += [Path(parent, name).relative_to(folder).as_posix() for name in visible if shows_drawings(name)]
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
    names = [image.relative_to(folder).as_posix() for image in images]
    if bad := [text for name in names if (text := os.fsencode(name).decode(errors="replace")) != name]:
        raise DataError(Problem(f"file names that are not UTF-8: {join_names(bad)}", folder, "rename the files"))
    warnings = []
    if others and report_others:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        warnings.append(f"{folder}: files without an image suffix are ignored: {counts}")
    if drawings:
        warnings.append(f"{folder}: folders of masks or drawings are left out: {join_names(sorted(drawings), 3)}")
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


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise DataError(
        Problem(f"cannot be read ({error.strerror})", str(error.filename), "check its permissions")
    ) from error
