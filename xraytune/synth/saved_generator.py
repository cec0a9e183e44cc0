"""A generator in a folder that `xraytune generator train` wrote: its record, `generator.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from xraytune.base.errors import ArtifactError, Problem
from xraytune.base.files import read_json, sha256_of
from xraytune.base.records import Compute
from xraytune.space.settings import FOLDER_NAME, GanSettings
from xraytune.synth.generator_quality import PoolReport
from xraytune.synth.masks import MaskRange

GENERATOR_FILE = "generator.json"
NETWORK_FILE = "generator.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedGenerator:
    """`generator.json`. Of the training images, it holds only hashes, neither names nor patients.

    `generators` has the SHA-256 of each file, `masks` the ranges of plausible masks. `train_images`
    includes those of the generator that training started from. `findings` are in the order that its
    network has learnt; `findings_counts` has the number of training images with each combination of
    them, such as `10?`.
    """

    version: Literal[1] = 1
    settings: GanSettings
    class_counts: dict[str, int]
    findings: tuple[str, ...] = ()
    findings_counts: dict[str, int] = field(default_factory=dict)
    train_fingerprint: str
    train_images: list[str]
    generators: dict[str, str]
    compute: Compute
    packages: dict[str, str]
    masks: MaskRange | None = None
    report: PoolReport | None = None


_RECORD = TypeAdapter(SavedGenerator)
_REPORT = TypeAdapter(PoolReport)


def read_generator(folder: Path) -> SavedGenerator:
    """Read the record of a generator.

    Raise ArtifactError if there is none, or a file is missing or damaged.
    """
    fix = "give a folder that `xraytune generator train` wrote, or train the generator again"
    if not (folder / GENERATOR_FILE).is_file():
        what = f"no generator here: {GENERATOR_FILE} is missing"
        raise ArtifactError(Problem(what, folder, fix))
    try:
        content = read_json(folder / GENERATOR_FILE)
        content["settings"] = known_settings(content["settings"])
        report = content.pop("report", None)
        with suppress(ValueError):  # an earlier version measured other figures
            content["report"] = _REPORT.validate_python(report)
        saved = _RECORD.validate_python(content)
        # Images are written into folders of these names.
        if not all(re.fullmatch(FOLDER_NAME, name) for name in saved.class_counts):
            raise ValueError("a name that is a path")
    except ValueError as error:
        what = f"{GENERATOR_FILE} is damaged, or from another version"
        raise ArtifactError(Problem(what, folder, fix)) from error
    network = folder / NETWORK_FILE
    if not network.is_file() or sha256_of(network) != saved.generators.get(NETWORK_FILE):
        raise ArtifactError(Problem("the file is missing or damaged", network, fix))
    return saved


def known_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out settings of earlier versions, which concerned only the training."""
    return {name: value for name, value in settings.items() if name in GanSettings.model_fields}
