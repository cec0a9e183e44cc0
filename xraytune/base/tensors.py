"""Tensor files: written atomically, and read without running code that a file may contain."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from xraytune.base.errors import ArtifactError, Problem
from xraytune.base.files import is_whole_zip, require_file, write_bytes

UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(pickle.UnpicklingError, SafetensorError, AssertionError),
)
"""Raised by torch, safetensors and the use of what they return, if a file is damaged or holds something else."""


@contextmanager
def explain_unreadable(what: str, where: Path, fix: str = "") -> Iterator[None]:
    """Raise ArtifactError, with this problem, if the block raises one of UNREADABLE."""
    try:
        yield
    except UNREADABLE as error:
        raise ArtifactError(Problem(what, where, fix)) from error


def save_content(content: Mapping[str, object], path: Path) -> None:
    """Write tensors and plain Python values, replacing the previous file."""
    stream = io.BytesIO()
    torch.save(dict(content), stream)
    write_bytes(path, stream.getvalue())


def load_content(path: Path) -> dict[str, Any]:
    """Read what `save_content` wrote, with its tensors on the CPU.

    Raises:
        One of UNREADABLE: The file is damaged.
        ArtifactError: It is not a regular file, or too large.
    """
    require_file(path, "file of tensors")
    if not is_whole_zip(path):  # torch verifies no checksums
        raise ValueError("a checksum does not match, or the content is compressed")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def save_state(network: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a network's state dict as safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    # Not save_file, whose files only their owner may read.
    write_bytes(path, safetensors.torch.save(state, metadata))
