"""Every code block of README and docs/ is valid: commands and their options, YAML, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.hooks import PROGRAMS, Block, shell_commands
from tests.docs.commands import BLOCKS, ROOT, of_xraytune, parse
from xraytune.space.load import load_space
from xraytune.space.settings import Settings

OTHER_SPACES = {"examples/README.md": "tests/examples, with the examples installed"}
"""Pages with overrides that are only valid with other packages, and the tests that check them."""
OTHER_YAML = {"services": "docker compose", "apiVersion": "Kubernetes", "method": "W&B"}
"""Top-level keys of YAML files that are not space files."""


def all_of(language: str) -> list[Any]:
    """Return the blocks of a language, by page and line."""
    return [
        pytest.param(page, block, id=f"{page}:{block.lines[0] + 1}")
        for page, block in BLOCKS
        if block.language == language
    ]


@pytest.mark.parametrize(("page", "block"), all_of("bash"))
def test_every_command_exists_with_its_options(page: str, block: Block) -> None:
    for words in shell_commands(block.text):
        assert Path(words[0]).name in PROGRAMS
        if (arguments := of_xraytune(words)) is not None:
            given = parse(arguments).params
            file = ROOT / str(given.get("space") or given.get("config") or given.get("file"))
            if file.is_file() and page not in OTHER_SPACES:
                load_space(file, given.get("overrides") or ())


@pytest.mark.parametrize(("page", "block"), [*all_of("yaml"), *all_of("json")])
def test_yaml_is_a_valid_space_or_another_known_file(
    page: str, block: Block, tmp_path: Path
) -> None:
    content = (
        json.loads(block.text) if block.language == "json" else next(yaml.safe_load_all(block.text))
    )
    if block.language == "json" or OTHER_YAML.keys() & content.keys():
        return
    if {"fit", "sample"} <= content.keys():  # a program, which tests/examples runs
        return
    assert content.keys() <= {*Settings.model_fields, "parameters", "points_to_evaluate"}, page
    file = tmp_path / "space.yaml"
    file.write_text(
        block.text if "name" in content else f"name: page\n{block.text}", encoding="utf-8"
    )
    has_path = "path" in content.get("data", {})

    assert load_space(file, data=None if has_path else Path("chest_xray")).settings.name
