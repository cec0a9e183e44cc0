"""The images that a trial trains on, real and extra, in one numbering: groups laid end to end.

A group is a run of images that share an origin and a fingerprint: the train side, a block of the synthetic pool, a
folder of extra images. Image i of the album belongs to one group, has a label, and shows any of its views.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraytune.config.settings import Experiment, Parameters
from xraytune.data.index import ImageFile, ImageIndex, read_labelled_folder
from xraytune.data.patients import PATIENTS_CSV
from xraytune.data.pixels import open_pixels
from xraytune.errors import DataError, Problem
from xraytune.mix.plan import MixPlan, plan_mix
from xraytune.pipeline.gan_folder import require_unseen
from xraytune.pipeline.known_patients import (
    ambiguous_files,
    known_patients,
    owners_by_name,
    require_no_test_patients,
)
from xraytune.pipeline.prepare import (
    Prepared,
    Side,
    pixels_inputs,
    require_pixels,
    require_unbroken,
    store_images,
    training_pixels,
)
from xraytune.pipeline.quality import refuse_memorised
from xraytune.pipeline.synthesize import blocks_for, extension_block, pool_block
from xraytune.records import Compute
from xraytune.seeding import numpy_generator

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """Images of one origin.

    Attributes:
        name: Names the group's stream of views; the same in every trial.
        pixels: uint8, memory-mapped; `rows` index it.
        rows: int64 [n].
        labels: int64 [n].
        inputs: What the pixels depend on, for the fingerprint of what is made from them.
    """

    name: str
    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    inputs: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """The groups of a trial, and which of their images are the extra ones.

    Attributes:
        groups: The first one is the real train side.
        labels: int64 [total], over all groups.
        extra: int64 [E], the numbers of the extra images; with `duplicate` a number may come more than once.
        plan: How many of each kind a step draws.
    """

    groups: tuple[ImageSource, ...]
    labels: NDArray[np.int64]
    extra: NDArray[np.int64]
    plan: MixPlan

    @property
    def real_count(self) -> int:
        """Images of the train side, which have the numbers 0 .. real_count - 1."""
        return len(self.groups[0].rows)

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The group of each image, and its place in that group; both int64 [n]."""
        ends = np.cumsum([len(group.rows) for group in self.groups])
        group = np.searchsorted(ends, numbers, side="right")
        return group, numbers - np.concatenate([[0], ends])[group]


def side_images(name: str, side: Side, prepared: Prepared, cache: Path) -> ImageSource:
    """One side of the split as a group."""
    return ImageSource(
        name=name,
        pixels=training_pixels(prepared, cache),
        rows=side.rows,
        labels=side.labels,
        inputs={"pixels": prepared.pixels, "content": prepared.pixels_sha256, "rows": side.rows.tolist()},
    )


def build_training_set(experiment: Experiment, prepared: Prepared, *, compute: Compute, cache: Path) -> TrainingSet:
    """The images of a trial; what its GAN has yet to make is made.

    Raises:
        DataError: A folder of extra images that is broken or too small for the ratio.
        TrialError: The GAN's loss is not finite.
        StudyError: The cache has lost the pixels, and the images changed since.
    """
    require_pixels(experiment.settings, prepared, cache)
    train = prepared.side("train")
    real = side_images("real", train, prepared, cache)
    plan = _plan(experiment.parameters, prepared)
    needed = plan.extra_counts(len(prepared.class_names))
    groups: tuple[ImageSource, ...]
    match experiment.parameters.source:
        case "none" | "duplicate":
            groups = ()
        case "folder":
            groups = (_folder_source(experiment, prepared, cache=cache),)
        case _:
            groups = _pool_sources(experiment, prepared, needed, compute=compute, cache=cache)
    labels = np.concatenate([group.labels for group in (real, *groups)])
    extra = np.empty(len(plan.extra_labels), dtype=np.int64)
    for label, count in enumerate(needed):
        if groups:
            ranked = len(train.labels) + np.flatnonzero(labels[len(train.labels) :] == label)
        else:
            ranked = _drawn_again(np.flatnonzero(train.labels == label), count, experiment.settings.seed, label)
        of_label = plan.extra_labels == label
        extra[of_label] = ranked[plan.extra_ordinals[of_label]]
    return TrainingSet(groups=(real, *groups), labels=labels, extra=extra, plan=plan)


def _plan(parameters: Parameters, prepared: Prepared) -> MixPlan:
    real_labels = prepared.side("train").labels
    return plan_mix(np.bincount(real_labels, minlength=len(prepared.class_names)).tolist(), parameters)


def _drawn_again(members: NDArray[np.int64], count: int, seed: int, label: int) -> NDArray[np.int64]:
    """Real images of a class in a seeded order, over and over: the `duplicate` source."""
    order = numpy_generator(seed, "duplicates", label).permutation(members)
    return np.resize(order, count)


def _pool_sources(
    experiment: Experiment, prepared: Prepared, needed: tuple[int, ...], *, compute: Compute, cache: Path
) -> tuple[ImageSource, ...]:
    """Blocks of a GAN's images, or of those that another package makes from the train side."""
    settings, source, seed = experiment.parameters.gan, experiment.parameters.source, experiment.settings.seed
    if settings is not None:
        refuse_memorised(settings, prepared, compute=compute, cache=cache)
    groups = []
    for label, count in enumerate(needed):
        for block in range(blocks_for(count)):
            if settings is not None:
                pixels, inputs = pool_block(settings, label, block, prepared, compute=compute, cache=cache)
            else:
                pixels, inputs = extension_block(source, label, block, prepared, seed=seed, cache=cache)
            rows = np.arange(len(pixels))
            labels = np.full(len(pixels), label)
            name = f"{source} {label} {block}"
            groups.append(ImageSource(name=name, pixels=pixels, rows=rows, labels=labels, inputs=inputs))
    return tuple(groups)


def _folder_source(experiment: Experiment, prepared: Prepared, *, cache: Path) -> ImageSource:
    parameters, group_regex = experiment.parameters, experiment.settings.data.split.group_regex
    assert parameters.folder is not None, "source: folder has a path"
    images, store = store_folder(parameters.folder.path, prepared, group_regex=group_regex, cache=cache)
    require_enough(images, parameters, prepared)
    labels = np.array([image.label for image in images], dtype=np.int64)
    rows = np.arange(len(images))
    return ImageSource(
        name="folder", pixels=open_pixels(store), rows=rows, labels=labels, inputs={**pixels_inputs(store)}
    )


def store_folder(
    root: Path, prepared: Prepared, *, group_regex: str | None = None, index: ImageIndex | None = None, cache: Path
) -> tuple[tuple[ImageFile, ...], Path]:
    """The images of a folder of extra ones that a trial may train on, and the artifact of their pixels, in the same order.

    Images of a patient who stands in val-A or val-B, and images that stand there bit for bit, are left out, and a
    warning is logged.

    Args:
        root: The folder.
        prepared: The study's images.
        group_regex: The study's expression, by which images may be named after its patients.
        index: The study's data folder, where patients of its sealed test folder are to be looked for.
        cache: The artifact cache.

    Raises:
        DataError: The folder, a broken image in it, none that may be used, one of a patient of the sealed test folder,
            or images of a GAN that has learnt from validation or test images.
        MachineError: The disk is full.
    """
    require_unseen(root, prepared, () if index is None else index.test)
    found = read_labelled_folder(root, prepared.class_names)
    if index is not None:
        require_no_test_patients(found, root, index, group_regex)
    # By content, so that the first ones are a fair sample whatever the files are called.
    images = tuple(sorted(_without_validation(found, root, prepared, group_regex), key=_by_content))
    store = store_images(root, images, prepared.image_size_px, prepared.resize, cache=cache)
    require_unbroken(store, root, "repair or remove them")
    return images, store


def require_enough(images: Sequence[ImageFile], parameters: Parameters, prepared: Prepared) -> None:
    """Refuse a mix that takes more images of a class than its folder of extra images has.

    Args:
        images: What `store_folder` gave.
        parameters: Of a trial with `source: folder`.
        prepared: The study's images.

    Raises:
        DataError: Says which class, and how many it has and needs.
    """
    assert parameters.folder is not None, "source: folder has a path"
    needed = _plan(parameters, prepared).extra_counts(len(prepared.class_names))
    for label, count in enumerate(needed):
        if (there := sum(image.label == label for image in images)) < count:
            what = f"{there} images of {prepared.class_names[label]}, but the mix needs {count}"
            raise DataError(Problem(what, parameters.folder.path, "add images or lower synthetic_ratio"))


def _by_content(image: ImageFile) -> tuple[str, str]:
    return image.sha256, image.file


def _without_validation(
    found: tuple[ImageFile, ...], root: Path, prepared: Prepared, group_regex: str | None
) -> tuple[ImageFile, ...]:
    """What may be trained on: validation would measure memory if its patients were among the extra images."""
    validation = [image for image in prepared.images if image.side != "train"]
    owners = owners_by_name(prepared.images)
    if ambiguous := ambiguous_files(found, root, prepared.images, group_regex, owners):
        _logger.warning(
            "%s: %d extra images, such as %s, have the name of images of the study that several patients share: they count "
            "as other patients'. If they are copies of the study's images, name the patients in %s there",
            root,
            len(ambiguous),
            ambiguous[0],
            PATIENTS_CSV,
        )
    held_back = known_patients(found, root, validation, group_regex=group_regex, owners=owners)
    kept = tuple(image for image in found if image.patient not in held_back)
    if len(kept) < len(found):
        contents = {image.sha256 for image in validation}
        identical = sum(image.sha256 in contents for image in found)
        aside = f" ({identical} of them are the very files that stand there)" if identical else ""
        what = (
            f"{len(found) - len(kept)} of {len(found)} extra images are left out: they are of patients who stand in "
            f"val-A or val-B{aside}, and training on them would flatter the scores"
        )
        if not kept:
            fix = "give images of other patients, such as those of the train side, by names of their own"
            raise DataError(Problem(what, root, fix))
        _logger.warning("%s: %s", root, what)
    return kept
