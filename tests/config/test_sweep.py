"""W&B sweep files as space files: public ones, every distribution, and what is listed as left out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from xraytune.config.document import parse_yaml
from xraytune.config.load import load_space
from xraytune.config.sweep import import_sweep
from xraytune.errors import ConfigError, SourceLine

START = {"name": "sweep", "data": {"path": "chest_xray"}, "scheduler": {"name": "none"}}


def imported(folder: Path, sweep: str) -> tuple[dict[str, Any], list[str]]:
    """Return the content of the space file and what is left out; the file is valid and lists the same."""
    source, space = folder / "sweep.yaml", folder / "space.yaml"
    source.write_text(sweep, encoding="utf-8")
    problems = import_sweep(source, out=space)
    load_space(space)

    lines = []
    for problem in problems:
        assert isinstance(problem.where, SourceLine)
        lines.append(f"{problem.where.line}: {problem.what}")
    text = space.read_text("utf-8")
    comments = [line.removeprefix("#   sweep.yaml:") for line in text.splitlines() if line.startswith("#   ")]
    assert comments == (lines or ["#   nothing"])
    content = parse_yaml(text, str).content
    assert isinstance(content, dict)
    return content, lines


PUBLIC: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "wandb/examples 369ac57 examples/pytorch/pytorch-cnn-fashion/sweep-grid-hyperband.yaml": (
        """\
program: train.py
method: grid
metric: {goal: minimize, name: loss}
parameters:
  dropout: {values: [0.1, 0.2, 0.4, 0.5, 0.7]}
  channels_one: {values: [10, 12, 14, 16, 18, 20]}
  channels_two: {values: [24, 28, 32, 36, 40, 44]}
  learning_rate: {values: [0.001, 0.005, 0.0005]}
  epochs: {value: 27}
early_terminate: {type: hyperband, s: 2, eta: 3, max_iter: 27}
""",
        {
            "scheduler": {"name": "asha", "grace": 3, "reduction": 3},
            "sampler": {"name": "grid"},
            "budget": {"max_epochs": 27},
            "parameters": {"dropout": {"values": [0.1, 0.2, 0.4, 0.5, 0.7]}, "lr": {"values": [0.001, 0.005, 0.0005]}},
        },
        [
            "1: program: xraytune runs its own training",
            "3: metric: objective.metric: unknown value 'loss'",
            "6: channels_one: unknown parameter",
            "7: channels_two: unknown parameter",
        ],
    ),
    "wandb/examples 25536c6 examples/minimal-hydra-example/wandb_sweep.yaml": (
        """\
program: main.py
metric: {name: val_loss, goal: minimize}
method: bayes
parameters:
  optimizer.config.learning_rate: {min: !!float 1e-5, max: 0.1}
  experiment: {values: [expt001, expt002]}
  optimizer: {values: [sgd, adagrad, adam]}
command: ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
""",
        {
            "sampler": {"name": "tpe"},
            "parameters": {
                "lr": {"min": 1e-5, "max": 0.1, "distribution": "uniform"},
                "optimizer": {"values": ["sgd", "adam"]},
            },
        },
        [
            "1: program: xraytune runs its own training",
            "2: metric: objective.metric: unknown value 'val_loss'",
            "6: experiment: unknown parameter",
            "7: optimizer: unknown value 'adagrad'",
            "8: command: xraytune runs its own training",
        ],
    ),
    "wandb/examples 369ac57 examples/wandb-sweeps/sweeps-cross-validation/sweep-cross-validation.yaml": (
        """\
method: random
metric: {goal: maximize, name: val_accuracy}
parameters:
  batch_size: {distribution: int_uniform, max: 128, min: 32}
  epochs: {distribution: constant, value: 200}
  node_size1: {distribution: categorical, values: [64, 128, 256]}
  num_layers: {distribution: categorical, values: [1, 2, 3]}
  optimizer: {distribution: categorical, values: [Adam, Adamax, Adagrad]}
program: train-cross-validation.py
""",
        {
            "sampler": {"name": "random"},
            "budget": {"max_epochs": 200},
            "parameters": {
                "batch_size": {"distribution": "int_uniform", "max": 128, "min": 32},
                "optimizer": {"distribution": "categorical", "values": ["adam"]},
            },
        },
        [
            "2: metric: objective.metric: unknown value 'val_accuracy'",
            "6: node_size1: unknown parameter",
            "7: num_layers: unknown parameter",
            "8: optimizer: unknown value 'Adagrad'",
            "8: optimizer: unknown value 'Adamax'",
            "9: program: xraytune runs its own training",
        ],
    ),
    "wandb/sweeps 2be239a examples/nested-params/using-cli/sweep-nested.yaml": (
        """\
description: sweep using nested params
program: train-nested-cli.py
project: nested-examples
method: grid
metric: {name: loss, goal: minimize}
parameters:
  batch_size: {values: [32, 64]}
  optimizer:
    parameters:
      lr: {values: [0.001, 0.0001]}
      nadam: {parameters: {beta: {values: [0.9, 0.95]}}}
""",
        {
            "sampler": {"name": "grid"},
            "tracking": {"wandb": {"project": "nested-examples"}},
            "parameters": {"batch_size": {"values": [32, 64]}, "lr": {"values": [0.001, 0.0001]}},
        },
        [
            "1: description: no counterpart",
            "2: program: xraytune runs its own training",
            "5: metric: objective.metric: unknown value 'loss'",
            "11: optimizer.nadam.beta: unknown parameter",
        ],
    ),
    "AGCpr/Medical-AI-Colon-Polyp-Segmentation e82bc22 sweep.yaml": (
        """\
program: train.py
method: bayes
metric: {goal: maximize, name: val_dice}
parameters:
  model.backbone: {values: [efficientnet-b4, efficientnet-b3, efficientnet-b5, resnet50]}
  model.decoder_channels: {values: [[256, 128, 64, 32, 16], [512, 256, 128, 64, 32], [128, 64, 32, 16, 8]]}
  training.optimizer.lr: {distribution: log_uniform_values, min: 0.0001, max: 0.01}
  training.optimizer.weight_decay: {values: [0.0, 0.0001, 0.001, 0.01]}
  training.optimizer.momentum: {distribution: uniform, min: 0.8, max: 0.99}
  data.batch_size: {values: [2, 4, 8]}
  training.max_epochs: {values: [10, 15, 20]}
  training.precision: {values: [16, 32]}
  training.scheduler.factor: {values: [0.1, 0.3, 0.5, 0.7]}
  training.scheduler.patience: {values: [3, 5, 7, 10]}
early_terminate: {type: hyperband, min_iter: 3, eta: 3}
run_cap: 50
count: 30
project: colon-polyp-segmentation-sweep
entity: null
""",
        {
            "scheduler": {"name": "asha", "grace": 3, "reduction": 3},
            "sampler": {"name": "tpe"},
            "objective": {"metric": "val_dice", "goal": "maximize"},
            "task": "segmentation",
            "budget": {"trials": 50},
            "tracking": {"wandb": {"project": "colon-polyp-segmentation-sweep"}},
            "parameters": {
                "lr": {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.01},
                "weight_decay": {"values": [0.0, 0.0001, 0.001, 0.01]},
                "batch_size": {"values": [2, 4, 8]},
            },
        },
        [
            "1: program: xraytune runs its own training",
            "5: model.backbone: backbone: efficientnet_b4 cannot be the encoder of a U-Net",
            "6: model.decoder_channels: unknown parameter",
            "9: training.optimizer.momentum: unknown parameter",
            "11: training.max_epochs: budget.max_epochs: a list is not a whole number",
            "12: training.precision: unknown parameter",
            "13: training.scheduler.factor: unknown parameter",
            "14: training.scheduler.patience: unknown parameter",
            "17: count: no counterpart",
            "19: entity: W&B uses your default entity",
        ],
    ),
    "matthiaszeller/GNN-MI faf2e9a config/sweep.yaml": (
        """\
program: run_sweep.py
method: bayes
metric: {name: val_loss, goal: minimize}
parameters:
  model.type: {value: Equiv}
  num_hidden_dim: {distribution: categorical, values: [8, 16, 32]}
  optimizer.name: {distribution: categorical, values: [Adam]}
  optimizer.lr: {distribution: log_uniform, min: -13.815510557964274, max: -2.3025850929940455}
  optimizer.momentum: {value: 0.0}
  batch_size: {value: 16}
  epochs: {value: 500}
  early_stop: {value: 100}
""",
        {
            "sampler": {"name": "tpe"},
            "budget": {"max_epochs": 500},
            "parameters": {
                "lr": {"distribution": "log_uniform_values", "min": 1e-6, "max": 0.1},
                "batch_size": {"value": 16},
            },
        },
        [
            "1: program: xraytune runs its own training",
            "3: metric: objective.metric: unknown value 'val_loss'",
            "5: model.type: unknown parameter",
            "6: num_hidden_dim: unknown parameter",
            "7: optimizer.name: unknown parameter",
            "9: optimizer.momentum: unknown parameter",
            "12: early_stop: unknown parameter",
        ],
    ),
    "twpkevin06222/Gland-Segmentation ff62874 config/sweep.yaml": (
        """\
program: train.py
name: hyperparam_sweep
entity: glaseg
project: Gland_Seg
method: bayes
metric: {name: Val_total_loss, goal: minimize}
parameters:
  csv: {value: data.csv}
  n_class: {value: 1}
  batch_size: {values: [4, 8, 16]}
  epochs: {value: 200}
  learning_rate: {values: [1e-2, 1e-3, 1e-4, 1e-5]}
  optimizer: {value: torch.optim.Adam}
  encoder_model: {values: [resnet18, resnet34, resnet50]}
  patch_size: {value: "(512, 512)"}
  aug_prob: {value: 0.5}
""",
        {
            "name": "hyperparam_sweep",
            "tracking": {"wandb": {"project": "Gland_Seg"}},
            "sampler": {"name": "tpe"},
            "budget": {"max_epochs": 200},
            "parameters": {
                "batch_size": {"values": [4, 8, 16]},
                "lr": {"values": [1e-2, 1e-3, 1e-4, 1e-5]},
                "optimizer": {"value": "adam"},
                "backbone": {"values": ["resnet18", "resnet34", "resnet50"]},
            },
        },
        [
            "1: program: xraytune runs its own training",
            "3: entity: W&B uses your default entity",
            "6: metric: objective.metric: unknown value 'Val_total_loss'",
            "8: csv: unknown parameter",
            "9: n_class: unknown parameter",
            "15: patch_size: unknown parameter",
            "16: aug_prob: unknown parameter",
        ],
    ),
}
"""Repository, commit and path of public sweep files; their content, retyped and partly shortened, and what becomes of it."""


@pytest.mark.parametrize("source", PUBLIC)
def test_public_sweeps_are_imported_and_what_is_not_is_listed(source: str, tmp_path: Path) -> None:
    sweep, expected, left_out = PUBLIC[source]

    content, lines = imported(tmp_path, sweep)

    assert content == START | expected
    assert list(content)[-1] == "parameters"
    assert sorted(lines) == sorted(left_out)


@pytest.mark.parametrize(
    ("spec", "expected", "left_out"),
    [
        ("lr|{min: 1e-4, max: 1e-2}", {"min": 1e-4, "max": 1e-2, "distribution": "uniform"}, []),
        ("batch_size|{min: 8, max: 64}", {"min": 8, "max": 64, "distribution": "int_uniform"}, []),
        ("dropout|{min: 0, max: 0.5}", {"min": 0, "max": 0.5, "distribution": "uniform"}, []),
        (
            "batch_size|{distribution: q_uniform, min: 8, max: 64, q: 8}",
            {"min": 8, "max": 64, "q": 8, "distribution": "q_uniform"},
            [],
        ),
        (
            "batch_size|{distribution: q_uniform, min: 8, max: 64}",
            {"min": 8, "max": 64, "q": 1, "distribution": "q_uniform"},
            [],
        ),
        (
            "batch_size|{distribution: q_log_uniform_values, min: 8, max: 64, q: 8}",
            {"min": 8, "max": 64, "distribution": "log_uniform_values"},
            ["batch_size.q: a logarithmic range cannot have steps of 8"],
        ),
        (
            f"lr|{{distribution: q_log_uniform, min: {math.log(1e-4)}, max: {math.log(0.25)}}}",
            {"min": 1e-4, "max": 0.25, "distribution": "log_uniform_values"},
            [],
        ),
        (
            "optimizer|{distribution: categorical_w_probabilities, values: [Adam, SGD], probabilities: [0.9, 0.1]}",
            {"values": ["adam", "sgd"]},
            ["optimizer.probabilities: every value is equally likely"],
        ),
        ("backbone|{values: [ResNet-50, resnet_50, vgg16-bn]}", {"values": ["resnet50", "vgg16_bn"]}, []),
        (
            "lr|{distribution: normal, mu: 1e-3, sigma: 1e-4}",
            None,
            ["lr: mu is not supported"],
        ),
        (
            "lr|{distribution: inv_log_uniform_values, min: 1e-4, max: 1e-2}",
            None,
            ["lr: inv_log_uniform_values has no counterpart in Optuna"],
        ),
        (
            "batch_size|{distribution: uniform, min: 8, max: 64}",
            None,
            ["batch_size: uniform draws fractions, but the values are whole numbers"],
        ),
        ("dropout|{min: 0.1, max: 1.5}", None, ["dropout: 1.5 is out of bounds"]),
        (
            "optimizer|{values: [lion, rmsprop]}",
            None,
            ["optimizer: unknown value 'lion'", "optimizer: unknown value 'rmsprop'"],
        ),
        ("lr|1e-3", None, ["lr: 0.001 is not a mapping"]),
    ],
)
def test_distributions_are_those_of_wandb(spec: str, expected: object, left_out: list[str], tmp_path: Path) -> None:
    name, _, domain = spec.partition("|")

    content, lines = imported(tmp_path, f"parameters:\n  {name}: {domain}\n")

    assert content.get("parameters", {}).get(name) == expected
    assert lines == [f"2: {line}" for line in left_out]


@pytest.mark.parametrize(
    ("metric", "objective"),
    [
        ("{name: val_auc, goal: maximize}", {"metric": "val_auroc", "goal": "maximize"}),
        ("{name: valid/AUROC}", {"metric": "val_auroc"}),
        ("{name: average_precision, goal: maximize}", {"metric": "val_auprc", "goal": "maximize"}),
        ("{name: test_auc, goal: maximize}", None),
        ("{name: val_auroc, goal: minimize}", None),
        ("{name: gan_kid}", None),
    ],
)
def test_a_metric_becomes_the_objective_only_if_it_is_one(metric: str, objective: object, tmp_path: Path) -> None:
    content, lines = imported(tmp_path, f"parameters: {{}}\nmetric: {metric}\n")

    assert content.get("objective") == objective
    assert (objective is None) == any(line.startswith("2: metric: objective") for line in lines)


@pytest.mark.parametrize(
    ("early_terminate", "scheduler", "left_out"),
    [
        ("{type: hyperband, min_iter: 5}", {"name": "asha", "grace": 5, "reduction": 3}, []),
        (
            "{type: hyperband, min_iter: 5, eta: 2, s: 2, strict: true}",
            {"name": "asha", "grace": 5, "reduction": 2},
            ["early_terminate.s: ASHA has no such setting", "early_terminate.strict: ASHA has no such setting"],
        ),
        ("{type: hyperband, max_iter: 81, s: 3}", {"name": "asha", "grace": 3, "reduction": 3}, []),
        ("{type: hyperband}", {"name": "none"}, ["early_terminate: scheduler.grace: is empty"]),
        ("{type: envelope}", {"name": "none"}, ["early_terminate: no counterpart"]),
    ],
)
def test_hyperband_becomes_asha(early_terminate: str, scheduler: object, left_out: list[str], tmp_path: Path) -> None:
    content, lines = imported(tmp_path, f"parameters: {{}}\nearly_terminate: {early_terminate}\n")

    assert content["scheduler"] == scheduler
    assert sorted(lines) == [f"2: {line}" for line in left_out]


def test_of_two_names_for_one_parameter_the_first_counts(tmp_path: Path) -> None:
    content, (line,) = imported(
        tmp_path, "parameters:\n  G.lr: {value: 1e-3}\n  D.lr: {value: 1e-4}\n  Batch-Size: {value: 8}\n"
    )

    assert content["parameters"] == {"lr": {"value": 1e-3}, "batch_size": {"value": 8}}
    assert line == "3: D.lr: lr is already set by G.lr"


def test_a_range_in_a_grid_is_left_out(tmp_path: Path) -> None:
    """W&B refuses it as well."""
    content, (line,) = imported(tmp_path, "method: grid\nparameters: {lr: {min: 1e-4, max: 1e-2}}\n")

    assert "parameters" not in content
    assert line == "2: lr: sampler: grid cannot list all numbers from 0.0001 to 0.01"


def test_keys_that_a_default_does_not_suit_are_left_out(tmp_path: Path) -> None:
    """Half of a batch of one would be synthetic, which rounds to all of it."""
    sweep = "parameters: {source: {value: gan}, mixing: {value: replace}, lr: {value: 1e-3}, batch_size: {value: 1}}\n"

    content, lines = imported(tmp_path, sweep)

    assert content["parameters"] == {"source": {"value": "gan"}, "mixing": {"value": "replace"}, "lr": {"value": 1e-3}}
    assert lines == ["1: batch_size: synthetic_ratio: 1 leaves no real image in a batch"]


@pytest.mark.parametrize(
    ("sweep", "complaint"),
    [
        ("method: bayes\n", "sweep.yaml: not a W&B sweep: it has no parameters"),
        ("parameters: [lr]\n", "sweep.yaml: not a W&B sweep: it has no parameters"),
        ("parameters:\n  lr: {min: 1\n", "sweep.yaml:3: not valid YAML"),
        ("method: *bayes\nparameters: {}\n", "sweep.yaml:1: "),
    ],
)
def test_what_is_no_sweep_is_refused_with_its_line(sweep: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(sweep, encoding="utf-8")

    with pytest.raises(ConfigError) as refusal:
        import_sweep(file, out=tmp_path / "space.yaml")

    assert complaint in str(refusal.value)
    assert not (tmp_path / "space.yaml").exists()
