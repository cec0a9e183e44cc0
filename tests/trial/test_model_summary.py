"""The layer table of a configuration, and the number of classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xraytune.base.errors import ConfigError
from xraytune.data.index import find_class_names
from xraytune.space.load import load_space
from xraytune.space.rules import check_images
from xraytune.trial.summary import model_summary

SMALL = (
    "name: small\ndata: {path: images, image_size: 32, classes: auto}\nparameters:\n  backbone: {value: small_cnn}\n"
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, int], Path]:
    def write_file(line: str, classes: int) -> Path:
        for number in range(classes):
            (tmp_path / "images" / f"class{number}").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "small.yaml"
        path.write_text(f"{SMALL}  weights: {{value: none}}\n  {line}\n", encoding="utf-8")
        return path

    return write_file


def check_classes(path: Path) -> None:
    space = load_space(path)
    check_images(space, class_count=len(find_class_names(space.settings.data)))


@pytest.mark.slow
def test_the_table_is_of_the_files_network_at_its_batch_and_image_size(write: Callable[[str, int], Path]) -> None:
    found = model_summary(write("batch_size: {value: 4}", 5), overrides=["input_channels=1"])

    assert found.input_shape == (4, 1, 32, 32)
    assert found.layers[-1].output_shape == (4, 5)
    assert found.total_params == found.trainable_params


def test_a_single_neuron_is_refused_for_three_class_folders(write: Callable[[str, int], Path]) -> None:
    bce = "loss: {values: [bce, cross_entropy]}"

    check_classes(write(bce, 2))
    check_classes(write("loss: {value: cross_entropy}", 3))
    with pytest.raises(ConfigError, match="loss: bce requires two classes, but the images have 3"):
        check_classes(write(bce, 3))
