"""Predict the classes or findings of images, in a CSV file, or their masks.

The files are listed in docs/evaluate.md.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from xraytune.base.errors import ConfigError, DataError
from xraytune.base.files import StrPath, optional_path, require_new, sha256_of
from xraytune.base.records import Progress, ignore_progress
from xraytune.data.folders import list_images, pair_folders
from xraytune.data.images import ImageFile
from xraytune.model.overlap import log_sealed
from xraytune.space.extensions import EXTENSIONS
from xraytune.tasks import TASKS
from xraytune.tasks.prediction import ImageFiles, Predicted
from xraytune.trial.saved_model import open_bundle


def predict(
    model: StrPath,
    images: StrPath,
    *,
    out: StrPath | None = None,
    skip_broken: bool = False,
    extensions: Sequence[str | type] = (),
    on_progress: Progress = ignore_progress,
) -> Predicted:
    """Predict classes or findings, written to a CSV file (see `predictions_csv`), or masks.

    If there are sealed images of the model's study, the access is logged first.

    Args:
        model: Model bundle.
        images: One image, or a folder with images at any depth; `file` is relative to it, sorted.
        out: CSV file to write, or for a segmenter the folder to create, with masks, overlays and a
            table. Classes or findings of one image need no file.
        skip_broken: Leave out broken images.
        extensions: The code of the model's backbone, if it is your own: `FILE.py:CLASS`.
        on_progress: Called with progress.

    Raises:
        ConfigError: `out` exists, or is missing.
        ArtifactError: The bundle is missing or damaged.
        DataError: There are no images, or broken ones, or the folder contains pairs.
        MachineError: The packages of a segmenter are not installed, or the test-set access log
            cannot be written.
    """
    EXTENSIONS.register(extensions)
    images = Path(images)
    out = optional_path(out)
    if out:
        require_new(out)
    bundle = open_bundle(Path(model))
    if out is None and (images.is_dir() or bundle.record.task == "segmentation"):
        raise ConfigError("-o is missing", fix="give the file or the folder to write: -o OUT")
    pairs = pair_folders(images)
    if len(pairs) == 2:
        raise DataError(
            "this is a folder of pairs, and masks are not X-rays",
            images,
            f"give only its images: {pairs['images']}",
        )
    if images.is_file():
        root = images.parent
        files = [images.name]
    else:
        root = images
        files = [*list_images(images)]
    hashed = [
        ImageFile(file=file, label=0, sha256=sha256_of(root / file))
        for file in files
        if (root / file).is_file() and os.access(root / file, os.R_OK)  # others are broken
    ]
    log_sealed(bundle, hashed, command="predict", reason="")
    image_files = ImageFiles(
        root=root, files=files, skip_broken=skip_broken, on_progress=on_progress
    )
    return TASKS[bundle.record.task].reports.write_predictions(bundle.predictor(), image_files, out)
