"""Small extensions on disk, and sources as they were before a test declared any."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xraytune.space.extensions import EXTENSIONS

BLEND = '''\
from dataclasses import dataclass
import numpy as np


@dataclass(frozen=True)
class Settings:
    steps: int = 4
    noise: float = 8.0


class Blend:
    """Means of two images of a class, with noise; each step of its training is a line."""

    Settings = Settings
    longer_by = "steps"
    pretrained_on = ()

    def fit(self, images, targets, *, classes, masks, settings, folder, seed, device, progress):
        from blend_steps import finished, finish

        for step in range(finished(folder), settings.steps):
            finish(folder, step)
            progress(step + 1, settings.steps)
        np.save(folder / "images.npy", images)
        np.save(folder / "targets.npy", targets)

    def sample(self, targets, *, classes, settings, folder, seed, device, size):
        random = np.random.default_rng(seed)
        images = np.load(folder / "images.npy")
        labels = np.load(folder / "targets.npy")
        mixes = []
        for target in targets:
            of_class = images[labels == target]
            first, second = of_class[random.integers(len(of_class), size=2)].astype(float)
            mixes.append((first + second) / 2 + random.normal(size=first.shape) * settings.noise)
        return np.stack(mixes).clip(0, 255).astype(np.uint8)
'''
STEPS = """\
def finished(folder):
    log = folder / "steps.txt"
    return len(log.read_text().splitlines()) if log.exists() else 0


def finish(folder, step):
    with (folder / "steps.txt").open("a") as log:
        log.write(f"{step}\\n")
"""


def write_blend(folder: Path, old: str = "", new: str = "") -> str:
    """Write an extension of two files, one of them with a changed text; return its place."""
    (folder / "blend_steps.py").write_text(STEPS)
    return _write(folder / "blend.py", BLEND, "Blend", old, new)


def _write(file: Path, code: str, name: str, old: str = "", new: str = "") -> str:
    file.write_text(code.replace(old, new) if old else code)
    return f"{file}:{name}"


NOISE = """\
from dataclasses import dataclass
import numpy as np


@dataclass(frozen=True)
class Settings:
    strength: float = 20.0


class Noise:
    Settings = Settings

    def __init__(self, settings):
        self.settings = settings

    def augment(self, image, seed):
        random = np.random.default_rng(seed)
        noise = random.normal(size=image.shape) * self.settings.strength
        return (image + noise).clip(0, 255).astype(np.uint8)


def negative(image, seed):
    return 255 - image if seed % 2 else image
"""


def write_noise(folder: Path, old: str = "", new: str = "", name: str = "Noise") -> str:
    """Write an augmentation, with a changed text; return its place."""
    return _write(folder / "noise.py", NOISE, name, old, new)


NET = """\
from dataclasses import dataclass
from torch import nn


@dataclass(frozen=True)
class Settings:
    width: int = 4


class Net(nn.Sequential):
    Settings = Settings

    def __init__(self, settings):
        convolution = nn.Conv2d(3, settings.width, 3, stride=2)
        super().__init__(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def write_net(folder: Path) -> str:
    """Write a backbone; return its place."""
    return _write(folder / "small_net.py", NET, "Net")


@contextmanager
def undeclared() -> Iterator[None]:
    """Forget the extensions that are declared in the block."""
    tables: list[dict[str, Any]] = [
        EXTENSIONS.declared,
        EXTENSIONS.blocks,
        EXTENSIONS.parameters,
        EXTENSIONS.code,
        EXTENSIONS.roots,
    ]
    before = [table.copy() for table in tables]
    try:
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)
