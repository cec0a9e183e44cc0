"""What the sections of a report show; `templates/page.html` has the words around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from xraytune.base.errors import XraytuneError, join_names
from xraytune.base.files import read_bytes
from xraytune.base.tables import Row, Table
from xraytune.confirm.test_access import accesses
from xraytune.data.sides import chance_warning
from xraytune.present.charts import plot_differences, plot_learning_curves, plot_parameter
from xraytune.present.study import StudyData
from xraytune.present.trials import all_trials, arms_table, sides_table
from xraytune.present.verdict import verdict_section
from xraytune.search.asha import rungs_of
from xraytune.study.row import TrialRow
from xraytune.tasks import TASKS

_MOST_SAMPLES = 6
_MOST_MISTAKES = 9


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture, and what it shows."""

    content: bytes
    caption: str


def page_content(data: StudyData) -> dict[str, Any]:
    """Return the values of the page's template; a section whose value is None is left out."""
    view = data.view
    prepared = data.prepared
    best = data.chosen if data.chosen and data.chosen.values else None
    values_of = {name: {trial.by_name.get(name) for trial in view.ranked} for name in view.searched}
    has_scores = any(trial.values for trial in view.trials)
    settings = data.space.settings
    content = {
        "data": data,
        "view": view,
        "study": data.argument,
        "settings": settings.data,
        "best": best,
        "interval": _interval(best, data) if best else None,
        "verdict": verdict_section(data.verdict) if data.verdict else None,
        "curves": plot_learning_curves(view, rungs_of(settings).epochs) if has_scores else None,
        "gpu_hours": sum(trial.gpu_seconds for trial in view.trials) / 3600,
        "slices": [
            plot_parameter(name, view) for name, values in values_of.items() if len(values) > 1
        ],
        "mistakes": _find_mistakes(data),
        "generators": _describe_generators(data),
        "images": prepared.images,
        "copies": len(prepared.images) - len({image.sha256 for image in prepared.images}),
        "scored_by": "",
        "sides": sides_table(view.sides),
        "warning": chance_warning(view.sides),
        "data_path": quote(str(settings.data.path)),
        "environment": _environment(data),
    }
    if data.verdict:
        finalist = data.verdict.finalists[0]
        content["differences"] = plot_differences(finalist, data.verdict.metric, data.verdict.rope)
    if view.trials:
        content["arms"] = arms_table(view)
        content["trials"] = all_trials(view)
    if prepared.test_fingerprint:
        rows = accesses(data.folder.path, prepared.test_fingerprint)
        content["scored_by"] = join_names(sorted({row["command"] for row in rows}))
    return content


def _interval(best: TrialRow, data: StudyData) -> tuple[float, float] | None:
    """Return the interval of the best trial's AUROC on val-B."""
    if best.val_b_score is None or data.view.metric != "AUROC":
        return None
    (side,) = (side for side in data.view.sides if side.name == "val-B")
    return side.interval(best.val_b_score)


def _environment(data: StudyData) -> dict[str, Any]:
    about = data.environment
    facts = {**about.get("compute", {}), **about.get("packages", {}), "Python": about.get("python")}
    return facts | {name: about.get(name) for name in ("system", "started")}


def _find_mistakes(data: StudyData) -> dict[str, Any] | None:
    """Return the images of val-B that a network gets most wrong, with pictures."""
    scored = data.scored
    if scored is None:
        return None
    trial, results = scored
    threshold = 0.5 if trial.threshold is None else trial.threshold
    task = TASKS[data.space.settings.task]
    mistakes = task.find_mistakes(results, data.prepared, threshold, trial.number)
    if mistakes is None:
        return None
    shown = asdict(mistakes) | {"table": mistakes.table, "pictures": []}
    places = np.array(mistakes.places[:_MOST_MISTAKES], dtype=np.int64)
    if not len(places):
        return shown | {"note": ""}
    from xraytune.present.pictures import explain_images  # loads torch

    experiment = data.folder.experiment(trial.number)
    trial_dir = data.folder.trial_path(trial.number)
    try:
        pictures = explain_images(experiment, trial_dir, data.prepared, places, cache=data.cache)
    except XraytuneError as error:
        return shown | {"note": f"No pictures: {error.problems[0].what}."}
    return shown | {"pictures": [*map(Picture, pictures, mistakes.captions)]}


def _describe_generators(data: StudyData) -> dict[str, Any] | None:
    """Return figures and pictures of the generators, and captions of missing pictures."""
    rows: list[Row] = []
    note = ""
    for trial in data.view.trials:
        quality = trial.report.quality if trial.report else None
        if trial.report is None or quality is None:
            continue
        gan = trial.parameters.gan
        kid, coverage, gan_train = quality.columns().values()
        row: Row = {
            "source": trial.parameters.source,
            "steps": gan.steps if gan else None,
            "KID": kid,
            "coverage": coverage,
            "GAN-train AUROC": gan_train,
            "copies of training images": trial.report.copies,
        }
        if row not in rows:
            rows.append(row)
        where = f"features of {quality.features}, at {quality.resolution_px} px"
        note = f"Compared with val-A in {where}; the worst class."
        if quality.real_train is not None:
            note += f" GAN-train AUROC of real images: {quality.real_train:.3f}."

    pictures = []
    missing = []
    for path, caption in _find_pictures(data):
        try:
            pictures.append(Picture(read_bytes(path), caption))
        except (XraytuneError, OSError):
            missing.append(caption)
    if not (rows or pictures or missing):
        return None
    table = Table(rows, text=("source", "copies of training images")) if rows else None
    return {"note": note, "table": table, "pictures": pictures, "missing": missing}


def _find_pictures(data: StudyData) -> Iterator[tuple[Path, str]]:
    """Yield the pictures of the generators, with captions."""
    trials_of: dict[str, list[TrialRow]] = {}
    for trial in data.view.trials:
        if trial.samples:
            trials_of.setdefault(trial.samples, []).append(trial)
    for samples, trials in [*trials_of.items()][:_MOST_SAMPLES]:
        used_by = join_names([f"#{trial.number}" for trial in trials], 8)
        yield data.folder.path / samples, f"Real and generated images; used by {used_by}."
    for trials in [*trials_of.values()][:1]:
        for picture in data.nearest_pictures(trials[0]):
            name = picture.stem.removeprefix("nearest_")
            shown = "synthetic images, each with the nearest training image on its right."
            yield picture, f"{name}: {shown}"
