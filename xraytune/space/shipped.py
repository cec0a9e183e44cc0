"""The space files that come with xraytune: found by name, listed with what they are for, and copied to be changed."""

from __future__ import annotations

import re
from pathlib import Path

from xraytune.base.errors import ConfigError, Problem
from xraytune.base.files import require_new, write_text
from xraytune.space.messages import nearest

_HEADER = re.compile(r"(?:# .*\n)+")
"""The first paragraph of a file: its question, the machine it is for, and how long it takes."""


def list_spaces() -> dict[str, str]:
    """Return what each shipped space file is for, by name: the first paragraph of its comment."""
    purposes = {}
    for file in sorted(_folder().glob("*.yaml")):
        header = _HEADER.match(file.read_text(encoding="utf-8"))
        assert header, f"{file} begins with a comment"
        purposes[file.stem] = " ".join(header[0].replace("# ", "").split()).rstrip(":.")
    return purposes


def copy_space(name: str, out: Path | None = None) -> Path:
    """Copy a shipped space file, and return the new file.

    Args:
        name: Such as `gan_ratio_cpu`.
        out: The new file; by default `NAME.yaml` in the current folder. It must not exist.

    Raises:
        ConfigError: There is no such space, or the file exists.
    """
    shipped = _find_shipped(Path(name))
    if shipped is None:
        raise ConfigError(
            Problem(f"there is no space named {name}", fix=nearest(name, list_spaces()))
        )
    file = out or Path(shipped.name)
    require_new(file)
    write_text(file, shipped.read_text(encoding="utf-8"))
    return file


def find_space(name: Path) -> Path:
    """Return the space file of a name: a file if there is one, else the shipped space of that name.

    `gan_ratio`, `gan_ratio.yaml` and `search_spaces/gan_ratio.yaml` name the same shipped space.

    Raises:
        ConfigError: There is neither a file nor a shipped space of this name.
    """
    if name.is_file():
        return name
    if shipped := _find_shipped(name):
        return shipped
    if name.exists():  # a folder, say, which its reader refuses
        return name
    check = "check the path; `xraytune space list` prints the names of the spaces that come with xraytune"
    raise ConfigError(
        Problem(
            "there is no such file, and no space of this name",
            name,
            nearest(name.stem, list_spaces(), check),
        )
    )


def describe_space(name: Path) -> str:
    """Return a line that says which file a name means."""
    file = find_space(name)
    if file == name:
        return f"space: file {name}"
    shipped = file.relative_to(_folder()).with_suffix("")
    return f"space: shipped {shipped}; `xraytune space copy {shipped}` makes a copy to change"


def _find_shipped(name: Path) -> Path | None:
    """Return the shipped space of a name; None if there is none."""
    bare = name.as_posix().removeprefix("search_spaces/").removesuffix(".yaml")
    file = _folder() / f"{bare}.yaml"
    return file if file.is_file() and not name.is_absolute() else None


def _folder() -> Path:
    """Return the folder of a clone, or of an installation."""
    package = Path(__file__).parents[1]
    folders = [folder / "search_spaces" for folder in (package, package.parent)]
    return folders[0] if folders[0].is_dir() else folders[1]
