"""Evaluate a model on labelled images: their classes, findings or masks.

Access to sealed images of the study is logged. Images and patients of the model's training or
validation set are counted, because they bias the metrics.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from xraytune.base.errors import ConfigError, DataError, counted
from xraytune.base.files import StrPath, new_folder, optional_path, require_new, write_json
from xraytune.base.records import Progress, ignore_progress
from xraytune.data.columns import subgroup_columns
from xraytune.data.index import LabelledImages, read_labelled
from xraytune.data.patients import EQUAL_IDS
from xraytune.data.shared_patients import patients_by_key, shared_patients
from xraytune.model.overlap import overlap_of, sealed_among
from xraytune.space.extensions import EXTENSIONS
from xraytune.tasks import TASKS
from xraytune.tasks.bundle_record import BundleRecord
from xraytune.tasks.evaluation import Evaluation, Sample, fallen_metrics
from xraytune.tasks.prediction import ImageFiles, fit_calibration
from xraytune.trial.saved_model import Bundle, open_bundle


def evaluate(
    model: StrPath,
    *,
    data: StrPath,
    out: StrPath | None = None,
    by: Sequence[str] = (),
    skip_broken: bool = False,
    reason: str = "",
    calibrate_on: StrPath | None = None,
    resample_count: int = 2000,
    extensions: Sequence[str | type] = (),
    on_progress: Progress = ignore_progress,
) -> Evaluation:
    """Compare a model's predictions with true classes, findings or masks.

    Args:
        model: Model bundle.
        data: Folder with one subfolder per class, or with images/ and masks/ for a segmenter; not a
            data folder with train/ or test/. For a `test/` without its own `patients.csv`, the
            `patients.csv` of the data folder is used. `data` may also be a data file (YAML); then
            its test images are used, or all images if there are no test images.
        out: Folder to create, with predictions, tables and pictures; docs/evaluate.md lists them.
        by: Columns of the patient table or keywords of DICOM headers that define subgroups. Without
            such a column, `site` is the site of an image, and `pneumonia` the type that Kermany
            file names state.
        skip_broken: Leave out broken images.
        reason: Reason to record in the test-set access log.
        calibrate_on: Labelled images of the same hospital, but of other patients. With two classes,
            a `Calibration` is fitted to them, and the metrics use it.
        resample_count: Number of bootstrap samples.
        extensions: The code of the model's backbone, if it is your own: `FILE.py:CLASS`.
        on_progress: Called with progress.

    Raises:
        ConfigError: `out` exists or is inside `data`, a column of `by` makes no subgroups, or
            `calibrate_on` is given for another task or more classes.
        ArtifactError: The bundle is missing or damaged.
        DataError: A folder or its images are invalid, a class has no images, or patients are in
            both folders.
        MachineError: The packages of a segmenter are not installed, or the test-set access log
            cannot be written.
    """
    EXTENSIONS.register(extensions)
    data = Path(data)
    out = optional_path(out)
    # Everything is checked and read before the network predicts.
    if out:
        require_new(out, outside=data)
    bundle = open_bundle(Path(model))
    record = bundle.record
    task = TASKS[record.task]
    if calibrate_on and not (task.has_classes and len(record.class_names) == 2):
        raise ConfigError(
            "only a classifier of two classes can be calibrated", "--calibrate-on", "leave it out"
        )
    labelled = _read_labelled(record, data, on_progress)
    columns = subgroup_columns(labelled.images, by, labelled.data.path)
    sealed_among(bundle, labelled.images)  # check that their log can be written

    files_of = partial(_files_of, skip_broken=skip_broken, on_progress=on_progress)
    predictor = bundle.predictor()
    calibration = None
    if calibrate_on:
        calibrated = _read_labelled(record, Path(calibrate_on), on_progress)
        _require_other_patients(bundle, calibrated, labelled, reason)
        calibration = fit_calibration(predictor, calibrated, files_of(calibrated))
        predictor = calibration.apply(predictor)

    files = files_of(labelled)
    images, scored, broken = task.reports.predict_labelled(predictor, labelled.images, files)
    sample = Sample(
        model=predictor,
        image_files=files,
        images=images,
        scored=scored,
        columns=columns,
        resample_count=resample_count,
    )
    # Access is logged before any metric can be seen.
    overlap = overlap_of(bundle, labelled, sample.files, reason=reason)

    description = task.reports.describe(sample)
    if fell := fallen_metrics(description["metrics"], description["intervals"], record.metrics):
        description["notes"].append(fell)
    if record.members > 1:
        description["notes"].append(f"average of {record.members} networks")
    evaluation = Evaluation(
        **overlap,
        **description,
        calibration=calibration,
        model=bundle.path,
        data=data,
        out=out,
        images=len(sample.images),
        patients=len({*sample.patients}),
        broken=broken,
    )
    if out:
        with new_folder(out) as folder:
            write_json(folder / "metrics.json", evaluation.to_json())
            task.reports.write_tables(sample, folder)
    return evaluation


def _read_labelled(record: BundleRecord, data_path: Path, on_progress: Progress) -> LabelledImages:
    """Return the labelled images; a classifier needs images of each class."""
    labelled = read_labelled(
        data_path,
        record.class_names,
        record.task,
        group_regex=record.group_regex,
        on_progress=on_progress,
    )
    labels = {image.label for image in labelled.images}
    empty = [name for label, name in enumerate(record.class_names) if label not in labels]
    if TASKS[record.task].has_classes and empty:
        fix = f"put images of each class into folders named {', '.join(record.class_names)}"
        raise DataError(
            f"there are no images of {' and '.join(empty)}, so AUROC is undefined",
            labelled.data.path,
            f"{fix}; `xraytune predict` needs no classes",
        )
    return labelled


def _files_of(labelled: LabelledImages, *, skip_broken: bool, on_progress: Progress) -> ImageFiles:
    return ImageFiles(
        root=labelled.data.path,
        files=[image.file for image in labelled.images],
        skip_broken=skip_broken,
        on_progress=on_progress,
    )


def _require_other_patients(
    bundle: Bundle, labelled: LabelledImages, evaluated: LabelledImages, reason: str
) -> None:
    """Refuse to calibrate on images of patients that the model has seen or the evaluation scores.

    Raises DataError.
    """
    regex = bundle.record.group_regex
    keys = patients_by_key(labelled.images, regex, owners={})
    shared = shared_patients(keys, patients_by_key(evaluated.images, regex))
    count = len(shared)
    whose = "evaluated as well"
    if not shared:
        files = [image.file for image in labelled.images]
        count = overlap_of(bundle, labelled, files, reason=reason)["known_patients"]
        whose = "in the model's training or validation set"
    if count:
        raise DataError(
            f"{counted(count, 'patient')} of the images to calibrate on: {whose}",
            labelled.data.path,
            f"calibrate on images of other patients; {EQUAL_IDS}",
        )
