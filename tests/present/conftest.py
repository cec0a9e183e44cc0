"""A small study on phantom X-rays, searched and confirmed in this process, without Ray."""

import shutil
from pathlib import Path

import pytest

from tests.confirm.labs import search_space
from tests.in_process import confirm_in_process
from tests.pair_files import draw_xrays
from xraytune.confirm.run import confirm

SPACE = """\
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, duplicate, gan]}
  synthetic_ratio: {values: [0.5, 1.0], when: {source: [duplicate, gan]}}
  gan:
    when: {source: gan}
    parameters:
      image_size: {value: 32}
      steps: {value: 4}
      batch_size: {value: 8}
      width: {value: 4}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-1, distribution: log_uniform_values}
  batch_size: {value: 8}
budget: {trials: 5, max_epochs: 3, steps_per_epoch: 2}
scheduler: {name: asha, grace: 1, reduction: 2, within: all}
confirm: {finalists: 1, replicates: 2, controls: {matched: [none, duplicate], tuned: [real_only]}}
quality: {allow_memorised: true}
points_to_evaluate:
  - {source: gan, synthetic_ratio: 0.5, lr: 1e-2}
  - {source: none, lr: 1e-2}
  - {source: duplicate, synthetic_ratio: 1.0, lr: 1e-2}
  - {source: none, lr: 1e-3}
"""


@pytest.fixture(scope="session")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study that all tests share and none may change."""
    root = tmp_path_factory.mktemp("report")
    draw_xrays(root, patients=60, seed=4)
    study = search_space(root, SPACE)
    with confirm_in_process():
        confirm(study)
    return study


@pytest.fixture
def private(confirmed: Path, tmp_path: Path) -> Path:
    """A private copy of the study, with its cache."""
    shutil.copytree(confirmed.parent.parent, tmp_path / "copy")
    return tmp_path / "copy/studies" / confirmed.name
