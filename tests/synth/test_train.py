"""GAN training: it learns, resumes bit-identically, and reports divergence."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.in_process import CPU, one_thread
from tests.synth.conftest import BLOBS, assert_learned_blobs, assert_same_bits, tiny, train
from xraytune.base.errors import TrialError
from xraytune.nets.backbones import build_backbone
from xraytune.nets.compute import seeded
from xraytune.space.settings import GanSettings
from xraytune.synth.checkpoint import (
    CHECKPOINT_NAME,
    checkpoint_generator,
    load_generator,
    save_generator,
)
from xraytune.synth.gan import frozen_features
from xraytune.synth.networks import Generator
from xraytune.synth.pool import sample_block
from xraytune.synth.train import resize_pixels

pytestmark = pytest.mark.slow

TUTORIAL: dict[str, object] = {"architecture": "dcgan"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a finished training, not to be changed."""
    folder = tmp_path_factory.mktemp("gan")
    with one_thread():
        assert [record.step for record in train(tiny(), folder)] == [2, 4, 6]
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copied"))


@pytest.mark.parametrize("changed", [tiny, partial(tiny, **TUTORIAL)], ids=["gan", "dcgan"])
def test_a_resumed_and_a_longer_run_equal_an_uninterrupted_one(
    tmp_path: Path, changed: Callable[..., GanSettings]
) -> None:
    random_state = torch.random.get_rng_state()

    unbroken = train(changed(), tmp_path / "unbroken")
    first = train(changed(), tmp_path / "stopped", stop_after=4)
    rest = train(changed(), tmp_path / "stopped")
    train(changed(steps=3), tmp_path / "short")
    prolonged = train(changed(), tmp_path / "short")

    assert first + rest == unbroken
    assert [record.step for record in prolonged] == [4, 6]
    for other in ("stopped", "short"):
        assert_same_bits(tmp_path / "unbroken", tmp_path / other)
    assert torch.equal(torch.random.get_rng_state(), random_state), (
        "torch's generator is left alone"
    )


def test_features_of_a_network_are_kept(tmp_path: Path) -> None:
    """Of reconstructions after equal steps; the network's weights are random, like its features."""
    with seeded(1, "features"):
        backbone, _ = build_backbone("mobilenet_v2")
    weights = tmp_path / "weights.pth"
    torch.save(backbone.state_dict(), weights)
    pixels, labels = BLOBS
    planes = torch.from_numpy(pixels)[:, None].float() / 127.5 - 1
    errors = []
    for features in (None, weights):
        folder = tmp_path / str(bool(features))
        train(tiny(features=features, steps=100, lr_g=2e-3, batch_size=4), folder)
        generator = checkpoint_generator(folder / CHECKPOINT_NAME)
        assert isinstance(generator, Generator)
        assert generator.prior is not None
        with torch.no_grad():
            shown = generator.decode(generator.prior.codes, torch.from_numpy(labels))
            real, own = (frozen_features(backbone.eval(), images) for images in (planes, shown))
        errors.append(float(torch.nn.functional.mse_loss(own, real) / real.var(dim=0).mean()))

    assert errors[1] < 0.8 * errors[0]


def test_the_generator_to_sample_from_is_the_moving_average(trained: Path, tmp_path: Path) -> None:
    """After 6 steps with batches of 8: a twentieth of 48 images is a half-life of 2.4."""
    train(tiny(steps=5), tmp_path)
    average_before = checkpoint_generator(tmp_path / CHECKPOINT_NAME).state_dict()
    current = torch.load(trained / CHECKPOINT_NAME, weights_only=True)["generator"]

    decay = 0.5 ** (8 / 2.4)
    for name, averaged in checkpoint_generator(trained / CHECKPOINT_NAME).state_dict().items():
        if averaged.is_floating_point():
            torch.testing.assert_close(
                averaged, decay * average_before[name] + (1 - decay) * current[name]
            )
            assert name.startswith("prior.") or not torch.equal(
                averaged, current[name]
            )  # the prior is not trained


def test_it_learns_grey_values_and_class_differences(tmp_path: Path) -> None:
    records = train(tiny(steps=100, width=8, lr_g=2e-3, lr_d=2e-3), tmp_path, report_every_steps=50)
    generator = checkpoint_generator(tmp_path / CHECKPOINT_NAME)
    left, right = (
        sample_block(generator, label, 0, seed=0, compute=CPU).pixels for label in (0, 1)
    )

    assert all(np.isfinite([*record.losses.values()]).all() for record in records)
    assert_learned_blobs(left, right)
    assert abs(np.concatenate([left, right]).std() - BLOBS[0].std()) < 25  # from 1 to 50


def test_classes_are_sampled_equally_often(tmp_path: Path) -> None:
    """One dark image and 499 bright ones: drawn uniformly, the dark class would hardly ever be seen."""
    labels = np.array([0] + [1] * 499, dtype=np.int64)
    pixels = np.where(labels == 0, 20, 230).astype(np.uint8)[:, None, None] * np.ones(
        (1, 32, 32), dtype=np.uint8
    )

    train(
        tiny(steps=60, width=8, lr_g=2e-3, lr_d=2e-3),
        tmp_path,
        (pixels, labels),
        report_every_steps=50,
    )
    generator = checkpoint_generator(tmp_path / CHECKPOINT_NAME)
    dark, bright = (
        sample_block(generator, label, 0, seed=0, compute=CPU).pixels for label in (0, 1)
    )

    assert dark.mean() < 80
    assert bright.mean() > 175


def test_one_class_is_trained_without_labels_and_in_bfloat16_with_float32_weights(
    tmp_path: Path,
) -> None:
    pixels, labels = BLOBS
    images = pixels[labels == 1], np.zeros(12, dtype=np.int64)

    *_, last = train(
        tiny(), tmp_path, images, class_count=1, compute=replace(CPU, precision="bfloat16")
    )

    assert (last.step, checkpoint_generator(tmp_path / CHECKPOINT_NAME).class_count) == (6, 1)
    assert np.isfinite(last.losses["d_loss"])
    content = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)
    assert {tensor.dtype for tensor in content["ema_generator"].values()} == {
        torch.float32,
        torch.int64,
    }


@pytest.mark.parametrize("damage", ["empty", "torn", "text"])
def test_a_damaged_checkpoint_is_logged_and_training_starts_from_scratch(
    trained: Path, copied: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    file = copied / CHECKPOINT_NAME
    whole = file.read_bytes()
    file.write_bytes(
        {"empty": b"", "torn": whole[: len(whole) // 2], "text": b"not a checkpoint"}[damage]
    )

    with caplog.at_level(logging.WARNING):
        records = train(tiny(), copied)

    assert [record.step for record in records] == [2, 4, 6]
    assert "training starts from scratch" in caplog.text
    assert_same_bits(trained, copied)


def test_the_safetensors_file_samples_like_the_checkpoint_with_the_same_bytes(
    trained: Path, tmp_path: Path
) -> None:
    """Safetensors writes the entries of its metadata in random order."""
    generator = checkpoint_generator(trained / CHECKPOINT_NAME)
    files = [tmp_path / f"{number}.safetensors" for number in range(8)]

    for file in files:
        save_generator(generator, file)
    loaded = load_generator(files[0])

    assert len({file.read_bytes() for file in files}) == 1
    assert (loaded.settings, loaded.class_count) == (tiny(), 2)
    assert (loaded.training, generator.training) == (False, False)
    one, other = (
        sample_block(network, 1, 0, seed=3, compute=CPU).pixels for network in (loaded, generator)
    )
    assert np.array_equal(one, other)


@pytest.mark.parametrize("steps", [1, 20])
def test_a_training_that_diverges_ends_the_trial_and_is_not_kept(
    tmp_path: Path, steps: int
) -> None:
    """After a single step, the losses are finite, since they are from before the update."""
    with pytest.raises(TrialError, match=r"diverged by step \d"):
        train(tiny(lr_g=1e38, lr_d=1e38, architecture="dcgan", steps=steps), tmp_path)

    assert not (tmp_path / CHECKPOINT_NAME).exists()


def test_a_grid_is_drawn_at_each_snapshot(tmp_path: Path) -> None:
    train(
        tiny(steps=5),
        tmp_path,
        grid_dir=tmp_path / "grids",
        report_every_steps=1,
        grid_every_steps=3,
    )

    grids = sorted((tmp_path / "grids").iterdir())
    assert [grid.name for grid in grids] == ["step_000003.png", "step_000005.png"]
    for grid in grids:
        with Image.open(grid) as sheet:
            assert sheet.size == (8 * 34 + 2, 8 * 34 + 2)


def test_pixels_of_another_size_are_scaled_from_a_memory_map(tmp_path: Path) -> None:
    """Every fourth row is bright. Antialiasing to a quarter of the size gives their mean; subsampling would miss them."""
    stripes = np.zeros((300, 128, 128), dtype=np.uint8)
    stripes[:, ::4] = 200
    np.save(tmp_path / "pixels.npy", stripes)

    scaled = resize_pixels(np.load(tmp_path / "pixels.npy", mmap_mode="r"), 32)

    assert scaled.shape == (300, 32, 32)
    assert (scaled[:, 1:-1] == 50).all()
