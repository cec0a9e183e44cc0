"""Audit a folder of synthetic images against real ones: copies, realism, and whether they help a classifier.

An audit is a study with the shipped space `audit`: a search over no extra images, repeated real ones and those of the
folder, a confirmation, and a report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xraytune.base.errors import DataError
from xraytune.base.files import require_writable, write_json
from xraytune.base.records import Json, to_json
from xraytune.confirm.record import Confirmation
from xraytune.confirm.run import confirm
from xraytune.data.changes import require_same_data
from xraytune.data.index import read_index
from xraytune.data.prepare import Prepared, RunContext, prepare_index
from xraytune.nets.compute import pin
from xraytune.present.page import write_report
from xraytune.present.tables import Section
from xraytune.present.verdict import verdict_section
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.run import resources_here, search
from xraytune.space.settings import DataSettings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder
from xraytune.study.inputs import inputs_of_space, read_inputs
from xraytune.study.start import require_free
from xraytune.synth.extra_folder import store_folder
from xraytune.synth.generator_quality import PoolReport
from xraytune.synth.quality import report_pool
from xraytune.synth.seen import mixes_of, seen_by
from xraytune.trial.mix import require_enough
from xraytune.trial.prepare import open_space

_RATIOS = (0.25, 0.5, 1.0, 2.0)
_FEWEST_PATIENTS, _MOST_PATIENTS = 25, 100
"""Of a training set; with fewer, all patients are used, and a verdict holds for this training set alone."""
_QUICK = "it needs training: run the command without --quick"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of an audit, and the content of `audit.json`.

    Attributes:
        identical: Images that are also training images, byte for byte.
        report: The images' quality, and whether they copy training images.
        verdict: That of `confirm`; None if the benefit was not measured.
        why_not: Why it was not measured, else "".
    """

    study: Path
    identical: int
    report: PoolReport
    verdict: Confirmation | None
    why_not: str

    def to_json(self) -> dict[str, Json]:
        """Return the content of `audit.json`."""
        verdict = self.verdict.to_json() if self.verdict else None
        return to_json(self) | {"headline": self.headline, "study": self.study.name, "verdict": verdict}

    @property
    def headline(self) -> str:
        """The most serious finding in one sentence."""
        if self.report.copies:
            return "These images are copies of training images."
        quality = self.report.quality
        if quality and quality.gan_train is not None and quality.gan_train < 0.5 < (quality.real_train or 0.0):
            return "These images teach a classifier the opposite of real ones: are their labels swapped?"
        if self.verdict is None:
            return f"Whether these images help was not measured: {self.why_not}."
        return verdict_section(self.verdict).lead


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
    """Audit synthetic images; after training, write `audit.json` and `report.html` to the study `studies/audit-FOLDER`.

    Args:
        real: Image folder or data file.
        synthetic: Folder with class folders named like the real ones; for findings, its data file.
        quick: Only measure the images: nothing is trained or written.
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
    changes = [*_changes(synthetic), *overrides]
    space = open_space(Path("audit"), changes, data=real, weights_dir=weights_dir)
    settings, progress = space.settings, callbacks.on_progress
    folder = StudyFolder((studies / settings.name).resolve())
    cache = (cache or folder.default_cache).resolve()
    require_writable(folder.path)
    require_writable(cache)
    require_free(folder)

    # Of all patients, since a generator may have copied any of them.
    index = read_index(settings.data, on_progress=progress)
    if folder.space_path.exists():
        require_same_data(folder.prepared(), index, settings.data.path)
    prepare = partial(prepare_index, index, cache=cache, seen=seen_by(mixes_of(space)), skip_broken=skip_broken)
    prepared, warnings = prepare(_with_patients(settings.data, None), on_progress=progress)
    read_inputs(inputs_of_space(space), settings, prepared, cache, index=index)
    _, compute = resources_here(settings)
    pin(compute)
    context = RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=progress)
    report = report_pool(space.experiment(), context)
    images, _ = store_folder(synthetic, prepared, settings.data, cache=cache)
    trained_on = {image.sha256 for image in prepared.images if image.side == "train"}
    identical = sum(image.sha256 in trained_on for image in images)

    verdict, why_not = None, _QUICK
    if quick:
        for warning in warnings:
            callbacks.note(warning)
    else:
        patients = settings.data.train_patients or _patients_to_use(prepared, settings.confirm.replicates)
        smaller, _ = prepare(_with_patients(settings.data, patients))
        ratios, why_not = _possible_ratios(space, [image.label for image in images], smaller)
        if ratios:
            points = [{"source": source, "synthetic_ratio": r} for source in ("folder", "duplicate") for r in ratios]
            changes += [f"synthetic_ratio={{values: {ratios}}}", f"points_to_evaluate={[*points, {'source': 'none'}]}"]
            changes += [f"budget.trials={len(points) + 1}", f"data.train_patients={patients or 'null'}", *overrides]
            where: dict[str, Any] = {"weights_dir": weights_dir, "cache": cache, "callbacks": callbacks}
            search(Path("audit"), data=real, overrides=changes, studies=studies, skip_broken=skip_broken, **where)
            try:
                verdict = confirm(folder.path, reason="audit", before_test=before_test, **where)
            except DataError as error:
                why_not = error.problems[0].what
            write_report(folder.path, cache=cache)
    result = Audit(study=folder.path, identical=identical, report=report, verdict=verdict, why_not=why_not)
    if folder.space_path.exists():
        write_json(folder.path / "audit.json", result.to_json())
    return result


def audit_section(result: Audit) -> Section:
    """Show the measured figures, and the verdict if there is one."""
    quality = result.report.quality or result.report.note
    copies = result.report.copies or "no more images than by chance are near a training image"
    notes = [f"Copies: {copies}; {result.identical:,} are byte-identical to one.", f"Quality: {quality}."]
    verdict = verdict_section(result.verdict) if result.verdict else None
    return Section(
        lead=result.headline,
        tone="bad" if result.report.copies else verdict.tone if verdict else "strong",
        notes=[*notes, *(verdict.notes if verdict else ())],
        tables=verdict.tables if verdict else (),
    )


def _changes(synthetic: Path) -> list[str]:
    """Return the settings of an audit of this folder, or data file of findings."""
    has_findings = synthetic.is_file()
    folder = synthetic.resolve().parent if has_findings else synthetic.resolve()
    name = f"audit-{re.sub(r'[^A-Za-z0-9._-]+', '-', folder.name)}"[:64]
    task = ["task=findings"] if has_findings else []
    return [f"name={name}", f"folder.path={synthetic.absolute()}", *task]


def _with_patients(data: DataSettings, train_patients: int | None) -> DataSettings:
    return data.model_copy(update={"train_patients": train_patients})


def _patients_to_use(everyone: Prepared, replicates: int) -> int | None:
    """Return how many patients to train on, so that each replicate has its own training set; None: all, if they are few."""
    patients = everyone.train_patients // (1 + replicates)
    return min(patients, _MOST_PATIENTS) if patients >= _FEWEST_PATIENTS else None


def _possible_ratios(space: Space, labels: Sequence[int], prepared: Prepared) -> tuple[list[float], str]:
    """Return the ratios that there are enough images for, and what the first of the others lacks."""
    ratios: list[float] = []
    too_few = ""
    for ratio in _RATIOS:
        try:
            mix = space.experiment().parameters.model_copy(update={"synthetic_ratio": ratio})
            require_enough(labels, mix, prepared)
            ratios.append(ratio)
        except DataError as error:
            too_few = too_few or f"there are only {error.problems[0].what}"
    return ratios, too_few
