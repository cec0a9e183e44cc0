"""The layers of an experiment's network: output shapes, parameters and memory, by a forward pass on the `meta` device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xraytune.data.index import find_class_names
from xraytune.nets.classifier import Classifier
from xraytune.space.load import load_space
from xraytune.trial.task import task_of

_MEBIBYTES_PER_FLOAT = 4 / 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """One call of a layer, such as `backbone.layer4.0.conv1` of kind `Conv2d`; further calls of it have 0 `params`."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    is_trained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """A network with its layers, without containers, in the order of their calls; memory is that of float32."""

    input_shape: tuple[int, ...]
    layers: tuple[LayerSummary, ...]
    total_params: int
    trainable_params: int

    @property
    def input_mebibytes(self) -> float:
        """Memory of a batch of images."""
        return prod(self.input_shape) * _MEBIBYTES_PER_FLOAT

    @property
    def activations_mebibytes(self) -> float:
        """Memory of all outputs and their gradients, if none were freed or shared."""
        return 2 * sum(prod(layer.output_shape) for layer in self.layers) * _MEBIBYTES_PER_FLOAT

    @property
    def params_mebibytes(self) -> float:
        """Memory of the parameters, without gradients and optimizer state."""
        return self.total_params * _MEBIBYTES_PER_FLOAT


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
    class_count, side_px = len(find_class_names(settings.data)), settings.data.image_size
    network = task_of(settings).build_network(parameters, class_count, weights=None, seed=settings.seed)
    return summarise_layers(network, (parameters.batch_size, parameters.input_channels, side_px, side_px))


def summarise_layers(network: nn.Module, input_shape: Sequence[int]) -> ModelSummary:
    """Run the network on a batch of shape [B, C, S, S]; moves it to the `meta` device, which discards its weights."""
    network.eval().to("meta")
    calls: list[tuple[str, str, tuple[int, ...]]] = []

    def record(name: str, module: nn.Module, _: Any, output: Any) -> None:
        first: Tensor = output if isinstance(output, Tensor) else output[0]
        calls.append((name, type(module).__name__, tuple(first.shape)))

    for name, module in network.named_modules():
        is_layer = not list(module.children()) or bool(module._parameters)
        if is_layer and not isinstance(module, nn.Identity):
            module.register_forward_hook(partial(record, name))
    images = torch.empty(*input_shape, device="meta")
    with torch.inference_mode():
        # A classifier's `forward` enters autocast, which does not know this device.
        network.head(network.backbone(images)) if isinstance(network, Classifier) else network(images)

    # A parameter belongs to the innermost module that was called: attention uses its projection without calling it.
    called = {name for name, _, _ in calls}
    counts, trained = Counter[str](), Counter[str]()
    for name, parameter in network.named_parameters():
        owner = name.rpartition(".")[0]
        while owner and owner not in called:
            owner = owner.rpartition(".")[0]
        counts[owner] += parameter.numel()
        trained[owner] += parameter.numel() * parameter.requires_grad
    total, trainable = counts.total(), trained.total()
    layers = tuple(
        LayerSummary(
            name=name, kind=kind, output_shape=shape, params=counts.pop(name, 0), is_trained=trained.pop(name, 0) > 0
        )
        for name, kind, shape in calls
    )
    return ModelSummary(input_shape=tuple(input_shape), layers=layers, total_params=total, trainable_params=trainable)
