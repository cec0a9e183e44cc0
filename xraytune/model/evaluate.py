"""Evaluate a model on labelled images: classes, findings or masks (`class_evaluation.py` and so on).

Access to the study's sealed test folder is logged. Images and patients of the model's training or
validation set are counted, because they bias the metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xraytune.base.errors import ConfigError, Problem
from xraytune.base.files import new_folder, require_new, require_writable, write_json
from xraytune.base.records import Progress, ignore_progress
from xraytune.data.decoding import BrokenImage
from xraytune.data.index import LabelledImages, content_fingerprint, read_labelled
from xraytune.data.table import subgroup_columns
from xraytune.model.calibration import fit_calibration
from xraytune.model.class_evaluation import Evaluation, evaluate_classes, require_every_class
from xraytune.model.finding_evaluation import FindingEvaluation, evaluate_findings
from xraytune.model.load import open_bundle
from xraytune.model.mask_evaluation import MaskEvaluation, evaluate_masks
from xraytune.model.overlap import overlap_of
from xraytune.model.predict import ImageFiles
from xraytune.trial.task import TASKS


def evaluate(
    model: Path,
    *,
    data: Path,
    out: Path | None = None,
    by: Sequence[str] = (),
    skip_broken: bool = False,
    reason: str = "",
    calibrate_on: Path | None = None,
    replicates: int = 2000,
    on_progress: Progress = ignore_progress,
) -> Evaluation | FindingEvaluation | MaskEvaluation:
    """Compare a model's predictions with labels: classes or findings for a classifier, masks for a segmenter.

    Args:
        model: Model bundle.
        data: Folder with one subfolder per class, or with images/ and masks/ for a segmenter; not a
            data folder with train/ or test/. For a `test/` without its own `patients.csv`, that of
            the data folder is used. Or a data file (YAML), of which the test images are used; all
            images if there are none.
        out: Folder to create, with predictions, tables and pictures; docs/evaluate.md lists them.
        by: Columns of the patient table that define subgroups; `pneumonia` also if Kermany file
        names state its type.
        skip_broken: Leave out broken images.
        reason: Reason to record in the test-set access log.
        calibrate_on: Labelled images of the same hospital, but of other patients, to fit a
            `Calibration` to, which the metrics then use; for two classes.
        replicates: Number of bootstrap samples.
        on_progress: Called with progress.

    Raises:
        ConfigError: `out` exists or is inside `data`, a column of `by` makes no subgroups, or
            `calibrate_on` is given for another task or more classes.
        ArtifactError: The bundle is missing or damaged.
        DataError: A folder or its images are invalid, a class has no images, or patients are in
        both folders.
        MachineError: The packages of a segmenter are not installed.
    """
    if out is not None:
        require_new(out)
        if out.resolve().is_relative_to(data.resolve()):
            what = "a figure in the image folder would be mistaken for an X-ray"
            raise ConfigError(Problem(what, out, "give a folder outside of it"))
    bundle = open_bundle(model)
    record = bundle.record
    task, group_regex = TASKS[record.task], record.group_regex
    has_classes = not (task.has_pairs or task.has_findings)
    if calibrate_on and not (has_classes and len(record.class_names) == 2):
        what = "only a classifier of two classes can be calibrated"
        raise ConfigError(Problem(what, "--calibrate-on", "leave it out"))

    def read(source: Path, *, skip_broken: bool) -> tuple[LabelledImages, ImageFiles]:
        labelled = read_labelled(
            source,
            record.class_names,
            pairs=task.has_pairs,
            findings=record.class_names if task.has_findings else (),
            group_regex=group_regex,
            on_progress=on_progress,
        )
        root, files = labelled.data.path, [image.file for image in labelled.images]
        if has_classes:
            require_every_class(
                record.class_names, [image.label for image in labelled.images], root
            )
        return labelled, ImageFiles(
            root=root, files=files, skip_broken=skip_broken, on_progress=on_progress
        )

    labelled, images = read(data, skip_broken=skip_broken)
    if content_fingerprint(labelled.images) == record.test_fingerprint:
        require_writable(bundle.path)
    columns = subgroup_columns(labelled.data, images.files, by)
    calibration = None
    if calibrate_on:
        to_fit, its_images = read(calibrate_on, skip_broken=False)
        calibration = fit_calibration(bundle, to_fit, labelled, its_images, reason=reason)

    def about(files: Sequence[str], broken: Sequence[BrokenImage]) -> dict[str, Any]:
        """Log access to the test folder, before any metric can be seen; return the fields of `Evaluated`."""
        overlap = overlap_of(bundle, labelled, files, reason=reason)
        return {**overlap, "model": bundle.path, "data": data, "out": out, "broken": tuple(broken)}

    options: dict[str, Any] = {"replicates": replicates, "about": about}
    evaluation: Evaluation | FindingEvaluation | MaskEvaluation
    if record.task == "segmentation":
        evaluation, write = evaluate_masks(bundle, labelled, images, columns, **options)
    elif record.task == "findings":
        evaluation, write = evaluate_findings(bundle, labelled, images, columns, **options)
    else:
        evaluation, write = evaluate_classes(
            bundle, labelled, images, columns, calibration, **options
        )
    if out is not None:
        with new_folder(out) as folder:
            write_json(folder / "metrics.json", evaluation.to_json())
            write(folder)
    return evaluation
