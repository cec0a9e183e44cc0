"""Can the training images of a saved generator be told from unseen ones? Asked before the generator is shared.

The training images and as many of val-A and val-B are attacked: by the distance to the nearest of many samples, and by how
well the generator reconstructs an image from an optimised code. Copies among the samples are counted as in a trial.

Source: membership inference by distance to samples and by reconstruction: Chen et al. 2020, "GAN-Leaks" (arXiv:1909.03935).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from xraytune.base.errors import ArtifactError
from xraytune.base.seeding import numpy_generator
from xraytune.data.prepare import RunContext
from xraytune.stats.classification import auroc
from xraytune.synth.checkpoint import load_generator
from xraytune.synth.memorisation import Memorisation, closeness, compare_with_unseen, unseen_closeness
from xraytune.synth.memorisation_gate import class_images, copies_found
from xraytune.synth.networks import Generator
from xraytune.synth.pool import BLOCK
from xraytune.synth.saved_generator import SavedGenerator, draw_saved, generator_file
from xraytune.synth.sources import block_findings
from xraytune.synth.train import resize_pixels

MOST_MEMBERSHIP = 0.55
_SAMPLES, _ATTACKED = 10_000, 256
"""Samples of all classes, and the most images of a class and kind that are attacked."""
_COMPARED_PX = 32
_CODE_STEPS, _CODE_RATE = 60, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What the samples and the network of a generator reveal about its training images.

    Attributes:
        samples: Number of samples.
        copies: Which of them copy training images; "" if no more than chance explains.
        membership: AUROC of each attack that tells training images from unseen ones; .5 is a guess.
    """

    samples: int
    copies: str
    membership: Mapping[str, float]

    @property
    def refusal(self) -> str:
        """Why the generator should not be shared; "" if nothing was found."""
        worst = max(self.membership.values())
        if self.copies:
            return f"samples copy training images: {self.copies}"
        if worst > MOST_MEMBERSHIP:
            return f"training images can be told from unseen ones: AUROC {worst:.2f}, more than {MOST_MEMBERSHIP}"
        return ""

    def __str__(self) -> str:
        attacks = ", ".join(f"{value:.2f} by {name}" for name, value in self.membership.items())
        copies = self.copies or "no more than chance explains"
        return f"membership AUROC {attacks}; copies among {self.samples:,} samples: {copies}"


def measure_privacy(folder: Path, saved: SavedGenerator, context: RunContext) -> Privacy:
    """Attack a saved generator with the images of its study; `folder` has its files."""
    prepared, size_px = context.prepared, saved.settings.image_size
    blocks = -(-_SAMPLES // (BLOCK * len(prepared.class_names)))
    by_class, attacks, total = dict[str, Memorisation](), dict[str, list[float]](), 0
    for label, name in enumerate(prepared.class_names):
        drawn = []
        for block in range(blocks):
            seed, compute = saved.settings.seed, context.compute
            findings = block_findings(prepared, block, seed, "natural")
            block_images = draw_saved(folder, saved, name, block, seed=seed, compute=compute, findings=findings)
            drawn.append(block_images.pixels)
            context.on_progress(
                "drawing samples to look for copies", label * blocks + block + 1, len(prepared.class_names) * blocks
            )
        samples = np.concatenate(drawn)
        total += len(samples)
        images, targets, patients = class_images(("train",), label, size_px, context)
        others, other_targets, other_patients = class_images(("val_a", "val_b"), label, size_px, context)
        to_train = closeness(samples, images, patients)
        by_class[name] = compare_with_unseen(to_train.ratio, unseen_closeness(others, other_patients, images, patients))
        count = min(len(images), len(others), _ATTACKED)
        random = numpy_generator(saved.settings.seed, "attacked", label)
        members, strangers = random.permutation(len(images))[:count], random.permutation(len(others))[:count]
        attacked = np.concatenate([images[members], others[strangers]])
        known = np.concatenate([targets[members], other_targets[strangers]])
        is_member = np.arange(2 * count) < count
        scores = {"the nearest sample": distances_to_nearest(attacked, samples)}
        network = load_generator(folder / generator_file(None if saved.settings.conditional else name))
        if isinstance(network, Generator) and network.channels == 1:
            scores["reconstruction"] = _reconstruction(network.to(context.compute.device), attacked, known, context)
        for attack, distance in scores.items():
            probabilities = np.stack([distance, -distance], axis=1)
            attacks.setdefault(attack, []).append(auroc(is_member.astype(np.int64), probabilities, positive=1))
    membership = {attack: float(np.mean(values)) for attack, values in attacks.items()}
    return Privacy(samples=total, copies=copies_found(by_class), membership=membership)


def distances_to_nearest(images: NDArray[np.uint8], samples: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the distance of each image to the nearest sample, both centred and scaled to length 1, float64 [n]."""

    def rows(pixels: NDArray[np.uint8]) -> Tensor:
        small = torch.from_numpy(resize_pixels(pixels, _COMPARED_PX)).float().flatten(1)
        return F.normalize(small - small.mean(dim=1, keepdim=True))

    return np.asarray(1 - (rows(images) @ rows(samples).T).max(dim=1).values.double().numpy())


def _reconstruction(
    network: Generator, images: NDArray[np.uint8], targets: NDArray[np.int64], context: RunContext
) -> NDArray[np.float64]:
    """Return the mean absolute error of each image from the best code that gradient descent finds, float64 [n]."""
    device = context.compute.device
    real = torch.from_numpy(images)[:, None].to(device)
    labels = torch.from_numpy(targets if network.class_count > 1 else np.zeros_like(targets)).to(device)
    codes = torch.zeros(len(real), network.z_dim, device=device)
    if network.prior is not None:
        with suppress(ArtifactError):  # components of features, which other parts of images do not give
            codes = network.prior.project(real)
    codes.requires_grad_()
    optimizer, wanted = torch.optim.Adam([codes], lr=_CODE_RATE), real.float() / 127.5 - 1
    for step in range(_CODE_STEPS):
        errors = (network.decode(codes, labels) - wanted).abs().mean(dim=(1, 2, 3))
        optimizer.zero_grad()
        errors.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        context.on_progress("trying to reconstruct training images", step + 1, _CODE_STEPS)
    return np.asarray(errors.detach().double().cpu().numpy())
