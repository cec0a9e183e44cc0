"""The last stage of a backbone, which `trainable: last_stage` trains together with all after it.

It is the layers of the coarsest resolution, found by passing the shape of an image through the
network, or the last block of a transformer, whose layers all have one resolution. A backbone of
another package says itself where it starts.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from xraytune.base.errors import ConfigError, Problem
from xraytune.space.backbones import BACKBONES

_SIDE_PX = 224
_TWO_HALVINGS = 16
"""A stage halves the sides of its input at most once.

With fewer than this many times the pixels, it has no other stage.
"""


def last_stage(backbone: str, network: nn.Module) -> str:
    """Return the name of the first module of the last stage.

    ConfigError if a custom backbone does not define it.
    """
    if not BACKBONES.has(backbone):
        return _coarsest(network)
    name: str = getattr(BACKBONES.load(backbone), "last_stage", "").rstrip(".")
    if not any(parameter.startswith(f"{name}.") for parameter, _ in network.named_parameters()):
        what = f"backbone {backbone} does not define where its last stage starts"
        raise ConfigError(Problem(what, "trainable", "set its last_stage, or use trainable: all"))
    return name


def trained_from(stage: str, network: nn.Module) -> frozenset[str]:
    """Return the names of the parameters from a stage to the end of the backbone."""
    names = [name for name, _ in network.named_parameters()]
    first = next(index for index, name in enumerate(names) if name.startswith(f"{stage}."))
    return frozenset(names[first:])


def _coarsest(network: nn.Module) -> str:
    positions: dict[str, int] = {}

    def note(layer: str, module: nn.Module, _: object, output: Tensor) -> None:
        positions[layer] = output.numel() // len(module.get_parameter("weight"))

    probe = copy.deepcopy(network).eval()
    layers = {
        name: layer
        for name, layer in probe.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    for name, layer in layers.items():
        layer.register_forward_hook(partial(note, name))
    first_weights, *_ = (layer.weight for layer in layers.values() if isinstance(layer, nn.Conv2d))
    side_px = getattr(network, "pretrained_cfg", {"input_size": (_SIDE_PX,)})["input_size"][-1]
    with torch.inference_mode():
        probe(torch.zeros(1, first_weights.shape[1], side_px, side_px, device=first_weights.device))
    # Squeeze-and-excitation layers and those after the pooling have a single position.
    several = {name: positions[name] for name in layers if positions.get(name, 1) > 1}
    first = min(several, key=several.__getitem__)
    if first == next(iter(several)):
        kinds = nn.Sequential | nn.ModuleList
        containers = {
            name: module for name, module in probe.named_modules() if isinstance(module, kinds)
        }
        longest = max(containers, key=lambda name: len(containers[name]))
        *_, (last, _) = containers[longest].named_children()
        return f"{longest}.{last}"
    parts = first.split(".")
    stages = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    return next(stage for stage in stages if _most(several, stage) < _TWO_HALVINGS * several[first])


def _most(positions: Mapping[str, int], stage: str) -> int:
    return max(count for layer, count in positions.items() if f"{layer}.".startswith(f"{stage}."))
