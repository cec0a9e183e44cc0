"""Features of a frozen backbone, computed once for every view of an image and shared by all heads trained on them.

With V views an image has V feature vectors, so a head trains on exactly what it would see behind the backbone. The
fingerprint covers the images, the views, the input format, the backbone and its weights, and the releases of torch and
torchvision.
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
    source: ImageSource,
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
    """Return the features of all views of a data source, float32 [n, V, D], memory-mapped read-only.

    Args:
        source: The images.
        network: Returns the network, on the device; called only if the features are not cached.
        network_inputs: What the backbone's output depends on: its name, the hash of its weights, its channels.
        form: From stored pixels to the backbone's input.
        seed: The study's seed, for the views.
        views: Views V of each image; one if `classical` is 0.
        classical: Strength of the views, 0-3.
        compute: Part of the fingerprint.
        cache: The artifact cache.
        on_progress: Called with the images done.
    """
    count = len(source.rows)
    table = view_table(seed, "views", source.name, image_count=count, views=views, classical=classical)
    inputs: dict[str, Any] = {
        "group": [source.name, source.inputs],
        "network": network_inputs,
        "format": asdict(form),
        "views": [seed, views, classical] if classical else None,
        "compute": [compute.device, compute.threads, compute.precision],
        "releases": releases("torch", "torchvision"),
    }
    what = f"features of {source.name} images"

    def build(folder: Path) -> None:
        classifier = network()
        shape = (count, table.shape[1], classifier.feature_count)
        out = np.lib.format.open_memmap(folder / "features.npy", mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here; later, in the map, it would kill the process
            with (folder / "features.npy").open("rb+") as stream:
                os.posix_fallocate(stream.fileno(), 0, out.offset + out.nbytes)
        for start in range(0, count, _BATCH):
            batch = slice(start, start + _BATCH)
            images = to_unit(torch.from_numpy(source.read(batch)).to(compute.device), form)
            for view in range(table.shape[1]):
                views_shown = torch.from_numpy(table[batch, view]).to(compute.device)
                shown = normalise(augment(images, views_shown), form)
                out[batch, view] = predict_logits(classifier.backbone, [shown], compute=compute)
            on_progress(what, min(start + _BATCH, count), count)
        out.flush()

    path = build_once(
        cache, FEATURES_STAGE, inputs, build, waiting=lambda: on_progress(f"{what}, computed elsewhere", 0, count)
    )
    features: NDArray[np.float32] = np.load(path / "features.npy", mmap_mode="r")
    return features
