"""Find the images that `data.table` describes, anywhere below the data folder, with their class and part (train, val, test).

Images without a row, rows without an image, and images without one of the mapped labels are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.base.files import read_bytes
from xraytune.data.class_folders import STANDARD_CLASSES, folder_class, spelled_class
from xraytune.data.folders import Listed, Listing, missing_classes, no_images, require_folder, walk_folder
from xraytune.data.guesses import PartName, composed, folded, inner_folders, part_named
from xraytune.data.table import JOIN, KNOWN_CELLS, LabelTable, TableRow, match_names
from xraytune.space.messages import nearest
from xraytune.space.settings import DataSettings


def list_table(data: DataSettings, table: LabelTable, class_names: Sequence[str] | None = None) -> Listing:
    """Match the rows of a table with the images below `data.path`; `class_names` of a model replace `data.classes`.

    Raises DataError if no row has an image, a name is ambiguous, a list of a side is malformed, or a class is unknown.
    """
    root = data.path
    require_folder(root)
    images, ignored = walk_folder(root, root, report_others=False)
    if not images:
        raise no_images(root, walk_folder(root, root)[1])
    files = {image.relative_to(root).as_posix(): image for image in images}
    row_names = table.rows_of(files)
    if not row_names:
        named, there = join_names([*table.rows], 2), join_names(sorted(files), 2)
        what = f"none of its {len(table.rows):,} rows matches an image in {root}: they name {named}, not {there}"
        fix = f"check data.path, and the column data.table.image: {table.settings.image}; {JOIN}"
        raise DataError(Problem(what, table.path, fix))
    rows = {file: table.rows[name] for file, name in row_names.items()}
    parts = _parts_of(root, table, rows)
    names = tuple(class_names or STANDARD_CLASSES.get(data.classes) or _found_classes(table, rows, files))
    listed: dict[Path, Listed] = {}
    unknown: set[str] = set()
    for file, part in sorted(parts.items()):
        written = rows[file].class_name
        if not table.settings.gives_classes:
            name = folder_class(inner_folders(files[file].relative_to(root)), files[file], names)
        elif (name := written and spelled_class(written, names)) is None and written:
            unknown.add(written)
        if name:
            listed[files[file]] = Listed(names.index(name), part)
    if unknown:
        what = f"the table has classes other than {', '.join(names)}: {join_names(sorted(unknown))}"
        raise DataError(Problem(what, table.path, "correct data.table.labels, or set data.classes: auto"))
    without_class = [file for file in parts if files[file] not in listed and len(rows[file].votes) < 2]
    sides: dict[PartName, Path] = {"train": table.path}
    sides |= {"test": table.path} if "test" in parts.values() else {}
    fix = "correct data.table.labels and data.table.side, or add images"
    if table.cells:
        fix += f"; the columns {', '.join(table.settings.labels)} contain {_counted(table.cells)}"
    return Listing(
        class_names=names,
        images=listed,
        problems=tuple(missing_classes(listed.values(), sides, names, fix)),
        warnings=(
            *_left_out(table, files, row_names, parts, without_class),
            *_doubts(table, {file: rows[file] for file in parts}),
            *ignored,
        ),
    )


def _found_classes(table: LabelTable, rows: Mapping[str, TableRow], files: Collection[str]) -> tuple[str, ...]:
    """Return the classes of `classes: auto`: those of the mapping, of the cells, or the folders of the images."""
    classes = [*table.settings.labels.values()] or [row.class_name for row in rows.values() if row.class_name]
    if not table.settings.gives_classes:
        classes = [inner[0] for file in files if (inner := inner_folders(PurePosixPath(file)))]
    names = tuple(sorted({folded(name): composed(name) for name in classes}.values()))
    if len(names) < 2:
        have = f"there is only one class, {names[0]}" if names else "there are no classes"
        raise DataError(Problem(have, table.path, "give each class a label in data.table.labels"))
    return names


def _parts_of(root: Path, table: LabelTable, rows: Mapping[str, TableRow]) -> dict[str, PartName]:
    """Return the part of each file; those in none are missing."""
    side = table.settings.side
    if side is None:
        words = {file: map(part_named, PurePosixPath(file).parts[:-1]) for file in rows}
        return {file: next(filter(None, parts), "train") for file, parts in words.items()}
    if side.column is not None:
        return {file: row.part for file, row in rows.items() if row.part}
    parts: dict[str, PartName] = {} if side.train is not None else dict.fromkeys(rows, "train")
    lists: dict[str, str] = {}
    given: dict[PartName, str | None] = {"train": side.train, "val": side.val, "test": side.test}
    for part, name in given.items():
        members = _members(root, name, rows, table) if name is not None else ()
        if twice := sorted(lists.keys() & set(members)):
            what = f"{len(twice)} images are also in {lists[twice[0]]}: {join_names(twice, 3)}"
            raise DataError(Problem(what, root / str(name), "keep each image in one list"))
        lists |= dict.fromkeys(members, str(name))
        parts |= dict.fromkeys(members, part)
    return parts


def _members(root: Path, name: str, files: Collection[str], table: LabelTable) -> Collection[str]:
    """Return the files of a list of `data.table.side`, or in a folder that is given instead."""
    path = root / name
    if path.is_dir():
        folder, base = path.resolve(), root.resolve()
        members: Collection[str] = [file for file in files if (base / file).is_relative_to(folder)]
        if not members:
            raise DataError(Problem("no image of the table is in it", path, "correct data.table.side"))
        return members
    try:
        lines = composed(read_bytes(path, "table", DataError).decode("utf-8-sig")).splitlines()
    except UnicodeDecodeError as error:
        raise DataError(Problem("not a list in UTF-8", path, "write one image per line")) from error
    except OSError as error:
        near = nearest(
            name, [entry.name for entry in root.iterdir()], "give a path relative to data.path, or delete side"
        )
        what = f"the list of data.table.side cannot be read ({error.strerror})"
        raise DataError(Problem(what, path, near)) from error
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    matched = match_names(names, files)
    if matched.several_files:
        raise DataError(*matched.problems(path))
    found = {*matched.by_file.values()}
    missing = [name for name in names if name not in found]
    known = {*match_names(missing, table.rows).by_file.values()}  # rows whose images are not here
    if unknown := [name for name in missing if not found or name not in known]:
        what = f"{len(unknown):,} of its {len(names):,} lines name no image of the table: {join_names(unknown, 2)}"
        raise DataError(Problem(what, path, "write the name or path of one image per line"))
    return matched.by_file.keys()


def _left_out(
    table: LabelTable,
    files: Collection[str],
    row_names: Mapping[str, str],
    parts: Collection[str],
    without_class: Collection[str],
) -> list[str]:
    """Return a note with the reasons for which images and rows are left out; none if none are."""
    without_row = sorted(set(files) - row_names.keys())
    without_image = len(table.rows) - len(set(row_names.values()))
    what = f"with none of the labels {', '.join(table.settings.labels)}" if table.settings.labels else "without a class"
    counts = Counter(label for file in without_class for label in table.rows[row_names[file]].labels)
    reasons = (
        (len(without_row), "images without a row", f" ({join_names(without_row, 3)})"),
        (without_image, "rows without an image", f" of {len(table.rows):,}"),
        (len(row_names) - len(parts), "images in no list of data.table.side", ""),
        (len(without_class), f"images {what}", f" ({_counted(counts)})" if counts else ""),
    )
    notes = [f"{what}: {count:,}{detail}" for count, what, detail in reasons if count]
    return [f"{table.path.name} leaves out {'; '.join(notes)}"] if notes else []


def _doubts(table: LabelTable, rows: Mapping[str, TableRow]) -> Iterator[str]:
    """Yield notes about images whose rows disagree, and about cells that say neither yes nor no."""
    if disputed := [file for file, row in rows.items() if len(row.votes) > 1]:
        votes = {name or "none of the labels": count for name, count in rows[disputed[0]].votes.items()}
        rules = {
            "first": "the first entry of data.table.labels that applies decides",
            "majority": "the class of most rows counts, or that of the earliest",
            "leave_out": "they are left out",
        }
        yield (
            f"{table.path.name}: the rows of {len(disputed):,} of {len(rows):,} images disagree, such as those of "
            f"{disputed[0]} ({_counted(votes)}); {rules[table.settings.disagree]} (data.table.disagree)"
        )
    if odd := {cell: count for cell, count in table.cells.items() if cell.casefold() not in KNOWN_CELLS}:
        yield f"{table.path.name}: cells that say neither yes nor no are no label: {_counted(odd)}"


def _counted(counts: Mapping[str, int]) -> str:
    """Return names and their counts, most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return join_names([f"{name or '(nothing)'} {count:,}" for name, count in ordered], 5)
