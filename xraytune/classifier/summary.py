"""What a network is made of: each layer with its output's shape and its parameters, and what all of it weighs.

The network is run once on torch's `meta` device, which knows shapes and computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from xraytune.classifier.network import Classifier

_BYTES_OF_A_NUMBER = 4
_MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """One layer, at one time that it runs.

    Attributes:
        name: Of the module, such as `backbone.layer4.0.conv1`.
        kind: Its class, such as `Conv2d`.
        output_shape: Of the first tensor that it gives, the batch first.
        params: Its numbers to learn; of a layer that runs several times, at its first.
        is_trained: Whether any of them is trained.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    is_trained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """A network, layer by layer in the order in which they run.

    Attributes:
        input_shape: Of a batch, [B, C, S, S].
        layers: All that compute something; containers are not among them.
        total_params: All numbers to learn.
        trainable_params: Those that are trained.
    """

    input_shape: tuple[int, ...]
    layers: tuple[LayerSummary, ...]
    total_params: int
    trainable_params: int

    @property
    def input_mebibytes(self) -> float:
        """Memory of a batch of images in float32."""
        return prod(self.input_shape) * _BYTES_OF_A_NUMBER / _MEBIBYTE

    @property
    def activations_mebibytes(self) -> float:
        """Memory of all layers' outputs and of their gradients, in float32, as if none were freed or shared."""
        return 2 * sum(prod(layer.output_shape) for layer in self.layers) * _BYTES_OF_A_NUMBER / _MEBIBYTE

    @property
    def params_mebibytes(self) -> float:
        """Memory of the parameters in float32; training adds their gradients and the optimiser's averages."""
        return self.total_params * _BYTES_OF_A_NUMBER / _MEBIBYTE


def summarise(network: Classifier, input_shape: Sequence[int]) -> ModelSummary:
    """Run a copy of the network without numbers and note every layer.

    Args:
        network: It is moved to the `meta` device: its weights are gone afterwards.
        input_shape: Of a batch of float32 images, [B, C, S, S].
    """
    parameters = [(name, parameter.numel(), parameter.requires_grad) for name, parameter in network.named_parameters()]
    network.eval().to("meta")
    calls: list[tuple[str, str, tuple[int, ...]]] = []

    def note(name: str, module: nn.Module, output: Any) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        calls.append((name, type(module).__name__, tuple(first.shape)))

    for name, module in network.named_modules():
        is_layer = not list(module.children()) or bool(module._parameters)
        if is_layer and not isinstance(module, nn.Identity):
            module.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
    with torch.inference_mode():
        network.head(network.backbone(torch.empty(*input_shape, device="meta")))

    owned: dict[str, tuple[int, bool]] = {}
    running = {name for name, _, _ in calls}
    for name, count, is_trained in parameters:
        owner = _owner(name, running)
        so_far, was_trained = owned.get(owner, (0, False))
        owned[owner] = (so_far + count, was_trained or is_trained)
    layers = []
    for name, kind, shape in calls:
        count, is_trained = owned.pop(name, (0, False))
        layers.append(LayerSummary(name=name, kind=kind, output_shape=shape, params=count, is_trained=is_trained))
    return ModelSummary(
        input_shape=tuple(input_shape),
        layers=tuple(layers),
        total_params=sum(count for _, count, _ in parameters),
        trainable_params=sum(count for _, count, is_trained in parameters if is_trained),
    )


def _owner(parameter: str, running: set[str]) -> str:
    """The innermost module around a parameter that ran: attention uses its last layer's weights without running it."""
    name = parameter.rpartition(".")[0]
    while name and name not in running:
        name = name.rpartition(".")[0]
    return name
