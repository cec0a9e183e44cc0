"""The diffusion model: it learns, resumes bit-identically, and is a deterministic function of noise and class."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.synth.conftest import Images
from xraytune.base.errors import ConfigError, MachineError
from xraytune.base.records import Compute
from xraytune.space.settings import DiffusionSettings
from xraytune.synth.checkpoint import CHECKPOINT_NAME, checkpoint_generator, load_generator, save_generator
from xraytune.synth.diffusion import DiffusionGenerator
from xraytune.synth.pool import draw_noise, generate, sample_block
from xraytune.synth.train import train_generator


def small(**changes: object) -> DiffusionSettings:
    settings = {"image_size": 32, "width": 8, "batch_size": 8, "steps": 6, "patch_size": 2, "sampling_steps": 3}
    return DiffusionSettings.model_validate(settings | changes)


def train(settings: DiffusionSettings, images: Images, compute: Compute, folder: Path, *, stop_after: int = 0) -> Path:
    for record in train_generator(
        settings,
        *images,
        class_count=2,
        compute=compute,
        checkpoint_dir=folder,
        report_every_steps=2,
        checkpoint_every_steps=2,
    ):
        if record.step == stop_after:
            break
    return folder / CHECKPOINT_NAME


@pytest.mark.slow
def test_a_resumed_and_a_longer_run_equal_an_uninterrupted_one(blobs: Images, cpu: Compute, tmp_path: Path) -> None:
    whole = train(small(), blobs, cpu, tmp_path / "whole")
    train(small(), blobs, cpu, tmp_path / "stopped", stop_after=2)
    stopped = train(small(), blobs, cpu, tmp_path / "stopped")
    train(small(steps=3), blobs, cpu, tmp_path / "longer")
    longer = train(small(), blobs, cpu, tmp_path / "longer")

    expected, *others = (torch.load(file, weights_only=True) for file in (whole, stopped, longer))
    for content in others:
        for part in ("generator", "ema_generator"):
            assert all(torch.equal(tensor, content[part][name]) for name, tensor in expected[part].items())
        for index, state in expected["optimizer"]["state"].items():
            assert all(torch.equal(one, content["optimizer"]["state"][index][name]) for name, one in state.items())
    assert not torch.equal(*(next(iter(expected[part].values())) for part in ("generator", "ema_generator")))


@pytest.mark.slow
def test_it_learns_grey_values_and_class_differences(blobs: Images, cpu: Compute, tmp_path: Path) -> None:
    """The images are dark, with a disc on the left or right; noise is middle grey."""
    generator = checkpoint_generator(
        train(small(steps=150, width=16, lr=3e-3, sampling_steps=8), blobs, cpu, tmp_path / "trained")
    )
    labels = torch.arange(2).repeat_interleave(16)
    left, right = np.split(generate(generator, draw_noise(generator, 32, seed=0), labels, cpu).pixels, 2)

    assert abs(np.concatenate([left, right]).mean() - blobs[0].mean()) < 25
    assert left[:, :, :16].mean() > left[:, :, 16:].mean() + 10
    assert right[:, :, 16:].mean() > right[:, :, :16].mean() + 10


@pytest.mark.slow
def test_an_image_is_a_function_of_its_noise_and_class_alone(cpu: Compute) -> None:
    generator = DiffusionGenerator(small(), class_count=2).eval()
    with torch.no_grad():
        generator.unet.conv_out.weight.normal_(std=0.1)
    z, labels = draw_noise(generator, 5, seed=0), torch.tensor([0, 1, 1, 0, 1])

    together = generate(generator, z, labels, cpu).pixels
    alone = generate(generator, z[3:4], labels[3:4], cpu).pixels
    other_class = generate(generator, z[3:4], 1 - labels[3:4], cpu).pixels

    assert np.abs(together[3].astype(int) - alone[0]).max() <= 1  # another batch size rounds differently
    assert not np.array_equal(alone, other_class)


@pytest.mark.slow
def test_pairs_have_masks_and_the_safetensors_file_samples_like_the_checkpoint(
    blobs: Images, cpu: Compute, tmp_path: Path
) -> None:
    pixels, labels = blobs
    masks = np.where(pixels > 120, 255, 0).astype(np.uint8)
    settings = small(steps=2)
    list(train_generator(settings, pixels, labels, 2, masks=masks, compute=cpu, checkpoint_dir=tmp_path))
    of_checkpoint = checkpoint_generator(tmp_path / CHECKPOINT_NAME)
    save_generator(of_checkpoint, tmp_path / "generator.safetensors")
    loaded = load_generator(tmp_path / "generator.safetensors")

    one, other = (sample_block(generator, 1, 0, seed=3, compute=cpu) for generator in (of_checkpoint, loaded))

    assert (loaded.settings, loaded.channels, loaded.z_dim) == (settings, 2, 2 * 32 * 32)
    assert one.masks is not None
    assert {*np.unique(one.masks)} <= {0, 255}
    assert np.array_equal(one.pixels, other.pixels)
    with pytest.raises(ConfigError, match="other settings or other images"):
        train(settings, blobs, cpu, tmp_path)


def test_without_diffusers_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)

    with pytest.raises(MachineError, match=r"pip install 'xraytune\[diffusion\]'"):
        DiffusionGenerator(small(), class_count=2)
