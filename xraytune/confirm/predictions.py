"""A table of predictions from trainings that xraytune did not run, checked before it is judged.

The table has a row for each arm, replicate and image, with a probability for each class or finding,
or the Dice of a mask. `predictions.csv` of `confirm`, with a column for each replicate, is read as
well.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xraytune.base.arrays import BoolArray
from xraytune.base.errors import ConfigError, DataError, Problem, counted, join_names
from xraytune.base.records import frozen
from xraytune.confirm.drawn import Drawn
from xraytune.data.guesses import positive_class
from xraytune.stats.classification import Floats, Labels

if TYPE_CHECKING:
    import pandas as pd

_WIDE_COLUMN = re.compile(r"(?P<arm>.+), replicate (?P<replicate>\d+)(?:: (?P<output>.+))?")
NAME_COLUMNS = ("arm", "file", "patient", "site", "label")
_RUN = ["arm", "replicate"]
_LARGEST_ERROR = 1e-3
"""By how much the probabilities of an image may miss a sum of 1, as they were rounded."""
_SHOWN = 3


@frozen
class Predictions:
    """The results of some arms on test images.

    Attributes:
        arms: The arms' names.
        files, patients: The file and the patient of each image, [N].
        outputs: The classes or findings; `dice` for masks.
        labels: The class of each image, [N], or its findings, [N, C]; zeros for masks.
        results: Results of R runs, [R, N, C], by replicate and then by arm. They are NaN where a
            run is not scored, since it was trained on the patient.
        numbers: The number of each replicate, ascending.
        unscored_patients: The patients of each replicate whose images it does not score, since it
            was trained on them.
        sites: The site of each image, [N], if each replicate leaves a site out; or else nothing.
        positive: The number of the positive one of two classes; 0 otherwise.
    """

    arms: tuple[str, ...]
    files: tuple[str, ...]
    patients: tuple[str, ...]
    outputs: tuple[str, ...]
    labels: Labels
    results: Floats
    numbers: tuple[int, ...]
    unscored_patients: tuple[tuple[str, ...], ...]
    sites: tuple[str, ...]
    positive: int

    @property
    def replicates(self) -> int:
        """How often each arm was trained."""
        return len(self.numbers)

    @property
    def runs(self) -> list[tuple[int, str]]:
        """The replicate and the arm of each run."""
        return [(number, arm) for number in self.numbers for arm in self.arms]

    @property
    def equal_arms(self) -> list[tuple[str, str]]:
        """The pairs of arms with the same results in all replicates."""
        count = len(self.arms)
        results_of = {arm: self.results[index::count] for index, arm in enumerate(self.arms)}
        return [
            (first, second)
            for first, second in combinations(self.arms, 2)
            if np.array_equal(results_of[first], results_of[second], equal_nan=True)
        ]

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings; empty for classes and masks."""
        return self.outputs if self.labels.ndim == 2 else ()

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes."""
        return len(self.outputs) == 2 and not self.findings

    @property
    def sha256(self) -> str:
        """A hash of all results, by which a table is recognised that was judged before."""
        return sha256(np.nan_to_num(self.results, nan=-1).tobytes()).hexdigest()

    def require_complete(self, expected_files: Iterable[str]) -> None:
        """Refuse (DataError) a run that lacks an image, or that has one which it must not score."""
        if absent := sorted({*expected_files} - {*self.files}):
            raise DataError(
                f"no run has {join_names(absent, _SHOWN)}", fix="predict all test images"
            )
        for index, (number, arm) in enumerate(self.runs):
            unscored = self.unscored_patients[index // len(self.arms)]
            is_unscored = np.isin(self.patients, unscored)
            has_result = ~np.isnan(self.results[index]).any(axis=1)
            for is_wrong, what in (
                (has_result & is_unscored, "is scored on patients that it was trained on, as on"),
                (~has_result & ~is_unscored, "lacks"),
            ):
                wrong_files = np.array(self.files)[is_wrong].tolist()
                if wrong_files:
                    raise DataError(
                        f"{arm}, replicate {number}, {what} {join_names(wrong_files, _SHOWN)}",
                        fix="predict each test image once in a run, except for its own patients",
                    )

    def require_different(self, one_network: str) -> None:
        """Refuse (DataError) runs with the same results, as if a seed or images had not been used.

        This concerns two replicates of an arm, except of the arm `one_network`, and the finalist
        and another arm. Two controls may be the same training.
        """
        runs_of_results: dict[bytes, list[tuple[int, str]]] = defaultdict(list)
        for (number, arm), results in zip(self.runs, self.results, strict=True):
            earlier_runs = runs_of_results[results.tobytes()]
            for earlier_number, earlier_arm in earlier_runs:
                if arm == earlier_arm == one_network:
                    continue
                if arm == earlier_arm or self.arms[0] in (arm, earlier_arm):
                    raise DataError(
                        f"{arm}, replicate {number}, has the same results as {earlier_arm}, "
                        f"replicate {earlier_number}, to the last digit",
                        fix="train each run with its own seed and images",
                    )
            earlier_runs.append((number, arm))


def read_table(file: Path, names: Sequence[str] = NAME_COLUMNS) -> pd.DataFrame:
    """Return a CSV file as a table; `names` are text, so that a site `01` does not become 1.

    Raises:
        ConfigError: There is no such file.
        DataError: It is no table.
    """
    import pandas as pd  # takes half a second

    try:
        text = dict.fromkeys(names, str)
        return pd.read_csv(file, dtype=text, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise ConfigError("there is no such file", file, "give a CSV file") from None
    except ValueError as error:  # also what pandas cannot parse or decode
        raise DataError(
            f"this is no table ({error})", file, "give a CSV file in UTF-8 with a header"
        ) from error


def with_columns(
    table: pd.DataFrame, *, names: Sequence[str] = (), numbers: Sequence[str] = ()
) -> pd.DataFrame:
    """Return a table, whose index counts its rows, with columns of text and of whole numbers.

    Raises DataError if such a column is missing, or has a cell that is empty or no whole number.
    """
    import pandas as pd

    for column in (*names, *numbers):
        if column not in table:
            raise DataError(f"the column {column} is missing", fix="add it")
        if column in numbers:
            cells = pd.to_numeric(table[column], errors="coerce")
            cells = cells.where(cells % 1 == 0)
        else:
            cells = table[column].map(str, na_action="ignore")
        missing = table.index[cells.isna()]
        if len(missing):
            cell = table[column][missing[0]]
            what = "empty" if pd.isna(cell) else f"{cell}, which is no whole number"
            raise DataError(f"row {missing[0] + 1}: {column} is {what}", fix="correct it")
        table = table.assign(**{column: cells.astype(int) if column in numbers else cells})
    return table


def _to_long(table: pd.DataFrame, wide: Mapping[str, re.Match[str]]) -> pd.DataFrame:
    """Return the long form of a table with a column for each replicate, and for each output."""
    import pandas as pd

    shared = table[[name for name in table if name not in wide]]
    has_labels = any(str(name).startswith("label") for name in shared)
    unnamed = "p_positive" if has_labels else "dice"  # masks have no labels
    parts: dict[tuple[str, int], pd.DataFrame] = {}
    for name, match in wide.items():
        arm = match["arm"]
        replicate = int(match["replicate"])
        part = parts.setdefault((arm, replicate), shared.assign(arm=arm, replicate=replicate))
        part[f"p_{match['output']}" if match["output"] else unnamed] = table[name]
    long = pd.concat(parts.values(), ignore_index=True)
    return long.dropna(subset=[*long.columns.difference([*shared, *_RUN])], how="all")


def read_predictions(
    table: pd.DataFrame,
    arms: Sequence[str],
    *,
    drawn: Drawn | None,
    positive: str,
    one_network: str,
    leave_out_site: bool,
) -> Predictions:
    """Return the predictions of some arms; errors do not say where the table is from.

    Without draws, a replicate may lack all images of its training patients.

    Args:
        table: The table, in its long form, or in the wide form of `confirm`.
        arms: The arms that are compared.
        drawn: The draws that the arms were trained on, which know labels and patients.
        positive: The positive one of two classes; "" for that of the draws, or a guess by name.
            Unless a class has that name, `p_positive` has its probabilities.
        one_network: The arm whose replicates are the same network, if there is one.
        leave_out_site: Whether replicate k was trained without the k-th site, sorted as text, and
            is scored there.

    Raises:
        ConfigError: An arm is missing, or the positive class is not known or not that of the draws.
        DataError: The table is incomplete or contradicts itself, or a run is scored on a patient
            whom it was trained on.
    """
    wide = {str(name): match for name in table if (match := _WIDE_COLUMN.fullmatch(str(name)))}
    is_wide = bool(wide) and "arm" not in table
    if is_wide:
        table = _to_long(table, wide)
    if "file" not in table and "patient" in table:
        table = table.assign(file=table["patient"])
    table = _choose_arms(table, arms)

    images = table.drop_duplicates("file").sort_values("file")
    files = tuple(images["file"])
    if drawn:
        _refuse(table, ~table["file"].isin([*drawn.patients]), "is not a test image")
        patients = tuple(drawn.patients[file] for file in files)
    else:
        patients = _of_images(table, images, "patient")
    outputs, labels = _read_labels(table, images, drawn)
    index_of_positive = _find_positive(outputs, labels, drawn, positive)
    if len(outputs) == 2 and (is_wide or "positive" not in outputs):
        table = table.rename(columns={"p_positive": f"p_{outputs[index_of_positive]}"})
    values = _read_values(table, outputs, labels.ndim == 2)

    numbers = tuple(sorted({*table["replicate"]}))
    by_replicate = _sort_results(table, values, numbers, arms, files)
    sites: tuple[str, ...] = ()
    if leave_out_site:
        sites = _of_images(table, images, "site")
        left_out = _order_sites(sites, len(numbers), as_confirm=is_wide)
        # A run is scored only at the site that it left out.
        is_scored = np.array([[site == name for site in sites] for name in left_out])
        by_replicate[~np.broadcast_to(is_scored[:, None], by_replicate.shape[:3])] = np.nan
    else:
        is_scored = np.asarray(~np.isnan(by_replicate).all(axis=(1, 3)))
    if drawn:
        unscored_patients = [{*patients} & drawn.trained_on(number) for number in numbers]
    else:
        unscored_patients = [{*patients} - {*np.array(patients)[scored]} for scored in is_scored]
    predictions = Predictions(
        arms=tuple(arms),
        files=files,
        patients=patients,
        outputs=outputs,
        labels=labels,
        results=by_replicate.reshape(-1, *by_replicate.shape[2:]),
        numbers=numbers,
        unscored_patients=tuple(tuple(sorted(names)) for names in unscored_patients),
        sites=sites,
        positive=index_of_positive,
    )
    predictions.require_complete(drawn.patients if drawn else files)
    predictions.require_different(one_network)
    return predictions


def _choose_arms(table: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Return the rows of some arms, one for each run and image."""
    table = with_columns(table.reset_index(drop=True), names=("arm", "file"))
    known_arms = [*dict.fromkeys(table["arm"])]
    for arm in arms:
        if arm not in known_arms:
            raise ConfigError(f"there is no arm {arm}", fix=f"choose of {join_names(known_arms)}")
    table = with_columns(table[table["arm"].isin(arms)], numbers=("replicate",))
    table = table.reset_index(drop=True)
    _refuse(table, table.duplicated([*_RUN, "file"]), "is there twice")
    return table


def _sort_results(
    table: pd.DataFrame,
    values: Floats,
    numbers: Sequence[int],
    arms: Sequence[str],
    files: Sequence[str],
) -> Floats:
    """Return the values of the rows, [replicates, arms, N, C], NaN where there is no row."""
    results = np.full((len(numbers), len(arms), len(files), values.shape[1]), np.nan)
    results[
        np.searchsorted(numbers, table["replicate"]),
        [arms.index(arm) for arm in table["arm"]],
        np.searchsorted(files, table["file"].to_list()),
    ] = values
    return results


def _order_sites(sites: Sequence[str], replicates: int, *, as_confirm: bool) -> list[str]:
    """Return the site that each replicate leaves out; `confirm` sorts them as text."""
    names = sorted({*sites})
    if len(names) != replicates:
        raise DataError(
            f"{counted(len(names), 'site')} ({join_names(names)}), but "
            f"{counted(replicates, 'replicate')}",
            fix="train replicate k without the k-th of the sorted sites",
        )
    by_number = sorted(names, key=_pad_numbers)
    if names != by_number and not as_confirm:
        raise DataError(
            f"the k-th site is not clear: {join_names(names, _SHOWN)}, or "
            f"{join_names(by_number, _SHOWN)}",
            fix="write 01, 02 and so on in their names",
        )
    return names


def _pad_numbers(name: str) -> str:
    """Return a name that sorts by the numbers in it."""
    return re.sub(r"\d+", lambda number: number[0].zfill(20), name)


def _refuse(table: pd.DataFrame, is_wrong: pd.Series[bool] | BoolArray, what: str) -> None:
    """Refuse (DataError) rows, and name the first ones."""
    rows = table[is_wrong]
    if len(rows):
        first = [
            f"{row.arm}, replicate {row.replicate}, {row.file}"
            for row in rows.head(_SHOWN).itertuples()
        ]
        more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
        raise DataError(f"{'; '.join(first)}{more}: {what}", fix="correct these rows")


def _of_images(table: pd.DataFrame, images: pd.DataFrame, column: str) -> tuple[str, ...]:
    """Return a column's value of each image; refuse (DataError) images with several or none."""
    if column not in table:
        raise DataError(
            f"the column {column} is missing",
            fix=f"add the column {column}, or give the draws (--draws)",
        )
    counts = table["file"].map(table.groupby("file")[column].nunique(dropna=False))
    _refuse(table, counts > 1, f"has another {column} in another row")
    _refuse(table, table[column].isna(), f"has no {column}")
    return tuple(map(str, images[column]))


def _read_labels(
    table: pd.DataFrame, images: pd.DataFrame, drawn: Drawn | None
) -> tuple[tuple[str, ...], Labels]:
    """Return the outputs, and the class [N] or the findings [N, C] of each image."""
    if drawn:
        return drawn.outputs, drawn.labels_of(images["file"])
    columns = tuple(str(name)[2:] for name in table if str(name).startswith("p_"))
    if ("dice" in table) == bool(columns):
        what = "both dice and probabilities" if columns else "no column of probabilities"
        raise DataError(
            f"there is {what}",
            fix="write p_CLASS for each class, p_FINDING for each finding, or dice",
        )
    if not columns:
        return ("dice",), np.zeros(len(images), dtype=np.int64)
    if any(f"label_{name}" in table for name in columns):
        states = [_read_states(table, images, f"label_{name}") for name in columns]
        return columns, np.stack(states, axis=1)
    names = _of_images(table, images, "label")
    outputs = tuple(sorted({*names, *columns} - ({"positive"} - {*names})))
    return outputs, np.array([outputs.index(name) for name in names])


def _read_states(table: pd.DataFrame, images: pd.DataFrame, column: str) -> Labels:
    """Return a finding of each image, [N]: 1, 0, or -1 if it is not known."""
    import pandas as pd

    if column not in table:
        raise DataError(f"the column {column} is missing", fix="add it")
    is_unknown = table[column].isna() | (table[column] == "?")
    states = pd.to_numeric(table[column], errors="coerce").where(~is_unknown, -1)
    _refuse(table, ~states.isin([-1, 0, 1]), f"has a {column} that is not 1, 0 or empty")
    _of_images(table.assign(**{column: states}), images, column)
    return np.asarray(states[images.index], dtype=np.int64)


def _find_positive(
    outputs: Sequence[str], labels: Labels, drawn: Drawn | None, positive: str
) -> int:
    """Return the number of the positive class: the given one, that of the draws, or a guess."""
    if len(outputs) != 2 or labels.ndim == 2:
        if positive:
            raise ConfigError(
                f"only one of two classes can be positive, and the predictions are of "
                f"{join_names(outputs)}",
                fix="omit --positive",
            )
        return 0
    if drawn and positive in ("", outputs[drawn.positive]):
        return drawn.positive
    if drawn:
        raise ConfigError(
            f"the positive class of the draws is {outputs[drawn.positive]}, and not {positive}",
            fix="omit --positive",
        )
    found = positive_class(positive or None, outputs)
    if isinstance(found, Problem):
        raise ConfigError(found.what, fix=f"give --positive, one of {join_names(outputs)}")
    return found


def _read_values(table: pd.DataFrame, outputs: tuple[str, ...], has_findings: bool) -> Floats:
    """Return the results of each row, [rows, C]."""
    import pandas as pd

    names = ["dice"] if outputs == ("dice",) else [f"p_{name}" for name in outputs]
    given = [name for name in names if name in table]
    missing = [name for name in names if name not in table]
    is_binary = len(outputs) == 2 and not has_findings
    if missing and not (is_binary and given):
        raise DataError(f"the column {missing[0]} is missing", fix="add it")
    cells = table[given].apply(pd.to_numeric, errors="coerce")
    values: Floats = cells.to_numpy(dtype=np.float64, na_value=np.nan)
    is_outside = ~((values >= 0) & (values <= 1)).all(axis=1)
    _refuse(table, is_outside, "has a value that is not from 0 to 1")
    if missing:
        other = 1 - values[:, 0]
        pair = (values[:, 0], other) if given[0] == names[0] else (other, values[:, 0])
        return np.stack(pair, axis=1)
    if len(names) > 1 and not has_findings:
        is_off = np.abs(values.sum(axis=1) - 1) > _LARGEST_ERROR
        _refuse(table, is_off, "has probabilities that do not sum to 1")
    return values
