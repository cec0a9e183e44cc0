"""Layer table of a network: output shapes, parameter counts and memory, from one forward pass on torch's `meta` device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from xraytune.nets.classifier import Classifier

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


def summarise(network: nn.Module, input_shape: Sequence[int]) -> ModelSummary:
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
