"""GAN training: it learns, resumes bit-identically, and reports divergence."""

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.in_process import one_thread
from tests.synth.conftest import (
    BLOBS,
    assert_learned_blobs,
    assert_same_bits,
    draw,
    tiny,
    train,
    trained_in,
)
from xraytune.base.errors import TrialError
from xraytune.nets.backbones import build_backbone
from xraytune.nets.compute import seeded
from xraytune.space.source_settings import GanSettings
from xraytune.synth.gan import CHECKPOINT_FILE, frozen_features
from xraytune.synth.generator_inputs import NETWORK_FILE
from xraytune.synth.saved_generator import save_generator

TUTORIAL: dict[str, object] = {"architecture": "dcgan"}


@pytest.fixture(scope="module")
def trained(module_path: Path) -> Path:
    """The checkpoint of a finished training, not to be changed."""
    with one_thread():
        assert train(tiny(), module_path) == [2, 4, 6]
    return module_path


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
    assert prolonged == [4, 6]
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
    real_images = torch.from_numpy(pixels)[:, None].float() / 127.5 - 1
    errors = []
    for features in (None, weights):
        folder = tmp_path / str(bool(features))
        train(tiny(features=features, steps=100, lr_g=2e-3, batch_size=4), folder)
        generator = trained_in(folder)
        assert generator.prior is not None
        with torch.no_grad():
            shown = generator.decode(generator.prior.codes, torch.from_numpy(labels))
            real, own = (
                frozen_features(backbone.eval(), images) for images in (real_images, shown)
            )
        errors.append(float(torch.nn.functional.mse_loss(own, real) / real.var(dim=0).mean()))

    assert errors[1] < 0.8 * errors[0]


def test_it_learns_grey_values_and_class_differences(tmp_path: Path) -> None:
    train(tiny(steps=100, width=8, lr_g=2e-3, lr_d=2e-3), tmp_path, report_every_steps=50)
    left, right = (draw(tmp_path / NETWORK_FILE, label) for label in (0, 1))

    assert_learned_blobs(left, right)
    assert abs(np.concatenate([left, right]).std() - BLOBS[0].std()) < 25  # from 1 to 50


@pytest.mark.parametrize("architecture", ["pca", "dcgan"])
def test_a_single_finding_is_not_ignored(tmp_path: Path, architecture: str) -> None:
    pixels, labels = BLOBS
    states = [np.full((256, 1), state) for state in (0, 1)]
    train(tiny(architecture=architecture), tmp_path, (pixels, labels[:, None]))
    absent, present = (draw(tmp_path / NETWORK_FILE, findings=state) for state in states)
    assert not np.array_equal(absent, present)


def test_classes_are_sampled_equally_often(tmp_path: Path) -> None:
    """One dark image and 499 bright ones: drawn uniformly, the dark one would hardly be seen."""
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
    dark, bright = (draw(tmp_path / NETWORK_FILE, label) for label in (0, 1))

    assert dark.mean() < 80
    assert bright.mean() > 175


@pytest.mark.parametrize("damage", ["empty", "torn", "text"])
def test_a_damaged_checkpoint_is_logged_and_training_starts_from_scratch(
    trained: Path, copied: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    file = copied / CHECKPOINT_FILE
    whole = file.read_bytes()
    file.write_bytes(
        {"empty": b"", "torn": whole[: len(whole) // 2], "text": b"not a checkpoint"}[damage]
    )

    with caplog.at_level(logging.WARNING):
        steps = train(tiny(), copied)

    assert steps == [2, 4, 6]
    assert "training starts from scratch" in caplog.text
    assert_same_bits(trained, copied)


def test_a_saved_generator_has_the_same_bytes_each_time(trained: Path, tmp_path: Path) -> None:
    """Safetensors writes the entries of its metadata in random order."""
    generator = trained_in(trained)
    files = [tmp_path / f"{number}.safetensors" for number in range(8)]

    for file in files:
        save_generator(generator, file)

    assert len({file.read_bytes() for file in [*files, trained / NETWORK_FILE]}) == 1
    assert (generator.settings, generator.class_count) == (tiny(), 2)


@pytest.mark.parametrize("steps", [1, 20])
def test_a_training_that_diverges_ends_the_trial_and_is_not_kept(
    tmp_path: Path, steps: int
) -> None:
    """After a single step, the losses are finite, since they are from before the update."""
    with pytest.raises(TrialError, match=r"diverged by step \d"):
        train(tiny(lr_g=1e38, lr_d=1e38, architecture="dcgan", steps=steps), tmp_path)

    assert not (tmp_path / CHECKPOINT_FILE).exists()
