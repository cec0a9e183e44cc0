"""Small phantom X-rays, prepared once for all tests of the pipeline."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.in_process import CPU, one_thread, save_backbone
from tests.pair_files import draw_xrays
from xraytune.data.image_set import ImageSet
from xraytune.data.prepare import RunContext, SplitData, prepare
from xraytune.space.load import load_space
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment, Settings
from xraytune.space.source_settings import GanSettings
from xraytune.synth.sources.registry import source_of
from xraytune.trial.batches import Batches

FINDINGS_SPACE = """
name: findings
task: findings
data: {path: xrays, image_size: 32, split: {val_a: 0.3, val_b: 0.3}}
parameters: {backbone: {value: small_cnn}, weights: {value: none}, lr: {value: 0.003}}
budget: {max_epochs: 2, steps_per_epoch: 6}
"""


DONORS_SPACE = """
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.3, val_b: 0.1}}
parameters:
  source: {values: [none, gan]}
  gan:
    when: {source: gan}
    parameters:
      {image_size: {value: 32}, width: {value: 4}, batch_size: {value: 4}, steps: {value: 2}}
  backbone: {value: small_cnn}
  weights: {value: net.safetensors}
  trainable: {value: head}
resources: {gpus_per_trial: 0}
budget: {max_epochs: 20}
"""
"""The space of a hospital that sends a head on a frozen backbone."""


def gan(**more: Any) -> GanSettings:
    """The settings of a tiny GAN."""
    tiny = {"image_size": 32, "steps": 4, "width": 4, "z_dim": 8, "batch_size": 8}
    return GanSettings.model_validate(tiny | more)


ARMS: dict[str, dict[str, Any]] = {
    "real_only": {"source": "none"},
    "augmented": {
        "augmentation": "affine",
        "optimizer": "sgd",
        "schedule": "cosine",
        "dropout": 0.3,
    },
    "duplicate": {"source": "duplicate", "synthetic_ratio": 0.5},
    "gan": {"source": "gan", "gan": gan(), "optimizer": "adamw", "weight_decay": 0.01},
    "augmented+gan": {
        "source": "gan",
        "gan": gan(),
        "augmentation": "flip",
        "synthetic_ratio": 2.0,
        "synthetic_weight": 0.1,
        "balance": "equal",
    },
    "gan, pretrained": {
        "source": "gan",
        "gan": gan(),
        "mixing": "pretrain",
        "schedule": "plateau",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Images of a study and a cache, for running trials."""

    settings: Settings
    prepared: SplitData
    cache: Path

    @property
    def context(self) -> RunContext:
        return RunContext(prepared=self.prepared, cache=self.cache, compute=CPU)

    @property
    def ungated(self) -> "Bench":
        """The same, without the gate against copies."""
        settings = self.settings.with_values({"quality.allow_memorised": True})
        return replace(self, settings=settings)

    def experiment(self, **parameters: Any) -> Experiment:
        small = {
            "backbone": "small_cnn",
            "weights": "none",
            "batch_size": 8,
            "lr": 1e-3,
            "views": 3,
        }
        return Experiment(
            settings=self.settings, parameters=Parameters.model_validate(small | parameters)
        )


def frozen(bench: Bench, folder: Path, **parameters: Any) -> Experiment:
    """A trial on a frozen backbone whose weights come from a file in the folder."""
    file = folder / "backbone.safetensors"
    save_backbone(file, parameters.get("backbone", "small_cnn"))
    return bench.experiment(**{"weights": str(file), "trainable": "head", **parameters})


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def batch_of(batches: Batches, step: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a step."""
    return batches.load(next(batches.step_inputs(range(step, step + 1))))


def block_of(
    experiment: Experiment, context: RunContext, label: int = 0, number: int = 0
) -> ImageSet:
    """A block of the extra images of an experiment."""
    source = source_of(experiment.parameters)
    return source.block(experiment.settings, context, label, number)


def prepared_bench(settings: Settings, cache: Path) -> Bench:
    """The images of a study, prepared in a cache."""
    prepared, _ = prepare(settings, cache)
    return Bench(settings=settings, prepared=prepared, cache=cache)


def bench_of(root: Path, side: float, **values: Any) -> Bench:
    """The images in `root / "xrays"`, with validation sides of this share."""
    data = {"path": root / "xrays", "image_size": 32, "split": {"val_a": side, "val_b": side}}
    settings = Settings.model_validate({"name": "small", "data": data, **values})
    return prepared_bench(settings, root / "cache")


def make_bench(folder: Path) -> Bench:
    """Draw and prepare phantoms in an empty folder."""
    draw_xrays(folder, patients=30, seed=3, image_size_px=48)
    return bench_of(folder, 0.2, seed=5, budget={"max_epochs": 3, "steps_per_epoch": 4})


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def findings_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("findings")
    draw_xrays(root, patients=120, seed=3, image_size_px=48, findings=True)
    (root / "space.yaml").write_text(FINDINGS_SPACE)
    return prepared_bench(
        load_space(root / "space.yaml", data=root / "xrays/data.yaml").settings, root / "cache"
    )


@pytest.fixture(scope="session")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A study with enough validation images of each class for a KID, and a backbone for it."""
    root = tmp_path_factory.mktemp("clinic")
    draw_xrays(root, patients=240, seed=3)
    save_backbone(root / "net.safetensors")
    return bench_of(root, 0.42, quality={"allow_memorised": True})


@pytest.fixture(autouse=True)
def pinned() -> Iterator[None]:
    """One thread, as a trial's own process has."""
    with one_thread():
        yield
