"""A small space file."""

from pathlib import Path

import pytest

SPACE = """
name: small
data: {path: xrays, image_size: 32}
parameters:
  source: {values: [none, gan]}
  gan:
    when: {source: gan}
    parameters: {image_size: {value: 32}, width: {value: 4}, batch_size: {value: 4},
                 steps: {values: [2, 3]}}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
resources: {gpus_per_trial: 0}
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """Return a small space file."""
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    return file
