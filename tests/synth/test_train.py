"""GAN training: it learns, resumes bit-identically, protects checkpoints, and reports divergence."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.errors import ConfigError, TrialError
from xraytune.base.records import Compute
from xraytune.space.settings import GanSettings
from xraytune.synth.checkpoint import CHECKPOINT_NAME, checkpoint_generator
from xraytune.synth.pool import sample_block
from xraytune.synth.train import TrainingProgress, resize_pixels, train_generator

pytestmark = pytest.mark.slow

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]
Tiny = Callable[..., GanSettings]


def _train(
    settings: GanSettings,
    images: Images,
    compute: Compute,
    folder: Path,
    *,
    every_steps: int = 2,
    stop_after: int | None = None,
    **options: Any,
) -> list[TrainingProgress]:
    records = []
    every = {"report_every_steps": every_steps, "checkpoint_every_steps": every_steps}
    options = {"class_count": 2, **every, **options}
    training = train_generator(settings, *images, compute=compute, checkpoint_dir=folder, **options)
    for record in training:
        records.append(record)
        if record.step == stop_after:
            break
    return records


def _assert_same_bits(one: Path, other: Path) -> None:
    one_content, other_content = (torch.load(folder / CHECKPOINT_NAME, weights_only=True) for folder in (one, other))
    for part in ("generator", "discriminator", "ema_generator"):
        for name, tensor in one_content[part].items():
            assert torch.equal(tensor, other_content[part][name]), f"{part}: {name}"
    for part in ("optimizer_g", "optimizer_d"):
        for index, state in one_content[part]["state"].items():
            for name, tensor in state.items():
                assert torch.equal(tensor, other_content[part]["state"][index][name]), f"{part}: {index}: {name}"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="default"),
        pytest.param(
            {"loss": "bce", "spectral_norm": False, "diffaugment": False, "ema_half_life_images": None}, id="tutorial"
        ),
    ],
)
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path, changes: dict[str, object]
) -> None:
    settings = tiny(**changes)

    unbroken = _train(settings, blobs, cpu, tmp_path / "unbroken")
    first = _train(settings, blobs, cpu, tmp_path / "stopped", stop_after=4)
    rest = _train(settings, blobs, cpu, tmp_path / "stopped")

    _assert_same_bits(tmp_path / "unbroken", tmp_path / "stopped")
    assert first + rest == unbroken


def test_a_longer_run_continues_a_shorter_one(tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path) -> None:
    _train(tiny(steps=6), blobs, cpu, tmp_path / "long")

    _train(tiny(steps=3), blobs, cpu, tmp_path / "short")
    prolonged = _train(tiny(steps=6), blobs, cpu, tmp_path / "short")

    assert [record.step for record in prolonged] == [4, 6]
    _assert_same_bits(tmp_path / "long", tmp_path / "short")


def test_the_generator_to_sample_from_is_the_moving_average(
    tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path
) -> None:
    """After 6 steps with batches of 8: a twentieth of 48 images is a half-life of 2.4."""
    _train(tiny(steps=5), blobs, cpu, tmp_path)
    average_before = checkpoint_generator(tmp_path / CHECKPOINT_NAME).state_dict()
    _train(tiny(steps=6), blobs, cpu, tmp_path)
    current = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)["generator"]

    decay = 0.5 ** (8 / 2.4)
    for name, averaged in checkpoint_generator(tmp_path / CHECKPOINT_NAME).state_dict().items():
        if averaged.is_floating_point():
            torch.testing.assert_close(averaged, decay * average_before[name] + (1 - decay) * current[name])
            assert name.startswith("prior.") or not torch.equal(averaged, current[name])  # the prior is not trained


def test_a_finished_run_has_nothing_left_to_do(tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path) -> None:
    assert [record.step for record in _train(tiny(), blobs, cpu, tmp_path)] == [2, 4, 6]
    assert _train(tiny(), blobs, cpu, tmp_path) == []


@pytest.mark.parametrize("loss", ["bce", "non_saturating", "hinge"])
def test_every_loss_learns_grey_values_and_class_differences(
    tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path, loss: str
) -> None:
    """An untrained generator draws uniform middle grey; the images are dark, with a disc on the left or right."""
    pixels, _ = blobs

    settings = tiny(loss=loss, steps=200, width=8, lr_g=2e-3, lr_d=2e-3)
    records = _train(settings, blobs, cpu, tmp_path, every_steps=50)
    generator = checkpoint_generator(tmp_path / CHECKPOINT_NAME)
    left, right = (sample_block(generator, label, 0, seed=0, compute=cpu).pixels for label in (0, 1))

    assert all(np.isfinite([*record.losses.values()]).all() for record in records)
    samples = np.concatenate([left, right])
    assert abs(samples.mean() - pixels.mean()) < 25  # from 127 to 67
    assert abs(samples.std() - pixels.std()) < 25  # from 1 to 50
    assert left[:, :, :16].mean() > left[:, :, 16:].mean() + 10
    assert right[:, :, 16:].mean() > right[:, :, :16].mean() + 10


def test_classes_are_sampled_equally_often(tiny: Tiny, cpu: Compute, tmp_path: Path) -> None:
    """One dark image and 499 bright ones: drawn uniformly, the dark class would hardly ever be seen."""
    labels = np.array([0] + [1] * 499, dtype=np.int64)
    pixels = np.where(labels == 0, 20, 230).astype(np.uint8)[:, None, None] * np.ones((1, 32, 32), dtype=np.uint8)

    settings = tiny(steps=100, width=8, lr_g=2e-3, lr_d=2e-3)
    _train(settings, (pixels, labels), cpu, tmp_path, every_steps=50)
    generator = checkpoint_generator(tmp_path / CHECKPOINT_NAME)
    dark, bright = (sample_block(generator, label, 0, seed=0, compute=cpu).pixels for label in (0, 1))

    assert dark.mean() < 80
    assert bright.mean() > 175


def test_one_class_is_trained_without_labels(tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path) -> None:
    pixels, labels = blobs
    of_one_class = np.flatnonzero(labels == 1)

    images = pixels[of_one_class], np.zeros(len(of_one_class), dtype=np.int64)
    training = _train(tiny(), images, cpu, tmp_path, every_steps=6, class_count=1)

    assert [record.step for record in training] == [6]
    assert checkpoint_generator(tmp_path / CHECKPOINT_NAME).class_count == 1


def test_bfloat16_trains_with_float32_weights(tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path) -> None:
    records = _train(tiny(), blobs, dataclasses.replace(cpu, precision="bfloat16"), tmp_path)

    assert np.isfinite(records[-1].losses["d_loss"])
    content = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)
    assert {tensor.dtype for tensor in content["ema_generator"].values()} == {torch.float32, torch.int64}


def test_the_global_random_state_is_left_alone(tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()

    _train(tiny(steps=2), blobs, cpu, tmp_path)

    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("damage", ["empty", "torn", "text"])
def test_a_damaged_checkpoint_is_logged_and_training_starts_from_scratch(
    tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    _train(tiny(), blobs, cpu, tmp_path / "whole")
    whole = (tmp_path / "whole" / CHECKPOINT_NAME).read_bytes()
    damaged = tmp_path / "damaged" / CHECKPOINT_NAME
    damaged.parent.mkdir()
    damaged.write_bytes({"empty": b"", "torn": whole[: len(whole) // 2], "text": b"not a checkpoint"}[damage])

    with caplog.at_level(logging.WARNING):
        records = _train(tiny(), blobs, cpu, damaged.parent)

    assert [record.step for record in records] == [2, 4, 6]
    assert "training starts from scratch" in caplog.text
    _assert_same_bits(tmp_path / "whole", damaged.parent)


def test_a_checkpoint_of_something_else_is_refused_and_kept(
    tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path
) -> None:
    _train(tiny(), blobs, cpu, tmp_path)
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    pixels, labels = blobs

    with pytest.raises(ConfigError, match="other settings or other images"):
        _train(tiny(width=5), blobs, cpu, tmp_path)
    with pytest.raises(ConfigError, match="other settings or other images"):
        _train(tiny(), (255 - pixels, labels), cpu, tmp_path)
    with pytest.raises(ConfigError, match="already at step 6"):
        _train(tiny(steps=4), blobs, cpu, tmp_path)

    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before


@pytest.mark.parametrize("steps", [1, 20])
def test_a_training_that_diverges_ends_the_trial_and_is_not_kept(
    tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path, steps: int
) -> None:
    """After a single step, the losses are finite, since they are from before the update."""
    settings = tiny(lr_g=1e38, lr_d=1e38, spectral_norm=False, steps=steps)

    with pytest.raises(TrialError, match=r"diverged by step \d"):
        _train(settings, blobs, cpu, tmp_path)

    assert not (tmp_path / CHECKPOINT_NAME).exists()


@pytest.mark.slow
def test_grids_show_the_first_steps_too(tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path) -> None:
    _train(tiny(steps=60), blobs, cpu, tmp_path, every_steps=50, grid_dir=tmp_path / "grids")

    names = {grid.name for grid in (tmp_path / "grids").iterdir()}
    assert names == {"progress.gif", "real.png", "step_000050.png", "step_000060.png"}


def test_grids_show_real_images_and_the_same_noise_at_each_snapshot(
    tiny: Tiny, blobs: Images, cpu: Compute, tmp_path: Path
) -> None:
    training = _train(tiny(), blobs, cpu, tmp_path, every_steps=1, grid_dir=tmp_path / "grids", grid_every_steps=3)
    assert [record.step for record in training] == [1, 2, 3, 4, 5, 6]

    grids = sorted((tmp_path / "grids").iterdir())
    assert [grid.name for grid in grids] == ["progress.gif", "real.png", "step_000003.png", "step_000006.png"]
    sizes = set()
    for grid in grids[1:]:
        with Image.open(grid) as sheet:
            sizes.add(sheet.size)
    assert sizes == {(8 * 34 + 2, 8 * 34 + 2)}


def test_pixels_of_another_size_are_scaled_from_a_memory_map(tmp_path: Path) -> None:
    """Every fourth row is bright. Antialiasing to a quarter of the size gives their mean; subsampling would miss them."""
    stripes = np.zeros((300, 128, 128), dtype=np.uint8)
    stripes[:, ::4] = 200
    np.save(tmp_path / "pixels.npy", stripes)

    scaled = resize_pixels(np.load(tmp_path / "pixels.npy", mmap_mode="r"), 32)

    assert scaled.shape == (300, 32, 32)
    assert (scaled[:, 1:-1] == 50).all()
