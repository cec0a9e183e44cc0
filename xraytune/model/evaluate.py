"""Evaluate a model on labelled images: classes (`class_evaluation.py`) or masks (`mask_evaluation.py`).

Access to the study's sealed test folder is logged. Images and patients of the model's training or validation set are
counted, because they bias the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from xraytune.base.errors import ConfigError, Problem
from xraytune.base.files import new_folder, require_new, write_json
from xraytune.base.records import Progress, ignore_progress
from xraytune.data.decoding import BrokenImage
from xraytune.data.index import LabelledImages, read_labelled
from xraytune.data.table import subgroup_columns
from xraytune.model.bundle_record import threshold_of
from xraytune.model.class_evaluation import Evaluation, score_classes
from xraytune.model.load import Bundle, open_bundle
from xraytune.model.mask_evaluation import MaskEvaluation, score_masks
from xraytune.model.overlap import Evaluated, Overlap, overlap_of
from xraytune.model.predict import ImageFiles
from xraytune.trial.task import TASKS

_Evaluation = TypeVar("_Evaluation", bound=Evaluated)


class _Scores(Protocol[_Evaluation]):
    """The scored images of a task, whose metrics nobody has seen yet."""

    @property
    def files(self) -> Sequence[str]:
        """The images that were scored."""

    @property
    def broken(self) -> tuple[BrokenImage, ...]:
        """The images that were left out."""

    def measure(
        self, columns: Mapping[str, Mapping[str, str]], about: Mapping[str, Any], replicates: int
    ) -> _Evaluation:
        """Compute the metrics; `about` has the fields of `Evaluated`."""

    def write(self, evaluation: _Evaluation, folder: Path, replicates: int) -> None:
        """Write tables and a figure to a folder."""


def evaluate(
    model: Path,
    *,
    data: Path,
    out: Path | None = None,
    by: Sequence[str] = (),
    skip_broken: bool = False,
    reason: str = "",
    sensitivity: float | None = None,
    replicates: int = 2000,
    on_progress: Progress = ignore_progress,
) -> Evaluation | MaskEvaluation:
    """Compare a model's predictions with labels: classes for a classifier, masks for a segmenter.

    Args:
        model: Model bundle.
        data: Folder with one subfolder per class, or with images/ and masks/ for a segmenter; not a data folder with train/
            or test/. For a `test/` without its own `patients.csv`, that of the data folder is used. Or a data file (YAML),
            of which the test images are used; all images if there are none.
        out: Folder to create, with predictions, tables and a figure (listed in `class_evaluation.py` and
            `mask_evaluation.py`).
        by: Columns of the patient table that define subgroups; `pneumonia` also if Kermany file names state its type.
        skip_broken: Leave out broken images.
        reason: Reason to record in the test-set access log.
        sensitivity: Use the threshold that reaches this sensitivity on validation images; for classifiers with two classes.
        replicates: Number of bootstrap samples.
        on_progress: Called with progress.

    Raises:
        ConfigError: `out` exists or is inside `data`, too few validation images set the threshold for `sensitivity`, or a
            column of `by` makes no subgroups.
        ArtifactError: The bundle is missing or damaged.
        DataError: The folder or its images are invalid, or a class has no images.
        MachineError: The packages of a segmenter are not installed.
    """
    if out is not None:
        require_new(out)
        if out.resolve().is_relative_to(data.resolve()):
            what = "a figure in the image folder would be mistaken for an X-ray"
            raise ConfigError(Problem(what, out, "give a folder outside of it"))
    bundle = open_bundle(model)
    record = bundle.record
    threshold = threshold_of(record, sensitivity)
    labelled = read_labelled(
        data,
        record.class_names,
        pairs=TASKS[record.task].has_pairs,
        group_regex=record.group_regex,
        on_progress=on_progress,
    )
    files = [image.file for image in labelled.images]
    columns = subgroup_columns(labelled.data, files, by)
    images = ImageFiles(root=labelled.data.path, files=files, skip_broken=skip_broken, on_progress=on_progress)
    about = {"model": bundle.path, "data": data, "out": out}

    def measure(scores: _Scores[_Evaluation]) -> _Evaluation:
        return _measure(scores, bundle, labelled, columns, about, reason=reason, replicates=replicates)

    if record.task == "segmentation":
        return measure(score_masks(bundle, labelled, images, threshold))
    return measure(score_classes(bundle, labelled, images, threshold))


def _measure(
    scores: _Scores[_Evaluation],
    bundle: Bundle,
    labelled: LabelledImages,
    columns: Mapping[str, Mapping[str, str]],
    about: Mapping[str, Path | None],
    *,
    reason: str,
    replicates: int,
) -> _Evaluation:
    """Log access to the test folder before any metric can be seen, measure, and write the folder as a whole."""
    overlap = overlap_of(bundle, labelled, scores.files, reason=reason)
    counts = {field.name: getattr(overlap, field.name) for field in fields(Overlap)}
    evaluation = scores.measure(columns, {**about, **counts, "broken": scores.broken}, replicates)
    if out := about["out"]:
        with new_folder(out) as folder:
            write_json(folder / "metrics.json", evaluation.to_json())
            scores.write(evaluation, folder, replicates)
    return evaluation
