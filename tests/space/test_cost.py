"""The warning before a search that takes hours without a GPU."""

from pathlib import Path

import pytest

from xraytune.space.cost import describe_slow_search
from xraytune.space.load import load_space


@pytest.mark.parametrize(
    ("name", "smaller"),
    [
        ("gan_ratio", "gan_ratio_cpu"),
        ("findings_ratio", "findings_ratio_cpu"),
        ("gan_segmentation", "gan_segmentation_cpu"),
        ("gan_ratio_cpu", None),
        ("findings_ratio_cpu", None),
        ("gan_segmentation_cpu", None),
        ("other_hospital_cpu", None),
        ("demo", None),
    ],
)
def test_a_search_that_needs_a_gpu_proposes_a_smaller_one(name: str, smaller: str | None) -> None:
    warning = describe_slow_search(load_space(Path(name)), images_per_epoch=700, cores=2)

    assert (warning is None) == (smaller is None)
    assert smaller is None or f"--space {smaller} " in str(warning)


@pytest.mark.parametrize(
    ("override", "reason"),
    [("gan.steps=10", "layers of the backbone"), ("trainable=head", "up to 15,000 steps")],
)
def test_the_warning_names_what_takes_the_time(override: str, reason: str) -> None:
    space = load_space(Path("gan_ratio"), [override])

    warning = str(describe_slow_search(space, images_per_epoch=700, cores=1))

    assert [word in warning for word in ("layers of the backbone", "up to 15,000 steps")].count(
        True
    ) == 1
    assert reason in warning
