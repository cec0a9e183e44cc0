"""Audit a folder of synthetic images: copies, realism, and whether they help a classifier.

An audit is a study with the space `commands/audit`: a search, a confirmation, and a report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from xraytune.base.errors import DataError
from xraytune.base.files import write_json
from xraytune.confirm.run import confirm
from xraytune.data.index import read_index
from xraytune.data.pixels import open_pixels
from xraytune.data.prepare import RunContext, prepare_index
from xraytune.data.sides import FEWEST_UNUSED, too_few_tested
from xraytune.nets.compute import pin
from xraytune.present.audit import Audit
from xraytune.present.page import write_report
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.run import resources_here, search
from xraytune.study.folder import StudyFolder
from xraytune.study.start import require_free
from xraytune.synth.faults import find_faults
from xraytune.synth.mix import require_enough
from xraytune.synth.sources.folder import store_folder
from xraytune.synth.sources.source import StudyImages
from xraytune.synth.sources.which import seen_by, source_of
from xraytune.trial.prepare import open_space, require_inputs
from xraytune.trial.quality import report_pool

_FEWEST_PATIENTS = 25
_MOST_PATIENTS = 100
"""Of a replicate's own training set."""


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
    """Audit synthetic images.

    After training, write `audit.json` and `report.html` to the study `studies/audit-FOLDER`.

    Errors are those of `search` and `confirm`, and so are further arguments; after an interruption,
    the same call resumes.

    Args:
        real: Image folder or data file.
        synthetic: Folder with class folders named like the real ones; for findings, its data file.
        quick: Only measure the images: nothing is trained or written.
        weights_dir: See `search`.
        overrides: See `search`; they replace settings of its space.
        studies: See `search`.
        cache: See `search`.
        skip_broken: See `search`.
        callbacks: See `search`.
        before_test: See `confirm`.
    """
    folder = synthetic.resolve().parent if synthetic.is_file() else synthetic.resolve()
    name = f"audit-{re.sub(r'[^A-Za-z0-9._-]+', '-', folder.name)}"[:64]
    task = "findings" if synthetic.is_file() else "classification"
    changes = [f"name={name}", f"task={task}", f"folder.path={synthetic.absolute()}", *overrides]
    shipped = Path("commands/audit")
    space = open_space(shipped, changes, data=real, weights_dir=weights_dir)
    settings = space.settings
    experiment = space.experiment()
    data = experiment.settings.data
    mix = experiment.parameters
    study = StudyFolder((studies / settings.name).resolve())
    cache = (cache or study.default_cache).resolve()
    require_free(study)
    if not quick:
        require_inputs(settings, space.networks())

    on_progress = callbacks.on_progress
    index = read_index(data, on_progress=on_progress)
    prepare = partial(
        prepare_index,
        index,
        cache=cache,
        sizes_px=[*dict.fromkeys([data.image_size, *space.sizes_px()])],
        seen=seen_by([mix]),
        skip_broken=skip_broken,
        on_progress=on_progress,
    )
    # Images are compared with those of all patients, since a generator may have copied any of them.
    prepared, warnings = prepare(data.model_copy(update={"train_patients": None}))
    images, store = store_folder(synthetic, StudyImages(data, prepared, cache, index))
    _, compute = resources_here(settings)
    pin(compute)
    context = RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=on_progress)
    training = {image.sha256 for image in prepared.images if image.side == "train"}
    real_pixels = open_pixels(cache / prepared.pixels)
    result = Audit(
        study=study.path,
        faults=tuple(find_faults(images, open_pixels(store), prepared.images, real_pixels)),
        identical=sum(image.sha256 in training for image in images),
        report=report_pool(experiment, context),
        verdict=None,
        why_not="omit --quick to train" if quick else "",
    )
    if quick:
        for warning in warnings:
            callbacks.note(warning)
        return result

    # Each replicate has its own training set if there are enough patients, also to test on without
    # a test folder; otherwise all are trained on all patients.
    patients = data.train_patients
    parts = 1 + settings.confirm.replicates
    has_test = index.test and not too_few_tested(index.test, index.outputs)
    fewest = FEWEST_UNUSED if settings.confirm.test == "auto" else 1
    spare = 0 if has_test else fewest
    each = (prepared.train_patients - spare) // parts
    if not has_test:
        needed = spare + parts * (patients or _FEWEST_PATIENTS)
        if prepared.train_patients < needed:
            why = (
                f"without a test folder it needs {needed:,} training patients, {spare} of them to "
                f"test on, and there are {prepared.train_patients:,}"
            )
            return replace(result, why_not=why)
        if source_of(mix).seen_images() is None:
            why = (
                "without a test folder it needs to know which images the synthetic ones were made "
                "from (--set folder.seen=...)"
            )
            return replace(result, why_not=why)
    if patients is None and each >= _FEWEST_PATIENTS:
        patients = min(each, _MOST_PATIENTS)
    prepared, _ = prepare(data.model_copy(update={"train_patients": patients}))
    available = source_of(mix).count_available(StudyImages(data, prepared, cache))
    ratios: list[float] = []
    try:
        for ratio in (0.25, 0.5, 1.0, 2.0):
            require_enough(available, mix.model_copy(update={"synthetic_ratio": ratio}), prepared)
            ratios.append(ratio)
    except DataError as error:
        result = replace(result, why_not=f"there are only {error.problems[0].what}")
    if not ratios:
        return result
    grid = ["sampler.name=grid", "points_to_evaluate=[]", f"synthetic_ratio={{values: {ratios}}}"]
    grid.append(f"data.train_patients={patients or 'null'}")
    search(
        shipped,
        data=real,
        weights_dir=weights_dir,
        overrides=[*grid, *changes],
        studies=studies,
        cache=cache,
        skip_broken=skip_broken,
        callbacks=callbacks,
    )
    try:
        verdict = confirm(
            study.path,
            weights_dir=weights_dir,
            cache=cache,
            reason="audit",
            callbacks=callbacks,
            before_test=before_test,
        )
        result = replace(result, verdict=verdict)
    except DataError as error:
        result = replace(result, why_not=error.problems[0].what)
    write_report(study.path, cache=cache)
    write_json(study.path / "audit.json", result.to_json())
    return result
