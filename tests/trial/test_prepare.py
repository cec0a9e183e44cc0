"""Preparation: images are decoded once, and a val folder is merged or kept."""

from pathlib import Path

import pytest

from xraytune.base.errors import ConfigError
from xraytune.space.load import load_space
from xraytune.trial.prepare import require_networks

pytestmark = pytest.mark.slow


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
