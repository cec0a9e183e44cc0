"""Draw the training sets and the test set of `confirm` for trainings that xraytune does not run."""

from collections.abc import Iterator
from pathlib import Path

from xraytune.base.files import StrPath, new_folder, optional_path, require_new
from xraytune.base.records import Progress, ignore_progress
from xraytune.confirm.drawn import Drawn, DrawnImage, write_drawn
from xraytune.confirm.sealed import TEST, SealedTest, choose_test
from xraytune.data.images import ImageFile, ImageTable
from xraytune.data.index import read_index
from xraytune.data.prepare import SplitData, prepare_index
from xraytune.space.settings import Settings
from xraytune.synth.sources.folder import list_seen

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
    out: StrPath = Path("draws"),
    on_progress: Progress = ignore_progress,
) -> Drawn:
    """Write the training sets and the sealed test set that `confirm` would use.

    Args:
        data: An image folder, or a data file (YAML).
        train_patients: How many patients each replicate is trained on.
        replicates: How often each arm is trained.
        seen: A list of the SHA-256 of images that a generator has seen, whose patients are then
            neither drawn nor scored.
        classes: As `data.classes` of a space.
        group_regex: As `data.split.group_regex` of a space.
        seed: The seed of the split.
        cache: The artifact cache; by default `cache` in the current folder.
        out: The folder to create.
        on_progress: Called with the progress of reading and decoding.

    Raises:
        ConfigError: An option is not valid, or `out` exists.
        DataError: The images cannot be used, or there are too few patients.
    """
    data = Path(data)
    seen = optional_path(seen)
    out = Path(out)
    require_new(out, outside=data)
    split = {"seed": seed, "group_regex": group_regex}
    settings = Settings.model_validate(
        {
            "name": "draws",
            "data": {
                "path": data.resolve(),
                "classes": classes,
                "train_patients": train_patients,
                "split": split,
            },
            "confirm": {"replicates": replicates},
        }
    )
    cache = Path(cache or "cache").resolve()
    index = read_index(settings.data, on_progress=on_progress)
    excluded = list_seen(seen) if seen else frozenset()
    prepared, _ = prepare_index(index, settings.data, cache, seen=excluded, on_progress=on_progress)
    sealed = choose_test(settings, prepared, replicates=replicates, index=index, seen=excluded)
    drawn = Drawn(
        kind=sealed.kind,
        outputs=prepared.outputs,
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
