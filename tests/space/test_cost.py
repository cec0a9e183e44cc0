"""The warning before a search that takes hours without a GPU."""

from pathlib import Path

import pytest

from xraytune.space.cost import describe_slow_search
from xraytune.space.load import load_space


@pytest.mark.parametrize("name", ["gan_ratio", "findings_ratio", "gan_segmentation"])
def test_a_search_that_needs_a_gpu_proposes_a_smaller_one(name: str) -> None:
    large, small = (load_space(Path(each)) for each in (name, f"{name}_cpu"))

    warning = describe_slow_search(large, images_per_epoch=700, cores=2)

    assert f"--space {name}_cpu " in str(warning)
    assert describe_slow_search(small, images_per_epoch=700, cores=2) is None
