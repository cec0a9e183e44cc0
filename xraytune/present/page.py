"""Render the report of a study as one HTML file that needs no network.

The file contains Plotly and all pictures. Its text is in `templates/page.html`, where a section
whose value is None is left out. A search may be running on the study.
"""

from collections import defaultdict
from pathlib import Path
from shlex import join, quote
from typing import Any

import numpy as np

from xraytune.base.artifacts import artifacts_of
from xraytune.base.errors import ConfigError, XraytuneError, join_names
from xraytune.base.files import StrPath, optional_path, read_bytes, require_writable, write_text
from xraytune.base.tables import Table, shown_path, text_of
from xraytune.confirm.record import read_verdict
from xraytune.data.prepare import SplitData
from xraytune.model.export import trial_to_export
from xraytune.present.charts import plot_learning_curves, plot_parameter
from xraytune.present.forest import verdict_parts
from xraytune.present.pictures import explain_images
from xraytune.present.rendering import render_page
from xraytune.present.trials import all_trials, arms_frame, sides_frame
from xraytune.search.asha import Rungs
from xraytune.space.data_settings import DataSettings
from xraytune.space.recorded import code_places
from xraytune.study.access_log import accesses
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow
from xraytune.study.status import StudyView, StudyWatcher
from xraytune.synth.memorisation import MEMORISATION_STAGE
from xraytune.tasks import task_of

_MOST_SAMPLES = 6
_MOST_MISTAKES = 9


def write_report(
    study: StrPath, *, out: StrPath | None = None, cache: StrPath | None = None
) -> Path:
    """Write the report of a study, and return its path.

    Only users who can read the study's folder can read the page.

    Args:
        study: Folder of the study.
        out: The file to write or to replace; default: `report.html` in the study.
        cache: Artifact cache of the search; default: the one next to the studies.

    Raises:
        StudyError: There is no study, or it is damaged.
        ConfigError: `out` is a folder.
    """
    out = optional_path(out)
    cache = optional_path(cache)
    study_folder = StudyFolder(Path(study).resolve())
    path = out or study_folder.path / "report.html"
    if path.is_dir():
        raise ConfigError("this is a folder", path, "give a file, such as report.html")
    require_writable(path.parent)
    content = page_content(study_folder, (cache or study_folder.default_cache).resolve())
    text = render_page("page.html", **content)
    mode = 0o600 | study_folder.path.stat().st_mode & 0o066
    write_text(path, text, is_durable=False, mode=mode)
    return path


def page_content(study_folder: StudyFolder, cache: Path) -> dict[str, Any]:
    """Return the values of the page's template."""
    watcher = StudyWatcher(study_folder)
    view = watcher.refresh()
    settings = watcher.space.settings
    prepared = study_folder.prepared()
    verdict = read_verdict(study_folder.confirm_path)

    # The trial that `export` writes, or the best trial on val-B if it would fail.
    number, reason = trial_to_export(study_folder) or (None, "")
    best = next((trial for trial in view.trials if trial.number == number), view.best_on_val_b)
    with_results = [
        trial
        for trial in (best, view.best_on_val_b)
        if trial and study_folder.results_path(trial.number).exists()
    ]
    mistakes = None
    if with_results and not prepared.findings:  # images with findings are not right or wrong
        mistakes = _show_mistakes(study_folder, prepared, with_results[0], cache)
    rungs = Rungs(settings.scheduler, max_epochs=settings.budget.max_epochs).epochs
    scored = accesses(study_folder.path, prepared.test_contents)
    study = quote(str(shown_path(study_folder.path)))
    needs_test = prepared.test_fingerprint is None and not prepared.unused
    if verdict:
        needs_test = verdict.test.is_given
    test = " --test FOLDER" if needs_test else ""
    places = code_places(study_folder.path, Path.cwd())
    extensions = "".join(f" --extension {quote(place)}" for place in places)
    return {
        "view": view,
        "study": study,
        "extensions": extensions,
        "confirm": f"confirm {study}{test}{extensions}",
        "inspect": _inspect_command(settings.data),
        "settings": settings.data,
        "prepared": prepared,
        "best": best,
        "final": settings.final,
        "reason": reason,
        "verdict": verdict_parts(verdict) if verdict else None,
        "curves": plot_learning_curves(view, rungs),
        "rungs": rungs,
        "arms": arms_frame(view),
        "slices": {
            name: plot_parameter(name, view)
            for name in view.searched
            if len({view.values_of(trial).get(name) for trial in view.ranked}) > 1
        },
        "trials": all_trials(view),
        "mistakes": mistakes,
        "generators": _show_generators(study_folder, view, cache),
        "scored_by": sorted({row["command"] for row in scored}),
        "sides": sides_frame(view.sides),
        "about": study_folder.environment(),
    }


def _inspect_command(data: DataSettings) -> str:
    """Return the arguments of xraytune that inspect a study's images as its settings read them.

    Returns "" if no option says how they are read.
    """
    if data.table or data.split.site == "folder":
        return ""
    options = {
        "--classes": data.classes,
        "--positive": data.positive,
        "--group-regex": data.split.group_regex,
    }
    given = [word for option, value in options.items() if value for word in (option, value)]
    return join(["data", "inspect", str(data.path), *given])


def _show_mistakes(
    study_folder: StudyFolder, prepared: SplitData, trial: TrialRow, cache: Path
) -> dict[str, Any]:
    """Return the images of val-B that the network of a trial gets most wrong, with pictures."""
    task = task_of(study_folder.space().settings)
    results = study_folder.results(trial.number)
    threshold = 0.5 if trial.threshold is None else trial.threshold
    mistakes = task.reports.find_mistakes(results, prepared, threshold)
    indices = np.array(mistakes.indices[:_MOST_MISTAKES], dtype=np.int64)
    experiment = study_folder.experiment(trial.number)
    trial_dir = study_folder.trial_path(trial.number)
    note = mistakes.note
    pictures: list[bytes] = []
    try:
        if len(indices):
            sized = study_folder.prepared(experiment)
            pictures = explain_images(experiment, trial_dir, sized, indices, cache=cache)
    except XraytuneError as error:
        note = f"No pictures: {error.problems[0].what}."
    captions = []
    for row in mistakes.rows:
        file, *facts = (f"{name} {text_of(value)}" for name, value in row.items())
        captions.append(f"{Path(file).name}: {', '.join(facts)}")
    return {
        "title": mistakes.title,
        "trial": trial.number,
        "note": note,
        "table": Table(mistakes.rows) if mistakes.rows else None,
        "pictures": [*zip(pictures, captions, strict=False)],
    }


def _show_generators(
    study_folder: StudyFolder, view: StudyView, cache: Path
) -> dict[str, Any] | None:
    """Return figures and pictures of the generators; None if there are none.

    The pictures are samples of the generators and, for the first generator, images next to the
    nearest training images.
    """
    numbers_of: dict[str, list[str]] = defaultdict(list)
    samples: dict[str, list[TrialRow]] = defaultdict(list)
    for trial in view.trials:
        if report := trial.report:
            parts = (f"{report.quality or report.note}", report.copies)
            numbers_of[". ".join(filter(None, parts))].append(f"#{trial.number}")
        if trial.samples:
            samples[trial.samples].append(trial)
    notes = [f"{join_names(numbers, 8)}: {text}." for text, numbers in numbers_of.items()]

    pictures: dict[Path, str] = {}
    for grid, trials in [*samples.items()][:_MOST_SAMPLES]:
        used_by = join_names([f"#{trial.number}" for trial in trials], 8)
        pictures[study_folder.path / grid] = f"Real and generated images; used by {used_by}."
    first_sample = next(iter(samples), "")
    generator = Path(first_sample).stem.rpartition("-")[2]
    for path, gate in artifacts_of(cache, MEMORISATION_STAGE):
        if first_sample and gate["pools"][0].get("generator", "").startswith(generator):
            for picture in sorted(path.glob("nearest_*.png")):
                name = picture.stem.removeprefix("nearest_")
                pictures[picture] = f"{name}: each with the nearest training image on its right."
    embedded = [(read_bytes(path), text) for path, text in pictures.items() if path.exists()]
    return {"notes": notes, "pictures": embedded} if notes or embedded else None
