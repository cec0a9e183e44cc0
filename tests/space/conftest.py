"""Small real space files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from xraytune.base.errors import ConfigError, Problem
from xraytune.space.fields import PARAMETERS
from xraytune.space.load import load_space

WriteSpace = Callable[..., Path]
Complaints = Callable[..., str]

HEAD = "name: small\ndata: {path: images}\n"


def space_with(point: Mapping[str, Any], **content: Any) -> dict[str, Any]:
    """Return a space file's content, to which settings and values of parameters are added."""
    content = {"parameters": {}, **content}
    for name, value in point.items():
        if name in PARAMETERS:
            content["parameters"][name] = {"value": value}
            continue
        *blocks, key = name.split(".")
        block = content
        for each in blocks:
            block = block.setdefault(each, {})
        block[key] = value
    return content


def with_fixes(point: Mapping[str, Any], problems: Sequence[Problem]) -> dict[str, Any]:
    """Return a point with what the messages of a refusal say to write."""
    fixed = dict(point)
    for problem in problems:
        if problem.fix.startswith(("omit it", "remove it")):
            del fixed[problem.what.partition(":")[0].removesuffix(" has no effect with task")]
            continue
        assert problem.fix.startswith("write "), problem
        changes = problem.fix.removeprefix("write ").partition(", or keep")[0]
        for change in changes.split(" and "):
            name, _, value = change.partition(": ")
            fixed[name] = yaml.safe_load(value)
    return fixed


@pytest.fixture
def write_space(tmp_path: Path) -> WriteSpace:
    """Write a space file from its `parameters:` lines and what follows them."""

    def write(*parameters: str, after: str = "") -> Path:
        path = tmp_path / "space.yaml"
        lines = "".join(f"  {line}\n" for line in parameters)
        path.write_text(f"{HEAD}parameters:{'' if lines else ' {}'}\n{lines}{after}")
        return path

    return write


@pytest.fixture
def complaints(tmp_path: Path) -> Complaints:
    """Return the error message for a file, without its folder."""

    def read(path: Path, *overrides: str) -> str:
        with pytest.raises(ConfigError) as refusal:
            load_space(path, overrides)
        return str(refusal.value).replace(f"{tmp_path}/", "")

    return read
