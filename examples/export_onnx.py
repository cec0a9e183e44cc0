"""Export the network of a model bundle to ONNX, with its normalisation, and compare it with PyTorch.

    uv run examples/export_onnx.py MODEL model.onnx

The input `pixels` is uint8 [n, S, S], decoded as in docs/final-model.md. The output is float32: the
probability of each class or finding, [n, C], or of the mask, [n, S, S].
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["xraytune", "onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.3"]
# ///

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from xraytune.base.records import Compute
from xraytune.nets.inputs import normalise
from xraytune.trial.saved_model import Bundle, open_bundle


class FromPixels(nn.Module):
    """Map square grey images, uint8 [n, S, S], to probabilities."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.network = bundle.network(Compute(device="cpu", threads=1, precision="float32"))
        self.record = bundle.record

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the probabilities of each class, of each finding, or of the mask."""
        logits = self.network(normalise(pixels[:, None] / 255, self.record.input_format))
        if self.record.task == "segmentation":
            return logits[:, 0].sigmoid()
        return logits.sigmoid() if self.record.task == "findings" else logits.softmax(dim=1)


def main(model: Path, out: Path) -> None:
    """Export the model and check the file."""
    network = FromPixels(open_bundle(model)).eval()
    input_format = network.record.input_format
    pixels = torch.randint(
        256, (2, input_format.image_size_px, input_format.image_size_px), dtype=torch.uint8
    )
    dynamic = ({0: torch.export.Dim("images")},)
    torch.onnx.export(
        network, (pixels,), out, input_names=["pixels"], dynamic_shapes=dynamic, external_data=False
    )
    (found,) = onnxruntime.InferenceSession(out).run(None, {"pixels": pixels.numpy()})
    np.testing.assert_allclose(found, network(pixels), atol=1e-4)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
