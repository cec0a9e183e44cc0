"""Find the images that `data.table` describes, anywhere below the data folder.

With `data.findings`, all images are of a single class, and have findings. Images without a row,
images that their row excludes, rows without an image, and images without a mapped label or a known
finding are left out and counted.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePosixPath

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.base.files import read_bytes
from xraytune.data.class_folders import are_binary, class_words, folder_class, name_classes
from xraytune.data.findings import ABSENT, PRESENT, UNKNOWN
from xraytune.data.folders import list_images, missing_classes
from xraytune.data.guesses import PartName, inner_folders, normalise_text, part_named
from xraytune.data.images import SINGLE_CLASS, ImageFile, ImageIndex, ImageTable, TableRow
from xraytune.data.table import JOINING, LabelTable, match_names, table_path
from xraytune.space.data_settings import DataSettings
from xraytune.space.messages import nearest


def list_table(
    data: DataSettings, table: LabelTable, class_names: tuple[str, ...] | None
) -> ImageIndex:
    """Match the rows of a table with the images below `data.path`.

    `class_names` of a model replace `data.classes`.

    Raises DataError if no row has an image, a name is ambiguous, the list of a side is malformed,
    or a class is unknown.
    """
    root = data.path
    files = list_images(root)
    all_rows = table.rows_of(files)
    if not all_rows:
        raise DataError(
            f"none of its {len(table.rows):,} rows matches an image in {root}: they name "
            f"{join_names([*table.rows], 2)}, not {join_names(files, 2)}",
            table.path,
            f"check data.path; write the names of the files into column {table.settings.image}; "
            f"join a table of patients or studies with a list of images ({JOINING})",
        )
    rows = {file: row for file, row in all_rows.items() if not row.left_out_as}
    parts = _parts_of(data, table, rows)
    images = [
        ImageFile(
            file=file,
            label=0,
            part=parts[file],
            findings=rows[file].findings,
            in_table=rows[file],
        )
        for file in sorted(parts)
    ]
    list_labelled = _list_classes if data.findings is None else _list_findings
    index = list_labelled(data, table, images, class_names)

    without_row = [file for file in files if file not in all_rows]
    excluded = Counter(row.left_out_as for row in all_rows.values() if row.left_out_as)
    unlabelled = parts.keys() - {image.file for image in index.all_images}
    labels = Counter(label for file in unlabelled for label in rows[file].labels)
    reasons = (
        (len(without_row), "images without a row", f" ({join_names(without_row, 3)})"),
        (len(table.rows) - len(all_rows), "rows without an image", f" of {len(table.rows):,}"),
        (excluded.total(), "images by data.table.rows", _join_counts(excluded)),
        (len(rows) - len(parts), "images in no list of data.table.side", ""),
        (len(unlabelled), "images without a class or a known finding", _join_counts(labels)),
    )
    left_out = [f"{what}: {count:,}{detail}" for count, what, detail in reasons if count]
    notes = [f"leaves out {'; '.join(left_out)}"] if left_out else []
    disputed = [image.file for image in images if rows[image.file].is_disputed]
    if disputed:
        notes.append(
            f"the rows of {len(disputed):,} of {len(images):,} images disagree, such as those of "
            f"{disputed[0]}: one that says yes suffices, by the order of data.table.labels"
        )
    if table.separator not in ("", "|", table.settings.separator):
        notes.append(f"reads {table.separator!r} between labels (data.table.separator)")
    if table.unread:
        what = "cells that say neither yes nor no are no label"
        if table.settings.label:
            what = "where a cell has only labels that are none of data.findings, these are unknown "
            what += "(data.empty: zeros: absent)"
        notes.append(f"{what}{_join_counts(table.unread)}")
    notes = [f"{table.path.name}: {note}" for note in notes]
    return replace(index, warnings=(*notes, *index.warnings))


def _list_classes(
    data: DataSettings,
    table: LabelTable,
    images: Sequence[ImageFile],
    class_names: tuple[str, ...] | None,
) -> ImageIndex:
    """List images with their classes."""
    has_classes = table.settings.gives_classes
    if has_classes:
        words_of = {
            image.file: tuple(filter(None, [image.in_table.class_name])) for image in images
        }
        words = [*table.settings.labels.values()] or [*chain(*words_of.values())]
    else:
        words_of = {image.file: inner_folders(image.file) for image in images}
        words = class_words([*filter(None, words_of.values())], data.split.site)
    fix = "give each class a label in data.table.labels"
    classes = "binary" if data.classes == "auto" and are_binary(words_of) else data.classes
    names = name_classes(class_names or classes, words, table.path, fix)
    labelled = []
    unknown = set()
    for image in images:
        name = folder_class(words_of[image.file], image.file, names)
        if name is not None:
            labelled.append(replace(image, label=names.index(name)))
        elif has_classes:
            unknown |= {*words_of[image.file]}
    if unknown:
        raise DataError(
            f"the table has classes other than {', '.join(names)}: {join_names(sorted(unknown))}",
            table.path,
            "correct data.table.labels, or set data.classes: auto",
        )
    fix = "correct data.table.labels and data.table.side, add images, or sort them into folders"
    parts: list[PartName] = ["train", *(image.part for image in images)]
    where = dict.fromkeys(parts, table.path)
    return ImageIndex(
        root=data.path,
        class_names=names,
        all_images=ImageTable(labelled),
        problems=() if class_names else tuple(missing_classes(labelled, where, names, fix)),
    )


def _list_findings(
    data: DataSettings,
    table: LabelTable,
    images: Sequence[ImageFile],
    class_names: tuple[str, ...] | None,
) -> ImageIndex:
    """List images with their findings.

    Each finding needs positive and negative training images, unless the findings are a model's.
    """
    labelled = [image for image in images if image.findings.strip(UNKNOWN)]
    training = [image.findings for image in labelled if image.part != "test"]
    columns = []
    problems = []
    for column, name in enumerate(table.findings):
        states = Counter(findings[column] for findings in training)
        if class_names or (states[PRESENT] and states[ABSENT]):
            columns.append(column)
        elif data.findings != "auto":
            problems.append(
                Problem(
                    f"{name} is present in {states[PRESENT]:,} and absent in {states[ABSENT]:,} of "
                    f"{len(training):,} training images",
                    table.path,
                    nearest(name, table.other_names, "remove it from data.findings"),
                )
            )
    names = tuple(table.findings[column] for column in columns)
    notes: tuple[str, ...] = ()
    if data.findings == "auto":
        if len(names) < 2:
            problems.append(
                Problem(
                    f"data.findings: auto finds {join_names(names) or 'nothing'}, with both "
                    "present and absent ones",
                    table.path,
                    "a single finding is two classes: use task: classification",
                )
            )
        other_columns = [
            *table.other_names,
            *(name for name in table.findings if name not in names),
        ]
        if other_columns and table.settings.label is None:
            note = f"data.findings: auto leaves out the columns {join_names(other_columns)}"
            notes = (f"{table.path.name}: {note}",)
    with_findings = [
        replace(image, findings="".join(image.findings[column] for column in columns))
        for image in labelled
    ]
    return ImageIndex(
        root=data.path,
        class_names=SINGLE_CLASS,
        all_images=ImageTable(with_findings),
        problems=tuple(problems),
        warnings=notes,
        findings=names,
    )


def _parts_of(
    data: DataSettings, table: LabelTable, rows: Mapping[str, TableRow]
) -> dict[str, PartName]:
    """Return the part of each file that is in one."""
    root = data.path
    side = table.settings.side
    if isinstance(side, str):
        return {file: row.part for file, row in rows.items() if row.part}
    if side is None:
        parts: dict[str, PartName] = {}
        for file in rows:
            folders = map(part_named, PurePosixPath(file).parts[:-1])
            parts[file] = next(filter(None, folders), "train")
        return parts
    lists: dict[PartName, str | None] = {"train": side.train, "test": side.test}
    parts = {} if side.train else dict.fromkeys(rows, "train")
    for part, name in lists.items():
        if name is None:
            continue
        path = table_path(name, data)
        members = _members(path, root, rows, table)
        twice = sorted(members & parts.keys()) if side.train else []
        if twice:
            raise DataError(
                f"{len(twice)} images are also in another list: {join_names(twice, 3)}",
                path,
                "keep each image in one list",
            )
        parts |= dict.fromkeys(members, part)
    return parts


def _members(path: Path, root: Path, files: Collection[str], table: LabelTable) -> set[str]:
    """Return the files in a list of `data.table.side`, or in the folder given in its place."""
    if path.is_dir():
        folder = path.resolve()
        members = {file for file in files if (root.resolve() / file).is_relative_to(folder)}
        if not members:
            raise DataError("no image of the table is in it", path, "correct data.table.side")
        return members
    try:
        lines = normalise_text(read_bytes(path, DataError).decode("utf-8-sig")).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the list of data.table.side cannot be read ({error})",
            path,
            "give a list in UTF-8, relative to data.path, or delete side",
        ) from error
    names = dict.fromkeys(line.strip() for line in lines if line.strip())
    matched = match_names(names, files, path)
    unmatched = names.keys() - {*matched.values()}
    if matched:  # other images of the table may not have been downloaded
        unmatched -= {*match_names(unmatched, table.rows, path).values()}
    if unmatched:
        raise DataError(
            f"{len(unmatched):,} of its {len(names):,} lines name no image of the table: "
            f"{join_names(sorted(unmatched), 2)}",
            path,
            "write the name or path of one image per line",
        )
    return {*matched}


def _join_counts(counts: Mapping[str, int]) -> str:
    """Return names with their counts in parentheses, most frequent first, or "" without names."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = join_names([f"{name or '(nothing)'} {count:,}" for name, count in ordered], 5)
    return f" ({words})" if counts else ""
