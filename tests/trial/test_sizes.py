"""Trials of one space, each with images of its own size: equal to those of studies of one size."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pair_files import draw_xrays, save, write_discs
from tests.trial.conftest import Bench, gan, prepared_bench
from xraytune.base.errors import DataError
from xraytune.data.prepare import prepare, read_prepared, restore_pixels, write_prepared
from xraytune.space.settings import Settings
from xraytune.trial.run import run_trial

SIZES_PX = (32, 48, 64)


def settings_of(root: Path, size_px: int) -> Settings:
    split = {"val_a": 0.2, "val_b": 0.2}
    return Settings.model_validate(
        {
            "name": "small",
            "data": {"path": root / "xrays", "image_size": size_px, "split": split},
            "budget": {"max_epochs": 2, "steps_per_epoch": 3},
            "quality": {"allow_memorised": True},
        }
    )


def outcome(bench: Bench, trial_dir: Path, **given: Any) -> Any:
    """What a trial learns: its network, its results on val-B, and its scores."""
    experiment = bench.experiment(batch_size=4, views=2, **given)
    sized = bench.prepared.sizes[experiment.settings.data.image_size]
    result = run_trial(experiment, replace(bench, prepared=sized).context, trial_dir=trial_dir)
    files = (trial_dir / "val_b.npy", trial_dir / "checkpoint/best.safetensors")
    return result, [file.read_bytes() for file in files]


@pytest.mark.parametrize("given", [{"augmentation": "affine"}, {"source": "gan", "gan": gan()}])
def test_a_trial_of_a_size_is_that_of_a_study_of_this_size_alone(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    draw_xrays(tmp_path, patients=30, seed=3, image_size_px=80)
    settings = settings_of(tmp_path, 128)  # a size that no trial uses
    cache = tmp_path / "cache"
    prepared, _ = prepare(settings, cache, sizes_px=SIZES_PX)
    write_prepared(prepared, tmp_path / "split.json")
    shared = Bench(settings=settings, prepared=read_prepared(tmp_path / "split.json"), cache=cache)
    assert shared.prepared == prepared
    assert len([*cache.glob("pixels-*/*/pixels.npy")]) == len(SIZES_PX)

    networks = []
    for size_px in SIZES_PX:
        alone = prepared_bench(settings_of(tmp_path, size_px), tmp_path / f"cache_{size_px}")
        of_study = outcome(alone, tmp_path / f"study_{size_px}", **given)
        of_space = outcome(shared, tmp_path / f"{size_px}", input_size=size_px, **given)
        assert of_space == of_study
        networks.append(of_space[1][1])
    assert len({*networks}) == len(SIZES_PX)


def test_lost_pixels_of_any_size_are_decoded_again(tmp_path: Path) -> None:
    draw_xrays(tmp_path, patients=12, seed=3, image_size_px=80)
    settings = settings_of(tmp_path, 32)
    prepared, _ = prepare(settings, tmp_path / "cache", sizes_px=(32, 48))
    (stored,) = prepared.other_sizes
    file = tmp_path / "cache" / stored.pixels / "pixels.npy"
    before = file.read_bytes()
    file.write_bytes(b"")

    restore_pixels(settings, prepared, tmp_path / "cache")

    assert file.read_bytes() == before


def test_a_mask_that_is_empty_in_one_of_two_sizes_is_refused(tmp_path: Path) -> None:
    """Left out of one size, its row would be that of another image."""
    write_discs(tmp_path / "xrays", seed=3)
    mask = np.zeros((48, 48), dtype=np.bool_)
    mask[24, 24] = True  # a pixel of 96 px is at most as large as it, one of 32 px is larger
    save(tmp_path / "xrays/masks/p3_0.png", mask)
    settings = settings_of(tmp_path, 128).model_copy(update={"task": "segmentation"})

    with pytest.raises(DataError, match=r"of 32 px, 96 px, some sizes lack images/p3_0\.png"):
        prepare(settings, tmp_path / "cache", sizes_px=(32, 96), skip_broken=True)
