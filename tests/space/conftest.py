"""Small real space files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from xraytune.base.errors import ConfigError
from xraytune.space.load import load_space

WriteSpace = Callable[..., Path]
Complaints = Callable[..., str]

HEAD = "name: small\ndata: {path: images}\n"


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
