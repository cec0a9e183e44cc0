"""A small study on phantom X-rays, searched in this process, without Ray."""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.confirm.labs import search_space
from xraytune.base.files import read_json, sha256_of, write_json
from xraytune.data.phantom import paint_phantoms
from xraytune.model.export import export
from xraytune.model.train import train
from xraytune.study.access_log import TEST_ACCESS_FILE

SPACE = """\
name: mix
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, gan]}
  synthetic_ratio: {value: 0.5, when: {source: gan}}
  gan:
    when: {source: gan}
    parameters:
      image_size: {value: 32}
      steps: {value: 6}
      batch_size: {value: 8}
      width: {value: 4}
  backbone: {value: small_cnn}
  weights: {value: none}
  augmentation: {value: flip}
  lr: {min: 1e-9, max: 1e+30, distribution: log_uniform_values}
  batch_size: {value: 16}
budget: {trials: 4, max_epochs: 3, steps_per_epoch: 6}
scheduler: {name: asha, grace: 1, reduction: 2, within: all}
points_to_evaluate:
  - {source: gan, lr: 1e-3}
  - {source: none, lr: 1.5e-2}
  - {source: none, lr: 1e-9}
  - {source: none, lr: 1e+30}
"""
PRUNED = 2
FAILED = 3
"""Numbers of trials.

Trial 0 completes, because it is the first at every rung, and trial 1, because it learns faster.
"""


@dataclass(frozen=True, slots=True)
class Lab:
    """The paths of a folder with X-rays, a study and its cache."""

    path: Path

    @property
    def xrays(self) -> Path:
        return self.path / "xrays"

    @property
    def study(self) -> Path:
        return self.path / "studies/mix"

    @property
    def best(self) -> Path:
        return self.path / "best.yaml"

    @property
    def model(self) -> Path:
        return self.path / "model"


def change_record(model: Path, **changes: object) -> None:
    """Change fields of a `bundle.json`, and its checksum."""
    record = model / "bundle.json"
    write_json(record, read_json(record) | changes)
    seal(record)


def seal(file: Path) -> None:
    """Update the checksum of a bundle's file in its manifest."""
    manifest = file.with_name("manifest.json")
    files = read_json(manifest)["files"] | {file.name: sha256_of(file)}
    write_json(manifest, {"version": 1, "files": files})


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Return a lab that all tests share and none may change."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    paint_phantoms(lab.xrays, patients=40, seed=6, image_size_px=64, difficulty=0.0)
    search_space(lab.path, SPACE)
    export(lab.study, out=lab.best)
    train(lab.best, out=lab.model)
    return lab


@pytest.fixture
def private(lab: Lab, tmp_path: Path) -> Lab:
    """A private copy of the lab."""
    ignored = shutil.ignore_patterns(TEST_ACCESS_FILE)  # of the accesses of other tests
    return Lab(shutil.copytree(lab.path, tmp_path / "copy", ignore=ignored))
