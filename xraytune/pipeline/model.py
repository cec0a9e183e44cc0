"""The network of an experiment: its pretrained weights, how images become its inputs, and its table of layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xraytune.classifier.inputs import InputFormat, input_format, normalise, to_unit
from xraytune.classifier.network import Classifier, build_classifier, build_head
from xraytune.classifier.summary import ModelSummary, summarise
from xraytune.classifier.weights import find_weights
from xraytune.config.backbone_names import BACKBONES
from xraytune.config.load import load_space
from xraytune.config.settings import DataSettings, Experiment, Parameters
from xraytune.config.space import Space
from xraytune.data.layout import class_names_of, part_folders
from xraytune.data.patients import find_table
from xraytune.errors import ArtifactError, ConfigError, Problem
from xraytune.files import read_json, sha256_of, write_json
from xraytune.pipeline.artifacts import build_once
from xraytune.pipeline.features import frozen_features
from xraytune.pipeline.prepare import Prepared
from xraytune.pipeline.training_set import ImageSource, side_images
from xraytune.records import Compute, Progress, ignore_progress

WEIGHTS_STAGE = "weights-1"
VAL_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """A file of weights and its SHA-256."""

    path: Path
    sha256: str


def pretrained_weights(parameters: Parameters, weights_dir: Path | None, cache: Path) -> Pretrained | None:
    """The weights of a trial's backbone; None if it starts from random ones.

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


class Network:
    """The network of an experiment, and how images become its inputs. It is built on first use: cached features avoid it.

    Attributes:
        form: From stored pixels to the network's input.
    """

    def __init__(
        self,
        experiment: Experiment,
        prepared: Prepared,
        *,
        cache: Path,
        compute: Compute,
        on_progress: Progress = ignore_progress,
    ) -> None:
        self.experiment, self.compute = experiment, compute
        self._cache, self._on_progress = cache, on_progress
        self._class_count = len(prepared.class_names)
        self._weights = pretrained_weights(experiment.parameters, experiment.settings.weights_dir, cache)
        mean, std = _grey_statistics(side_images("train", prepared, cache))
        self.form: InputFormat = input_format(experiment, train_mean=mean, train_std=std)

    @cached_property
    def whole(self) -> Classifier:
        """Backbone and head, on the device."""
        path, seed = self._weights.path if self._weights else None, self.experiment.settings.seed
        network = build_classifier(self.experiment.parameters, self._class_count, weights=path, seed=seed)
        return network.to(self.compute.device)

    def head(self, feature_count: int) -> nn.Module:
        """A new head, on the device."""
        seed = self.experiment.settings.seed
        head = build_head(self.experiment.parameters, feature_count, self._class_count, seed=seed)
        return head.to(self.compute.device)

    @property
    def has_cached_features(self) -> bool:
        """Whether the backbone is frozen and sees the same views in every epoch, so that its features are computed once."""
        return self.experiment.parameters.trainable == "head" and view_count(self.experiment) > 0

    def features(self, source: ImageSource, *, classical: int) -> NDArray[np.float32]:
        """The backbone's features of all views of a source, float32 [n, V, D]."""
        parameters = self.experiment.parameters
        return frozen_features(
            source,
            lambda: self.whole,
            {
                "backbone": BACKBONES.identity(parameters.backbone),
                "input_channels": parameters.input_channels,
                "weights": self._weights.sha256 if self._weights else None,
            },
            self.form,
            seed=self.experiment.settings.seed,
            views=parameters.views,
            classical=classical,
            compute=self.compute,
            cache=self._cache,
            on_progress=self._on_progress,
        )

    def scaled(self, source: ImageSource, places: NDArray[np.int64]) -> Tensor:
        """Images of a source on the device, float32 [n, 1, S, S] in [0, 1]."""
        return to_unit(torch.from_numpy(source.read(places)).to(self.compute.device), self.form)

    def batches(self, source: ImageSource) -> Iterator[Tensor]:
        """Inputs of all images of a source in order, unaugmented: batches of [n, C, S, S], or one of features [n, D]."""
        if self.has_cached_features:
            features = self.features(source, classical=0)
            yield torch.from_numpy(np.array(features[:, 0])).to(self.compute.device)
            return
        for start in range(0, len(source.rows), VAL_BATCH):
            places = np.arange(start, min(start + VAL_BATCH, len(source.rows)))
            yield normalise(self.scaled(source, places), self.form)


def view_count(experiment: Experiment) -> int:
    """Views of each image: one without augmentation, 0 if they are drawn afresh in every step."""
    return experiment.parameters.views if experiment.parameters.classical else 1


def _grey_statistics(source: ImageSource) -> tuple[float, float]:
    """Mean and standard deviation of the pixels, in [0, 1]; from the histogram of their 256 values."""
    histogram = np.zeros(256, dtype=np.int64)
    for start in range(0, len(source.rows), 512):
        histogram += np.bincount(source.read(slice(start, start + 512)).ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = float((histogram * values).sum() / histogram.sum())
    std = float(np.sqrt((histogram * (values - mean) ** 2).sum() / histogram.sum()))
    return mean, std


def model_summary(config: Path, *, data: Path | None = None, overrides: Sequence[str] = ()) -> ModelSummary:
    """Return the layers of the network that an experiment trains, at its batch size. Reads no image and no weights.

    Args:
        config: A YAML file; of a space, the first of its `points_to_evaluate` is used.
        data: A data folder instead of the file's; read only if `data.classes: auto` counts its class folders.
        overrides: `key=value` lines that replace the file's.

    Raises:
        ConfigError: The file is invalid.
        DataError: `data.classes: auto`, and there are no class folders.
    """
    experiment = load_space(config, overrides, data=data).experiment()
    settings, parameters = experiment.settings, experiment.parameters
    network = build_classifier(parameters, class_count(settings.data), weights=None, seed=settings.seed)
    side_px = settings.data.image_size
    return summarise(network, (parameters.batch_size, parameters.input_channels, side_px, side_px))


def require_two_classes(space: Space) -> None:
    """Refuse `loss: bce` (ConfigError) unless the images have two classes; see `class_count`."""
    if ("bce",) in space.combinations("loss") and (count := class_count(space.settings.data)) != 2:
        what = f"loss: bce is for two classes, and the images have {count}"
        raise ConfigError(Problem(what, space.settings.data.path, "use loss: cross_entropy"))


def class_count(settings: DataSettings) -> int:
    """Return the number of classes; only `classes: auto` reads the data folder.

    Raises:
        DataError: `classes: auto`, and there are fewer than two class folders.
    """
    counts = {"binary": 2, "three": 3}
    if settings.classes in counts:
        return counts[settings.classes]
    root = settings.path
    return len(class_names_of("auto", part_folders(root)["train"], root, find_table(root)))
