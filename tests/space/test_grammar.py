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


REFUSED = """
lr|value: 1|step: 0.1 -> 2: lr: step needs min and max -> remove step
lr|value: 1|distribution: uniform -> 2: lr: distribution needs min and max -> remove distribution
lr|values: 3 -> 1: lr: values is not a list -> write values: [a, b]
folder.path|values: [a, b] -> 1: folder.path: cannot be searched -> write value: and one path
lr|values:|- 1|- 2|- 1.0 -> 4: lr: 1.0 is listed twice -> keep one
backbone|min: 1|max: 2 -> 1: backbone: its values have no order, so min and max do not apply -> write values: [a, b]
lr|max: 1 -> 0: lr: has no min -> write min: too
lr|when: {source: gan} -> 0: lr: has no value -> give one of: value, values, min and max
lr|max: 1|min: 2 -> 2: lr: min 2 is above max 1 -> write min: 1, max: 2
dropout|min: 0|max: .5|distribution: log_uniform_values -> 1: dropout: min 0 has no logarithm -> write a small number \
above 0, or distribution: uniform
classical|min: 0|max: 3|distribution: uniform -> 3: classical: uniform draws fractions, but the values are whole \
numbers -> write int_uniform
gan.seed|min: 0|max: 1000000000000001 -> 2: gan.seed: from 0 to 1e+15 there are too many values -> narrow the range, \
or widen the step
weight_decay|min: 0|max: 1000000000000001|distribution: int_uniform -> 2: weight_decay: from 0 to 1e+15 there are too \
many values -> narrow the range, or widen the step
lr|min: 1|max: 2|distribution: log_uniform_values|step: .1 -> 4: lr: a logarithmic range cannot have steps -> remove \
step
dropout|min: 0|max: .5|step: 0 -> 3: dropout: step 0 is not a number above 0 -> write a number above 0
dropout|min: 0|max: .5|step: true -> 3: dropout: step true is not a number above 0 -> write a number above 0
dropout|min: 0|max: .5|step: .inf -> 3: dropout: step inf is not a number above 0 -> write a number above 0
batch_size|min: 8|max: 32|step: 1.5 -> 3: batch_size: step 1.5 is not a whole number -> write a whole number
dropout|min: 0|max: .5|step: .2 -> 3: dropout: steps of 0.2 from 0 never reach max 0.5 -> write max: 0.4 or max: 0.6
gan|parameters: {}|wen: {source: gan} -> 2: gan: unknown key 'wen' -> did you mean 'when'?
gan|parameters: {}|parameter: {} -> 2: gan: unknown key 'parameter' -> did you mean 'parameters'?
gan|parameters:|  backbon: {value: 1} -> 2: gan: unknown parameter 'backbon' -> use one of: architecture, image_size, \
steps, batch_size, z_dim, width, lr_g, lr_d, beta1, loss, spectral_norm, diffaugment, ema_half_life_images, \
conditional, seed
gan|parameters:|  steps: 5 -> 2: gan.steps: 5 is not a mapping -> write steps: {value: 5}
lr|min: 1|max: 2|distribution: unifrm -> 3: lr: unknown distribution 'unifrm' -> did you mean 'uniform'?
"""
"""One parameter, with | between its lines -> number of the wrong line: what is wrong -> fix."""


@pytest.mark.parametrize("case", REFUSED.strip().splitlines())
def test_an_error_names_the_line_and_the_fix(write_space: WriteSpace, complaints: Complaints, case: str) -> None:
    block, problem, fix = case.split(" -> ")
    number, _, what = problem.partition(": ")
    line, (name, *rest) = int(number), block.split("|")
    lines = [f"{name}:", *(f"  {one}" for one in rest)]

    message = complaints(write_space(*lines))

    assert message == f"space.yaml:{4 + line}: {what}\n  {4 + line} | {lines[line].strip()}\n  fix: {fix}"


@pytest.mark.parametrize(
    ("dropout", "what"),
    [
        ("{min: 0, max: .5, step: -1}", "step -1 is not a number above 0"),
        ("{min: 0, max: .5, step: .2}", "never reach max 0.5"),
        ("{min: 0, max: .5, distribution: int_uniform}", "int_uniform draws whole numbers, but max is 0.5"),
        ("{min: 0, max: .5, step: 1.0e-300}", "there are too many values"),
    ],
)
def test_an_invalid_range_is_the_only_problem_reported(
    write_space: WriteSpace, complaints: Complaints, dropout: str, what: str
) -> None:
    """A condition on it may be valid once the range is."""
    message = complaints(write_space(f"dropout: {dropout}", "lr: {values: [1, 2], when: {dropout: .3}}"))

    assert what in message
    assert message.count("fix:") == 1


def test_a_parameter_in_its_block_and_by_its_dotted_name_is_declared_twice(
    write_space: WriteSpace, complaints: Complaints
) -> None:
    path = write_space("gan.steps: {value: 1}", "gan: {parameters: {steps: {value: 2}}}", "lrr: {value: 1}")

    assert complaints(path) == "\n".join(
        [
            "space.yaml:5: gan.steps: is declared twice, first at space.yaml:4",
            "  5 | gan: {parameters: {steps: {value: 2}}}",
            "  fix: keep one",
            "space.yaml:6: unknown parameter 'lrr'",
            "  6 | lrr: {value: 1}",
            "  fix: did you mean 'lr'?",
        ]
    )


def test_parameters_are_a_mapping_or_left_out(tmp_path: Path, complaints: Complaints) -> None:
    path = tmp_path / "space.yaml"

    path.write_text("name: small\ndata: {path: images}\nparameters: [lr]\n", encoding="utf-8")
    assert complaints(path) == (
        "space.yaml:3: parameters: a list is not a mapping\n"
        "  3 | parameters: [lr]\n"
        "  fix: write parameters: {lr: {value: 1e-4}}"
    )

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
        (
            "batch_size",
            "{min: 8, max: 32, distribution: log_uniform_values}",
            integers(low=8, high=32, is_log=True),
        ),
        (
            "views",
            "{min: 1, max: 8, distribution: log_uniform_values}",
            integers(low=1, high=8, is_log=True),
        ),
        (
            "early_stop_epochs",
            "{min: 1, max: 1000000000000001}",
            integers(low=1, high=10**15 + 1),
        ),
    ],
)
def test_a_declaration_is_read_as_its_domain(write_space: WriteSpace, name: str, declared: str, domain: Domain) -> None:
    assert domain_of(write_space(f"{name}: {declared}"), name) == domain


def test_each_wrong_value_is_reported_at_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    lines = (
        "name: x",
        "data: {path: xrays}",
        "parameters:",
        "  backbone:",
        "    values:",
        "    - resnet18",
        "    - resnet5O",
        "    - vgg17",
        "  dropout:",
        "    value: much",
        "  lr:",
        "    min: few",
        "    max: 1e-3",
        "  weight_decay:",
        "    min: 0",
        "    max: many",
    )
    path.write_text("\n".join(lines), encoding="utf-8")

    with pytest.raises(ConfigError) as caught:
        load_space(path)

    lines_of = [problem.where.line for problem in caught.value.problems if isinstance(problem.where, SourceLine)]
    assert lines_of == [7, 8, 10, 12, 16]


@pytest.mark.parametrize(("theirs", "ours"), [("learning_rate", "lr"), ("Base_LR", "lr"), ("arch", "backbone")])
def test_common_names_of_other_tools_are_recognised(
    write_space: WriteSpace, complaints: Complaints, theirs: str, ours: str
) -> None:
    message = complaints(write_space(f"{theirs}: {{value: 1}}"))

    assert f"unknown parameter '{theirs}'" in message
    assert message.endswith(f"fix: did you mean '{ours}'?")
