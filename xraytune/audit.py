"""Audit a folder of synthetic images: copies, realism, and whether they help a classifier.

An audit is a study with the space `commands/audit`: a search, a confirmation, and a report.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from xraytune.base.errors import DataError
from xraytune.base.files import StrPath, optional_path, write_json
from xraytune.base.records import Json, Progress, frozen, to_json
from xraytune.confirm.record import Confirmation
from xraytune.confirm.run import confirm
from xraytune.confirm.sealed import refuse_copies, refuse_patients_of_study, refuse_too_few
from xraytune.data.draws import fewest_outside, fewest_scored
from xraytune.data.images import ImageIndex
from xraytune.data.index import LabelledImages, read_index, read_labelled
from xraytune.data.pixels import open_pixels
from xraytune.data.prepare import RunContext, SplitData, patients_seen, prepare_index, unseen_test
from xraytune.data.sides import too_few_tested
from xraytune.nets.compute import configure_torch
from xraytune.present.page import write_report
from xraytune.present.verdict import verdict_sentence
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.run import resources_here, search
from xraytune.space.load import override_of
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment, Settings
from xraytune.study.folder import StudyFolder
from xraytune.study.start import require_free
from xraytune.synth.faults import find_faults
from xraytune.synth.generator_quality import PoolReport
from xraytune.synth.mix import require_enough
from xraytune.synth.sources.folder import store_folder
from xraytune.synth.sources.registry import seen_by, source_of
from xraytune.synth.sources.source import StudyImages
from xraytune.trial.preflight import open_space, require_inputs
from xraytune.trial.quality import report_pool

_SPACE = Path("commands/audit")
_GIVE_TEST = "give test images of other patients: --test DATA"
_FEWEST_PATIENTS = 25
_MOST_PATIENTS = 100
"""Fewest and most patients in a replicate's own training set."""


@frozen
class Audit:
    """The content of `audit.json`.

    Attributes:
        study: Folder of the study.
        faults: Obvious defects of the images, the most elementary first.
        identical: Number of images that are byte-identical to a training image.
        report: Quality and memorisation of the images.
        verdict: The verdict of `confirm`; None if there is none.
        why_not: Why there is no verdict; `fix` says what to do about it.
    """

    study: Path
    faults: tuple[str, ...]
    identical: int
    report: PoolReport
    verdict: Confirmation | None = None
    why_not: str = ""
    fix: str = ""

    def without_verdict(self, error: DataError) -> Audit:
        """Return the audit with an error as the reason why it has no verdict."""
        problem = error.problems[0]
        return replace(self, why_not=problem.what, fix=problem.fix)

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
        if self.faults:
            return self.faults[0]
        if self.report.copies:
            return "These images are copies of training images."
        quality = self.report.quality
        if quality and quality.gan_train is not None and quality.real_train is not None:
            if quality.gan_train < 0.5 < quality.real_train:
                opposite = "These images teach a classifier the opposite of real ones"
                return f"{opposite}: are their labels swapped?"
        if self.verdict is None:
            return f"Whether these images help was not measured: {self.why_not}."
        return verdict_sentence(self.verdict)


def audit(
    real: StrPath,
    synthetic: StrPath,
    *,
    test: StrPath | None = None,
    classes: Literal["auto", "binary", "three"] = "auto",
    quick: bool = False,
    weights_dir: StrPath | None = None,
    overrides: Sequence[str] = (),
    studies: StrPath = Path("studies"),
    cache: StrPath | None = None,
    skip_broken: bool = False,
    callbacks: Callbacks = NO_CALLBACKS,
) -> Audit:
    """Audit synthetic images: copies, realism, and whether they help a classifier.

    After training, `audit.json` and `report.html` are written to the study `studies/audit-FOLDER`.
    Raises the errors of `search` and `confirm`. After an interruption, the same call resumes.

    Args:
        real: Image folder or data file.
        synthetic: Folder with class folders named like the real ones; for findings, its data file.
        test: Test images of other patients, as for `confirm`, if the data have none.
        classes: `data.classes`.
        quick: Only measure the images: nothing is trained or written.
        weights_dir: See `search`.
        overrides: `key=value` settings that override those of the audit's space.
        studies: See `search`.
        cache: See `search`.
        skip_broken: See `search`.
        callbacks: See `search`.
    """
    real = Path(real)
    synthetic = Path(synthetic)
    changes = [*_describe_folder(synthetic), f"data.classes={classes}", *overrides]
    space = open_space(_SPACE, changes, data=real, weights_dir=weights_dir)
    settings = space.settings
    experiment = space.experiment()
    data = experiment.settings.data
    mix = experiment.parameters
    study_folder = StudyFolder(Path(studies, settings.name).resolve())
    cache = Path(cache or study_folder.default_cache).resolve()
    require_free(study_folder)
    if not quick:
        require_inputs(settings, space.networks())

    index = read_index(data, on_progress=callbacks.on_progress)
    seen_sha256 = seen_by([mix])
    prepare = partial(
        prepare_index,
        index,
        cache=cache,
        sizes_px=[*dict.fromkeys([data.image_size, *space.sizes_px()])],
        seen_sha256=seen_sha256,
        skip_broken=skip_broken,
        on_progress=callbacks.on_progress,
    )

    # Images are compared with all patients' images, since a generator may have copied any of them.
    prepared, warnings = prepare(data.with_values({"train_patients": None}))
    study_images = StudyImages(data, prepared, cache, index)
    result = _measure(experiment, synthetic, study_folder.path, study_images, callbacks.on_progress)
    if quick:
        for warning in warnings:
            callbacks.note(warning)
        return replace(result, why_not="omit --quick to train")

    # Whether the images help needs enough patients to train and test on, and enough images.
    try:
        has_test = _has_test(settings, index, prepared, cache, optional_path(test), seen_sha256)
        unseen = {*prepared.side("train").patients} - patients_seen(prepared.images, seen_sha256)
        patients = _choose_patients(settings, mix, prepared, len(unseen), has_test=has_test)
    except DataError as error:
        return result.without_verdict(error)
    prepared, _ = prepare(data.with_values({"train_patients": patients}))
    counts = source_of(mix).count_available(StudyImages(data, prepared, cache))
    try:
        ratios = _choose_ratios(mix, counts, prepared)
    except DataError as error:
        return result.without_verdict(error)

    # The rest is a study: a search over the ratios, a confirmation, and a report.
    grid = ["sampler.name=grid", "points_to_evaluate=[]", f"synthetic_ratio={{values: {ratios}}}"]
    grid.append(f"data.train_patients={patients or 'null'}")
    search(
        _SPACE,
        data=real,
        weights_dir=weights_dir,
        overrides=[*grid, *changes],
        studies=studies,
        cache=cache,
        skip_broken=skip_broken,
        callbacks=callbacks,
    )
    result = _confirm(result, test, weights_dir, cache, callbacks)
    write_report(study_folder.path, cache=cache)
    write_json(study_folder.path / "audit.json", result.to_json())
    return result


def _describe_folder(synthetic: Path) -> list[str]:
    """Return the settings of the study of a folder of synthetic images."""
    is_data_file = synthetic.is_file()
    folder = synthetic.resolve().parent if is_data_file else synthetic.resolve()
    name = f"audit-{re.sub(r'[^A-Za-z0-9._-]+', '-', folder.name)}"[:64]
    return [
        f"name={name}",
        f"task={'findings' if is_data_file else 'classification'}",
        override_of("folder.path", synthetic.absolute()),
    ]


def _measure(
    experiment: Experiment,
    synthetic: Path,
    study: Path,
    study_images: StudyImages,
    on_progress: Progress,
) -> Audit:
    """Return what is found without training: faults, copies and quality of the images."""
    images, store = store_folder(synthetic, study_images)
    _, compute = resources_here(experiment.settings)
    configure_torch(compute)
    prepared = study_images.prepared
    cache = study_images.cache
    context = RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=on_progress)
    training_hashes = {image.sha256 for image in prepared.images if image.side == "train"}
    real_pixels = open_pixels(cache / prepared.pixels)
    return Audit(
        study=study,
        faults=tuple(find_faults(images, open_pixels(store), prepared.images, real_pixels)),
        identical=sum(image.sha256 in training_hashes for image in images),
        report=report_pool(experiment, context),
    )


def _has_test(
    settings: Settings,
    index: ImageIndex,
    prepared: SplitData,
    cache: Path,
    test: Path | None,
    seen_sha256: Collection[str],
) -> bool:
    """Return whether the data have enough test images, or others are given that can be used.

    Patients with images in `seen_sha256`, which the generator has seen, are not test patients.

    Raises:
        DataError: The given images are unusable, too few, or of the study's patients.
    """
    if test is None:
        return not too_few_tested(unseen_test(index, seen_sha256), index.outputs)
    regex = settings.data.split.group_regex
    given = read_labelled(test, prepared.outputs, settings.task, group_regex=regex)
    refuse_patients_of_study(given, index, settings)
    study_images = LabelledImages(data=settings.data, images=index.images)
    refuse_copies(given, study_images, settings.data, cache)
    refuse_too_few(given, prepared)
    return True


def _choose_patients(
    settings: Settings, mix: Parameters, prepared: SplitData, unseen: int, *, has_test: bool
) -> int | None:
    """Return how many patients each network is trained on; None for all of them.

    `unseen` is the number of training patients that the generator has not seen.

    Each replicate has its own training set if there are enough patients for this. Without a test
    folder, the search and a replicate need as many patients each, and its test needs more. With one
    and too few patients, all replicates are trained on all patients.

    Raises:
        DataError: Without a test folder, there are too few patients, or the synthetic images may
            show any of them.
    """
    patients = settings.data.train_patients
    per_draw = patients or _FEWEST_PATIENTS
    fewest_tested = fewest_scored(settings, len(prepared.class_names), can_score_folder=False)
    tested = fewest_outside(per_draw, fewest_tested)
    need = 2 * per_draw + tested
    if not has_test and unseen < need:
        what = (
            f"without a test folder it needs {need:,} training patients that the generator has not "
            f"seen, {tested:,} of them for the test, but there are {unseen:,}"
        )
        raise DataError(what, fix=f"add patients, or {_GIVE_TEST}")
    if not has_test and source_of(mix).seen_images_sha256() is None:
        what = (
            "without a test folder it needs to know which images the synthetic ones were made from"
        )
        raise DataError(what, fix=f"list these images (--set folder.seen=FILE), or {_GIVE_TEST}")
    share = unseen // (1 + settings.confirm.replicates)
    if patients is not None or (has_test and share < _FEWEST_PATIENTS):
        return patients
    most = min(max(share, _FEWEST_PATIENTS), _MOST_PATIENTS)
    if has_test:
        return most
    sizes = range(_FEWEST_PATIENTS, most + 1)
    return max(size for size in sizes if 2 * size + fewest_outside(size, fewest_tested) <= unseen)


def _choose_ratios(
    mix: Parameters, counts: Sequence[int] | None, prepared: SplitData
) -> list[float]:
    """Return the ratios of synthetic to real images for which there are enough of each class.

    Raises DataError if there are too few for any.
    """
    ratios: list[float] = []
    for ratio in (0.25, 0.5, 1.0, 2.0):
        try:
            require_enough(counts, mix.with_values({"synthetic_ratio": ratio}), prepared)
        except DataError:
            if not ratios:
                raise
            break
        ratios.append(ratio)
    return ratios


def _confirm(
    result: Audit,
    test: StrPath | None,
    weights_dir: StrPath | None,
    cache: Path,
    callbacks: Callbacks,
) -> Audit:
    """Return the audit with the verdict on its study, or with the reason why there is none."""
    try:
        verdict = confirm(
            result.study,
            test=[test] if test else [],
            weights_dir=weights_dir,
            cache=cache,
            reason="audit",
            callbacks=callbacks,
        )
    except DataError as error:
        return result.without_verdict(error)
    return replace(result, verdict=verdict)
