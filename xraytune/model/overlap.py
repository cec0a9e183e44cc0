"""Find what a model and the images it is evaluated on have in common: its sealed test folder, its images, its patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from xraytune.base.errors import ArtifactError, ConfigError, DataError, MachineError
from xraytune.base.files import read_jsonl
from xraytune.base.records import Json, to_json
from xraytune.confirm.test_access import TEST_ACCESS_FILE, accesses, log_test_access, study_logs
from xraytune.data.decoding import BrokenImage
from xraytune.data.images import ImageFile
from xraytune.data.index import LabelledImages, content_fingerprint, read_labelled_folder
from xraytune.data.prepare import patients_seen
from xraytune.data.shared_patients import patient_aliases, patients_by_file_name, shared_patients
from xraytune.data.table import find_table
from xraytune.model.load import Bundle
from xraytune.stats.intervals import Measured
from xraytune.study.folder import StudyFolder
from xraytune.synth.seen import seen_by
from xraytune.trial.task import TASKS

if TYPE_CHECKING:
    import pandas as pd

BOOTSTRAP_SEED = 0
About: TypeAlias = Callable[[Sequence[str], Sequence[BrokenImage]], dict[str, Any]]
"""Called once, before any metric can be seen: the files used and the images left out -> the fields of `Evaluated`."""
Write: TypeAlias = Callable[[Path], None]
"""Writes tables and pictures to a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Measured):
    """The metrics of a model on images of a folder, without those that are `broken`, which were left out.

    Attributes:
        known_images: Copies of the model's training or validation images, of its extra images if their folder exists, or
            of those that their generator has seen.
        known_patients: Patients of these sets, by the rules of `shared_patients`.
        images_of_known_patients: Their images, including those of `known_images`.
        opened_test: Whether this is the sealed test folder of the model's study.
        test_access: How often that folder has been accessed, including now; 0 for other folders.
    """

    known_images: int
    known_patients: int
    images_of_known_patients: int
    opened_test: bool
    test_access: int
    model: Path
    data: Path
    out: Path | None
    images: int
    patients: int
    broken: tuple[BrokenImage, ...]

    def named(self, values: Mapping[str, object]) -> dict[str, Json]:
        """Return reported values by metric, under the names of the JSON file."""
        return to_json(dict(values))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a table with a row for each metric: `value`, and its 95 % interval from `low` to `high`."""
        import pandas as pd  # takes most of a second

        intervals = pd.DataFrame(self.named(self.intervals), index=["low", "high"]).T
        return pd.DataFrame({"value": self.named(self.metrics)}).join(intervals)

    def to_json(self) -> dict[str, Json]:
        """Return the evaluation as a JSON object, with the metrics at the top level."""
        content = to_json(self)
        return {**content.pop("metrics"), **content}


def overlap_of(bundle: Bundle, labelled: LabelledImages, used: Sequence[str], *, reason: str) -> dict[str, Any]:
    """Log the access if these are the test images of the model's study; count used files and patients known to the model.

    Call this before any metric can be seen. Returns the fields of `Evaluated` with these counts.
    """
    fingerprint, files = content_fingerprint(labelled.images), {*used}
    images = [image for image in labelled.images if image.file in files]
    is_test = fingerprint == bundle.record.test_fingerprint
    access_count = _log_access(bundle, fingerprint, reason=reason, image_count=len(used)) if is_test else 0
    contents, patients = _known(bundle, labelled, images, is_test=is_test)
    return {
        "known_images": sum(image.sha256 in contents for image in images),
        "known_patients": len(patients),
        "images_of_known_patients": sum(image.patient in patients for image in images),
        "opened_test": is_test,
        "test_access": access_count,
    }


def _log_access(bundle: Bundle, fingerprint: str, *, reason: str, image_count: int) -> int:
    """Log access to the test folder, with the model and with its study; return the number of known accesses."""
    model, study = bundle.path.resolve(), None
    if bundle.study is not None:
        folder = StudyFolder(bundle.study.resolve())
        if folder.space_path.is_file() and folder.prepared().test_fingerprint == fingerprint:  # else it was moved
            study = folder.path
    log_test_access(
        model,
        *(study_logs(study) if study else ()),
        command="evaluate",
        fingerprint=fingerprint,
        reason=reason,
        image_count=image_count,
        model=model,
        model_sha256=bundle.model_sha256,
        **({"study": study.name} if study else {}),
    )
    with_model = [row for row in read_jsonl(model / TEST_ACCESS_FILE) if row["fingerprint"] == fingerprint]
    return max(len(with_model), len(accesses(study, fingerprint)) if study else 0)


def _known(
    bundle: Bundle, labelled: LabelledImages, images: Sequence[ImageFile], *, is_test: bool
) -> tuple[set[str], set[str]]:
    """Return the hashes of images that the model or its generator has seen, and the patients of `images` among theirs."""
    known = bundle.prepared().images
    known_in = partial(shared_patients, images, labelled.table, group_regex=labelled.data.split.group_regex)
    extra, names = _extra_images(bundle, patients_by_file_name([*known, *images]))
    seen = _seen(bundle)
    patients = known_in(extra, aliases=names) | patients_seen(images, seen)
    if not is_test:  # the search has checked that the sealed test folder shares no patient with training
        patients |= known_in(known, aliases=_further_names(bundle), owners=patients_by_file_name(known))
    return {image.sha256 for image in (*known, *extra)} | seen, patients


def _seen(bundle: Bundle) -> frozenset[str]:
    """Return the images that the maker of the model's extra images has seen; empty if that can no longer be read."""
    try:
        return seen_by([bundle.experiment().parameters])
    except (ArtifactError, DataError, OSError):
        return frozenset()


def _further_names(bundle: Bundle) -> set[str]:
    """Return the names of the model's patients that only its data folder gives; empty if it can no longer be read."""
    try:
        data = bundle.experiment().settings.data
        return patient_aliases(bundle.prepared().images, find_table(data.path, data), bundle.record.group_regex)
    except (ArtifactError, ConfigError, DataError, OSError):
        return set()


def _extra_images(bundle: Bundle, owners: Mapping[str, str]) -> tuple[tuple[ImageFile, ...], set[str]]:
    """Return the model's folder of extra images and the names of their patients; empty if it can no longer be read."""
    try:
        folder = bundle.experiment().parameters.folder
        if folder is None:
            return (), set()
        task, names = TASKS[bundle.record.task], bundle.record.class_names
        findings = names if task.has_findings else ()
        images = read_labelled_folder(folder.path, names, pairs=task.has_pairs, findings=findings)
        return images, patient_aliases(images, find_table(folder.path), bundle.record.group_regex, owners)
    except (ArtifactError, DataError, MachineError, OSError):
        return (), set()
