"""Audit a folder of synthetic images against real ones: everything that xraytune measures, on one scorecard.

An audit is a study: its space compares no extra images, repeated real ones and those of the folder, and `search` and
`confirm` run it. docs/audit.md lists the thresholds and their reasons.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from xraytune.base.errors import DataError
from xraytune.base.files import require_writable, write_json, write_text
from xraytune.base.records import to_json
from xraytune.confirm.record import Confirmation
from xraytune.confirm.run import confirm
from xraytune.data.index import ImageFile, read_index, read_labelled_folder
from xraytune.data.prepare import Prepared, RunContext, prepare_index, stored_images
from xraytune.data.sides import too_few_tested
from xraytune.nets.compute import pin
from xraytune.present.page import render
from xraytune.present.sections import sections
from xraytune.present.study import read_study
from xraytune.present.tables import Cell, Column, Picture, Section, Table
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.run import resources_here, search
from xraytune.space.document import parse_yaml
from xraytune.space.load import space_of_document
from xraytune.space.settings import Experiment, Settings
from xraytune.space.space import Space
from xraytune.stats.verdict import verdict_text
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study, require_free, require_same_images, require_same_space
from xraytune.synth.extra_folder import store_folder
from xraytune.synth.generator_quality import SCALE_PX, Quality, shortcomings
from xraytune.synth.grids import encoded_again
from xraytune.synth.memorisation import Memorisation
from xraytune.synth.memorisation_gate import copies_found, measure_memorisation
from xraytune.synth.quality import measure_quality
from xraytune.synth.seen import mixes_of, seen_by
from xraytune.synth.sources import folder_reader
from xraytune.trial.mix import require_enough
from xraytune.trial.prepare import require_networks

_RATIOS = (0.25, 0.5, 1.0, 2.0)
_HEADLINES = {
    "memorisation": "These images are copies of training images.",
    "realism": "These images do not look like real ones.",
    "labels": "Many of these images have wrong labels.",
    "variety": "These images miss most of the variety of real ones.",
    "downstream": "These images make the classifier worse.",
}
_REALISTIC_BLUR_PX, _LEAST_PRECISION, _LEAST_BLURRED_COVERAGE = 0.8, 0.5, 0.2
_FEWEST_PATIENTS, _MOST_PATIENTS = 25, 100
"""Of a training set; with fewer, all patients are used, and a verdict holds for this training set alone."""
_WRONG_LABELS, _MANY_WRONG_LABELS = 0.05, 0.2
"""Drop in AUROC: with classes of equal size, about the share of wrong labels."""
_LEAST_REFERENCE, _SWAPPED = 0.7, 0.3
"""AUROCs: a classifier below the first cannot judge labels; images below the second look like the other class."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the scorecard."""

    name: str
    status: Literal["good", "warning", "bad", "not measured"]
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of an audit, and the content of `audit.json`; `quality` has figures, or the reason why there are none."""

    study: Path
    headline: str
    lines: tuple[Line, ...]
    quality: Quality | str
    memorisation: Mapping[str, Memorisation]


def audit(
    real: Path,
    synthetic: Path,
    *,
    quick: bool = False,
    weights_dir: Path | None = None,
    overrides: Sequence[str] = (),
    studies: Path = Path("studies"),
    cache: Path | None = None,
    skip_broken: bool = False,
    callbacks: Callbacks = NO_CALLBACKS,
    before_test: Callable[[], None] = lambda: None,
) -> Audit:
    """Audit synthetic images, and write `audit.json` and `audit.html` to the study `studies/audit-FOLDER`.

    Args:
        real: Image folder or data file.
        synthetic: Folder with class folders named like the real ones; for findings, its data file.
        quick: Only measure the images, without any training.
        weights_dir: See `search`.
        overrides: See `search`; they replace settings of the audit's space.
        studies: See `search`.
        cache: See `search`.
        skip_broken: See `search`.
        callbacks: See `search`.
        before_test: See `confirm`.

    Raises:
        XraytuneError: See `search` and `confirm`.
        KeyboardInterrupt: Ctrl-C; repeat the same call to resume.
    """
    draft = _space(real, synthetic, _RATIOS, None, overrides, weights_dir)
    settings, progress = draft.settings, callbacks.on_progress
    folder = StudyFolder((studies / settings.name).resolve())
    cache = (cache or folder.default_cache).resolve()
    require_writable(folder.path)
    require_writable(cache)
    require_free(folder)
    index = read_index(settings.data, on_progress=progress)
    split = partial(prepare_index, index, cache=cache, seen=seen_by(mixes_of(draft)), skip_broken=skip_broken)
    everyone, warnings = split(settings.data.model_copy(update={"train_patients": None}), on_progress=progress)
    for warning in warnings:
        callbacks.note(warning)
    patients = settings.data.train_patients or _patients_to_use(everyone, settings)
    prepared, _ = split(settings.data.model_copy(update={"train_patients": patients}))
    images, store = store_folder(synthetic, everyone, settings.data, index=index, cache=cache)
    ratios, too_few = _possible_ratios(draft, images, prepared)
    space = _space(real, synthetic, ratios or _RATIOS, patients, overrides, weights_dir)
    no_test = too_few_tested(index.test, index.outputs) if index.test else "the real images have no test/ folder"
    why_not = "it needs training; run the command without --quick" if quick else no_test if ratios else too_few
    if not why_not:
        require_networks(space)
    _, compute = resources_here(settings)
    if folder.space_path.exists():
        require_same_space(folder, space)
        require_same_images(folder, prepared)
    else:
        create_study(folder, space, prepared, compute)
    context = RunContext(prepared=everyone, cache=cache, compute=compute, on_progress=progress)
    listed = read_labelled_folder(synthetic, everyone.class_names, findings=everyone.findings)
    excluded = len(listed) - len(images)
    measured = _measure(folder.path, space.experiment(), context, images, store, excluded)
    if why_not:
        return _write(*measured, cache, why_not)
    _write(*measured, cache, "the audit was interrupted")
    reported = replace(callbacks, on_trial_end=lambda row: callbacks.note(f"trial {row.number}: {row.status}"))
    folders: dict[str, Any] = {"weights_dir": weights_dir, "cache": cache}
    search(folder.space_path, **folders, studies=studies, skip_broken=skip_broken, callbacks=reported)
    confirm(folder.path, **folders, reason="audit", callbacks=callbacks, before_test=before_test)
    return _write(*measured, cache, "")


def _patients_to_use(everyone: Prepared, settings: Settings) -> int | None:
    """Return how many patients to train on, so that each replicate has its own training set; None: all, if they are few."""
    patients = everyone.train_patients // (1 + settings.confirm.replicates)
    return min(patients, _MOST_PATIENTS) if patients >= _FEWEST_PATIENTS else None


def audit_section(result: Audit) -> Section:
    """Show the scorecard."""
    rows = [(Cell(line.name, "strong"), line.status, line.sentence) for line in result.lines]
    table = Table(("", "status", Column("", flexible=True)), rows)
    return Section(id="audit", title="Audit", link="Audit", lead=result.headline, tone="strong", tables=[table])


def _possible_ratios(space: Space, images: Sequence[ImageFile], prepared: Prepared) -> tuple[list[float], str]:
    """Return the ratios that there are enough images for, and what the first of the others lacks."""
    ratios, too_few = list[float](), ""
    for ratio in _RATIOS:
        try:
            mix = space.experiment().parameters.model_copy(update={"synthetic_ratio": ratio})
            require_enough([image.label for image in images], mix, prepared)
            ratios.append(ratio)
        except DataError as error:
            too_few = too_few or f"there are only {error.problems[0].what}"
    return ratios, too_few


def _measure(
    study: Path, experiment: Experiment, context: RunContext, images: Sequence[ImageFile], store: Path, excluded: int
) -> tuple[Audit, list[Picture]]:
    """Audit the images without training; `excluded` ones show validation patients. The pictures are the closest pairs."""
    pin(context.compute)
    read = folder_reader(stored_images(store, images, name="folder"))
    quality = measure_quality(experiment, context, read)
    memorisation, nearest = measure_memorisation(context, read)
    copies = copies_found(memorisation)
    trained_on = {image.sha256 for image in context.prepared.images if image.side == "train"}
    identical = sum(image.sha256 in trained_on for image in images)
    near = f"Nearer to a training image than 99 % of unseen X-rays: {copies or 'no more images than by chance'}."
    lines = (
        _line("patients", f"{excluded:,} images show validation patients and are excluded below.", excluded > 0),
        _line("memorisation", f"{near} Identical to one: {identical:,}.", identical > 0, copies != ""),
        *_quality(quality, context.prepared.image_size_px),
    )
    files = {name: nearest / f"nearest_{name}.png" for name in memorisation}
    pictures = [Picture(content=encoded_again(file), caption=f"{name}, closest pairs") for name, file in files.items()]
    measured = Audit(study=study, headline="", lines=lines, quality=quality, memorisation=memorisation)
    return measured, pictures


def _write(measured: Audit, pictures: Sequence[Picture], cache: Path, why_not: str) -> Audit:
    """Add the verdict of the study, or why there is none, and write the audit as JSON and as a page."""
    data = read_study(measured.study, cache)
    downstream = _downstream(data.verdict) if data.verdict else _not_measured("downstream", why_not)
    lines = (*measured.lines, downstream)
    result = replace(measured, headline=_headline(lines), lines=lines)
    write_json(result.study / "audit.json", to_json(result) | {"study": result.study.name})
    scorecard = replace(audit_section(result), pictures=pictures)
    write_text(result.study / "audit.html", render(data, [scorecard, *sections(data)]), durable=False)
    return result


def _space(
    real: Path,
    synthetic: Path,
    ratios: Sequence[float],
    train_patients: int | None,
    overrides: Sequence[str],
    weights_dir: Path | None,
) -> Space:
    """Return the space of an audit: each mix is a point. The first one is of the folder's images."""
    points = [{"source": source, "synthetic_ratio": ratio} for source in ("folder", "duplicate") for ratio in ratios]
    has_findings = synthetic.is_file()
    folder = synthetic.resolve().parent if has_findings else synthetic.resolve()
    content = {
        "name": f"audit-{re.sub(r'[^A-Za-z0-9._-]+', '-', folder.name)}"[:64],
        "task": "findings" if has_findings else "classification",
        # The quality figures need 50 images of each class on each side.
        "data": {"split": {"val_a": 0.2, "val_b": 0.2}, "train_patients": train_patients},
        "parameters": {
            "source": {"values": ["none", "duplicate", "folder"]},
            "folder": {"parameters": {"path": {"value": str(synthetic.absolute())}}},
            "synthetic_ratio": {"values": [*ratios]},
            "backbone": {"value": "mobilenet_v2"},
            "trainable": {"value": "head"},
            "lr": {"value": 3e-3},
        },
        "points_to_evaluate": [*points, {"source": "none"}],
        "budget": {"trials": len(points) + 1},
        "scheduler": {"name": "none"},
        "quality": {"allow_memorised": True},
        "confirm": {"finalists": 1, "controls": {"tuned": []}},  # matched controls are also tuned ones
    }
    document = parse_yaml(json.dumps(content), lambda _: "audit")
    return space_of_document(document, overrides, data=real, weights_dir=weights_dir)


def _headline(lines: Sequence[Line]) -> str:
    """Return the headline of the first bad line: the fault that explains the others comes first."""
    bad = [line.name for line in lines if line.status == "bad"]
    others = ", ".join(f"{line.name}: {line.status}" for line in lines if line.status != "good")
    return _HEADLINES[bad[0]] if bad else f"No fault found ({others})." if others else "No fault found."


def _quality(quality: Quality | str, size_px: int) -> tuple[Line, ...]:
    """Judge realism, labels and variety; `size_px` is the size of the study's images."""
    if isinstance(quality, str):
        return tuple(_not_measured(name, quality) for name in ("realism", "labels", "variety"))
    columns = quality.columns()
    precision, coverage, blurred = (
        columns[f"gan_{name}"] or 0.0 for name in ("precision", "coverage", "blurred_coverage")
    )
    is_blurred = quality.blur_px > _REALISTIC_BLUR_PX or precision < _LEAST_PRECISION
    # Images with swapped labels are far from the real images of their class, however realistic they are.
    is_swapped = quality.gan_test is not None and quality.gan_test <= _SWAPPED
    missing = shortcomings(columns, None)
    distance = f"As far from unseen real images as a blur of {quality.blur_px:.1f} px at 64 px"
    look = f"{distance}; {precision:.0%} look like a real image of their class."
    if quality.resolution_px < size_px:
        look += f" Compared at {quality.resolution_px} px, the size of their files; the study uses {size_px} px."
    reach = f"They cover {coverage:.0%} of unseen real images, and {blurred:.0%} after a blur that removes texture."
    return (
        _line("realism", look, is_blurred, quality.blur_px >= SCALE_PX[-1] and not is_swapped),
        _labels(quality.gan_test, quality.real_train),
        _line("variety", reach, missing != (), blurred < _LEAST_BLURRED_COVERAGE),
    )


def _labels(synthetic: float | None, real: float | None) -> Line:
    """Judge labels by the AUROC of a classifier trained on real images, on synthetic and on unseen real images."""
    if synthetic is None or real is None:
        return _not_measured("labels", "no finding has enough images")
    aurocs = (
        f"A classifier trained on real images has an AUROC of {synthetic:.2f} on these, {real:.2f} on unseen real ones"
    )
    if real < _LEAST_REFERENCE:
        return _not_measured("labels", aurocs)
    drop = real - synthetic
    return _line("labels", f"{aurocs}.", drop >= _WRONG_LABELS, drop >= _MANY_WRONG_LABELS)


def _downstream(verdict: Confirmation) -> Line:
    first, metric = verdict.finalists[0], verdict.metric
    differences = ", ".join(f"{row.difference:+.3f} against {row.control}" for row in first.comparisons)
    prefix = "exploratory: " if verdict.exploratory else ""
    sentence = f"{first.arm}: {prefix}{verdict.scope}{verdict_text(verdict.verdict, metric)}; {metric} {differences}."
    return _line("downstream", sentence, verdict.verdict != "helps", verdict.verdict == "hurts")


def _not_measured(name: str, why: str) -> Line:
    return Line(name, "not measured", f"Not measured: {why.removeprefix('not measured: ')}.")


def _line(name: str, sentence: str, is_warning: bool, is_bad: bool = False) -> Line:
    return Line(name, "bad" if is_bad else "warning" if is_warning else "good", sentence)
