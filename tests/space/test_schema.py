"""The JSON Schema agrees with `load_space` about the structure of a file."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from xraytune.base.errors import ConfigError
from xraytune.space.document import parse_yaml
from xraytune.space.load import load_space
from xraytune.space.schema import space_schema

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"
FILES = sorted([*SPACES.glob("*.yaml"), *SPACES.glob("studies/*.yaml")])
SCHEMA: Any = space_schema()


def complaints(text: str) -> list[str]:
    content = parse_yaml(text, lambda line: f"line {line}").content
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(content)]


@pytest.mark.slow
def test_the_schema_is_valid_and_the_shipped_one_up_to_date() -> None:
    """Update it with `xraytune space check --schema > search_spaces/space.schema.json`."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads((SPACES / "space.schema.json").read_text(encoding="utf-8")) == SCHEMA


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_shipped_space_fits_the_schema_also_resolved_and_names_it_for_editors(file: Path) -> None:
    text = file.read_text(encoding="utf-8")

    schema = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (file.parent / schema).resolve() == SPACES / "space.schema.json"
    assert complaints(text) == complaints(load_space(file).to_yaml(file.parent)) == []


@pytest.mark.parametrize(
    "line",
    [
        "parameters: {lrr: {value: 1}}",
        "parameters: {lr: 1e-3}",
        "parameters: {lr: {value: -1}}",
        "parameters: {lr: {min: 1e-4}}",
        "parameters: {lr: {value: 1, values: [1, 2]}}",
        "parameters: {backbone: {value: resnet5O}}",
        "parameters: {backbone: {min: 1, max: 2}}",
        "parameters: {gan: {steps: {value: 1}}}",
        "parameters: {gan: {parameters: {stepz: {value: 1}}}}",
        "parameters: {lr: {value: 1, when: {sourc: gan}}}",
        "parameters: {lr: {value: 1, when: {views: {gt: 1}}}}",
        "parameters: {lr: {value: 1, distribution: normal}}",
        "budget: {trials: 0}",
        "sead: 3",
        "points_to_evaluate: [{sorce: none}]",
        "points_to_evaluate: [{gan: {stepz: 1}}]",
    ],
)
def test_the_schema_rejects_what_load_space_rejects(line: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(f"name: small\ndata: {{path: images}}\n{line}\n", encoding="utf-8")

    with pytest.raises(ConfigError):
        load_space(path)
    assert complaints(path.read_text(encoding="utf-8"))
