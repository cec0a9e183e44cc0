"""Train a generator once for all trials that need it, and resume after a kill.

A trained generator is an artifact. During training, its files are in a work folder with the same
fingerprint, from which any process can resume; a longer run starts from the longest finished
shorter one.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xraytune.base.artifacts import (
    MANIFEST,
    artifact_path,
    artifacts_of,
    build_once,
    is_intact,
    start_folder,
)
from xraytune.base.files import TEMPORARY_NAME, copy_file, new_folder
from xraytune.synth.generator_inputs import length_of, without_length


def train_once(
    cache: Path,
    stage: str,
    inputs: dict[str, Any],
    train: Callable[[Path], None],
    *,
    waiting: Callable[[], None],
) -> Path:
    """Return the artifact of a generator, and train the generator first if the artifact is missing.

    `train(folder)` leaves the trained generator in a folder, which may have the files of an earlier
    call that was killed, or those of a shorter run. While another process trains the generator,
    `waiting` is called.
    """
    work = artifact_path(cache, f"{stage}.work", inputs)
    training = work / "training"

    def build(folder: Path) -> None:
        start_folder(cache, f"{stage}.work", inputs)
        if not training.exists():
            with new_folder(training) as new:
                _copy_shorter_run(cache, stage, inputs, new)
        train(training)
        _copy_files(training, folder)

    path = build_once(cache, stage, inputs, build, waiting=waiting)
    shutil.rmtree(work, ignore_errors=True)
    return path


def _copy_shorter_run(cache: Path, stage: str, inputs: dict[str, Any], folder: Path) -> None:
    """Copy the longest finished run that is shorter, if there is one."""
    shorter = {
        length_of(other): path
        for path, other in artifacts_of(cache, stage)
        if without_length(other) == without_length(inputs)
    }
    for length in sorted(shorter, reverse=True):
        if length < length_of(inputs) and is_intact(shorter[length]):
            _copy_files(shorter[length], folder)
            return


def _copy_files(source: Path, target: Path) -> None:
    for file in sorted(source.rglob("*")):
        is_left_over = TEMPORARY_NAME.fullmatch(file.name) is not None
        if file.is_file() and file != source / MANIFEST and not is_left_over:
            copy_file(file, target / file.relative_to(source))
