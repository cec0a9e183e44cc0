"""A report for a paper: Markdown with figures, methods and a checklist, tables as CSV, or figures at column width.

report.md  methods.md  checklist.md     with `md`, and the figures of the report as PNG
SECTION.csv                             with `csv`, one for each table
differences.pdf  captions.md            with `pdf`, `svg` or `png`
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from markupsafe import Markup

from xraytune.confirm.test_access import accesses
from xraytune.errors import Problem, StudyError
from xraytune.figures.drawing import PAGE_INCHES
from xraytune.figures.evaluation_figure import DrawnClass, draw_evaluation
from xraytune.figures.study_figures import draw_differences, draw_learning_curves, draw_ratio_response
from xraytune.files import csv_table, new_folder, require_new, write_bytes, write_text
from xraytune.metrics.breakdown import class_breakdown
from xraytune.metrics.curves import class_curves
from xraytune.report.page import template
from xraytune.report.sections import Section, sections
from xraytune.report.study import StudyData, ValidationResults, read_study
from xraytune.search.asha import rungs_of

PaperFormat: TypeAlias = Literal["md", "csv", "png", "svg", "pdf"]
_RESAMPLES, _SEED = 2000, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFigure:
    """A figure for a paper: its section of the report, file name, caption, and a function that draws it as a file."""

    section: str
    name: str
    caption: str
    draw: Callable[[Path], None]


def write_paper(study: Path, *, format: PaperFormat, out: Path, cache: Path | None = None) -> tuple[Path, ...]:
    """Write a study for a paper to a new folder, and return the files; a search may be running on the study.

    Args:
        study: Folder of the study.
        format: `md`: `report.md` with figures, `methods.md`, and `checklist.md` (CLAIM and TRIPOD+AI). `csv`: the tables.
            `png`, `svg` or `pdf`: figures at column width, and their captions.
        out: The folder to create.
        cache: Artifact cache of the search; default: the one next to the studies.

    Raises:
        StudyError: There is no study, it is damaged, or it has nothing to draw yet.
        ConfigError: `out` exists.
    """
    require_new(out)
    data = read_study(study, cache)
    with new_folder(out) as folder:
        if format == "md":
            _write_markdown(data, folder)
        elif format == "csv":
            for name, table in _tables(sections(data)):
                write_text(folder / f"{name}.csv", table)
        else:
            _write_figures(data, folder, format)
    return tuple(sorted(out.iterdir()))


def _write_figures(data: StudyData, folder: Path, suffix: str) -> None:
    drawn = [*paper_figures(data)]
    if not drawn:
        fix = "run the command again once a trial has reported an epoch"
        raise StudyError(Problem("this study has nothing to draw yet", data.folder.path, fix))
    for figure in drawn:
        figure.draw(folder / f"{figure.name}.{suffix}")
    write_text(folder / "captions.md", "".join(f"**{one.name}.** {_escaped(one.caption)}\n\n" for one in drawn))


def _tables(parts: Sequence[Section]) -> Iterator[tuple[str, str]]:
    """Yield the tables of sections as CSV, by name; facts are a table of two columns."""
    for part in parts:
        tables = [(table.columns, table.rows) for table in part.tables]
        if part.facts:
            tables.append((("name", "value"), part.facts))
        for number, (columns, rows) in enumerate(tables, start=1):
            name = part.id if len(tables) == 1 else f"{part.id}-{number}"
            yield name, csv_table(columns, rows)


def _write_markdown(data: StudyData, folder: Path) -> None:
    drawn = {figure.section: figure for figure in paper_figures(data)}
    for figure in drawn.values():
        figure.draw(folder / f"{figure.name}.png")
    parts = [
        one for one in sections(data) if one.id in drawn or one.tables or one.pictures or one.facts or not one.charts
    ]
    pictures: dict[str, dict[str, str]] = {part.id: {} for part in parts}
    for part in parts:
        for number, picture in enumerate((*part.gallery, *part.pictures), start=1):
            name = f"{part.id}-{number}.{picture.format}"
            write_bytes(folder / name, picture.content)
            pictures[part.id][name] = picture.caption
    prepared = data.prepared
    about = {
        "data": data,
        "figures": drawn,
        "sections": parts,
        "pictures": pictures,
        "counts": Counter(trial.status for trial in data.view.trials),
        "searched": {spec.name: f"{spec.domain}" for spec in data.space.specs if spec.domain.is_open},
        "accesses": accesses(data.folder.path, prepared.test_fingerprint) if prepared.test_fingerprint else [],
        "steps": prepared.steps_per_epoch(data.space.settings),
        **{"view": data.view, "settings": data.space.settings, "verdict": data.verdict, "trial": data.chosen},
        "values": data.chosen.parameters if data.chosen else {},
    }
    for name in ("report.md", "methods.md", "checklist.md"):
        found = template(name, finalize=_escaped, code=_code, raw=_raw).render(about)
        write_text(folder / name, re.sub(r"\n{3,}", "\n\n", found).strip() + "\n")


def _escaped(value: object) -> object:
    """Return text without a meaning in Markdown, and numbers with at most six digits."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, float):
        return f"{value:,.6g}"
    text = re.sub(r"\s*[\r\n]+\s*", " ", "" if value is None else f"{value}")
    return Markup(re.sub(r"([\\`*\[\]<>|$]|&(?=[#\w]+;)|(?<!\w)_|_(?!\w))", r"\\\1", text))


def _code(text: str) -> Markup:
    """Escape text except its parts in backticks."""
    parts = re.split(r"(`[^`\n]*`)", text)
    return Markup("").join(_raw(part) if number % 2 else Markup(_escaped(part)) for number, part in enumerate(parts))


def _raw(text: str) -> Markup:
    return Markup(" ".join(text.splitlines()))


def paper_figures(data: StudyData) -> Iterator[PaperFigure]:
    """Yield the figures that the study has content for."""
    verdict, view = data.verdict, data.view
    if verdict:
        first, metric, rope, test = verdict["finalists"][0], verdict["metric"], verdict["rope"], verdict["test"]
        yield PaperFigure(
            section="verdict",
            name="differences",
            caption=f"Difference in {metric} between {first['arm']} and each control on {test['images']:,} test images of "
            f"{test['patients']:,} patients (mean over {verdict['gan_seeds'] * verdict['classifier_seeds']} networks, of "
            f"{verdict['gan_seeds']} generator seeds). Bars: 95 % confidence intervals over patients and seeds. Grey: "
            f"region of practical equivalence (±{rope:g}).",
            draw=lambda file: draw_differences(first["comparisons"], file, metric=metric, rope=rope),
        )
        if points := [one for one in verdict["ratio_response"] if one["ratio"]]:
            yield PaperFigure(
                section="ratio",
                name="ratio_response",
                caption=f"Gain in {metric} on val-B over training without extra images, by the number of extra images per "
                f"real image (r), for {first['arm']} and duplicated real images. Bars: 95 % intervals. val-B selected "
                f"{first['arm']}, so its gain is optimistic.",
                draw=lambda file: draw_ratio_response(points, first["arm"].split()[0], file, metric=f"val-B {metric}"),
            )
    curves = [
        (f"{one.parameters.get('source')}", one.values, one.status == "complete") for one in view.trials if one.values
    ]
    if curves:
        score = view.metric if view.objective.is_of_generator else f"val-A {view.metric}"
        rungs = tuple(rungs_of(data.space.settings, ()).reached())
        yield PaperFigure(
            section="curves",
            name="learning_curves",
            caption=f"Best {score} so far in each of {len(curves)} trials, coloured by the source of extra images. Pale: "
            f"pruned, failed or unfinished trials.{' Dotted: rungs of ASHA, where trials are pruned.' if rungs else ''} "
            "With more than three trials, the axis leaves out the lowest scores.",
            draw=lambda file: draw_learning_curves(
                curves, rungs, file, score=score, is_higher_better=view.objective.goal == "maximize"
            ),
        )
    if (found := data.scored) and not data.prepared.has_masks:
        trial = found.trial
        yield PaperFigure(
            section="performance",
            name="performance",
            caption=f"Trial #{trial.number} ({trial.mix}) on val-B, {len(found.labels):,} images of "
            f"{len(set(found.patients)):,} patients. A, receiver operating characteristic; B, precision and recall; C, "
            "calibration; D, confusion matrix. Bands (pointwise), bars and brackets: 95 % intervals over patients. val-B "
            "selected this trial, so its scores are optimistic.",
            draw=partial(_draw_performance, data, found),
        )


def _draw_performance(data: StudyData, found: ValidationResults, file: Path) -> None:
    names, positive, labels = data.prepared.class_names, data.prepared.positive, found.labels
    is_binary = len(names) == 2
    measured = class_breakdown(
        labels, found.results, found.predicted, found.patients, replicates=_RESAMPLES, seed=_SEED
    ).classes
    drawn = {}
    for label in [positive] if is_binary else range(len(names)):
        is_class, probabilities = labels == label, found.results[:, label]
        drawn[names[label]] = DrawnClass(
            curves=class_curves(is_class, probabilities, found.patients, replicates=_RESAMPLES, seed=_SEED),
            metrics=measured[label],
            brier=f"{((probabilities - is_class) ** 2).mean():.3f}",
            prevalence=float(is_class.mean()),
        )
    threshold = found.trial.threshold if is_binary else None
    draw_evaluation(drawn, found.confusion, names, [file], threshold=threshold, note="", width=PAGE_INCHES)
