"""Export a model bundle to an ONNX file (`onnx_model.py`), and check it against PyTorch.

Resolution matching becomes matrix products: resizing is linear in rows and columns, and the interpolation operators of
PyTorch and onnxruntime round differently. The network is exported in float32, regardless of its training precision.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraytune.cores import cpu_count
from xraytune.data.phantom import DEFAULT_DIFFICULTY, draw_patient
from xraytune.errors import ArtifactError, ConfigError, Problem
from xraytune.export.onnx_model import INPUT, ONNX_FILE, OUTPUT, RECORD, OnnxRecord, open_onnx, require_installed
from xraytune.files import require_new, write_bytes
from xraytune.models.inputs import normalise
from xraytune.pipeline.bundle import open_bundle
from xraytune.pipeline.predictor import ModelRecord, Pixels
from xraytune.records import Compute

OPSET = 18
"""Supported by onnxruntime 1.14 (February 2023) and later."""
LARGEST_DIFFERENCE = 1e-4
"""Between probabilities in onnxruntime and in PyTorch."""
_PHANTOMS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedOnnx:
    """An ONNX file, and the largest difference between its probabilities and PyTorch's, on phantoms."""

    path: Path
    largest_difference: float


class FromPixels(nn.Module):
    """Map square images, uint8 [n, S, S], to the probabilities of `Predictor.run`."""

    def __init__(self, network: nn.Module, record: ModelRecord) -> None:
        """Take a network and the record with its input format."""
        super().__init__()
        self.network, self.form, self.has_masks = network, record.input_format, record.task == "segmentation"
        size_px = self.form.image_size_px
        resolution_px = min(size_px, self.form.resolution_px or size_px)
        self.is_matched = resolution_px < size_px
        # Resizing the rows of an identity matrix gives the matrix that resizes the rows of any image.
        eyes = torch.eye(size_px)[None, None], torch.eye(resolution_px)[None, None]
        down = F.interpolate(eyes[0], size=(resolution_px, size_px), mode="bilinear", antialias=True)
        up = F.interpolate(eyes[1], size=(size_px, resolution_px), mode="bilinear")
        self.down, self.up = nn.Buffer(down[0, 0]), nn.Buffer(up[0, 0])

    def forward(self, pixels: Tensor) -> Tensor:
        """Return probabilities."""
        images = pixels[:, None].float()
        if self.is_matched:  # columns first, as PyTorch does
            images = (self.down @ (images @ self.down.T)).round()
            images = self.up @ (images @ self.up.T)
        logits: Tensor = self.network(normalise(images / 255, self.form))
        return logits[:, 0].sigmoid() if self.has_masks else logits.double().softmax(dim=1)


def export_onnx(model: Path, *, out: Path | None = None) -> ExportedOnnx:
    """Export a model to an ONNX file with all that `predict` needs, unless its probabilities differ from PyTorch's.

    Args:
        model: Model bundle.
        out: File to write; default: `model.onnx` in the bundle, where `predict --runtime onnx` finds it.

    Raises:
        ConfigError: `out` exists, or the network has an operator that ONNX does not support.
        ArtifactError: The bundle is missing or damaged, or a probability differs by more than `LARGEST_DIFFERENCE`.
        MachineError: onnx, onnxscript or onnxruntime is not installed.
    """
    out = out or model / ONNX_FILE
    require_new(out)
    require_installed("onnx", "onnxscript", "onnxruntime")
    bundle = open_bundle(model)
    compute = Compute(device="cpu", threads=cpu_count(), precision="float32")
    shared = {name: getattr(bundle.record, name) for name in ModelRecord.model_fields}
    record = OnnxRecord(**shared, model_sha256=bundle.model_sha256)
    size_px = record.input_format.image_size_px
    pixels = np.stack([next(draw_patient(0, one, size_px, DEFAULT_DIFFICULTY)).pixels for one in range(_PHANTOMS)])
    network, metadata = FromPixels(bundle.network(compute), record), {RECORD: record.model_dump_json()}
    content = to_onnx(network, pixels[:2], metadata, model)
    difference = float(np.abs(open_onnx(out, content).run(pixels) - bundle.predictor(compute).run(pixels)).max())
    if difference > LARGEST_DIFFERENCE:
        what = f"its probabilities in onnxruntime differ from those in PyTorch by up to {difference:.1e}"
        raise ArtifactError(Problem(what, model, f"predict with PyTorch; the limit is {LARGEST_DIFFERENCE:g}"))
    write_bytes(out, content)
    return ExportedOnnx(path=out, largest_difference=difference)


def to_onnx(network: nn.Module, example: Pixels, metadata: dict[str, str], where: Path) -> bytes:
    """Return a network as an ONNX file with this metadata; ConfigError if it has an unsupported operator."""
    options: dict[str, Any] = {"opset_version": OPSET, "dynamic_shapes": ({0: torch.export.Dim("images")},)}
    options |= {"input_names": [INPUT], "output_names": [OUTPUT], "verbose": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations within the exporter
            program = torch.onnx.export(network.eval(), (torch.from_numpy(example),), **options)
    except torch.onnx.OnnxExporterError as error:
        what = f"the network cannot be exported to ONNX: {error.__cause__ or error}".partition("\n")[0]
        raise ConfigError(Problem(what, where, "predict with PyTorch, or train another backbone")) from error
    assert program is not None, "only the older exporter returns None"
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces, with paths of this machine
    program.model.metadata_props.update(metadata)
    content: bytes = program.model_proto.SerializeToString()
    return content
