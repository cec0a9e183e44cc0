"""The generators of `examples/`, trained for a few steps on phantoms."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trial.conftest import Bench
from xraytune.space.extensions import EXTENSIONS
from xraytune.synth.sources.registry import source_of
from xraytune.trial.training_set import build_training_set

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("place", "settings"),
    [
        ("blend.py:Blend", {}),
        ("vae.py:Vae", {"steps": 20}),
        ("program/components.yaml", {"components": 5}),
        pytest.param("diffusion.py:Diffusion", {"steps": 2}, marks=pytest.mark.nightly),
    ],
)
def test_an_example_makes_images_of_both_classes(
    bench: Bench, place: str, settings: dict[str, Any]
) -> None:
    name = Path(place.partition(":")[0]).stem
    if name == "diffusion":
        pytest.importorskip("diffusers", reason="pip install diffusers")
    EXTENSIONS.register([str(EXAMPLES / place)])
    parameters = {"source": name, **({name: settings} if settings else {})}
    experiment = bench.ungated.experiment(**parameters)
    source = source_of(experiment.parameters)

    training_set = build_training_set(experiment, bench.context)
    normal, pneumonia = (
        source.block(experiment.settings, bench.context, label, 0).pixels for label in (0, 1)
    )

    assert len(training_set.extra) == len(training_set.real)
    assert normal.shape == (256, 32, 32)
    assert normal.std() > 1
    assert not np.array_equal(normal, pneumonia)


def test_a_longer_training_of_the_vae_continues_a_shorter_one(bench: Bench) -> None:
    EXTENSIONS.register([f"{EXAMPLES / 'vae.py'}:Vae"])
    steps: list[int] = []
    context = replace(bench.context, on_progress=lambda _, done, __: steps.append(done))

    for count in (3, 6):
        experiment = bench.ungated.experiment(source="vae", vae={"steps": count, "width": 16})
        source_of(experiment.parameters).block(experiment.settings, context, 0, 0)

    assert steps == [1, 2, 3, 4, 5, 6]
