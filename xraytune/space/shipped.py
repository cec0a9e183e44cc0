"""The space files that come with xraytune: found by name, listed with their questions, and copied to be changed."""

from __future__ import annotations

import re
from pathlib import Path

from xraytune.base.errors import ConfigError, Problem
from xraytune.base.files import require_new, write_text
from xraytune.space.messages import nearest

_HEADER = re.compile(r"(?:# .*\n)+")
_FIRST_SENTENCE = re.compile(r".+?(?:\?(?=\s|$)|(?=\.\s|[.:]$))")


def list_spaces() -> dict[str, str]:
    """Return the question of each shipped space file by name, the beginning of its first comment."""
    questions = {}
    for file in sorted(_folder().glob("*.yaml")):
        header = _HEADER.match(file.read_text(encoding="utf-8"))
        assert header, f"{file} begins with a comment"
        sentence = _FIRST_SENTENCE.match(" ".join(header[0].replace("# ", "").split()))
        assert sentence, f"{file} begins with a question"
        questions[file.stem] = sentence[0]
    return questions


def copy_space(name: str, out: Path | None = None) -> Path:
    """Copy a shipped space file, and return the new file.

    Args:
        name: Such as `gan_ratio_cpu`.
        out: The new file; by default `NAME.yaml` in the current folder. It must not exist.

    Raises:
        ConfigError: There is no such space, or the file exists.
    """
    if name not in list_spaces():
        raise ConfigError(Problem(f"there is no space named {name}", fix=nearest(name, list_spaces())))
    file = out or Path(f"{name}.yaml")
    require_new(file)
    write_text(file, (_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    return file


def shipped(file: Path) -> Path:
    """Return the space file that xraytune ships under a bare name, unless a file here has it; any other path as it is."""
    found = _folder() / f"{file}.yaml"
    return found if file.parent == Path() and not file.is_file() and found.is_file() else file


def _folder() -> Path:
    """Return the folder of a clone, or of an installation."""
    package = Path(__file__).parents[1]
    folders = [folder / "search_spaces" for folder in (package, package.parent)]
    return folders[0] if folders[0].is_dir() else folders[1]
