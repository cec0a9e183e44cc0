"""Files of earlier versions: their studies stored all settings, also those removed since."""

from pathlib import Path
from typing import Any

import pytest

from tests.space.conftest import Complaints, WriteSpace
from xraytune.base.errors import ConfigError
from xraytune.space.load import load_space
from xraytune.space.settings import Experiment

PCA = {"gan.loss": "hinge", "gan.spectral_norm": "true", "gan.beta1": "0.0", "gan.beta2": ".99"}
DCGAN = {"gan.architecture": "dcgan", "gan.loss": "bce", "gan.ema_half_life_images": "null"}


def declare(values: dict[str, str]) -> list[str]:
    return [f"{name}: {{value: {value}, when: {{source: gan}}}}" for name, value in values.items()]


@pytest.mark.parametrize("values", [PCA, DCGAN])
def test_a_removed_setting_with_the_value_that_is_left_is_dropped(
    write_space: WriteSpace, values: dict[str, str]
) -> None:
    lines = ["source: {values: [none, gan]}", *declare(values)]

    old = load_space(write_space(*lines, after="version: 1\nprompts: {}\n"))

    kept = [line for line in lines if "architecture" in line or "source: {values" in line]
    assert old == load_space(write_space(*kept))


@pytest.mark.parametrize("values", [{"gan.conditional": "false"}, {"batch_norm": "moving"}])
def test_a_removed_setting_with_another_value_says_what_to_use(
    write_space: WriteSpace, complaints: Complaints, values: dict[str, str]
) -> None:
    message = complaints(write_space("source: {value: gan}", *declare(values)))

    assert message.count("it was removed: ") == message.count("fix: ") == 1


def test_limits_of_earlier_versions_are_read_in_a_study_and_refused_in_a_file(
    write_space: WriteSpace, complaints: Complaints
) -> None:
    limits = "budget: {trials: 3, gpu_hours: 40}\nresources: {hang_minutes: 30.0}\n"
    file = write_space("lr: {value: 1e-3}", after=limits)

    message = complaints(file)
    file = file.rename(file.with_name("study.yaml"))

    assert message.count("it was removed: ") == message.count("fix: ") == 2
    assert load_space(file).settings.budget.trials == 3
    file = file.rename(file.with_name("space.yaml"))
    with pytest.raises(ConfigError, match="it was removed: end a trial"):
        load_space(file, ["resources.hang_minutes=90"])


def test_a_trial_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    gan = {"steps": 7, "loss": "hinge", "spectral_norm": True, "conditional": True, "beta1": 0.0}
    parameters = {"source": "gan", "gan": gan, "diffusion": None, "batch_norm": "mix"}
    settings: dict[str, Any] = {
        "version": 1,
        "name": "old",
        "data": {"path": "xrays"},
        "prompts": {},
        "budget": {"gpu_hours": 40.0},
        "objective": {"metric": "val_sensitivity", "specificity": 0.9},
        "resources": {"generator": {"gpus": "auto"}},
        "final": {"max_epochs": 3, "weights": None},
    }

    content = {"settings": settings, "parameters": parameters}
    experiment = Experiment.model_validate(content, context=tmp_path)

    assert experiment.parameters.gan is not None
    assert experiment.parameters.gan.steps == 7
