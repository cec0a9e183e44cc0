"""Preparation: images are decoded once, and a val folder is merged or kept."""

from pathlib import Path

import pytest

from tests.trial.conftest import Bench
from xraytune.base.errors import ConfigError, DataError
from xraytune.data.prepare import PIXELS_STAGE, prepare
from xraytune.space.load import load_space
from xraytune.trial.prepare import require_networks

pytestmark = pytest.mark.slow


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
