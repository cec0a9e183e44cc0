"""One GAN as a folder that a person keeps, and any number of images from it.

    GAN/gan.json                                 settings, class names, hashes of the train side, versions
    GAN/generator.safetensors                    or one for each class: generator_NORMAL.safetensors ...
    GAN/grids/                                   the samples drawn while it trained, beside real images

The GAN is trained where a search trains it, in the shared cache, so that each finds what the other made. Image n of a
sample is the same however many are asked for, and the images are those that a search would train on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.compute import choose_compute, compute_like, gpu_share, pin
from xraytune.config.load import load_space
from xraytune.config.messages import nearest
from xraytune.config.settings import GanSettings
from xraytune.config.space import Space
from xraytune.data.index import ImageFile
from xraytune.errors import ArtifactError, ConfigError, DataError, Problem
from xraytune.files import (
    explained_disk_errors,
    new_folder,
    read_json,
    require_new,
    require_writable,
    sha256_of,
    write_json,
)
from xraytune.gan.checkpoint import load_generator
from xraytune.gan.pool import sample_block
from xraytune.pipeline.prepare import Prepared, is_plain_name, prepare
from xraytune.pipeline.synthesize import (
    copy_file,
    copy_grids,
    gan_inputs,
    gan_work_path,
    network_labels,
    trained_gan,
)
from xraytune.records import Compute, Json, Progress, ignore_progress

PROVENANCE_FILE = "provenance.json"
_IMAGES = "train_images"
_FINGERPRINT = "train_fingerprint"


def gan_origin(prepared: Prepared) -> dict[str, Json]:
    """What a GAN's record says of the images that it was trained on: hashes alone, no names and no patients."""
    hashes = sorted({image.sha256 for image in prepared.images if image.side == "train"})
    return {_FINGERPRINT: prepared.train_fingerprint, _IMAGES: [*hashes]}


def require_unseen(root: Path, prepared: Prepared, test: Iterable[ImageFile] = ()) -> None:
    """Refuse images of a GAN that has learnt from images of val-A, val-B or the sealed test folder.

    A GAN of other X-rays, or of some of the train side, is none. Folders that `gan sample` did not write are let through.

    Args:
        root: The folder of extra images.
        prepared: The study's images.
        test: Those of its test folder.

    Raises:
        DataError: It has, or it cannot be told.
    """
    content = _provenance(root)
    if _FINGERPRINT not in content or content[_FINGERPRINT] == prepared.train_fingerprint:
        return
    fix = "train the GAN with this study's data and data.split (`xraytune gan train`), and draw the images anew"
    learnt_from = content.get(_IMAGES)
    if not isinstance(learnt_from, list):
        what = "the GAN of these images was trained on another train side than this study's, and nothing tells which images"
        raise DataError(Problem(what, root / PROVENANCE_FILE, fix))
    learnt = {str(sha256) for sha256 in learnt_from}
    held_back = [image.sha256 for image in prepared.images if image.side != "train"] + [image.sha256 for image in test]
    if seen := sum(sha256 in learnt for sha256 in held_back):
        what = (
            f"the GAN of these images has learnt from {seen} of the {len(held_back)} images that the study holds back"
        )
        raise DataError(Problem(what, root / PROVENANCE_FILE, fix))


def _provenance(root: Path) -> dict[str, Json]:
    path = root / PROVENANCE_FILE
    if not path.is_file():
        return {}
    fix = "draw the images anew; or remove the file, if `xraytune gan sample` did not write it"
    try:
        content = read_json(path)
    except (ValueError, OSError) as error:
        raise DataError(Problem("cannot be read, and so not whose images these are", path, fix)) from error
    return content if isinstance(content, dict) else {}


_RECORD = "gan.json"
_VERSION = 1
_PACKAGES = ("xraytune", "torch", "numpy")


def _ignore_note(text: str) -> None:
    """The `note` of a caller who does not want to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedGan:
    """What `gan_train` made.

    Attributes:
        path: The folder.
        settings: Of the GAN.
        class_counts: Training images of each class.
        grids: The folder of the sample grids.
    """

    path: Path
    settings: GanSettings
    class_counts: dict[str, int]
    grids: Path

    def to_json(self) -> dict[str, Json]:
        """The record as JSON values."""
        return {
            "path": str(self.path),
            "settings": self.settings.model_dump(mode="json"),
            "class_counts": {**self.class_counts},
            "grids": str(self.grids),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GanSample:
    """What `gan_sample` made.

    Attributes:
        path: The folder, whose subfolders are the classes.
        counts: Images of each class.
        image_size_px: Their side.
    """

    path: Path
    counts: dict[str, int]
    image_size_px: int

    def to_json(self) -> dict[str, Json]:
        """The record as JSON values."""
        return {"path": str(self.path), "counts": {**self.counts}, "image_size_px": self.image_size_px}


def gan_train(
    space: Path,
    *,
    out: Path,
    data: Path | None = None,
    overrides: Sequence[str] = (),
    cache: Path | None = None,
    skip_broken: bool = False,
    note: Callable[[str], None] = _ignore_note,
    on_progress: Progress = ignore_progress,
) -> TrainedGan:
    """Train the GAN of a space file, whose `gan` settings must be fixed; interrupted, the same call goes on.

    Args:
        space: The YAML file; `gan` is a value of its `source`.
        out: Where the folder appears, whole.
        data: A data folder instead of the file's.
        overrides: `key=value` lines that replace the file's; `gan.steps=5000` fixes what the file leaves open.
        cache: The artifact cache, shared with searches; by default `cache`.
        skip_broken: Leave broken images out, and say which.
        note: Told what a person should know, such as where sample grids appear while the GAN trains.
        on_progress: Told how far the preparation and the training are.

    Raises:
        ConfigError: The file, no GAN in it or an open `gan` setting, or `out` exists.
        DataError: The images.
        MachineError: A GPU is missing, or the disk is full.
        TrialError: The GAN's loss is not finite.
    """
    require_new(out)
    loaded = load_space(space, (*overrides, "points_to_evaluate=[]"), data=data)
    settings, gan = loaded.settings, fixed_gan(loaded)
    compute = choose_compute(gpus=gpu_share(settings.resources), threads=settings.resources.cpus_per_trial)
    pin(compute)
    cache = (cache or Path("cache")).resolve()
    require_writable(cache)
    prepared, warnings = prepare(settings, cache, skip_broken=skip_broken, on_progress=on_progress)
    for warning in warnings:
        note(warning)
    networks: dict[int | None, Path] = {}
    for label in network_labels(gan, prepared):
        grids = gan_work_path(cache, gan_inputs(gan, label, prepared, compute)) / "grids"
        note(f"while it trains, sample grids appear in {grids}")
        networks[label] = trained_gan(gan, label, prepared, compute=compute, cache=cache, on_progress=on_progress)
    with new_folder(out) as folder:
        _fill(folder, networks, gan, prepared, compute)
    return TrainedGan(path=out, settings=gan, class_counts=_class_counts(prepared), grids=out / "grids")


def fixed_gan(space: Space) -> GanSettings:
    """The one GAN of a space; its other parameters may be open.

    Raises:
        ConfigError: There is none, or a `gan` setting is open; names all of them.
    """
    specs = {spec.name.removeprefix("gan."): spec for spec in space.specs if spec.name.startswith("gan.")}
    if not specs:
        what = "there is no GAN in this space: its source never is gan"
        raise ConfigError(Problem(what, space.settings.name, "add --set source=gan"))
    problems = [
        Problem(f"{spec.name} is {spec.domain}: one GAN is trained, so it must be fixed", space.settings.name, fix)
        for spec in specs.values()
        if spec.domain.is_open
        for fix in [f"add --set {spec.name}={spec.domain.corners(())[0]}"]
    ]
    if problems:
        raise ConfigError(*problems)
    return GanSettings.model_validate_json(
        json.dumps({name: spec.domain.corners(())[0] for name, spec in specs.items()})
    )


def _fill(
    folder: Path, networks: dict[int | None, Path], gan: GanSettings, prepared: Prepared, compute: Compute
) -> None:
    files = {}
    for label, artifact in networks.items():
        name = "" if label is None else prepared.class_names[label]
        file = f"generator_{name}.safetensors" if name else "generator.safetensors"
        copy_file(artifact / "generator.safetensors", folder / file)
        copy_grids(artifact / "grids", folder / "grids" / name)
        files[file] = sha256_of(folder / file)
    record = {
        "version": _VERSION,
        "settings": gan.model_dump(mode="json"),
        "class_counts": _class_counts(prepared),
        **gan_origin(prepared),
        "generators": files,
        "compute": asdict(compute),
        "packages": {name: version(name) for name in _PACKAGES},
    }
    write_json(folder / _RECORD, record)


def _class_counts(prepared: Prepared) -> dict[str, int]:
    counts = np.bincount(prepared.side("train").labels, minlength=len(prepared.class_names)).tolist()
    return dict(zip(prepared.class_names, counts, strict=True))


def gan_sample(
    gan: Path,
    *,
    count: int,
    out: Path,
    class_name: str | None = None,
    on_progress: Progress = ignore_progress,
) -> GanSample:
    """Draw images of a GAN as grey PNG in class folders, with a `provenance.json` that says where they are from.

    Args:
        gan: A folder that `gan_train` made.
        count: How many; 100 are the first 100 of 500.
        out: Where the class folders appear, whole; usable as `source: folder`.
        class_name: This class alone; by default the classes have the shares that they had in training.
        on_progress: Told how many are drawn.

    Raises:
        ArtifactError: `gan` is no such folder, or a file of it is damaged.
        ConfigError: No class of this name, a count below 1, or `out` exists.
        MachineError: The disk is full.
    """
    require_new(out)
    if count < 1:
        raise ConfigError(Problem(f"cannot draw {count} images", fix="give 1 or more"))
    record = _read_record(gan)
    settings, class_counts = record.settings, record.class_counts
    names = list(class_counts)
    if class_name is not None and class_name not in names:
        raise ConfigError(
            Problem(
                f"no class {class_name!r} in this GAN", gan, nearest(class_name, names, f"it has {', '.join(names)}")
            )
        )
    compute = compute_like(record.compute, threads=record.compute.threads)
    pin(compute)
    weights = list(class_counts.values()) if class_name is None else [int(name == class_name) for name in names]
    images = {
        label: _images(gan, settings, label, names[label], compute) for label, weight in enumerate(weights) if weight
    }
    drawn = dict.fromkeys((names[label] for label in images), 0)
    with explained_disk_errors(out), new_folder(out) as folder:
        for name in drawn:
            (folder / name).mkdir()
        for number, label in enumerate(islice(shared_out(weights), count), start=1):
            name = names[label]
            Image.fromarray(next(images[label])).save(folder / name / f"gan_{number:06d}.png")
            drawn[name] += 1
            on_progress("drawing GAN images", number, count)
        write_json(
            folder / PROVENANCE_FILE, {**record.content, "compute": asdict(compute), "count": count, "counts": drawn}
        )
    return GanSample(path=out, counts=drawn, image_size_px=settings.image_size)


def shared_out(weights: Sequence[int]) -> Iterator[int]:
    """Positions without end, in which each stands as often as its weight says; every beginning is as fair as can be.

    Each place goes to the weight that is furthest behind its share, the first of equals.
    """
    given = [0] * len(weights)
    for place in count_from(1):
        behind = [weight * place - sum(weights) * got for weight, got in zip(weights, given, strict=True)]
        chosen = behind.index(max(behind))
        given[chosen] += 1
        yield chosen


def _images(gan: Path, settings: GanSettings, label: int, name: str, compute: Compute) -> Iterator[NDArray[np.uint8]]:
    """The images of a class, without end: block after block of the pool that a search would use."""
    file = gan / ("generator.safetensors" if settings.conditional else f"generator_{name}.safetensors")
    generator = load_generator(file).to(compute.device)
    for block in count_from():
        yield from sample_block(
            generator, label if settings.conditional else 0, block, seed=settings.seed, compute=compute
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What `gan.json` says: of it, what drawing needs, and all of it as it was read."""

    settings: GanSettings
    class_counts: dict[str, int]
    compute: Compute
    content: dict[str, Any]


def _read_record(gan: Path) -> _Record:
    fix = "give a folder that `xraytune gan train` made, or make it again"
    try:
        content: dict[str, Any] = read_json(gan / _RECORD)
        files = dict(content["generators"])
        record = _Record(
            settings=GanSettings.model_validate_json(json.dumps(content["settings"])),
            class_counts=dict(content["class_counts"]),
            compute=Compute(**content["compute"]),
            content=content,
        )
        if not all(map(is_plain_name, (*files, *record.class_counts))):
            raise ValueError("a name that is a path")
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(Problem(f"no GAN here: {_RECORD} is missing", gan, fix)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(Problem(f"{_RECORD} is damaged, or of another version", gan, fix)) from error
    for name, sha256 in files.items():
        if not (gan / name).is_file() or sha256_of(gan / name, "file of tensors") != sha256:
            raise ArtifactError(Problem("the file is missing or damaged", gan / name, fix))
    return record
