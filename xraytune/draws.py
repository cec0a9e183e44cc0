"""Draw the training sets and the test set of `confirm` for trainings that xraytune does not run."""

import logging
from collections.abc import Iterator
from pathlib import Path

from xraytune.base.files import StrPath, new_folder, optional_path, require_new
from xraytune.base.records import Note, Progress, ignore_progress
from xraytune.confirm.drawn import Drawn, DrawnImage, write_drawn
from xraytune.confirm.sealed import SealedTest, choose_test, decode_unbroken
from xraytune.confirm.unused import TEST
from xraytune.data.draws import DRAWS_REMEDIES
from xraytune.data.images import ImageFile, ImageTable
from xraytune.data.index import read_folder
from xraytune.data.prepare import SplitData, prepare_index
from xraytune.space.data_settings import DataSettings
from xraytune.space.load import data_settings, with_data_options
from xraytune.space.search_settings import Confirm
from xraytune.space.settings import Settings
from xraytune.synth.sources.folder import list_seen

_logger = logging.getLogger(__name__)
_SIDES = {"train": "tuning", "val_a": "validation", "val_b": "validation"}


def draws(
    data: StrPath,
    *,
    train_patients: int,
    replicates: int = 10,
    seen: StrPath | None = None,
    classes: str = "auto",
    group_regex: str | None = None,
    seed: int = 0,
    cache: StrPath | None = None,
    skip_broken: bool = False,
    out: StrPath = Path("draws"),
    on_progress: Progress = ignore_progress,
    note: Note = _logger.info,
) -> Drawn:
    """Write the training sets and the sealed test set that `confirm` would use.

    Args:
        data: A folder of classes or of pairs, or a data file (YAML) whose settings override the
            arguments.
        train_patients: How many patients each replicate is trained on.
        replicates: How often each arm is trained.
        seen: A list of the SHA-256 of images that a generator has seen, whose patients are then
            neither drawn nor scored.
        classes: As `data.classes` of a space.
        group_regex: As `data.split.group_regex` of a space.
        seed: The seed of the split.
        cache: The artifact cache; by default `cache` in the current folder.
        skip_broken: Leave out broken images, except test images.
        out: The folder to create.
        on_progress: Called with the progress of reading and decoding.
        note: Called with messages for the user.

    Raises:
        ConfigError: An option or the data file is not valid, or `out` exists.
        DataError: The images cannot be used, those of a test folder are broken, or there are too
            few patients.
    """
    data = Path(data).resolve()
    seen = optional_path(seen)
    out = Path(out)
    overrides = [f"data.train_patients={train_patients}", f"data.split.seed={seed}"]
    overrides = with_data_options(overrides, classes, group_regex)
    of_images = data_settings(data, DataSettings(path=data), overrides)
    require_new(out, outside=of_images.path)
    cache = Path(cache or "cache").resolve()
    index = read_folder(of_images, on_progress=on_progress)
    seen_sha256 = list_seen(seen) if seen else frozenset()
    prepared, warnings = prepare_index(
        index,
        of_images,
        cache,
        seen_sha256=seen_sha256,
        skip_broken=skip_broken,
        on_progress=on_progress,
    )
    for warning in warnings:
        note(warning)
    sealed = choose_test(
        Settings(
            name="draws",
            task=prepared.task,
            data=of_images,
            confirm=Confirm(replicates=replicates),
        ),
        prepared,
        replicates=replicates,
        index=index,
        seen_sha256=seen_sha256,
        remedies=DRAWS_REMEDIES,
    )
    for text in sealed.notes:
        note(text)
    if sealed.kind == "folder":  # others were decoded with the training images
        decode_unbroken(sealed, of_images, cache, on_progress=on_progress)
    drawn = Drawn(
        kind=sealed.kind,
        outputs=("dice",) if prepared.has_masks else prepared.outputs,
        findings=prepared.findings,
        positive=prepared.positive,
        train_patients=prepared.train_patient_count,
        patients={image.file: image.patient for image in sealed.images},
        labels={
            image.file: tuple(target.tolist()) if image.findings else prepared.class_names[target]
            for image, target in zip(sealed.images, sealed.images.targets, strict=True)
        },
        draws=tuple(
            tuple(sorted({*_training_images(sealed, number).patients}))
            for number in range(replicates)
        ),
        fingerprint=sealed.fingerprint,
    )
    with new_folder(out) as folder:
        write_drawn(folder, drawn, _rows(sealed, prepared, replicates))
    return drawn


def _training_images(sealed: SealedTest, number: int) -> ImageTable:
    """Return the images that a replicate trains on: of its draw or, without draws, of all."""
    draw = None if sealed.kind == "folder" else number
    return sealed.prepared.of_draw(draw).side("train")


def _rows(sealed: SealedTest, prepared: SplitData, replicates: int) -> Iterator[DrawnImage]:
    """Yield the rows of `draws.csv`: what is tuned and validated on, then draws, then the test."""

    def row(image: ImageFile, side: str, replicate: int | None = None) -> DrawnImage:
        label = ""
        if side != TEST:
            label = image.findings or prepared.class_names[image.label]
        return DrawnImage(
            replicate=replicate, side=side, file=image.file, patient=image.patient, label=label
        )

    for side, name in _SIDES.items():
        yield from (row(image, name) for image in prepared.side(side))
    for number in range(replicates):
        images = _training_images(sealed, number)
        yield from (row(image, "train", number + 1) for image in images)
    yield from (row(image, TEST) for image in sealed.images)
