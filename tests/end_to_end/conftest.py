"""A small space, and a search that is stopped."""

import signal
import subprocess
from pathlib import Path

from tests.faults.ray_processes import PROGRAM

SPACE = """\
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {values: [none, duplicate, gan]}
  synthetic_ratio: {values: [0.5, 1.0], when: {source: [duplicate, gan]}}
  gan:
    when: {source: gan}
    parameters: {image_size: {value: 32}, width: {value: 4}, z_dim: {value: 8},
                 batch_size: {value: 8}, steps: {values: [20, 40]}}
  augmentation: {values: [none, flip]}
  views: {min: 1, max: 2}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 16}
  lr: {min: 2e-3, max: 1e-2, distribution: log_uniform_values}
budget: {trials: 3, max_epochs: 4, steps_per_epoch: 8}
scheduler: {name: asha, grace: 1, reduction: 2, within: all}
sampler: {startup_trials: 3, seed: 1}
points_to_evaluate:
  - {source: gan, synthetic_ratio: 0.5, gan.steps: 20, augmentation: flip, lr: 3e-3}
  - {source: gan, synthetic_ratio: 1.0, gan.steps: 40, augmentation: none, lr: 3e-3}
"""


def search_until_a_trial_ends(folder: Path, line: str, then: signal.Signals) -> int:
    """Start a search, send it a signal after its first trial, and return its exit code."""
    command = [PROGRAM, *line.split()]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for printed in process.stdout:
        if "#0 complete" in printed or "#0 pruned" in printed:
            process.send_signal(then)
            break
    process.communicate()
    return process.returncode
