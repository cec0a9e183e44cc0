"""The list that everything later stands on: each image with its class, its patient, its hash and its size.

`val` is folded into the training images, for a split by patient gives the validation sides; of `test`, which stays
sealed, nothing but names and hashes is kept. Whatever is wrong with the folder is told at once, before an image is
decoded.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xraytune.config.settings import DataSettings
from xraytune.cores import core_threads
from xraytune.data.formats import ImageHeader, read_header
from xraytune.data.layout import (
    NAMING_SUFFIXES,
    Part,
    class_names_of,
    differing_classes_problems,
    empty_class_problems,
    image_files,
    list_images,
    part_folders,
    read_part,
    require_folder,
    subfolders,
)
from xraytune.data.patients import (
    PATIENTS_CSV,
    PatientTable,
    ambiguity_problems,
    find_table,
    found_by,
    join_identical,
    name_patients,
    patient_of,
    require_group,
    told_patients,
)
from xraytune.errors import DataError, Problem, listed
from xraytune.files import read_bytes
from xraytune.records import Progress, ignore_progress

_SIDES_OF_A_SPLIT = 3
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One image.

    Attributes:
        file: Path below the index's root, with forward slashes.
        label: Position of its class in the index's class names.
        patient: The patient on it; images of one patient stay together.
        sha256: Of the file's bytes; empty when they cannot be read.
        width_px: As the file's header says; 0 when it does not, and decoding will tell why.
        height_px: Likewise.
    """

    file: str
    label: int
    patient: str
    sha256: str
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageIndex:
    """What a data folder holds.

    Attributes:
        root: The folder.
        class_names: In the order of the labels.
        positive: Label of the class that sensitivity is about.
        images: The training part, sorted by file: what a split divides.
        test: The sealed test part, sorted by file.
        test_fingerprint: Content of the test part, whatever its folder is called; None when there is none.
        warnings: What the person should know, though nothing is refused.
    """

    root: Path
    class_names: tuple[str, ...]
    positive: int
    images: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    test_fingerprint: str | None
    warnings: tuple[str, ...]


def read_index(settings: DataSettings, *, on_progress: Progress = ignore_progress) -> ImageIndex:
    """Read the folder of `settings`.

    Raises:
        ConfigError: `group_regex` is not a regular expression with a group.
        DataError: All that is wrong with the folders and names; when they are right, all that is wrong with the patients.
        MachineError: There are DICOM files, and pydicom is not installed.
    """
    root = settings.path
    require_group(settings.split.group_regex)
    folders = part_folders(root)
    table = find_table(root)
    class_names = class_names_of(settings.classes, folders["train"], root, table)
    parts = {name: read_part(folder, root, class_names, table) for name, folder in folders.items()}
    test = parts["test"].labels if "test" in parts else {}
    training = {image: label for name in parts if name != "test" for image, label in parts[name].labels.items()}
    problems = _class_problems(root, parts, class_names, training, has_table=table is not None)
    if table is None and settings.split.group_regex is None:
        problems += _same_name_problems(root, training) + _same_name_problems(root, test)
    problems += _positive_problems(settings.positive, class_names)
    if problems:
        raise DataError(*problems)

    images, notes = _describe(root, {**training, **test}, table, settings.split.group_regex, on_progress)
    of_training = tuple(image for image in images if root / image.file in training)
    of_test = tuple(image for image in images if root / image.file in test)
    problems = few_patients_problems(folders["train"], class_names, of_training)
    problems += _shared_patients_problems(root, of_training, of_test)
    if problems:
        raise DataError(*problems)
    return ImageIndex(
        root=root,
        class_names=class_names,
        positive=class_names.index(max(class_names) if settings.positive is None else settings.positive),
        images=of_training,
        test=of_test,
        test_fingerprint=content_fingerprint(of_test) if of_test else None,
        warnings=(
            *_layout_warnings(root, folders),
            *(warning for part in parts.values() for warning in part.warnings),
            *notes,
            *_contradiction_warnings(of_training),
        ),
    )


def read_labelled_folder(
    root: Path,
    class_names: Sequence[str],
    *,
    group_regex: str | None = None,
    whole: Path | None = None,
    on_progress: Progress = ignore_progress,
) -> tuple[ImageFile, ...]:
    """The images of a folder of class folders, sorted by file; some of the classes may have none.

    Args:
        root: The folder; files are told below it.
        class_names: In the order of the labels.
        group_regex: Searched in each path; its first group is the patient.
        whole: The data folder that it lies in, if that one's table, or paths below it, tell who the patients are; see
            `data_folder_of`.
        on_progress: Told how many files were read.

    Raises:
        ConfigError: `group_regex` is not a regular expression with a group.
        DataError: No images, a folder of another class, or a root that holds train/ or test/.
        MachineError: There are DICOM files, and pydicom is not installed.
    """
    require_group(group_regex)
    require_folder(root)
    parts = [folder for folder in subfolders(root) if folder.name.casefold() in {"train", "test"}]
    if parts:
        what = f"it holds {' and '.join(f'{part.name}/' for part in parts)}; which of its images are meant?"
        raise DataError(Problem(what, root, f"name the folder whose subfolders are the classes, such as {parts[0]}"))
    base, folder = (root, root) if whole is None else (whole, whole / root.resolve().name)
    table = find_table(base)
    part = read_part(folder, base, class_names, table)
    problems = list(part.problems)
    if not part.labels:
        problems += empty_class_problems(root, class_names, part.labels)
    if problems:
        raise DataError(*problems)
    images, notes = _describe(base, part.labels, table, group_regex, on_progress)
    for warning in (*part.warnings, *notes):
        _logger.warning("%s", warning)
    if whole is not None:
        images = tuple(replace(image, file=image.file.removeprefix(f"{folder.name}/")) for image in images)
    return images


def data_folder_of(part: Path, group_regex: str | None) -> Path | None:
    """The data folder that a folder such as its `test/` lies in, if it tells who the patients there are; else None.

    It does by a table that has all images of the part, or by an expression that finds a patient in all their paths below
    it. A table of the part's own stands for both.

    Raises:
        ConfigError: `group_regex` is not a regular expression with a group.
        DataError: There is no such folder, or the table is malformed or ambiguous.
    """
    require_folder(part)
    if find_table(part) is not None:
        return None
    part = part.resolve()
    whole = part.parent
    table = find_table(whole)
    if table is None and (group_regex is None or part.name.casefold() not in {"train", "val", "test"}):
        return None
    files = [f"{part.name}/{image.relative_to(part).as_posix()}" for image in list_images(part)]
    if table is None:
        return whole if group_regex and len(found_by(group_regex, files)) == len(files) else None
    if not all(table.names(file) for file in files):
        return None
    if not table.patients.keys() >= set(files):  # a bare name has to be that of one file, in training and test together
        parts = {part, *(folder for folder in subfolders(whole) if folder.name.casefold() in {"train", "val", "test"})}
        images = sorted(image for folder in parts for image in image_files(folder, whole))
        if problems := ambiguity_problems(table, [image.relative_to(whole).as_posix() for image in images]):
            raise DataError(*problems)
    return whole


def content_fingerprint(images: Iterable[ImageFile]) -> str:
    """32 hex digits over the images' labels and bytes: a copied or renamed folder has the same."""
    content = "\n".join(sorted(f"{image.label} {image.sha256}" for image in images))
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _describe(
    root: Path,
    labels: Mapping[Path, int],
    table: PatientTable | None,
    group_regex: str | None,
    on_progress: Progress,
) -> tuple[tuple[ImageFile, ...], tuple[str, ...]]:
    """Hash every file, read its header, name its patient; the records, sorted by file, and warnings."""
    paths = {path.relative_to(root).as_posix(): path for path in labels}
    files = sorted(paths)
    told_patients(files, table, group_regex)  # refuses before thousands of files are read
    contents: dict[str, _Content] = {}
    with warnings.catch_warnings(), core_threads() as threads:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
        for file, content in zip(files, threads.map(_read_content, [paths[file] for file in files]), strict=True):
            contents[file] = content
            on_progress("hash images", len(contents), len(files))
    named = name_patients(root, files, group_regex, _by_header(contents))
    # A broken file says nothing about who is on it: empty ones are all alike.
    readable = [(file, content.sha256) for file, content in contents.items() if content.header]
    patients = join_identical(named.by_file, readable)
    images = tuple(
        ImageFile(
            file=file,
            label=labels[paths[file]],
            patient=patients[file],
            sha256=content.sha256,
            width_px=content.header.width_px if content.header else 0,
            height_px=content.header.height_px if content.header else 0,
        )
        for file, content in contents.items()
    )
    return images, named.warnings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """The hash of a file's bytes, and its header where that can be read."""

    sha256: str
    header: ImageHeader | None


def _read_content(path: Path) -> _Content:
    try:
        content = read_bytes(path, "image", DataError)
    except (OSError, DataError):  # decoding meets it again, and says why
        return _Content(sha256="", header=None)
    try:
        header = read_header(content, path)
    except DataError:  # likewise
        header = None
    return _Content(sha256=hashlib.sha256(content).hexdigest(), header=header)


def _by_header(contents: Mapping[str, _Content]) -> dict[str, str]:
    """The patients that DICOM headers name, by file."""
    return {file: one.header.patient for file, one in contents.items() if one.header and one.header.patient}


def _class_problems(
    root: Path, parts: Mapping[str, Part], class_names: Sequence[str], training: Mapping[Path, int], *, has_table: bool
) -> list[Problem]:
    """Files and folders whose class is unknown, and classes without images; other folders in test than in train first."""
    if differing := differing_classes_problems(root, parts, class_names):
        return differing
    problems = [problem for part in parts.values() for problem in part.problems]
    if problems and has_table:  # what the table gets wrong leaves classes without images
        return problems
    problems += empty_class_problems(parts["train"].folder, class_names, training)
    if "test" in parts:
        problems += empty_class_problems(parts["test"].folder, class_names, parts["test"].labels)
    return problems


def _same_name_problems(root: Path, images: Iterable[Path]) -> list[Problem]:
    """Files whose one name stands for one patient: a Kermany name in several folders, or an image in several formats.

    Any other image is known by its path: folders may each number their own.
    """
    images = [image for image in images if image.suffix.lower() in NAMING_SUFFIXES]  # scanners repeat DICOM's names
    telling = {image.stem.casefold() for image in images if patient_of(image.name)}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        stem = image.stem.casefold()
        by_name[stem if stem in telling else str(image.with_suffix("")).casefold()].append(image)
    same = [
        " and ".join(sorted(image.relative_to(root).as_posix() for image in images))
        for _, images in sorted(by_name.items())
        if len(images) > 1
    ]
    if not same:
        return []
    count = "two files have one name" if len(same) == 1 else f"{len(same)} names stand for several files"
    fix = f"remove or rename one of them, or list the patients in {PATIENTS_CSV}"
    return [Problem(f"{count}: {listed(same)}", root, fix)]


def _positive_problems(positive: str | None, class_names: Sequence[str]) -> list[Problem]:
    if positive is None or positive in class_names:
        return []
    spelled = {name.casefold(): name for name in class_names}
    near = difflib.get_close_matches(positive.casefold(), spelled, n=1)
    fix = f"did you mean {spelled[near[0]]!r}?" if near else f"name one of {', '.join(class_names)}"
    return [Problem(f"no class is called {positive!r}", "data.positive", fix)]


def few_patients_problems(train: Path, class_names: Sequence[str], images: Sequence[ImageFile]) -> list[Problem]:
    """One problem for each class with fewer patients than a split has sides."""
    everyone = {image.patient for image in images}
    if len(everyone) == 1:
        fix = "a split by patient needs several patients; does group_regex or patients.csv name them rightly?"
        return [Problem(f"all {len(images)} images are of one patient, {everyone.pop()}", train, fix)]
    problems = []
    for label, name in enumerate(class_names):
        count = len({image.patient for image in images if image.label == label})
        if count < _SIDES_OF_A_SPLIT:
            what = f"class {name} has {count} patient{'s' * (count != 1)}; train, val-A and val-B need one each"
            problems.append(Problem(what, train, f"add images of other patients, at least {_SIDES_OF_A_SPLIT - count}"))
    return problems


def _shared_patients_problems(root: Path, training: Sequence[ImageFile], test: Sequence[ImageFile]) -> list[Problem]:
    in_training = {image.patient: image.file for image in reversed(training)}
    in_test = {image.patient: image.file for image in reversed(test)}
    shared = [
        f"{patient} ({in_training[patient]}, {in_test[patient]})" for patient in sorted(in_training.keys() & in_test)
    ]
    if not shared:
        return []
    what = f"patients that stand both in training and in test: {len(shared)}: {listed(shared)}"
    fix = "move all images of a patient to one side: a test on patients seen in training proves nothing"
    return [Problem(what, root, fix)]


def _layout_warnings(root: Path, folders: Mapping[str, Path]) -> list[str]:
    if folders["train"] == root:
        return []
    found = []
    if "val" in folders and "test" not in folders:
        found.append(f"{root}: val/ is folded into the training images, and without test/ no images are held back")
    others = [folder.name for folder in subfolders(root) if folder not in folders.values()]
    if others:
        found.append(f"{root}: folders beside train/ are ignored: {listed(others)}")
    return found


def _contradiction_warnings(images: Sequence[ImageFile]) -> list[str]:
    by_content: dict[str, list[ImageFile]] = defaultdict(list)
    for image in images:
        if image.width_px:
            by_content[image.sha256].append(image)
    both = [
        " = ".join(image.file for image in same)
        for same in by_content.values()
        if len({image.label for image in same}) > 1
    ]
    return [f"the same image stands in two classes: {listed(both, 3)}"] if both else []
