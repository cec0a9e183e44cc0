"""Features of a frozen backbone: computed once for every view of an image, then every head trains on the same numbers.

With V views an image has V feature vectors, so a head trained on them sees exactly what it would see behind the backbone.
The artifact's fingerprint names the images, the views, the input format, the backbone, the file of its weights, and the
releases of torch and torchvision.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xraytune.classifier.augment import augment, view_table
from xraytune.classifier.inputs import InputFormat, normalise, to_unit
from xraytune.classifier.network import Classifier
from xraytune.classifier.train import predict_logits
from xraytune.pipeline.artifacts import build_once, releases
from xraytune.pipeline.training_set import ImageSource
from xraytune.records import Compute, Progress, ignore_progress

FEATURES_STAGE = "features-2"
_BATCH = 64


def frozen_features(
    group: ImageSource,
    network: Callable[[], Classifier],
    network_inputs: dict[str, Any],
    form: InputFormat,
    *,
    seed: int,
    views: int,
    classical: int,
    compute: Compute,
    cache: Path,
    on_progress: Progress = ignore_progress,
) -> NDArray[np.float32]:
    """Features of all views of a group, float32 [n, V, D], memory-mapped read-only.

    Args:
        group: The images.
        network: Gives the network, on the device, if its backbone has to compute anything.
        network_inputs: What the backbone's numbers depend on: its name, its weights' hash, its channels.
        form: From stored pixels to the backbone's input.
        seed: The study's seed, for the views.
        views: Views of each image; with `classical` 0 there is one.
        classical: Strength of the views, 0-3.
        compute: Where and how exactly; part of the fingerprint.
        cache: The artifact cache.
        on_progress: Told the images done.
    """
    table = view_table(seed, "views", group.name, image_count=len(group.rows), views=views, classical=classical)
    inputs: dict[str, Any] = {
        "group": [group.name, group.inputs],
        "network": network_inputs,
        "format": asdict(form),
        "views": [seed, views, classical] if classical else None,
        "compute": [compute.device, compute.threads, compute.precision],
        "releases": releases("torch", "torchvision"),
    }

    what = f"features of {group.name} images"

    def build(folder: Path) -> None:
        classifier = network()
        shape = (len(group.rows), table.shape[1], classifier.feature_count)
        out = np.lib.format.open_memmap(folder / "features.npy", mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here; later, in the map, it would kill the process
            with (folder / "features.npy").open("rb+") as stream:
                os.posix_fallocate(stream.fileno(), 0, out.offset + out.nbytes)
        for start in range(0, len(group.rows), _BATCH):
            rows = slice(start, start + _BATCH)
            pixels = torch.from_numpy(group.pixels[group.rows[rows]]).to(compute.device)
            images = to_unit(pixels, form)
            for view in range(table.shape[1]):
                parameters = torch.from_numpy(table[rows, view]).to(compute.device)
                batch = normalise(augment(images, parameters), form)
                out[rows, view] = predict_logits(classifier.backbone, [batch], compute=compute)
            on_progress(what, min(start + _BATCH, len(group.rows)), len(group.rows))
        out.flush()

    def waiting() -> None:
        on_progress(f"{what}, computed elsewhere", 0, len(group.rows))

    path = build_once(cache, FEATURES_STAGE, inputs, build, waiting=waiting)
    features: NDArray[np.float32] = np.load(path / "features.npy", mmap_mode="r")
    return features
