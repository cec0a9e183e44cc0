"""Checkpoints and generators: the same samples from either file, and clear errors for damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.synth.conftest import Images
from xraytune.base.errors import ArtifactError
from xraytune.base.records import Compute
from xraytune.space.settings import GanSettings
from xraytune.synth.checkpoint import CHECKPOINT_NAME, checkpoint_generator, load_generator, save_generator
from xraytune.synth.networks import Generator
from xraytune.synth.pool import sample_block
from xraytune.synth.train import train_generator


@pytest.mark.slow
def test_the_safetensors_file_samples_like_the_checkpoint(
    tiny: Callable[..., GanSettings], blobs: tuple[NDArray[np.uint8], NDArray[np.int64]], cpu: Compute, tmp_path: Path
) -> None:
    list(train_generator(tiny(), *blobs, class_count=2, compute=cpu, checkpoint_dir=tmp_path))
    of_checkpoint = checkpoint_generator(tmp_path / CHECKPOINT_NAME)

    save_generator(of_checkpoint, tmp_path / "generator.safetensors")
    loaded = load_generator(tmp_path / "generator.safetensors")

    assert (loaded.settings, loaded.class_count) == (tiny(), 2)
    assert not loaded.training
    assert not of_checkpoint.training
    assert np.array_equal(
        sample_block(loaded, 1, 0, seed=3, compute=cpu).pixels,
        sample_block(of_checkpoint, 1, 0, seed=3, compute=cpu).pixels,
    )


def test_files_of_one_generator_have_the_same_bytes(tiny: Callable[..., GanSettings], tmp_path: Path) -> None:
    """Safetensors writes the entries of its metadata in random order."""
    generator, contents = Generator(tiny(), 1), set()
    for number in range(8):
        save_generator(generator, tmp_path / f"{number}.safetensors")
        contents.add((tmp_path / f"{number}.safetensors").read_bytes())

    assert len(contents) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), [("settings", "{"), ("class_count", 10**9), ("ema_generator", 1)])
def test_a_checkpoint_with_invalid_content_gives_no_generator(
    tiny: Callable[..., GanSettings], blobs: Images, cpu: Compute, tmp_path: Path, key: str, value: object
) -> None:
    list(train_generator(tiny(), *blobs, class_count=2, compute=cpu, checkpoint_dir=tmp_path))
    file = tmp_path / CHECKPOINT_NAME
    torch.save({**torch.load(file, weights_only=True), key: value}, file)

    with pytest.raises(ArtifactError, match="this checkpoint belongs to a different network"):
        checkpoint_generator(file)


@pytest.mark.slow
def test_a_checkpoint_with_another_network_is_not_resumed(
    tiny: Callable[..., GanSettings], blobs: Images, cpu: Compute, tmp_path: Path
) -> None:
    list(train_generator(tiny(), *blobs, class_count=2, compute=cpu, checkpoint_dir=tmp_path))
    file = tmp_path / CHECKPOINT_NAME
    torch.save({**torch.load(file, weights_only=True), "discriminator": {}}, file)

    with pytest.raises(ArtifactError, match="a different network"):
        list(train_generator(tiny(steps=8), *blobs, class_count=2, compute=cpu, checkpoint_dir=tmp_path))
