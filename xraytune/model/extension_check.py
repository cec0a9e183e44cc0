"""Check what an extension promises, on real images: shapes, seeds, resumption, classes, no copies.

As scikit-learn's `check_estimator`, each failure says which promise is broken and what to change.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from xraytune.base.arrays import UInt8Array
from xraytune.base.errors import ConfigError
from xraytune.base.files import StrPath, write_text
from xraytune.base.records import Progress, frozen, ignore_progress
from xraytune.data.prepare import RunContext, prepare, side_image_set
from xraytune.nets.compute import compute_here, configure_torch
from xraytune.space.extensions import EXTENSIONS, SOURCES
from xraytune.space.load import load_space
from xraytune.space.settings import Experiment
from xraytune.synth.generator_quality import label_agreement
from xraytune.synth.memorisation import find_copies
from xraytune.synth.saved_generator import resize_images
from xraytune.synth.sources.extension import ExtensionImages
from xraytune.synth.sources.source import BLOCK

_SIDE_PX = 32


@frozen
class Promise:
    """A promise of an extension.

    Attributes:
        name: What the extension promises.
        is_kept: Whether it keeps the promise.
        found: What was found.
        fix: What to change; empty if the promise is kept.
    """

    name: str
    is_kept: bool
    found: str
    fix: str = ""


def extension_check(
    extension: str | type,
    *,
    data: StrPath,
    image_size: int = 64,
    overrides: Sequence[str] = (),
    on_progress: Progress = ignore_progress,
) -> tuple[Promise, ...]:
    """Train an extension on the train side of real images, and check what it promises.

    Broken images are left out.

    Args:
        extension: `FILE.py:CLASS`, the YAML file of a program, or the class itself.
        data: Image folder, or data file (YAML).
        image_size: Side of the images in pixels.
        overrides: `setting=value`, such as `steps=100` for a shorter training.
        on_progress: Called with progress.

    Raises:
        ConfigError: The extension, a setting or the size is invalid.
        DataError: The images cannot be used.
        MachineError: A package is missing.
        TrialError: The code of the extension fails, or does not return images.
    """
    (name,) = EXTENSIONS.register([extension])
    kind = EXTENSIONS.declared[name].kind
    if kind != SOURCES.name:
        raise ConfigError(
            f"{name} is of the kind {kind}, and only generators are checked",
            fix="a search tries it on its first images",
        )
    settings_of_check = [
        f"source={name}",
        f"data.image_size={image_size}",
        *(f"{name}.{override}" for override in overrides),
    ]
    with TemporaryDirectory(prefix="xraytune-check-") as temporary:
        space = Path(temporary, "space.yaml")
        write_text(space, "name: check\n")
        experiment = load_space(space, settings_of_check, data=data).experiment()
        settings = experiment.settings
        compute = compute_here(settings)
        configure_torch(compute)
        cache = Path(temporary, "cache")
        prepared, _ = prepare(settings, cache, skip_broken=True, on_progress=on_progress)
        context = RunContext(
            prepared=prepared, cache=cache, compute=compute, on_progress=on_progress
        )
        return (*_check(experiment, context, extension),)


def _check(experiment: Experiment, context: RunContext, extension: str | type) -> Iterator[Promise]:
    source = ExtensionImages(experiment.parameters)
    settings = experiment.settings
    names = context.prepared.class_names
    reported: list[int] = []

    def report(what: str, done: int, total: int) -> None:
        context.on_progress(what, done, total)
        reported.append(done)

    started = time.monotonic()
    source.trained(settings, replace(context, on_progress=report))
    seconds = time.monotonic() - started
    found = f"trained in {seconds:.0f} s, with {len(reported)} calls of progress"
    fix = "call progress(done, total) in fit, or nobody sees how far it is"
    yield _promise("progress", bool(reported), found, fix)

    started = time.monotonic()
    blocks = [source.make_block(settings, context, label, 0) for label in range(len(names))]
    seconds = (time.monotonic() - started) / len(blocks) / BLOCK
    yield _promise("images", True, f"{blocks[0].shape[-1]} px, {seconds:.3f} s each")

    def is_first_block(number: int, context: RunContext) -> tuple[bool, str]:
        block = source.make_block(settings, context, 0, number)
        is_same = np.array_equal(block, blocks[0])
        return is_same, "the same images" if is_same else "other images"

    is_same, found = is_first_block(0, context)
    fix = "take all random numbers of sample from its seed"
    yield _promise("same seed", is_same, found, fix)

    is_same, found = is_first_block(1, context)
    fix = "take the random numbers of sample from its seed"
    yield _promise("other seed", not is_same, found, fix)

    resumed, exit_code = _train_with_kill(experiment, context, extension, len(reported) // 2)
    is_same = False
    if exit_code == -signal.SIGKILL:
        is_same, found = is_first_block(0, resumed)
        found = f"{found}, compared with a training without a kill"
        fix = "save checkpoints in folder, and take the random numbers of a step from seed and step"
    elif exit_code == 0:
        found = "not tested, since fit ended before it could be killed in a call of progress"
        fix = "call progress(done, total) in fit, the same number of times in each training"
    else:
        found = "not tested, since the process that was to be killed failed, as shown above"
        fix = "in a script, check the extension below `if __name__ == '__main__':`"
    yield _promise("killed and resumed", is_same, found, fix)

    if experiment.settings.task == "classification" and len(names) > 1:
        yield _agreement(context, blocks)
    copies, _ = find_copies(experiment, context)
    fix = "train less, or with more images; a study refuses copies"
    yield _promise("no copies", not copies, copies or "none", fix)


def _promise(name: str, is_kept: bool, found: str, fix: str = "") -> Promise:
    """Return a promise, with what to change if it is broken."""
    return Promise(name=name, is_kept=is_kept, found=found, fix="" if is_kept else fix)


def _train_with_kill(
    experiment: Experiment, context: RunContext, extension: str | type, calls: int
) -> tuple[RunContext, int | None]:
    """Train in a process that kills itself after some calls of progress.

    Returns the context of this training, whose cache is another one, and the exit code of the
    process.
    """
    cache = context.cache / "resumed"
    pixels = Path(context.prepared.pixels)
    (cache / pixels).parent.mkdir(parents=True)
    (cache / pixels).symlink_to(context.cache / pixels)
    resumed = replace(context, cache=cache)
    silent = replace(resumed, on_progress=ignore_progress)
    process = multiprocessing.get_context("spawn").Process(
        target=_train_until_killed,
        args=(extension, experiment.model_dump(mode="json"), silent, calls),
    )
    process.start()
    process.join()
    return resumed, process.exitcode


def _train_until_killed(
    extension: str | type, experiment: dict[str, object], context: RunContext, calls: int
) -> None:
    EXTENSIONS.register([extension])
    configure_torch(context.compute)
    count = 0

    def kill(*_: object) -> None:
        nonlocal count
        count += 1
        if count > calls:
            os.kill(os.getpid(), signal.SIGKILL)

    restored = Experiment.model_validate(experiment, context=Path())
    source = ExtensionImages(restored.parameters)
    source.trained(restored.settings, replace(context, on_progress=kill))


def _agreement(context: RunContext, blocks: Sequence[UInt8Array]) -> Promise:
    """Check that a linear classifier of real images finds the classes of synthetic ones."""

    def features(images: UInt8Array) -> UInt8Array:
        return resize_images(images[:, :1], _SIDE_PX).reshape(len(images), -1)

    train = side_image_set("train", context.prepared, context.cache)
    pool = np.concatenate([features(block) for block in blocks])
    labels = np.repeat(np.arange(len(blocks)), BLOCK)
    real = (features(train.read_channels()).astype(np.float64), train.labels)
    shares = label_agreement(real, (pool.astype(np.float64), labels))
    names = context.prepared.class_names
    found = ", ".join(f"{share:.0%} of {name}" for name, share in zip(names, shares, strict=True))
    found = f"a classifier of real images agrees with {found}"
    is_kept = float(np.mean(shares)) > 1 / len(names)
    fix = "check that sample uses the targets, in the order of classes"
    return _promise("classes", is_kept, found, fix)
