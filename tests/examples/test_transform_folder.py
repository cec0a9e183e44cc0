"""Transformed copies, as `examples/transform_folder.py` writes them."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES
from xraytune.data.index import read_index
from xraytune.data.phantom import draw_phantoms
from xraytune.space.settings import DataSettings


@pytest.mark.slow
def test_copies_are_a_data_folder_with_the_patients_of_their_originals(tmp_path: Path) -> None:
    xrays, copies = tmp_path / "xrays", tmp_path / "copies"
    draw_phantoms(xrays, patients=12, seed=1, image_size_px=32)

    script = EXAMPLES / "transform_folder.py"
    subprocess.run([sys.executable, script, xrays, copies, "--copies", "2"], check=True)

    originals, copied = (read_index(DataSettings(path=folder)) for folder in (xrays, copies))
    assert len(copied.images) == 2 * len(originals.images)
    assert {image.sha256 for image in copied.images}.isdisjoint(image.sha256 for image in originals.images)
    assert {image.patient for image in copied.images} == {image.patient for image in originals.images}
    with (copies / "patients.csv").open(encoding="utf-8", newline="") as stream:
        names = [row["file"] for row in csv.DictReader(stream)]
    assert not any("test__" in name for name in names), "the test folder stays sealed"
