"""The command `status`."""

import os
import sys
from pathlib import Path

from tests.in_process import other_process
from tests.study.studies import direct, new_study, run_trial


def test_a_narrow_screen_shows_the_learning_rate(tmp_path: Path) -> None:
    point = "{source: gan, augmentation: flip, lr: 1e-3}"
    points = f"points_to_evaluate=[{{source: none, augmentation: none, lr: 3e-3}}, {point}]"
    overrides = (
        "augmentation={values: [none, flip]}",
        "weight_decay={values: [0.0, 1e-4]}",
        points,
        "scheduler={name: none}",
    )
    study = new_study(tmp_path, *overrides)
    loop = direct(study, *overrides)
    for number, value in enumerate((0.8, 0.95)):
        run_trial(loop, number, value)
    # In a process of its own: the width of the terminal is read once.
    env = {**os.environ, "COLUMNS": "80"}

    shown = other_process(f"{sys.executable} -m xraytune status {study.path}", env=env).stdout

    # A command to copy is not broken.
    assert max(len(line) for line in shown.splitlines() if "xraytune " not in line) <= 80
    assert "0.003" in shown
