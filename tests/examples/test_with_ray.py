"""What is installed is known to the processes that Ray starts."""

import json
from pathlib import Path

import pytest

from tests.examples.conftest import Run
from tests.examples.test_examples import SPACE
from xraytune.data.phantom import draw_phantoms


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_load_extensions(tmp_path: Path, run: Run) -> None:
    draw_phantoms(tmp_path / "xrays", patients=30, seed=3, image_size_px=48)
    (tmp_path / "own.yaml").write_text(SPACE.replace("WEIGHTS", "none").replace("TRAINABLE", "all"), encoding="utf-8")

    done = run("search", "--space", tmp_path / "own.yaml", "--studies", tmp_path / "studies", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"complete": 2, "pruned": 0, "failed": 0}
