"""Find the images that `data.table` describes, anywhere below the data folder.

With `data.findings`, all images are of a single class, and have findings. Images without a row or
excluded by it, rows without an image, and images without one of the mapped labels or a known
finding are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.base.files import read_bytes
from xraytune.data.class_folders import STANDARD_CLASSES, folder_class, spelled_class
from xraytune.data.findings import ABSENT, PRESENT, UNKNOWN, disputed_findings, united
from xraytune.data.folders import (
    missing_classes,
    no_images,
    require_folder,
    walk_folder,
)
from xraytune.data.guesses import PartName, composed, folded, inner_folders, part_named
from xraytune.data.images import SINGLE_CLASS, ImageFile, ImageIndex, Images
from xraytune.data.table import JOIN, KNOWN_CELLS, LabelTable, TableRow, match_names, near_matches
from xraytune.space.messages import nearest
from xraytune.space.settings import DataSettings


def list_table(
    data: DataSettings, table: LabelTable, class_names: Sequence[str] | None = None
) -> ImageIndex:
    """Match the rows of a table with the images below `data.path`.

    `class_names` of a model replace `data.classes`.

    Raises DataError if no row has an image, a name is ambiguous, a list of a side is malformed, or
    a class is unknown.
    """
    root = data.path
    require_folder(root)
    images, ignored = walk_folder(root, root, report_others=False)
    if not images:
        raise no_images(root, walk_folder(root, root)[1])
    files = [image.relative_to(root).as_posix() for image in images]
    row_names = table.rows_of(files)
    if not row_names:
        named = join_names([*table.rows], 2)
        what = f"none of its {len(table.rows):,} rows matches an image in {root}"
        what += f": they name {named}, not {join_names(sorted(files), 2)}"
        fix = f"check data.path, and the column data.table.image: {table.settings.image}; {JOIN}"
        if near := near_matches(table.rows, files):
            fix = f"{near}: write the names of the files into column {table.settings.image}"
        raise DataError(Problem(what, table.path, fix))
    all_rows = {file: table.rows[name] for file, name in row_names.items()}
    rows = {file: row for file, row in all_rows.items() if row.left_out_as is None}
    parts = _parts_of(root, table, rows)
    by_file = {file: (rows[file], part) for file, part in sorted(parts.items())}
    if data.findings is None:
        listing = _list_classes(data, table, by_file, class_names)
    else:
        listing = _list_findings(data, table, by_file, is_of_model=class_names is not None)
    listed = {image.file for image in listing.all_images}
    without = [
        file
        for file in parts
        if file not in listed and (data.findings or len(rows[file].votes) < 2)
    ]
    excluded = Counter(row.left_out_as for row in all_rows.values() if row.left_out_as)
    notes = _left_out(table, files, row_names, len(rows) - len(parts), without, excluded)
    return replace(listing, warnings=(*notes, *listing.warnings, *_odd_cells(table), *ignored))


_Rows: TypeAlias = Mapping[str, tuple[TableRow, PartName]]
"""The row and the part of each image."""


def _list_classes(
    data: DataSettings, table: LabelTable, images: _Rows, class_names: Sequence[str] | None
) -> ImageIndex:
    names = tuple(
        class_names or STANDARD_CLASSES.get(data.classes) or _found_classes(table, images)
    )
    listed: list[ImageFile] = []
    unknown: set[str] = set()
    for file, (row, part) in images.items():
        if table.settings.gives_classes:
            name = spelled_class(row.class_name, names) if row.class_name else None
            if row.class_name and name is None:
                unknown.add(row.class_name)
        else:
            path = PurePosixPath(file)
            name = folder_class(inner_folders(path), path, names)
        if name:
            listed.append(ImageFile(file=file, label=names.index(name), part=part))
    if unknown:
        what = f"the table has classes other than {', '.join(names)}: {join_names(sorted(unknown))}"
        raise DataError(
            Problem(what, table.path, "correct data.table.labels, or set data.classes: auto")
        )
    sides: dict[PartName, Path] = {"train": table.path}
    if any(part == "test" for _, part in images.values()):
        sides["test"] = table.path
    fix = "correct data.table.labels and data.table.side, or add images"
    if not table.settings.gives_classes:
        fix = "give data.table.label, or put them into folders of these names; "
        fix += "for images with findings, use task: findings"
    if table.cells:
        fix += f"; the columns {', '.join(table.settings.labels)} contain {_counted(table.cells)}"
    problems = tuple(missing_classes(listed, sides, names, fix))
    disputed = {file: row.votes for file, (row, _) in images.items() if len(row.votes) > 1}
    return ImageIndex(
        root=data.path,
        class_names=names,
        all_images=Images(listed),
        problems=problems,
        warnings=_disagreements(table, disputed, len(images)),
        table=table,
    )


def _list_findings(
    data: DataSettings, table: LabelTable, images: _Rows, *, is_of_model: bool
) -> ImageIndex:
    """List images with their findings.

    Those of `auto` need positive and negative training images.
    """
    is_auto = data.findings == "auto"
    names = table.findings
    problems: list[Problem] = []
    united_rows = {file: united(row.findings) for file, (row, _) in images.items() if row.findings}
    known = {file: findings for file, findings in united_rows.items() if findings.strip(UNKNOWN)}
    training = [findings for file, findings in known.items() if images[file][1] != "test"]
    counts = [Counter(states) for states in zip(*training, strict=True)] or [
        Counter() for _ in names
    ]
    notes = list(_disagreements_of_findings(table, images))
    if not is_of_model:
        has_both = {
            name: bool(count[PRESENT] and count[ABSENT])
            for name, count in zip(names, counts, strict=True)
        }
        for name, count in zip(names, counts, strict=True):
            if not has_both[name] and not is_auto:
                of = f"of {len(training):,} training images; the columns contain {_counted(table.cells) or 'nothing else'}"
                what = (
                    f"{name} is present in {count[PRESENT]:,} and absent in {count[ABSENT]:,} {of}"
                )
                problems.append(Problem(what, table.path, nearest(name, table.known, "remove it")))
        if is_auto:
            names = tuple(name for name in names if has_both[name])
        if len(names) < 2:
            what = f"data.findings: auto finds {join_names(names) or 'nothing'}, "
            what += "with both present and absent ones"
            problems.append(
                Problem(
                    what, table.path, "a single finding is two classes: use task: classification"
                )
            )
    if is_auto and table.settings.label is None:
        settings = table.settings
        used = {
            settings.image,
            settings.patient,
            settings.side_column,
            *settings.rows,
            *names,
        }
        others = [column for column in table.columns if column not in used]
        if others:
            notes.append(
                f"{table.path.name}: data.findings: auto leaves out the columns {join_names(others)}"
            )
    kept = [place for place, name in enumerate(table.findings) if name in names]
    listed = [
        ImageFile(
            file=file,
            label=0,
            part=images[file][1],
            findings="".join(findings[place] for place in kept),
        )
        for file, findings in known.items()
    ]
    return ImageIndex(
        root=data.path,
        class_names=SINGLE_CLASS,
        all_images=Images(listed),
        problems=tuple(problems),
        warnings=tuple(notes),
        findings=names,
        table=table,
    )


def _disagreements_of_findings(table: LabelTable, images: _Rows) -> tuple[str, ...]:
    disputed = {
        file: disputed_findings(table.findings, row.findings) for file, (row, _) in images.items()
    }
    return _disagreements(
        table, {file: votes for file, votes in disputed.items() if votes}, len(images)
    )


def _found_classes(table: LabelTable, images: _Rows) -> tuple[str, ...]:
    """Return the classes of the mapping, of the cells, or the folders of the images."""
    classes = [*table.settings.labels.values()] or [
        row.class_name for row, _ in images.values() if row.class_name
    ]
    if not table.settings.gives_classes:
        inner = [inner_folders(PurePosixPath(file)) for file in images]
        classes = [folders[0] for folders in inner if folders]
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
    if isinstance(side, str):
        return {file: row.part for file, row in rows.items() if row.part}
    parts: dict[str, PartName] = {} if side.train is not None else dict.fromkeys(rows, "train")
    lists: dict[str, str] = {}
    given: dict[PartName, str | None] = {"train": side.train, "test": side.test}
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
            raise DataError(
                Problem("no image of the table is in it", path, "correct data.table.side")
            )
        return members
    try:
        lines = composed(read_bytes(path, DataError).decode("utf-8-sig")).splitlines()
    except UnicodeDecodeError as error:
        raise DataError(Problem("not a list in UTF-8", path, "write one image per line")) from error
    except OSError as error:
        near = nearest(
            name,
            [entry.name for entry in root.iterdir()],
            "give a path relative to data.path, or delete side",
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
        what = f"{len(unknown):,} of its {len(names):,} lines name no image of the table"
        what += f": {join_names(unknown, 2)}"
        raise DataError(Problem(what, path, "write the name or path of one image per line"))
    return matched.by_file.keys()


def _left_out(
    table: LabelTable,
    files: Collection[str],
    row_names: Mapping[str, str],
    in_no_list: int,
    without_class: Collection[str],
    excluded: Mapping[str, int],
) -> list[str]:
    """Return a note with the reasons for which images and rows are left out; none if none are."""
    without_row = sorted(set(files) - row_names.keys())
    without_image = len(table.rows) - len(set(row_names.values()))
    what = "without a known finding" if table.findings else "without a class"
    if table.settings.labels and not table.findings:
        what = f"with none of the labels {', '.join(table.settings.labels)}"
    counts = Counter(
        label for file in without_class for label in table.rows[row_names[file]].labels
    )
    reasons = (
        (len(without_row), "images without a row", f" ({join_names(without_row, 3)})"),
        (without_image, "rows without an image", f" of {len(table.rows):,}"),
        (sum(excluded.values()), "images by data.table.rows", f" ({_counted(excluded)})"),
        (in_no_list, "images in no list of data.table.side", ""),
        (len(without_class), f"images {what}", f" ({_counted(counts)})" if counts else ""),
    )
    notes = [f"{what}: {count:,}{detail}" for count, what, detail in reasons if count]
    return [f"{table.path.name} leaves out {'; '.join(notes)}"] if notes else []


def _disagreements(
    table: LabelTable, disputed: Mapping[str, Mapping[Any, int]], count: int
) -> tuple[str, ...]:
    """Return a note about images whose rows disagree, by their votes."""
    if not disputed:
        return ()
    example, cast = next(iter(disputed.items()))
    votes = {name or "none of the labels": number for name, number in cast.items()}
    rule = "the first entry of data.table.labels that applies decides"
    if table.findings:
        rule = "one row suffices"
    return (
        f"{table.path.name}: the rows of {len(disputed):,} of {count:,} images disagree, "
        f"such as those of {example} ({_counted(votes)}); {rule}",
    )


def _odd_cells(table: LabelTable) -> Iterator[str]:
    """Yield a note about cells that say neither yes nor no."""
    if odd := {
        cell: count for cell, count in table.cells.items() if cell.casefold() not in KNOWN_CELLS
    }:
        yield f"{table.path.name}: cells that say neither yes nor no are no label: {_counted(odd)}"


def _counted(counts: Mapping[str, int]) -> str:
    """Return names and their counts, most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return join_names([f"{name or '(nothing)'} {count:,}" for name, count in ordered], 5)
