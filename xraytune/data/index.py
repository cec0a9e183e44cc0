"""List the images of a data folder, each with its class, part, patient, hash and size.

The images of `val` are split by patient like those of `train` (see split.py). Of the held-out
`test`, only names, hashes and headers are read. All problems of the folder are reported together,
before any image is decoded. With `pairs`, the images are X-rays with masks, of a single class;
otherwise, their classes come from `data.table`, or from folders and `patients.csv`. DICOM files
raise MachineError if pydicom is not installed.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from xraytune.base.cores import map_on_cores
from xraytune.base.errors import ConfigError, DataError, Problem, add_notes, join_names
from xraytune.base.files import read_bytes
from xraytune.base.records import Progress, frozen, ignore_progress
from xraytune.data.class_folders import STANDARD_CLASSES, list_class_folders
from xraytune.data.decoding import NAMING_SUFFIXES, ignore_decoder_warnings, read_header
from xraytune.data.dicom import Header
from xraytune.data.file_names import SETS, known_name
from xraytune.data.folders import PROVENANCE_FILE, holds_pairs, part_folders, require_folder
from xraytune.data.guesses import (
    PartName,
    find_similar,
    part_named,
    positive_class,
)
from xraytune.data.images import SINGLE_CLASS, ImageFile, ImageIndex, ImageTable
from xraytune.data.label_table import list_table
from xraytune.data.pairs import list_pairs
from xraytune.data.patients import (
    EQUAL_IDS,
    PATIENTS_CSV,
    join_patients,
    patients_by_name,
    patients_by_regex,
)
from xraytune.data.sites import find_sites, require_sites
from xraytune.data.table import find_table
from xraytune.space.data_settings import DataSettings, SplitSettings
from xraytune.space.load import data_settings, is_data_file
from xraytune.space.task_settings import TaskName

_logger = logging.getLogger(__name__)


def read_index(
    settings: DataSettings,
    *,
    pairs: bool = False,
    name_sets: Sequence[str] = SETS,
    on_progress: Progress = ignore_progress,
) -> ImageIndex:
    """Read the folder of `settings`; with `pairs`, X-rays and their masks instead of classes.

    `name_sets` are the public sets whose file names give the patients; a study records them.

    Raises:
        ConfigError: `group_regex` is not a regular expression with a group, or there is a label
            table for pairs.
        DataError: There are problems of folders and file names, or else of patients; all of them
            are listed.
    """
    listing = _list(settings, pairs=pairs)
    problems = [*listing.problems]
    has_table = any(image.in_table.cells for image in listing.all_images)
    if not (has_table or settings.split.group_regex or pairs):
        problems += _same_name_problems(listing)
    named_positive = None if pairs or settings.findings else settings.positive
    positive = positive_class(named_positive, listing.class_names)
    if isinstance(positive, Problem):
        problems.append(positive)
        positive = 0
    if problems:
        raise DataError(*problems, *listing.warnings)  # left-out files may be the cause
    index = _read_images(settings, replace(listing, name_sets=tuple(name_sets)), on_progress)
    with add_notes(index.warnings):
        _refuse_test_patients(index)
        if settings.split.site is not None:
            require_sites(index.all_images, index.root)
    images = index.all_images
    notes = [*index.warnings]
    similar = find_similar(index.class_names)
    if similar:
        notes.append(f"classes with similar names, which may be one: {join_names(similar, 3)}")
    contradictory = [
        " = ".join(image.file for image in same)
        for same in identical_images(images)
        if len({(image.label, image.findings) for image in same}) > 1
    ]
    if contradictory:
        examples = join_names(contradictory, 3)
        notes.append(f"the same image is in two classes, or has other findings: {examples}")
    unusual = [image.file for image in images if image.is_other_view]
    if unusual:
        notes.append(
            f"{len(unusual):,} of {len(images):,} images are lateral views or CT, "
            f"by name, header or table ({join_names(unusual, 3)}); for a classifier of frontal "
            "X-rays, remove them, or choose rows by data.table.rows"
        )
    return replace(index, positive=positive, warnings=tuple(notes))


def read_folder(settings: DataSettings, *, on_progress: Progress = ignore_progress) -> ImageIndex:
    """Read the pairs, the classes or else the findings of a data folder.

    A folder has pairs if it contains images/ and masks/ and there is no label table.
    """
    pairs = settings.table is None and holds_pairs(settings.path)
    if settings.findings and settings.table and settings.table.labels:
        settings = settings.model_copy(update={"findings": None})
    return read_index(settings, pairs=pairs, on_progress=on_progress)


def find_class_names(settings: DataSettings, *, pairs: bool = False) -> tuple[str, ...]:
    """Return the classes in the order of their labels, without reading an image."""
    if settings.findings or pairs:
        return SINGLE_CLASS
    return STANDARD_CLASSES.get(settings.classes) or _list(settings).class_names


def _list(
    settings: DataSettings,
    *,
    pairs: bool = False,
    class_names: tuple[str, ...] | None = None,
    folders: Mapping[PartName, Path] | None = None,
) -> ImageIndex:
    """List the images of a data folder, or of some `folders` in it, without reading any.

    `class_names` are the classes of a model. Raises ConfigError if a table is given for pairs, or
    if there are two rules for patients.
    """
    root = settings.path
    if pairs and settings.table is not None:
        raise ConfigError(
            "label tables are for classification, and segmentation has no classes",
            "data.table",
            "remove it; patients.csv names the patients of pairs",
        )
    table = find_table(settings)
    column = table.settings.patient if table else None
    if table and column and settings.split.group_regex is not None:
        raise ConfigError(
            "both a table and data.split.group_regex name the patients",
            table.path,
            "remove one of them",
        )
    warnings: tuple[str, ...] = ()
    if table is not None and settings.table is not None:
        listing = list_table(settings, table, class_names)
    else:
        if folders is None:
            folders, warnings = part_folders(root)
        if pairs:
            listing = list_pairs(folders, root, table)
        else:
            classes = class_names or settings.classes
            listing = list_class_folders(folders, root, table, classes, settings.split.site)
    images = listing.all_images
    problems = [*listing.problems]
    unnamed = [image.file for image in images if not image.in_table.patient]
    if table and column and unnamed:
        what = f"{len(unnamed)} of {len(images)} images have no patient in column {column}"
        fix = "give each of them a row with a patient; of merged cells, only the first is filled"
        if len(unnamed) == len(images) and table.rows:
            examples = join_names([*table.rows], 2)
            fix = f"write their paths into column {table.settings.image}, which has {examples}"
        problems.append(Problem(f"{what}: {join_names(unnamed)}", table.path, fix))
    return replace(listing, problems=tuple(problems), warnings=(*warnings, *listing.warnings))


@frozen
class LabelledImages:
    """Labelled images to score models on, sorted by file.

    Attributes:
        data: Settings with the folder that each `file` is relative to, and the rules for patients.
    """

    data: DataSettings
    images: ImageTable


def read_labelled(
    data_path: Path,
    outputs: Sequence[str],
    task: TaskName = "classification",
    *,
    all_parts: bool = False,
    group_regex: str | None = None,
    on_progress: Progress = ignore_progress,
) -> LabelledImages:
    """Read labelled images from a folder without parts, or from a YAML file with a `data:` block.

    If the folder is a part such as `test/`, the `patients.csv` next to it or `group_regex` also
    names its patients. If `data_path` is a YAML file, its test images are read. If it has none, its
    training images are read, with the images of val if there is a table. With `all_parts`, all
    images of a table are read. `group_regex` is searched in each path for the patient, unless a
    table or the file has a rule for patients. `outputs` are the classes or findings of a model.
    Findings are read from the file's table, and findings that the table lacks are unknown. With
    `task: segmentation`, images have masks instead.

    Raises:
        ConfigError: The file or `group_regex` is invalid, or there is a label table for pairs.
        DataError: There are no images, there is a folder of another class, the folder contains
            train/ or test/, the table is invalid, or images or masks are unpaired.
    """
    base = DataSettings(path=data_path, split=SplitSettings(group_regex=group_regex))
    data = data_settings(data_path, base)
    findings = tuple(outputs) if task == "findings" else None
    data = data.model_copy(update={"findings": findings})
    folders: dict[PartName, Path] | None = None
    if data.table is None:
        if findings:
            raise DataError(
                "findings need a label table",
                data_path,
                "write a data file that describes their table (docs/findings.md)",
            )
        folder = data.path
        if is_data_file(data_path):  # of a whole data folder
            parts, _ = part_folders(folder)
            folder = parts.get("test", parts["train"])
        require_folder(folder)
        root = folder
        if not all_parts and part_named(folder.name) and not (folder / PATIENTS_CSV).exists():
            place = folder.resolve()
            if data.split.group_regex is not None or (place.parent / PATIENTS_CSV).exists():
                root = place.parent
                folder = place
        data = data.model_copy(update={"path": root})
        if (root / PATIENTS_CSV).exists():
            data = data.with_values({"split.group_regex": None})
        folders = {"train": folder}
    pairs = task == "segmentation"
    listing = _list(data, pairs=pairs, class_names=tuple(outputs), folders=folders)
    if data.table is not None:
        if not listing.all_images:
            raise DataError(
                Problem(
                    "no image of the table has a class or a known finding",
                    data.path / data.table.file[0],
                    "correct data.table.labels or data.findings",
                ),
                *listing.warnings,
            )
        if listing.test and not all_parts:
            listing = replace(listing, all_images=listing.test)
    if listing.problems:
        raise DataError(*listing.problems, *listing.warnings)
    index = _read_images(data, listing, on_progress)
    # Names of extra images say nothing of patients, so that notes on them would mislead.
    for note in listing.warnings if all_parts else index.warnings:
        _logger.warning("%s", note)
    return LabelledImages(data=data, images=index.all_images)


def _read_images(data: DataSettings, listing: ImageIndex, on_progress: Progress) -> ImageIndex:
    """Hash every file and its masks, read its header and find its patient; add notes."""
    unread = sorted(listing.all_images, key=lambda image: image.file)
    files = [image.file for image in unread]
    patients = {image.file: image.in_table.patient for image in unread if image.in_table.patient}
    if not patients and data.split.group_regex is not None:
        patients = patients_by_regex(data.split.group_regex, files)
    ignore_decoder_warnings()

    def read(image: ImageFile) -> ImageFile:
        sha256, header = _read_content(data.path / image.file)
        orientation = header.pop("orientation", 1)
        masks = [_read_content(data.path / mask) for mask in image.masks]
        hashes = "\n".join(mask_sha256 for mask_sha256, _ in masks)
        return replace(
            image,
            sha256=sha256,
            masks_sha256=hashlib.sha256(hashes.encode()).hexdigest() if hashes else "",
            is_turned_alone=any(
                mask_header.get("orientation", 1) != orientation for _, mask_header in masks
            ),
            **header,
        )

    images = []
    for image in map_on_cores(read, unread):
        images.append(image)
        on_progress("reading images", len(images), len(files))
    notes: list[str] = []
    if not patients:
        patient_ids = {image.file: image.patient_id for image in images if image.patient_id}
        patient_ids, notes = join_patients(patient_ids, {})
        patients, name_notes = patients_by_name(files, patient_ids, listing.name_sets)
        if not (data.path / PROVENANCE_FILE).is_file():  # generated images show nobody
            notes += name_notes
    # Broken files are not compared, since all empty files are equal.
    contents = {image.file: image.sha256 for image in images if image.width_px}
    patients, joined = join_patients(patients, contents)
    sites = find_sites(listing, data)
    return replace(
        listing,
        all_images=ImageTable(
            replace(image, patient=patients[image.file], site=sites.get(image.file, ""))
            for image in images
        ),
        warnings=(*listing.warnings, *notes, *joined),
    )


def _read_content(path: Path) -> tuple[str, Header]:
    """Return the hash of a file's bytes, and its header; decoding reports what cannot be read."""
    sha256 = ""
    with suppress(OSError, DataError):
        content = read_bytes(path, DataError)
        sha256 = hashlib.sha256(content).hexdigest()
        return sha256, read_header(content, path)
    return sha256, {}


def _same_name_problems(listing: ImageIndex) -> list[Problem]:
    """Return files that would be one patient by mistake.

    These are files with the name of a public set in several folders, and images in several formats.
    Other images are identified by their path, since each folder may count from 1.
    """
    by_name = defaultdict(list)
    for image in listing.all_images:
        path = PurePosixPath(image.file)
        if path.suffix.lower() in NAMING_SUFFIXES:  # scanners repeat names of DICOM files
            known = known_name(image.file)
            name = known.name if known else str(path.with_suffix(""))
            by_name[image.part == "test", name.casefold()].append(image.file)
    texts = [" and ".join(sorted(files)) for _, files in sorted(by_name.items()) if len(files) > 1]
    if not texts:
        return []
    what = f"files with the same name: {join_names(texts)}"
    fix = f"remove or rename one of them, or list the patients in {PATIENTS_CSV}"
    return [Problem(what, listing.root, fix)]


def _refuse_test_patients(index: ImageIndex) -> None:
    """Raise DataError if patients have images both in training and in test."""
    in_test = {image.patient: image.file for image in reversed(index.test)}
    shared = {image.patient: image for image in reversed(index.images) if image.patient in in_test}
    if shared:
        names = [
            f"{patient} ({image.file}, {in_test[patient]})"
            for patient, image in sorted(shared.items())
        ]
        are = "patient is" if len(shared) == 1 else "patients are"
        raise DataError(
            f"{len(shared)} {are}, by ID or file, both in training and in test: "
            f"{join_names(names, 5)}",
            index.root,
            "move all images of a patient to one side: scores on training patients are biased; "
            f"{EQUAL_IDS}",
        )


def identical_images(images: Iterable[ImageFile]) -> list[list[ImageFile]]:
    """Return the groups of images whose files are identical; broken ones are not compared."""
    by_content = defaultdict(list)
    for image in images:
        if image.width_px:
            by_content[image.sha256].append(image)
    return [same for same in by_content.values() if len(same) > 1]
