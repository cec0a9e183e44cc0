"""Tensors on the disk: written whole or not at all, and read without running what a file may bring along."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from xraytune.files import is_whole_zip, require_file, write_bytes

UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(pickle.UnpicklingError, SafetensorError, AssertionError),
)
"""What torch, safetensors, and a look at what they give, raise on a file that is damaged or of something else."""


def save_content(content: Mapping[str, object], path: Path) -> None:
    """Write tensors and plain Python values durably, over the file before.

    Raises:
        MachineError: The disk is full.
    """
    stream = io.BytesIO()
    torch.save(dict(content), stream)
    write_bytes(path, stream.getvalue())


def load_content(path: Path) -> dict[str, Any]:
    """What `save_content` wrote, its tensors on the CPU.

    Raises:
        One of UNREADABLE: The file is damaged.
        ArtifactError: It is no file, or too large.
    """
    require_file(path, "file of tensors")
    if not is_whole_zip(path):  # torch does not look
        raise ValueError("a checksum is not that of its bytes, or they are compressed")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def save_state(network: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a network's tensors as safetensors, under their names in its state dict.

    Raises:
        MachineError: The disk is full.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    # Not save_file, which lets nobody but the owner read.
    write_bytes(path, safetensors.torch.save(state, metadata))
