"""Tensor files, written atomically and read without running code that a file may contain."""

import io
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from xraytune.base.errors import ArtifactError, MachineError, is_out_of_memory
from xraytune.base.files import explain_disk_errors, write_bytes

UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(pickle.UnpicklingError, SafetensorError, AssertionError, zipfile.BadZipFile, zlib.error),
)
"""The errors that torch, safetensors or the use of their results raise if a file is damaged or
holds something else."""


@contextmanager
def explain_unreadable(what: str, where: Path, fix: str = "") -> Iterator[None]:
    """Raise ArtifactError, with this problem, if the block raises one of UNREADABLE.

    A file that cannot be reached now, or that does not fit into memory, is not damaged, so such
    errors are not changed.
    """
    try:
        with explain_disk_errors(where):
            yield
    except UNREADABLE as error:
        if is_out_of_memory(error):
            raise
        raise ArtifactError(what, where, fix) from error


def save_content(content: Mapping[str, object], path: Path) -> None:
    """Write tensors and plain Python values, replacing the previous file."""
    stream = io.BytesIO()
    torch.save(dict(content), stream)
    write_bytes(path, stream.getvalue())


def load_content(path: Path) -> dict[str, Any]:
    """Read what `save_content` or `torch.save` wrote, with its tensors on the CPU.

    Raises one of UNREADABLE if the file is damaged.
    """
    if zipfile.is_zipfile(path):  # old versions of torch had another format
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch verifies no checksums
                raise ValueError("a checksum does not match")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def save_state(
    state: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a network's state dict as safetensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # Files written by `save_file` could be read only by their owner.
    write_bytes(path, safetensors.torch.save(tensors, metadata))


def load_tensors(
    network: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True
) -> tuple[list[str], list[str]]:
    """Load named tensors into a network; return missing and unexpected names.

    A state dict saved by torch carries the version of each module in its metadata, by which
    torchvision translates old names. Tensors without this metadata, such as from safetensors, are
    assumed to be from the installed version. Raises RuntimeError if a shape differs or, with
    `strict`, if a name does.
    """
    state = OrderedDict(tensors)
    state._metadata = getattr(  # type: ignore[attr-defined]
        tensors,
        "_metadata",
        network.state_dict()._metadata,  # type: ignore[attr-defined]
    )
    # Encoders of segmentation-models-pytorch have a method of their own, which returns nothing.
    keys = nn.Module.load_state_dict(network, state, strict=strict)
    return keys.missing_keys, keys.unexpected_keys


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .pth or .safetensors file to the CPU, without executing anything in it.

    Raises MachineError if the file cannot be read or holds something else.
    """
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            content = load_content(path)
    except UNREADABLE as error:
        raise MachineError(
            "this weights file cannot be read",
            path,
            "use another copy: a state dict saved by torch.save, or a .safetensors file; a pickled "
            "network, as of TorchXRayVision, becomes one with examples/convert_xrv.py",
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise MachineError(
            "this file is not a state dict of named tensors",
            path,
            "save model.state_dict() alone, not a checkpoint that contains it",
        )
    bad = [name for name, value in content.items() if not value.isfinite().all()]
    # In half precision, these counters of batch norms overflow; they are not used.
    bad = [name for name in bad if not name.endswith("num_batches_tracked")]
    if bad:
        raise MachineError(
            f"values are NaN or infinite in {len(bad)} of {len(content)} tensors: {bad[0]}",
            path,
            "use the weights of an earlier epoch, or others",
        )
    return content
