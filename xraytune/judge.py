"""Judge trainings that xraytune did not run: from a table of predictions to a verdict.

    read the table -> check it against the draws -> log the access -> judge -> write

Comparisons, intervals and words are those of `confirm`. What a table of predictions cannot show,
such as the steps of a training, is named in the answer. This file loads neither torch nor Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from xraytune.base.errors import ConfigError, DataError, counted
from xraytune.base.files import (
    StrPath,
    append_jsonl,
    new_folder,
    optional_path,
    read_jsonl,
    require_new,
    write_text,
)
from xraytune.confirm.arms import Arm, Plan, Role
from xraytune.confirm.compare import ArmScores, judge_finalists, unscored_findings
from xraytune.confirm.drawn import Drawn, read_drawn
from xraytune.confirm.outcomes import add_secondary, compare_in_groups
from xraytune.confirm.predictions import (
    NAME_COLUMNS,
    Predictions,
    read_predictions,
    read_table,
    with_columns,
)
from xraytune.confirm.record import (
    Confirmation,
    FinalistVerdict,
    HeldOutSet,
    paragraph,
    write_verdict,
)
from xraytune.present.forest import verdict_parts
from xraytune.present.rendering import render_page
from xraytune.space.parameters import Parameters
from xraytune.space.settings import DonorControl
from xraytune.stats.placements import mean_overlap, scorable_labels

if TYPE_CHECKING:
    import pandas as pd

JUDGED_FILE = "judged.jsonl"
"""The log of a folder of draws, with a row for each table that was judged on its test images."""
_SEED = 0
"""The seed of the resamples of secondary outcomes."""
_FEWEST_REPLICATES = 2
_EQUAL = {"steps": "optimiser steps", "real_images": "real images"}
"""Columns of the trainings that must be equal in a replicate's arms."""


def judge(
    predictions: StrPath | pd.DataFrame,
    *,
    finalist: str,
    none: str = "",
    duplicate: str = "",
    tuned: Sequence[str] = (),
    donor: str = "",
    donor_start: str = "",
    synthetic_only: str = "",
    real_images: str = "",
    leave_out_site: bool = False,
    draws: StrPath | None = None,
    runs: StrPath | None = None,
    by: Sequence[str] = (),
    table: StrPath | None = None,
    positive: str = "",
    rope: float = 0.01,
    out: StrPath = Path("judged"),
) -> Confirmation:
    """Judge whether an arm with synthetic images is better than its controls.

    Args:
        predictions: A CSV file or a table with `arm`, `replicate`, `file`, and `p_CLASS` for each
            class, `p_FINDING` for each finding, or `dice`. Without `draws`, it also has `patient`,
            and `label`, or `label_FINDING` for each finding. A `predictions.csv` of `confirm` will
            do as well.
        finalist: The arm with synthetic images.
        none: The arm that differs only in having no extra images.
        duplicate: The arm that differs only in having repeated real images.
        tuned: The best arms without synthetic images, tuned as much as the finalist.
        donor: The classifier that another hospital could send instead.
        donor_start: A training that starts from that classifier.
        synthetic_only: A training on synthetic images alone; the verdict does not rest on it.
        real_images: The arm with real images of other patients in place of the synthetic ones.
        leave_out_site: Whether replicate k was trained without the k-th of the sites of the
            column `site`, sorted as text; the verdict is then over sites.
        draws: A folder of `xraytune draws`, which knows labels, patients, and who must not be
            scored. Each call is logged there.
        runs: A CSV file with `arm`, `replicate`, `steps` and `real_images`, which must be equal in
            all arms of a replicate but `donor` and `synthetic_only`.
        by: Columns of `table` that define subgroups.
        table: A CSV file with `file` or `patient`, and the columns of `by`.
        positive: The positive one of two classes; by default, that of `draws`, or the class whose
            name says so.
        rope: The equivalence margin.
        out: The folder to create, for `verdict.json`, `methods.md` and `report.html`.

    Raises:
        ConfigError: An arm is missing, an option does not fit the table, or `out` exists.
        DataError: The table is incomplete or contradicts itself, scores a patient whom it must not,
            or its trainings are not comparable.
        StudyError: The draws are missing or damaged.

    Example:
        >>> api.judge("predictions.csv", finalist="gan", none="none", duplicate="twice")
    """
    out = Path(out)
    draws = optional_path(draws)
    require_new(out)
    others = [
        _arm(none, finalist, "matched"),
        _arm(duplicate, finalist, "matched", source="duplicate"),
        *(_arm(name, finalist, "tuned") for name in tuned),
        _arm(donor, finalist, "donor", control="donor"),
        _arm(donor_start, finalist, "donor", control="donor_start"),
        _arm(synthetic_only, finalist, "donor", control="synthetic_only"),
        _arm(real_images, finalist, "perfect"),
    ]
    arms = [_arm(finalist, finalist, "finalist"), *(arm for arm in others if arm.name)]
    _require_comparison(arms)
    if leave_out_site and by:
        raise ConfigError("a verdict over sites is in no other groups", "--by", "omit it")

    where = Path("predictions")
    if isinstance(predictions, str | Path):
        where = Path(predictions)
        predictions = read_table(where)
    drawn = read_drawn(draws) if draws else None
    with _locate_problems(where):
        content = read_predictions(
            predictions,
            [arm.name for arm in arms],
            drawn=drawn,
            positive=positive,
            one_network=donor,
            leave_out_site=leave_out_site,
        )
    if content.replicates < _FEWEST_REPLICATES:
        raise DataError(
            f"{counted(content.replicates, 'replicate')} is too few for a comparison",
            where,
            f"predict with the networks of {_FEWEST_REPLICATES} or more replicates",
        )
    if runs is not None:
        _check_trainings(Path(runs), content, {donor, synthetic_only})
    groups = _read_groups(optional_path(table), by, content)

    earlier = _judged_before(draws, content) if draws else ()
    plan = Plan(
        test=drawn.kind if drawn else "folder",
        replicates=content.replicates,
        exploratory=earlier,
        sites=tuple(sorted({*content.sites})),
        arms=tuple(arms),
    )
    declared = _name_unchecked(content, drawn, has_runs=runs is not None)
    confirmation = _confirmation(content, plan, drawn, groups, declared, rope=rope, out=out)
    methods = paragraph("methods", confirmation)
    verdict = verdict_parts(confirmation)
    page = render_page("judged.html", record=confirmation, methods=methods, verdict=verdict)
    if draws:  # only now, since a call that fails has shown nobody a verdict
        _log_access(draws, content)
    with new_folder(out) as folder:
        write_verdict(folder, confirmation)
        write_text(folder / "report.html", page, is_durable=False)
    return confirmation


def _arm(
    name: str,
    finalist: str,
    role: Role,
    *,
    source: str = "none",
    control: DonorControl | None = None,
) -> Arm:
    """Return an arm as a confirmation would plan it."""
    return Arm(
        name=name,
        role=role,
        trial_label=finalist,
        parameters=Parameters(source=source),
        control=control,
        unknown_training=name,
    )


def _require_comparison(arms: Sequence[Arm]) -> None:
    """Refuse (ConfigError) a finalist without a control, or an arm that is named twice."""
    controls = [arm for arm in arms if arm.role not in ("finalist", "perfect")]
    if all(arm.control == "synthetic_only" for arm in controls):
        raise ConfigError(
            "there is nothing to compare the finalist with",
            fix="name its controls, at least --none or --duplicate",
        )
    if len({arm.name for arm in arms}) < len(arms):
        raise ConfigError("an arm is named twice", fix="name a different arm for each control")


@contextmanager
def _locate_problems(where: Path) -> Iterator[None]:
    """Say that the problem of a table is in this file."""
    try:
        yield
    except (ConfigError, DataError) as error:
        problem = error.problems[0]
        raise type(error)(problem.what, where, problem.fix) from error


def _check_trainings(runs: Path, content: Predictions, others: Collection[str]) -> None:
    """Refuse (DataError) unequal trainings of a replicate.

    The arms `others` are not trained on the same real images.
    """
    with _locate_problems(runs):
        table = with_columns(read_table(runs), names=("arm",))
        table = table[table["arm"].isin({*content.arms}.difference(others))]
        table = with_columns(table, numbers=("replicate", *_EQUAL))
        rows = Counter(zip(table["replicate"], table["arm"], strict=True))
        expected = Counter(run for run in content.runs if run[1] not in others)
        for number, arm in sorted({*rows, *expected}):
            run = (number, arm)
            if rows[run] != expected[run]:
                raise DataError(
                    f"{arm}, replicate {number}, has {counted(rows[run], 'row')}",
                    fix="write one row for each arm and replicate that is judged",
                )
        for column, meaning in _EQUAL.items():
            for replicate, values in table.groupby("replicate")[column]:
                if values.nunique() > 1:
                    raise DataError(
                        f"replicate {replicate}: the arms had different numbers of {meaning}",
                        fix="train all arms of a replicate equally long, on the same real images",
                    )


def _name_unchecked(
    content: Predictions, drawn: Drawn | None, *, has_runs: bool
) -> tuple[str, ...]:
    """Return what nobody has checked of the trainings."""
    equality = "nothing says that all arms had equal steps and equal real images"
    if has_runs:
        equality = "the steps and real images of each training are as declared"
    unchecked = [
        "the trainings were not run by xraytune",
        "who was trained, tuned or validated on is as declared",
        equality,
    ]
    if content.sites:
        unchecked.append("each replicate was trained without the site that it is scored on")
    elif drawn is None and any(content.unscored_patients):
        unchecked.append("the patients without predictions in a replicate were trained on there")
    return tuple(unchecked)


def _read_groups(
    table: Path | None, by: Sequence[str], content: Predictions
) -> Mapping[str, Mapping[str, str]]:
    """Return the value of each file for each column that defines subgroups."""
    if table is None and not by:
        return {}
    if table is None:
        raise ConfigError("there is no table with these columns", "--by", "give it: --table FILE")
    if not by:
        raise ConfigError("no column of it is asked for", table, "name one: --by COLUMN")
    rows = read_table(table, (*NAME_COLUMNS, *by))
    key = "file" if "file" in rows else "patient"
    if missing := [name for name in (key, *by) if name not in rows]:
        raise ConfigError(f"the column {missing[0]} is missing", table, "choose another column")
    keys = content.files if key == "file" else content.patients
    columns: dict[str, dict[str, str]] = {}
    for column in by:
        filled = rows.dropna(subset=[key, column]).drop_duplicates([key, column])
        doubled = filled[filled.duplicated(key)][key].tolist()
        if doubled:
            what = f"{key} {doubled[0]} has several values of {column}"
            raise DataError(what, table, f"write one value for each {key}")
        values = dict(zip(filled[key], filled[column], strict=True))
        columns[column] = {
            file: values[name]
            for file, name in zip(content.files, keys, strict=True)
            if name in values
        }
        if not columns[column]:
            what = f"no {key} of the predictions has a value of {column}"
            raise DataError(what, table, f"write each {key} as in the predictions")
    return columns


def _confirmation(
    content: Predictions,
    plan: Plan,
    drawn: Drawn | None,
    groups: Mapping[str, Mapping[str, str]],
    declared: tuple[str, ...],
    *,
    rope: float,
    out: Path,
) -> Confirmation:
    """Return the verdict of `confirm` on these results."""
    metric = "macro AUROC" if content.findings else "AUROC"
    if content.outputs == ("dice",):
        metric = "Dice"
    has_overlap = any(content.unscored_patients) and not content.sites
    scores = ArmScores(
        plan=plan,
        results=content.results,
        labels=scorable_labels(content.labels, content.results, content.patients),
        patients=content.patients,
        files=content.files,
        positive=content.positive,
        sites=content.sites,
        overlap=mean_overlap(content.unscored_patients) if has_overlap else 0.0,
    )
    judged = tuple(map(_without_network, judge_finalists(scores, rope=rope)))
    finalists = add_secondary(judged, scores, seed=_SEED)
    return Confirmation(
        study=out,
        metric=metric,
        objective=metric,
        network="segmenter" if metric == "Dice" else "classifier",
        exploratory=plan.why_exploratory,
        rope=rope,
        replicates=content.replicates,
        train_images=0,
        train_patients=drawn.train_patients if drawn else 0,
        test=HeldOutSet(
            kind=plan.test,
            name="the predictions",
            images=len(content.files),
            patients=len({*content.patients}),
            fingerprint=drawn.fingerprint if drawn else "",
            positive=content.outputs[scores.positive] if content.is_binary else "",
        ),
        finalists=finalists,
        subgroups=compare_in_groups(scores, finalists[0], groups),
        notes=tuple(_notes(content, scores, groups)),
        sites=plan.sites,
        searched=None,
        declared=declared,
    )


def _notes(
    content: Predictions, scores: ArmScores, groups: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """Yield what limits the verdict."""
    yield from unscored_findings(scores, content.findings)
    kinds = {arm.kind for arm in scores.plan.controls(scores.plan.finalists[0])}
    if "duplicate" not in kinds:
        yield (
            "no arm repeats real images, so a gain may come from larger batches and not from "
            "synthetic images"
        )
    for first, second in content.equal_arms:
        yield f"{first} and {second} have the same results"
    if "tuned" not in kinds:
        yield "no arm without synthetic images was tuned as much as the finalist"
    images = len(content.files)
    for column, values in groups.items():
        if len(values) < images:
            yield f"{column} is known of {len(values):,} of {images:,} images"


def _without_network(finalist: FinalistVerdict) -> FinalistVerdict:
    """Return a verdict that names no network, as nothing is known of the arms'."""
    comparisons = tuple(replace(pair, backbone="") for pair in finalist.comparisons)
    return replace(finalist, backbone="", comparisons=comparisons)


def _log_access(draws: Path, content: Predictions) -> None:
    """Log that predictions are judged."""
    row = {
        "version": 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "predictions": content.sha256,
        "arms": content.arms,
    }
    append_jsonl(draws / JUDGED_FILE, row, is_chained=True)


def _judged_before(draws: Path, content: Predictions) -> tuple[str, ...]:
    """Return why the verdict on predictions is exploratory, if it is.

    The same predictions may be judged again.
    """
    earlier: set[str] = set()
    for row in read_jsonl(draws / JUDGED_FILE, is_chained=True):
        if row["predictions"] == content.sha256:
            break
        earlier.add(row["predictions"])
    if not earlier:
        return ()
    times = counted(len(earlier), "time")
    return (f"other predictions on these test images had been judged {times} before",)
