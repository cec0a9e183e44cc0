"""A small search space and a small experiment (YAML)."""

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

EXPERIMENT = """
name: fixed
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters: {source: {value: none}, backbone: {value: small_cnn}, weights: {value: none},
             lr: {value: 1e-3}}
budget: {max_epochs: 1, steps_per_epoch: 1}
resources: {gpus_per_trial: 0}
"""
