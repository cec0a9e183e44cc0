"""Audit a folder of synthetic images against real ones: copies, realism, and whether they help a classifier.

An audit is a study with the shipped space `audit`: a search, a confirmation, and a report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from xraytune.base.errors import DataError
from xraytune.base.files import write_json
from xraytune.base.records import Json, to_json
from xraytune.confirm.record import Confirmation
from xraytune.confirm.run import confirm
from xraytune.data.index import read_index
from xraytune.data.prepare import RunContext, prepare_index
from xraytune.nets.compute import pin
from xraytune.present.page import write_report
from xraytune.present.verdict import verdict_section
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.run import resources_here, search
from xraytune.study.folder import StudyFolder
from xraytune.study.start import require_free
from xraytune.synth.generator_quality import PoolReport
from xraytune.synth.mix import require_enough
from xraytune.synth.quality import report_pool
from xraytune.synth.sources.folder import store_folder
from xraytune.synth.sources.which import seen_by, source_of
from xraytune.trial.prepare import open_space

_FEWEST_PATIENTS, _MOST_PATIENTS = 25, 100
"""Of a replicate's own training set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The content of `audit.json`; `identical` images are training images, `why_not` says why there is no verdict."""

    study: Path
    identical: int
    report: PoolReport
    verdict: Confirmation | None
    why_not: str

    def to_json(self) -> dict[str, Json]:
        """Return the content of `audit.json`."""
        verdict = self.verdict.to_json() if self.verdict else None
        return to_json(self) | {
            "headline": self.headline,
            "study": self.study.name,
            "verdict": verdict,
        }

    @property
    def headline(self) -> str:
        """The most serious finding in one sentence."""
        if self.report.copies:
            return "These images are copies of training images."
        quality = self.report.quality
        if (
            quality
            and quality.gan_train is not None
            and quality.gan_train < 0.5 < (quality.real_train or 0.0)
        ):
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

    Errors are those of `search` and `confirm`; after an interruption, the same call resumes.

    Args:
        real: Image folder or data file.
        synthetic: Folder with class folders named like the real ones; for findings, its data file.
        quick: Only measure the images: nothing is trained or written.
        weights_dir: See `search`.
        overrides: See `search`; they replace settings of the shipped space `audit`.
        studies: See `search`.
        cache: See `search`.
        skip_broken: See `search`.
        callbacks: See `search`.
        before_test: See `confirm`.
    """
    folder = synthetic.resolve().parent if synthetic.is_file() else synthetic.resolve()
    name = f"audit-{re.sub(r'[^A-Za-z0-9._-]+', '-', folder.name)}"[:64]
    task = "findings" if synthetic.is_file() else "classification"
    changes = [f"name={name}", f"task={task}", f"folder.path={synthetic.absolute()}"]
    space = open_space(Path("audit"), [*changes, *overrides], data=real, weights_dir=weights_dir)
    data, mix = space.settings.data, space.experiment().parameters
    study = StudyFolder((studies / space.settings.name).resolve())
    cache = (cache or study.default_cache).resolve()
    require_free(study)

    # Images are compared with those of all patients, since a generator may have copied any of them.
    index = read_index(data, on_progress=callbacks.on_progress)
    prepare = partial(
        prepare_index, index, cache=cache, seen=seen_by([mix]), skip_broken=skip_broken
    )
    prepared, warnings = prepare(
        data.model_copy(update={"train_patients": None}), on_progress=callbacks.on_progress
    )
    images, _ = store_folder(synthetic, prepared, data, index=index, cache=cache)
    _, compute = resources_here(space.settings)
    pin(compute)
    context = RunContext(
        prepared=prepared, cache=cache, compute=compute, on_progress=callbacks.on_progress
    )
    report = report_pool(space.experiment(), context)
    training = {image.sha256 for image in prepared.images if image.side == "train"}
    identical = sum(image.sha256 in training for image in images)
    result = Audit(
        study=study.path,
        identical=identical,
        report=report,
        verdict=None,
        why_not="omit --quick to train",
    )
    if quick:
        for warning in warnings:
            callbacks.note(warning)
        return result

    # Each replicate has its own training set if there are enough patients; otherwise all are
    # trained on all patients.
    patients, each = (
        data.train_patients,
        prepared.train_patients // (1 + space.settings.confirm.replicates),
    )
    if patients is None and each >= _FEWEST_PATIENTS:
        patients = min(each, _MOST_PATIENTS)
    prepared, _ = prepare(data.model_copy(update={"train_patients": patients}))
    verdict, why_not, ratios = None, "", list[float]()
    available = source_of(mix).count_available(space.settings, prepared, cache)
    for ratio in (0.25, 0.5, 1.0, 2.0):
        try:
            require_enough(available, mix.model_copy(update={"synthetic_ratio": ratio}), prepared)
        except DataError as error:
            why_not = f"there are only {error.problems[0].what}"
            break
        ratios.append(ratio)
    if ratios:
        points = [
            {"source": source, "synthetic_ratio": r}
            for source in ("folder", "duplicate")
            for r in ratios
        ]
        changes += [
            f"synthetic_ratio={{values: {ratios}}}",
            f"points_to_evaluate={[*points, {'source': 'none'}]}",
        ]
        changes += [
            f"budget.trials={len(points) + 1}",
            f"data.train_patients={patients or 'null'}",
            *overrides,
        ]
        options: dict[str, Any] = {
            "weights_dir": weights_dir,
            "cache": cache,
            "callbacks": callbacks,
        }
        search(
            Path("audit"),
            data=real,
            overrides=changes,
            studies=studies,
            skip_broken=skip_broken,
            **options,
        )
        try:
            verdict = confirm(study.path, reason="audit", before_test=before_test, **options)
        except DataError as error:
            why_not = error.problems[0].what
        write_report(study.path, cache=cache)
    result = replace(result, verdict=verdict, why_not=why_not)
    if ratios:
        write_json(study.path / "audit.json", result.to_json())
    return result
