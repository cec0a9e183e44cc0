"""The command `status`."""

import os
import sys
from pathlib import Path

import pytest

from tests.in_process import other_process
from tests.study.studies import CPU, direct, ended, epoch, two_images, write_space
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study

pytestmark = pytest.mark.slow


def test_a_narrow_screen_shows_the_learning_rate(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "studies/small")
    point = "{source: gan, augmentation: flip, lr: 1e-3}"
    points = f"points_to_evaluate=[{{source: none, augmentation: none, lr: 3e-3}}, {point}]"
    overrides = (
        "augmentation={values: [none, flip]}",
        "weight_decay={values: [0.0, 1e-4]}",
        points,
        "scheduler={name: none}",
    )
    create_study(study, write_space(tmp_path, *overrides), two_images(), CPU)
    loop = direct(study, *overrides)
    for number, value in enumerate((0.8, 0.95)):
        loop.next_trial()
        loop.on_result(number, epoch(1, value))
        loop.on_result(number, ended(value, epochs=1))
    # In a process of its own: the width of the terminal is read once.
    env = {**os.environ, "COLUMNS": "80"}

    shown = other_process(f"{sys.executable} -m xraytune status {study.path}", env=env).stdout

    assert max(map(len, shown.splitlines())) <= 80
    assert "0.003" in shown
