"""The diffusion model: it learns, and is a deterministic function of noise and class."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.in_process import CPU
from tests.synth.conftest import DISCS, assert_learned_blobs, tiny_diffusion, train
from xraytune.base.errors import MachineError
from xraytune.synth.checkpoint import CHECKPOINT_NAME, checkpoint_generator, load_generator, save_generator
from xraytune.synth.diffusion import DiffusionGenerator
from xraytune.synth.pool import draw_noise, generate, sample_block


@pytest.mark.slow
def test_it_learns_grey_values_and_class_differences(tmp_path: Path) -> None:
    train(tiny_diffusion(steps=80, lr=5e-3, sampling_steps=4), tmp_path, report_every_steps=50)
    generator = checkpoint_generator(tmp_path / CHECKPOINT_NAME)
    labels = torch.arange(2).repeat_interleave(8)

    content = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)
    assert not torch.equal(*(next(iter(content[part].values())) for part in ("generator", "ema_generator")))
    assert_learned_blobs(*np.split(generate(generator, draw_noise(generator, 16, seed=0), labels, CPU).pixels, 2))


@pytest.mark.slow
def test_an_image_is_a_function_of_its_noise_and_class_alone() -> None:
    generator = DiffusionGenerator(tiny_diffusion(), class_count=2).eval()
    with torch.no_grad():
        generator.unet.conv_out.weight.normal_(std=0.1)
    z, labels = draw_noise(generator, 5, seed=0), torch.tensor([0, 1, 1, 0, 1])

    together = generate(generator, z, labels, CPU).pixels
    alone = generate(generator, z[3:4], labels[3:4], CPU).pixels
    other_class = generate(generator, z[3:4], 1 - labels[3:4], CPU).pixels

    assert np.abs(together[3].astype(int) - alone[0]).max() <= 1  # another batch size rounds differently
    assert not np.array_equal(alone, other_class)


@pytest.mark.slow
def test_pairs_have_masks_and_the_safetensors_file_samples_like_the_checkpoint(tmp_path: Path) -> None:
    settings = tiny_diffusion(steps=2)
    train(settings, tmp_path, masks=DISCS)
    of_checkpoint = checkpoint_generator(tmp_path / CHECKPOINT_NAME)
    save_generator(of_checkpoint, tmp_path / "generator.safetensors")
    loaded = load_generator(tmp_path / "generator.safetensors")

    one, other = (sample_block(generator, 1, 0, seed=3, compute=CPU) for generator in (of_checkpoint, loaded))

    assert (loaded.settings, loaded.channels, loaded.z_dim) == (settings, 2, 2 * 32 * 32)
    assert one.masks is not None
    assert {*np.unique(one.masks)} <= {0, 255}
    assert np.array_equal(one.pixels, other.pixels)


def test_without_diffusers_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)

    with pytest.raises(MachineError, match=r"pip install 'xraytune\[diffusion\]'"):
        DiffusionGenerator(tiny_diffusion(), class_count=2)
