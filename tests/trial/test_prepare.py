"""Preparation: images are decoded once, and a val folder is merged or kept."""

import shutil
from pathlib import Path

import pytest

from tests.trial.conftest import Bench
from xraytune.base.errors import ConfigError, DataError
from xraytune.data.prepare import PIXELS_STAGE, prepare, training_pixels
from xraytune.space.load import load_space
from xraytune.trial.prepare import require_networks

pytestmark = pytest.mark.slow


def test_second_prepare_decodes_nothing(bench: Bench) -> None:
    stored = bench.cache / bench.prepared.pixels / "pixels.npy"
    before = stored.stat().st_mtime_ns

    again, _ = prepare(bench.settings, bench.cache)

    assert again == bench.prepared
    assert stored.stat().st_mtime_ns == before
    assert len(training_pixels(again, bench.cache)) >= len(again.images)


def test_an_own_val_folder_is_merged_or_kept_and_notes_say_which(
    bench: Bench, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(bench.settings.data.path, tmp_path / "xrays"))
    for image in [*copied.glob("train/*/IM-000*"), *copied.glob("train/*/person1[0-9]_*")]:
        own = copied / "val" / image.relative_to(copied / "train")
        own.parent.mkdir(parents=True, exist_ok=True)
        image.rename(own)
    data = bench.settings.data.model_copy(update={"path": copied})
    merged, notes = prepare(bench.settings.model_copy(update={"data": data}), bench.cache)

    split = data.split.model_copy(update={"val": "folder"})
    settings = bench.settings.model_copy(update={"data": data.model_copy(update={"split": split})})
    kept, notes_if_kept = prepare(settings, bench.cache)

    assert {image.file.startswith("val/") for image in merged.images if image.side == "train"} == {
        False,
        True,
    }
    assert all(image.file.startswith("val/") == (image.side != "train") for image in kept.images)
    assert kept.fingerprint != merged.fingerprint
    assert settings.identity() != bench.settings.identity()
    assert any(
        note.startswith("val/: ") and "merged into the training images and split again" in note
        for note in notes
    )
    assert any(
        note.startswith("val/: ") and "split by patient into val-A and val-B" in note
        for note in notes_if_kept
    )


def test_a_split_that_is_impossible_is_refused_before_images_are_decoded(
    bench: Bench, tmp_path: Path
) -> None:
    data = bench.settings.data.model_copy(update={"train_patients": 1000})

    with pytest.raises(DataError, match="patients, fewer than 1000"):
        prepare(bench.settings.model_copy(update={"data": data}), tmp_path / "cache")

    assert not (tmp_path / "cache" / PIXELS_STAGE).exists()


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "shufflenet_v2_x0_5"])
def test_batch_norms_that_would_train_on_a_single_value_are_refused(
    tmp_path: Path, backbone: str
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        f"name: x\ndata: {{path: xrays, image_size: 32}}\n"
        f"parameters: {{backbone: {{value: {backbone}}}, weights: {{value: none}}}}\n",
        encoding="utf-8",
    )

    with pytest.raises(ConfigError, match=f"{backbone} cannot train on batches of one image"):
        require_networks(load_space(space, ["batch_size=1"]))
    require_networks(load_space(space, ["batch_size=2"]))
    require_networks(load_space(space, ["batch_size=1", "data.image_size=64"]))
