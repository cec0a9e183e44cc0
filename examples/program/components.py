"""A program that knows nothing of xraytune: random sums of the principal components of each class."""

import json
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
from PIL import Image

parser = ArgumentParser()
parser.add_argument("command", choices=["fit", "sample"])
for option in ("--images", "--model", "--out"):
    parser.add_argument(option, type=Path)
for option in ("--components", "-n", "--seed"):
    parser.add_argument(option, type=int)
parser.add_argument("--class", dest="class_name")
given = parser.parse_args()

if given.command == "fit":
    folders = sorted(given.images.iterdir())
    for done, folder in enumerate(folders, start=1):
        images = np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())])
        mean = images.mean(axis=0)
        rows = (images - mean).reshape(len(images), -1)
        _, sizes, axes = np.linalg.svd(rows / len(rows) ** 0.5, full_matrices=False)
        scaled = (sizes[:, None] * axes)[: given.components]
        np.savez(given.out / f"{folder.name}.npz", mean=mean, components=scaled)
        print(json.dumps({"done": done, "total": len(folders)}), flush=True)
else:
    with np.load(given.model / f"{given.class_name}.npz") as model:
        mean, components = model["mean"], model["components"]
    codes = np.random.default_rng(given.seed).standard_normal((given.n, len(components)))
    images = mean + (codes @ components).reshape(-1, *mean.shape)
    for number, image in enumerate(images.clip(0, 255).astype(np.uint8)):
        Image.fromarray(image).save(given.out / f"{number:06d}.png")
