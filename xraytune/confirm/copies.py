"""Compare synthetic images with the images that were scored, once these are opened.

Whatever was declared of a generator or of a folder, its images may show patients who were scored.
They are recognised like copies of training images (synth/memorisation.py): too many of them are
nearer to a scored image than unseen X-rays are.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from xraytune.base.arrays import Float64Array
from xraytune.confirm.arms import Arm, Plan
from xraytune.confirm.run_list import OpenStudy
from xraytune.confirm.sealed import SealedTest, load_test_image_set
from xraytune.confirm.unused import TEST
from xraytune.data.image_set import ImageSet
from xraytune.data.images import LENDERS, ImageTable, SideName
from xraytune.data.prepare import RunContext, side_image_set
from xraytune.synth.memorisation import (
    compare_with_unseen,
    measure_closeness,
    measure_unseen,
    read_class,
    sample_pool,
)
from xraytune.synth.saved_generator import resize_images

_OTHER_SIDES: tuple[SideName, ...] = ("train", LENDERS, "val_a", "val_b")
_FALSE_ALARMS = 0.01
"""The probability that a finalist with images of other patients is taken for one with copies."""

_Unseen: TypeAlias = dict[tuple[int, frozenset[str]], Float64Array]
"""The closeness of real images to the scored ones, by class and the hashes of all real images."""


def find_scored_copies(
    study: OpenStudy, plan: Plan, sealed: SealedTest
) -> dict[str, tuple[str, ...]]:
    """Return the files of scored images that the images of finalists copy, by name of the arm.

    Finalists without copies, beyond what chance explains, are left out.
    """
    files_of: dict[str, tuple[str, ...]] = {}
    for arm in plan.finalists:
        files = _copied_files(study, plan, arm, sealed)
        if files:
            files_of[arm.name] = tuple(sorted(files))
    return files_of


def _copied_files(study: OpenStudy, plan: Plan, arm: Arm, sealed: SealedTest) -> set[str]:
    """Return the scored files that the synthetic images of an arm's replicates copy."""
    if not arm.parameters.has_synthetic_pixels:
        return set()
    runs_folder = study.runs_folder
    runs = plan.run_numbers(arm)
    compared: set[str] = set()
    unseen: _Unseen = {}
    files: set[str] = set()
    for done, number in enumerate(runs, start=1):
        experiment = study.experiment(number)
        settings = experiment.settings
        context = RunContext(
            prepared=runs_folder.prepared(experiment),
            cache=study.cache,
            compute=runs_folder.compute(),
            on_progress=study.callbacks.on_progress,
        )
        scored = load_test_image_set(sealed, settings.data, study.cache)
        images = sealed.images
        if sealed.kind == "outside":  # each replicate is scored on other patients
            scored = side_image_set(TEST, context.prepared, study.cache)
            images = context.prepared.side(TEST)
            compared.clear()
            unseen.clear()
        level = _FALSE_ALARMS / (len(runs) * len(context.prepared.class_names))
        for label, samples in sample_pool(experiment, context).items():
            identity = str([sample.inputs for sample in samples])
            if identity not in compared:  # of a folder, all replicates have the same images
                files |= _copies_in(label, samples, scored, images, context, level, unseen)
            compared.add(identity)
        study.callbacks.on_progress("comparing with scored images (replicates)", done, len(runs))
    return files


def _copies_in(
    label: int,
    samples: Sequence[ImageSet],
    scored: ImageSet,
    images: ImageTable,
    context: RunContext,
    level: float,
    unseen: _Unseen,
) -> set[str]:
    """Return the scored `images` that those of a class copy; empty if chance explains their number.

    Real images of the class, of all patients who are not scored, show how near an X-ray is by
    chance. They are compared once, and kept in `unseen`: the replicates draw from the same images.
    """
    size_px = samples[0].pixels.shape[-1]
    all_images = context.prepared.images
    others = frozenset(image.sha256 for image in all_images if image.side in _OTHER_SIDES)
    reference = (resize_images(scored.read()[:, None], size_px)[:, 0], images.patients)
    synthetic = np.concatenate([sample.read() for sample in samples])
    nearness = measure_closeness(synthetic, *reference)
    if (label, others) not in unseen:
        class_images = read_class(_OTHER_SIDES, label, context, size_px)
        unseen[label, others] = measure_unseen(*class_images, *reference)
    result = compare_with_unseen(nearness.ratio, unseen[label, others])
    if result.chance > level:
        return set()
    near = nearness.nearest[nearness.ratio < result.threshold]
    return {images[index].file for index in near.tolist()}
