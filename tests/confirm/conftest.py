"""A study that has ended, one that was confirmed, and private copies of both."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from examples.transform_folder import transform_folder
from tests.confirm.labs import Lab, search_space
from tests.in_process import confirm_in_process
from tests.pair_files import draw_xrays
from tests.study.conftest import study
from xraytune.confirm.record import Confirmation

__all__ = ["study"]

SPACE = """\
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, folder]}
  folder: {when: {source: folder}, parameters: {path: {value: copies}}}
  synthetic_ratio: {value: 0.5, when: {source: folder}}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
budget: {trials: 2, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
quality: {allow_memorised: true}
confirm: {finalists: 1, replicates: 4, controls: {matched: [none], tuned: []}}
points_to_evaluate: [{source: folder}, {source: none}]
"""


@pytest.fixture(scope="module")
def ended(module_path: Path) -> Lab:
    """X-rays without `test/`, copies to train on, an ended study, and test images elsewhere."""
    lab = Lab(module_path / "ended")
    draw_xrays(lab.path, patients=60, seed=4)
    shutil.move(lab.path / "xrays/test", lab.test)
    transform_folder(lab.path / "xrays", lab.path / "copies", copies=2)
    search_space(lab.path, SPACE)
    return lab


@pytest.fixture
def lab(ended: Lab, tmp_path: Path) -> Iterator[Lab]:
    """A private copy of the lab, whose confirmations run in this process."""
    with confirm_in_process():
        yield ended.copy(tmp_path)


@pytest.fixture(scope="module")
def confirmed(ended: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Confirmation]:
    """The lab after a confirmation, and its result."""
    with confirm_in_process():
        lab = ended.copy(tmp_path_factory.mktemp("confirmed"))
        return lab, lab.confirm()


@pytest.fixture
def done(confirmed: tuple[Lab, Confirmation], tmp_path: Path) -> Iterator[Lab]:
    """A private copy of the lab after the confirmation."""
    with confirm_in_process():
        yield confirmed[0].copy(tmp_path)


@pytest.fixture
def first(confirmed: tuple[Lab, Confirmation], tmp_path: Path) -> Confirmation:
    """The result of that confirmation, of the study in the private copy."""
    return replace(confirmed[1], study=tmp_path / "lab/studies/small")
