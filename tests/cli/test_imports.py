"""Modules that quick commands import."""

import subprocess
import sys
from pathlib import Path

import pytest

import xraytune

pytestmark = pytest.mark.slow

HEAVY = ("torch", "torchvision", "ray", "wandb", "optuna", "pandas", "sklearn")
OF_A_TRIAL = ("ray", "pandas", "scipy.stats", "sklearn", "torchvision", "torch._dynamo")
COMMANDS = """
from xraytune.cli.main import build_app
for line in sys.argv[1:]:
    build_app()(line.split(), standalone_mode=False)
"""
A_STEP = """
import torch, xraytune.search.run, xraytune.search.worker
from xraytune.nets.optimizer import Optimizer
for name in ("adam", "adamw", "sgd"):
    network = torch.nn.Linear(2, 1)
    optimizer = Optimizer(name, network, lr=1e-3)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
"""


A_BACKBONE = """
from xraytune.nets.backbones import build_backbone, accepts
from xraytune.nets.last_stage import last_stage
network, _ = build_backbone("mobilenet_v2")
assert accepts("mobilenet_v2", 64)
last_stage("mobilenet_v2", network)
"""
A_GENERATOR = """
import numpy
from xraytune.base.records import Compute
from xraytune.space.settings import GanSettings
from xraytune.synth.gan import new_training, real_images
compute = Compute(device="cpu", threads=1, precision="float32")
training = new_training(GanSettings(image_size=32, steps=1), 2, compute)
images = numpy.random.default_rng(0).integers(0, 256, (8, 1, 32, 32), dtype="uint8")
training.fit(real_images(images, numpy.arange(8) % 2, compute))
"""


def loaded_by(code: str, *arguments: str, names: tuple[str, ...] = HEAVY) -> list[str]:
    code = f"import sys\n{code}\nprint(*(name for name in {names} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1].split()


def test_quick_commands_load_nothing_heavy(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "name: small\ndata: {path: x}\nparameters:\n  lr: {min: 1e-5, max: 1e-3}\n",
        encoding="utf-8",
    )

    assert loaded_by(COMMANDS, "--help", "train --help", "--version", f"space check {space}") == []


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import xraytune.study.status, xraytune.model.best", ("torch", "ray")),
        (A_STEP, OF_A_TRIAL),
        (A_BACKBONE, ("torch._dynamo",)),
        (A_GENERATOR, OF_A_TRIAL),
    ],
    ids=["status and export", "a step of a trial", "a backbone", "a generator"],
)
def test_slow_packages_are_loaded_only_when_needed(code: str, names: tuple[str, ...]) -> None:
    assert loaded_by(code, names=names) == []


def test_the_package_exports_all_names() -> None:
    assert all(callable(getattr(xraytune, name)) for name in xraytune.__all__)
