"""The pretrained weights of a backbone: their file and its SHA-256, looked up once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xraytune.base.artifacts import build_once
from xraytune.base.errors import ArtifactError, Problem
from xraytune.base.files import read_json, sha256_of, write_json
from xraytune.nets.weights import find_weights
from xraytune.space.settings import Parameters

WEIGHTS_STAGE = "weights-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """A file of weights and its SHA-256."""

    path: Path
    sha256: str


def pretrained_weights(parameters: Parameters, weights_dir: Path | None, cache: Path) -> Pretrained | None:
    """Return the weights of a trial's backbone; None if it starts from random ones.

    Raises:
        MachineError: They are missing or damaged.
        ArtifactError: The cached look-up names an unknown file.
    """
    if parameters.weights == "none":
        return None
    if weights_dir is None or Path(parameters.weights).is_file():
        return _look_up(parameters, weights_dir)
    # An official name contains the file's hash, so the names identify the contents: they are hashed once, not in each trial.
    inputs = {
        "backbone": parameters.backbone,
        "weights": parameters.weights,
        "files": sorted(file.name for file in weights_dir.glob("*")),
    }

    def build(folder: Path) -> None:
        found = _look_up(parameters, weights_dir)
        write_json(folder / "weights.json", {"file": found.path.name, "sha256": found.sha256})

    artifact = build_once(cache, WEIGHTS_STAGE, inputs, build)
    found = read_json(artifact / "weights.json")
    if found["file"] not in inputs["files"]:
        raise ArtifactError(Problem("it names a file that is not among the weights", artifact, "remove this folder"))
    return Pretrained(path=weights_dir / found["file"], sha256=found["sha256"])


def _look_up(parameters: Parameters, weights_dir: Path | None) -> Pretrained:
    file = find_weights(parameters.backbone, parameters.weights, weights_dir)
    assert file is not None, "only `none` has no file"
    return Pretrained(path=file, sha256=sha256_of(file, "file of tensors"))
