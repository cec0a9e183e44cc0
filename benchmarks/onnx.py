"""Differences between probabilities in onnxruntime and in PyTorch: three backbones, 200 X-rays each.

    make bench ONLY=onnx DATA=chest_xray WEIGHTS=weights

Each network is trained for one epoch and exported, and predicts the first 200 training images in both runtimes. This
takes half a minute on two cores with 300 images. The small CNN is trained with GAN images of 64 px, so its inputs are
matched to that resolution.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, figure
from xraytune.cores import cpu_count
from xraytune.data.decoding import decode_file
from xraytune.data.layout import list_images
from xraytune.export.onnx_model import ONNX_FILE, open_onnx
from xraytune.export.to_onnx import export_onnx
from xraytune.export.train import train
from xraytune.pipeline.bundle import open_bundle
from xraytune.records import Compute

NEEDS = ("DATA", "WEIGHTS")
_IMAGES = 200
_GAN = ("gan.image_size=64", "gan.steps=2", "gan.width=4")
_NETWORKS = {
    "mobilenet_v2, ImageNet weights": ("backbone=mobilenet_v2",),
    "resnet18, random weights": ("backbone=resnet18", "weights=none"),
    "small_cnn, matched to 64 px": ("backbone=small_cnn", "weights=none", "source=gan", "synthetic_ratio=0.1", *_GAN),
}
_QUICK = (
    "data.image_size=128",
    "data.train_patients=150",
    "classical=0",
    "budget.max_epochs=1",
    "quality.allow_memorised=true",
)


def measure() -> Iterator[Figure]:
    """Yield the largest difference of each network, in millionths."""
    data, weights = Path(os.environ["DATA"]), Path(os.environ["WEIGHTS"])
    files = list_images(data / "train")[:_IMAGES]
    space, compute = (
        Path("search_spaces/final_cpu.yaml"),
        Compute(device="cpu", threads=cpu_count(), precision="float32"),
    )
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, overrides) in enumerate(_NETWORKS.items()):
            model, given = Path(folder) / f"model-{number}", [*_QUICK, *overrides]
            train(space, out=model, data=data, weights_dir=weights, overrides=given, cache=Path(folder) / "cache")
            export_onnx(model)
            bundle = open_bundle(model)
            form = bundle.record.input_format
            pixels = np.stack([decode_file(file, form.image_size_px, form.resize).pixels for file in files])
            exact = bundle.predictor(compute).run(pixels)
            difference = float(np.abs(open_onnx(model / ONNX_FILE).run(pixels) - exact).max())
            yield figure(f"onnx: largest difference, {name}", difference * 1e6, "x 1e-6", "<= 100")
            yield figure(f"onnx: range of the probabilities, {name}", float(np.ptp(exact[:, 1])), "")
