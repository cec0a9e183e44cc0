"""What is written about each image in the columns of its table, or in its DICOM header.

The sites of images, and the subgroups of a result, are such columns.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xraytune.base.cores import map_on_cores
from xraytune.base.errors import ConfigError, Problem, join_names
from xraytune.data.dicom import read_attribute
from xraytune.data.file_names import pneumonia_type
from xraytune.data.guesses import EMPTY
from xraytune.data.images import ImageFile
from xraytune.data.patients import PATIENTS_CSV
from xraytune.space.messages import nearest

_MOST_SUBGROUPS = 20
_NO_VALUE = "(no value)"


def column_values(images: Iterable[ImageFile], name: str, root: Path) -> dict[str, str]:
    """Return the value of each image that has one in a column of its table: file -> value.

    Several different cells of one image are joined by `|`. Without such a column, the value is that
    of the attribute with this keyword in the DICOM header.
    """
    cells_of = {image.file: image.in_table.cells for image in images}
    values = {}
    for file, rows in cells_of.items():
        values[file] = "|".join({row[name]: None for row in rows if row.get(name)})
    if not any(values.values()):
        files = [*cells_of]
        cells = map_on_cores(lambda file: read_attribute(root / file, name), files)
        values = dict(zip(files, cells, strict=True))
    return {file: value for file, value in values.items() if value}


def subgroup_columns(
    images: Sequence[ImageFile], names: Sequence[str], root: Path
) -> dict[str, Mapping[str, str]]:
    """Return the values of images below `root` that define subgroups: column -> file -> value.

    The values are `column_values`; images without one are a group of their own. Unless the table
    has such a column, `pneumonia` is bacterial or viral, as Kermany file names state, and `site` is
    the site of an image. More than 20 different numbers, such as ages, are grouped into thirds.

    Raises ConfigError if the files have no value in a column, or too many different ones.
    """
    cells_of = {image.file: image.in_table.cells for image in images}
    columns: dict[str, Mapping[str, str]] = {}
    problems = []
    for name in names:
        values = column_values(images, name, root)
        if name == "pneumonia" and not values:  # "" is in no group: healthy images have no type
            values = {file: pneumonia_type(file) or "" for file in cells_of}
        if name == "site" and not values:
            values = {image.file: image.site for image in images if image.site}
        if len({*values.values()}) > _MOST_SUBGROUPS:
            values = _group_into_thirds(values)
        columns[name] = dict.fromkeys(cells_of, _NO_VALUE) | values
        count = len({*values.values()} - {""})
        if not 0 < count <= _MOST_SUBGROUPS:
            what = f"these images have {count} different values of it in table and headers; "
            what += f"1 to {_MOST_SUBGROUPS} make subgroups"
            columns_here = sorted(
                {column for rows in cells_of.values() for row in rows for column in row}
            )
            fix = f"add such a column to {PATIENTS_CSV} or data.table"
            if count:
                fix = "add a column with fewer values, such as groups of these"
            elif columns_here:
                fix = nearest(
                    name, columns_here, f"{fix}, or use one of: {join_names(columns_here)}"
                )
            problems.append(Problem(what, f"--by {name}", fix))
    if problems:
        raise ConfigError(*problems)
    return columns


def _group_into_thirds(values: Mapping[str, str]) -> dict[str, str]:
    """Return the third of each number, such as `18 to 43`; values that are no numbers as given.

    An image whose cell means that nothing is known, such as `nan`, is in no third.
    """
    known = {file: value for file, value in values.items() if value.casefold() not in EMPTY}
    try:
        numbers = {file: float(value) for file, value in known.items()}
    except ValueError:
        return {**values}
    array = np.array([*numbers.values()])
    third_of = np.searchsorted(np.quantile(array, [1 / 3, 2 / 3]), array)
    names = {}
    for third in {*third_of.tolist()}:
        members = array[third_of == third]
        ends = (members.min(), members.max())
        # All digits, so that no two thirds have one name, as dates of one month would.
        names[third] = " to ".join(np.format_float_positional(end, trim="-") for end in ends)
    return {file: names[third] for file, third in zip(numbers, third_of, strict=True)}
