"""The pretrained weights of an experiment's backbone, its number of classes, and the table of its network's layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xraytune.config.load import load_space
from xraytune.config.settings import Parameters
from xraytune.config.space import Space
from xraytune.data.index import find_class_names
from xraytune.errors import ArtifactError, ConfigError, Problem
from xraytune.files import read_json, sha256_of, write_json
from xraytune.models.summary import ModelSummary, summarise
from xraytune.models.weights import find_weights
from xraytune.pipeline.artifacts import build_once
from xraytune.pipeline.task import task_of

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


def model_summary(config: Path, *, data: Path | None = None, overrides: Sequence[str] = ()) -> ModelSummary:
    """Return the layers of the network that an experiment trains, at its batch size. Reads no image and no weights.

    Args:
        config: A YAML file; of a space, the first of its `points_to_evaluate` is used.
        data: A data folder or data file instead of the file's; read only if `data.classes: auto` counts its class folders.
        overrides: `key=value` lines that replace the file's.

    Raises:
        ConfigError: The file is invalid.
        DataError: `data.classes: auto`, and there are no class folders.
    """
    experiment = load_space(config, overrides, data=data).experiment()
    settings, parameters = experiment.settings, experiment.parameters
    build = task_of(settings).build_network
    network = build(parameters, len(find_class_names(settings.data)), weights=None, seed=settings.seed)
    side_px = settings.data.image_size
    return summarise(network, (parameters.batch_size, parameters.input_channels, side_px, side_px))


def require_two_classes(space: Space) -> None:
    """Refuse `loss: bce` and `val_sensitivity` (ConfigError) unless the images have two classes; see `find_class_names`."""
    binary = {"loss: bce": "use loss: cross_entropy"} if ("bce",) in space.combinations("loss") else {}
    if space.settings.objective.metric == "val_sensitivity":
        binary["objective.metric: val_sensitivity"] = "use val_auprc"
    for what, fix in binary.items():
        if (count := len(find_class_names(space.settings.data))) != 2:
            raise ConfigError(
                Problem(f"{what} requires two classes, but the images have {count}", space.settings.data.path, fix)
            )
