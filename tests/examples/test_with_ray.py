"""The commands of examples/README.md, with the processes that Ray starts."""

import json
from pathlib import Path

import pytest

from tests.examples.conftest import Run
from tests.examples.test_examples import SPACE
from xraytune.data.phantom import draw_phantoms


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
def test_the_examples_are_searched_exported_trained_and_evaluated(tmp_path: Path, run: Run) -> None:
    draw_phantoms(tmp_path / "xrays", patients=30, seed=3, image_size_px=48)
    (tmp_path / "space.yaml").write_text(SPACE.replace("WEIGHTS", "none").replace("TRAINABLE", "all"), encoding="utf-8")
    studies, own, model = (tmp_path / name for name in ("studies", "own.yaml", "model"))

    answers = []
    for arguments in (
        ("search", "--space", tmp_path / "space.yaml", "--studies", studies),
        ("export", studies / "own", "-o", own),
        ("train", "--config", own, "-o", model),
        ("evaluate", model, "--data", tmp_path / "xrays" / "test"),
    ):
        done = run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))

    assert answers[0]["counts"] == {"complete": 2}
    assert 0 <= answers[3]["auroc"] <= 1
