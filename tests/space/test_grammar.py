"""The syntax of `parameters:`: the domain of each declaration, and the error message of each mistake."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from xraytune.base.errors import ConfigError, SourceLine
from xraytune.space.domains import Choices, Domain, Range
from xraytune.space.load import load_space

integers = partial(Range, step=1, is_integer=True)


WriteSpace = Callable[..., Path]
Complaints = Callable[..., str]


def domain_of(path: Path, name: str) -> Domain:
    (domain,) = (spec.domain for spec in load_space(path).specs if spec.name == name)
    return domain


def test_a_parameter_in_its_block_and_by_its_dotted_name_is_declared_twice(
    write_space: WriteSpace, complaints: Complaints
) -> None:
    message = complaints(write_space("gan.steps: {value: 1}", "gan: {parameters: {steps: {value: 2}}}", "lrr: 1"))

    assert message.startswith("space.yaml:5: gan.steps: is declared twice, first at space.yaml:4")
    assert "space.yaml:6: unknown parameter 'lrr'" in message


def test_parameters_are_a_mapping_or_left_out(tmp_path: Path, complaints: Complaints) -> None:
    path = tmp_path / "space.yaml"

    path.write_text("name: small\ndata: {path: images}\nparameters: [lr]\n", encoding="utf-8")
    assert complaints(path).startswith("space.yaml:3: parameters: a list is not a mapping")

    path.write_text("name: small\ndata: {path: images}\n", encoding="utf-8")
    assert load_space(path).searched == ()


@pytest.mark.parametrize(
    ("name", "declared", "domain"),
    [
        ("lr", "{value: 1e-3}", Choices((1e-3,))),
        ("lr", "{values: [1e-3, 1]}", Choices((1e-3, 1.0))),
        ("lr", "{min: 1e-3, max: 1}", Range(low=1e-3, high=1.0)),
        ("lr", "{min: 1e-3, max: 1, distribution: uniform}", Range(low=1e-3, high=1.0)),
        ("lr", "{min: 0.5, max: 2, distribution: log_uniform_values}", Range(low=0.5, high=2.0, is_log=True)),
        ("lr", "{min: 2, max: 4, distribution: int_uniform}", Range(low=2.0, high=4.0, step=1.0)),
        ("lr", "{min: 2, max: 2}", Choices((2.0,))),
        ("dropout", "{min: 0, max: .6, step: .2}", Range(low=0.0, high=0.6, step=0.2)),
        ("dropout", "{min: 0, max: .6, step: .2, distribution: uniform}", Range(low=0.0, high=0.6, step=0.2)),
        ("batch_size", "{min: 8, max: 32}", integers(low=8, high=32)),
        ("batch_size", "{min: 8, max: 32, distribution: int_uniform}", integers(low=8, high=32)),
        ("batch_size", "{min: 8, max: 32, step: 1}", integers(low=8, high=32)),
        ("batch_size", "{min: 8, max: 32, step: 8}", integers(low=8, high=32, step=8)),
        ("views", "{min: 1, max: 8, distribution: log_uniform_values}", integers(low=1, high=8, is_log=True)),
        ("early_stop_epochs", "{min: 1, max: 1000000000000001}", integers(low=1, high=10**15 + 1)),
    ],
)
def test_a_declaration_is_read_as_its_domain(write_space: WriteSpace, name: str, declared: str, domain: Domain) -> None:
    assert domain_of(write_space(f"{name}: {declared}"), name) == domain


def test_each_wrong_value_is_reported_at_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    lines = """name: x
data: {path: xrays}
parameters:
  backbone:
    values:
    - resnet18
    - resnet5O
    - vgg17
  dropout:
    value: much
  lr:
    min: few
    max: 1e-3
  weight_decay:
    min: 0
    max: many
"""
    path.write_text(lines, encoding="utf-8")

    with pytest.raises(ConfigError) as caught:
        load_space(path)

    lines_of = [problem.where.line for problem in caught.value.problems if isinstance(problem.where, SourceLine)]
    assert lines_of == [7, 8, 10, 12, 16]
