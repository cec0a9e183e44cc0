"""The sections of a report, in their order: text, charts, tables and pictures, without any HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from xraytune.base.errors import XraytuneError, join_names
from xraytune.base.files import read_bytes
from xraytune.confirm.test_access import accesses
from xraytune.data.sides import chance_warning
from xraytune.present import charts
from xraytune.present.charts import Chart
from xraytune.present.study import StudyData
from xraytune.present.tables import Picture, Section, Table, duration, numbers, sentence, text_of
from xraytune.present.trials import all_trials, arms_table, sides_table
from xraytune.present.verdict import verdict_section
from xraytune.search.asha import rungs_of
from xraytune.study.status import TrialView

_MOST_SAMPLES, _MOST_MISTAKES = 6, 9
_GRAD_CAM_NOTE = (
    "Those with the highest predicted probability. Orange: image regions that support the predicted class (Grad-CAM). "
    "The maps are coarse, and show where the network looks, not why."
)
_OUTLINES_NOTE = "Left: the outline of the mask; right: of the prediction."
_QUALITY_COLUMNS = (
    "source",
    *numbers("steps", "KID", "coverage", "GAN-train AUROC"),
    "copies of training images",
)


def _verdict(data: StudyData) -> Section:
    study, verdict = data.argument, data.verdict
    if verdict is None:
        best = data.view.for_export
        known = (
            f"The best trial so far is #{best.number}, {best.mix}; a search alone is no evidence that its mix is better."
            if best
            else "No trial is complete yet."
        )
        return Section(
            lead="No verdict yet.",
            notes=[
                known,
                "`confirm` compares the best mixes with controls, with new seeds, on patients that no trial has seen.",
            ],
            commands=[f"xraytune confirm {study}"],
        )
    shown = charts.differences(verdict.finalists[0], verdict.metric, verdict.rope)
    return replace(verdict_section(verdict), charts=[shown], commands=[f"xraytune confirm {study}"])


def _best(data: StudyData) -> Section | None:
    trial, view = data.chosen, data.view
    if trial is None or not trial.values:
        return None
    scores = {f"val-A {view.metric}": trial.values[-1]}
    if trial.val_b_score is not None:
        scores[f"val-B {view.metric}"] = trial.val_b_score
    side = next((side for side in view.sides if side.name == "val-B"), None)
    interval = side.interval(trial.val_b_score) if side and trial.val_b_score and view.metric == "AUROC" else None
    ends = f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    study = data.argument
    return Section(
        lead=f"#{trial.number} {trial.mix}: {', '.join(f'{name} {score:.4f}' for name, score in scores.items())}{ends}.",
        notes=[
            *([sentence(data.reason)] if data.reason else []),
            "It was selected among all trials by these scores, so they are optimistic.",
        ],
        facts=[(name, text_of(value)) for name, value in trial.by_name.items()],
        commands=[f"xraytune train {study} -o model"],
    )


def _search(data: StudyData) -> Section | None:
    view = data.view
    if not any(trial.values for trial in view.trials):
        return None
    counts = Counter(trial.status for trial in view.trials)
    by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
    notes = ["Scores of different arms are comparable after the same epoch: with extra images, networks learn later."]
    if view.pruning:
        notes.append(f"{view.pruning}.")
    if gpu := sum(trial.gpu_seconds for trial in view.trials):
        notes.append(f"{gpu / 3600:.2f} GPU-hours.")
    return Section(
        lead=f"{len(view.trials)} trials: {by_status}; {duration(view.seconds)} of wall time.",
        notes=notes,
        charts=[charts.learning_curves(view, rungs_of(data.space.settings).epochs)],
        tables=[arms_table(view)],
    )


def _parameters(data: StudyData) -> Section | None:
    view = data.view
    if not view.trials:
        return None
    varied = [name for name in view.searched if len({trial.by_name.get(name) for trial in view.ranked}) > 1]
    small = [charts.parameter_slice(name, view) for name in varied]
    return Section(small_charts=small, tables=[all_trials(view)])


def _mistakes(data: StudyData) -> Section | None:
    """Show the images of val-B that the network gets most wrong, and where it looked."""
    scored = data.scored
    if scored is None or data.prepared.findings:
        return None
    if data.prepared.has_masks:
        worst = np.argsort(scored.results[:, 0], kind="stable")[:_MOST_MISTAKES]
        captions = [
            f"{Path(scored.files[place]).name}: Dice {scored.results[place, 0]:.3f}" for place in worst.tolist()
        ]
        gallery, note = _gallery(data, scored.trial, worst, captions)
        return Section(title="Worst segmentations", notes=[note], gallery=gallery)
    names, predicted = data.prepared.class_names, scored.predicted
    wrong = np.flatnonzero(predicted != scored.labels)
    wrong = wrong[np.argsort(-scored.results[wrong, predicted[wrong]], kind="stable")]
    rows = [
        (scored.files[place], names[scored.labels[place]], names[guess], round(float(scored.results[place, guess]), 3))
        for place, guess in zip(wrong.tolist(), predicted[wrong].tolist(), strict=True)
    ]
    captions = [f"{Path(file).name}: {true}, predicted {guess} ({chance:.2f})" for file, true, guess, chance in rows]
    gallery, note = _gallery(data, scored.trial, wrong[:_MOST_MISTAKES], captions)
    return Section(
        lead=f"{len(wrong):,} of {len(scored.labels):,} images of val-B are misclassified by #{scored.trial.number}.",
        notes=[note],
        gallery=gallery,
        tables=[Table(("file", "true class", "predicted class", *numbers("probability")), rows)] if rows else [],
    )


def _gallery(
    data: StudyData, trial: TrialView, places: NDArray[np.int64], captions: Sequence[str]
) -> tuple[list[Picture], str]:
    """Return pictures of images of val-B with these captions, and a note on them."""
    if not len(places):
        return [], ""
    from xraytune.present.pictures import explained  # loads torch

    folder, number = data.folder, trial.number
    try:
        pictures = explained(
            folder.experiment(number), folder.trial_path(number), data.prepared, places, cache=data.cache
        )
    except XraytuneError as error:
        return [], f"No pictures: {error.problems[0].what}."
    shown = zip(pictures, captions, strict=False)
    note = _OUTLINES_NOTE if data.prepared.has_masks else _GRAD_CAM_NOTE
    return [Picture(content=picture, caption=caption) for picture, caption in shown], note


def _generators(data: StudyData) -> Section | None:
    view, root = data.view, data.folder.path
    numbers_of: dict[str, list[str]] = {}
    rows, notes = dict[tuple[str | float | None, ...], None](), list[str]()
    for trial in view.trials:
        if trial.samples:
            numbers_of.setdefault(trial.samples, []).append(f"#{trial.number}")
        if trial.report and (quality := trial.report.quality):
            figures = [None if value is None else round(value, 3) for value in quality.columns().values()]
            steps = trial.parameters.gan.steps if trial.parameters.gan else None
            rows[(trial.parameters.source, steps, *figures, trial.report.copies)] = None
            features = f"features of {quality.features}, at {quality.resolution_px} px"
            real = "" if quality.real_train is None else f" GAN-train AUROC of real images: {quality.real_train:.3f}."
            notes = [f"Compared with val-A in {features}; the worst class.{real}"]
    shown = next((trial for trial in view.trials if trial.samples), None)
    drawn: list[tuple[Callable[[], bytes], str]] = [
        (partial(read_bytes, root / path), f"Real and generated images; used by {join_names(numbers_of[path], 8)}.")
        for path in list(numbers_of)[:_MOST_SAMPLES]
    ]
    pictures = list[Picture]()
    for encode, caption in [*drawn, *(data.generator_pictures(shown) if shown else ())]:
        try:
            if content := encode():
                pictures.append(Picture(content=content, caption=caption))
        except (XraytuneError, OSError):
            notes.append(f"A picture is missing: {caption}")
    if not pictures and not rows and not notes:
        return None
    tables = [Table(_QUALITY_COLUMNS, list(rows))] if rows else []
    return Section(notes=notes, tables=tables, pictures=pictures)


def _data(data: StudyData) -> Section:
    settings, prepared, warning = data.space.settings.data, data.prepared, chance_warning(data.view.sides)
    used, patients = len(prepared.images), len(set(prepared.images.patient))
    split = f"Split by patient with seed {settings.split.seed}; no patient is on two sides."
    sealed = "The test folder is sealed: its images were not read." if prepared.test_fingerprint else "No test folder."
    if prepared.test_fingerprint and (scored := accesses(data.folder.path, prepared.test_fingerprint)):
        sealed = f"The test folder was scored by {join_names(sorted({row['command'] for row in scored}))}."
    copies = used - len(set(prepared.images.sha256))
    duplicates = f"{copies:,} images are identical to another one." if copies else "No two files are identical."
    return Section(
        lead=f"{used:,} images of {patients:,} patients: {', '.join(prepared.outputs)}.",
        notes=[split, sealed, duplicates, *([sentence(warning)] if warning else [])],
        tables=[sides_table(data.view.sides)],
        commands=[] if settings.table else [f"xraytune data inspect {quote(str(settings.path))}"],
    )


def _environment(data: StudyData) -> Section:
    about, study = data.environment, data.argument
    repeated = []
    if data.chosen and data.chosen.status == "complete":
        repeated = [
            f"xraytune export {study} --trial {data.chosen.number} --exact -o trial.yaml",
            "xraytune train --config trial.yaml -o model",
        ]
    facts = {**about.get("compute", {}), **about.get("packages", {}), "Python": about.get("python")}
    facts |= {name: about.get(name) for name in ("system", "started")}
    return Section(
        notes=["`export --exact` and `train` repeat a trial with the same metrics, bit for bit."],
        facts=[(name, text_of(value)) for name, value in facts.items() if value is not None],
        commands=[f"xraytune search --space {study}/study.yaml", *repeated, f"xraytune report {study}"],
    )


_PARTS: Sequence[tuple[str, str, str, Callable[[StudyData], Section | None]]] = (
    ("verdict", "Verdict", "Verdict", _verdict),
    ("best", "Best configuration", "Best", _best),
    ("search", "Search", "Search", _search),
    ("parameters", "Parameters and trials", "Trials", _parameters),
    ("mistakes", "Misclassified images", "Mistakes", _mistakes),
    ("generators", "Synthetic images", "Generators", _generators),
    ("data", "Data", "Data", _data),
    ("environment", "Environment", "Environment", _environment),
)
"""The id, title and link of each section, and the function for its content; without content, there is no section."""


def sections(data: StudyData) -> tuple[Section, ...]:
    """Return the sections that the study has content for."""
    return tuple(
        replace(section, id=name, title=section.title or title, link=link)
        for name, title, link, content in _PARTS
        if (section := content(data)) is not None
    )


def all_charts(parts: Sequence[Section]) -> Iterator[Chart]:
    """Yield all charts of a page."""
    for part in parts:
        yield from (*part.charts, *part.small_charts)
