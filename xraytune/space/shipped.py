"""The space files that come with xraytune: find one by name, list them, copy one to change it."""

from itertools import takewhile
from pathlib import Path

from xraytune.base.errors import ConfigError
from xraytune.base.files import StrPath, optional_path, require_new, write_text
from xraytune.space.messages import nearest

_PACKAGE = Path(__file__).parents[1]
_FOLDER = _PACKAGE / "search_spaces"
if not _FOLDER.is_dir():  # in a clone
    _FOLDER = _PACKAGE.parent / "search_spaces"


def list_spaces() -> dict[str, str]:
    """Return the purpose of each shipped space, by name: the first paragraph of its comment."""
    purposes = {}
    for file in sorted(_FOLDER.glob("*.yaml")):
        lines = file.read_text(encoding="utf-8").splitlines()
        header = takewhile(lambda line: line.startswith("# "), lines)
        purposes[file.stem] = " ".join(line[2:].strip() for line in header).rstrip(":.")
    return purposes


def copy_space(name: str, out: StrPath | None = None) -> Path:
    """Copy a shipped space file, and return the new file.

    Args:
        name: The name of the space, such as `gan_ratio_cpu`.
        out: The new file; by default `NAME.yaml` in the current folder. It must not exist.

    Raises:
        ConfigError: There is no such space, or the file exists.
    """
    out = optional_path(out)
    shipped = _find_shipped(Path(name)) or find_space(name)
    file = out or Path(shipped.name)
    require_new(file)
    write_text(file, shipped.read_text(encoding="utf-8"))
    return file


def find_space(name: StrPath) -> Path:
    """Return the space file of a name: an existing file, or else the shipped space of that name.

    `gan_ratio`, `gan_ratio.yaml` and `search_spaces/gan_ratio.yaml` name the same shipped space.

    Raises:
        ConfigError: There is neither a file nor a shipped space of this name.
    """
    name = Path(name)
    file = name if name.is_file() else _find_shipped(name)
    if file is None:
        check = "check the path; `xraytune space list` prints the names of shipped spaces"
        fix = nearest(name.stem, list_spaces(), check)
        raise ConfigError("there is no such file, and no space of this name", name, fix)
    return file


def describe_space(name: StrPath) -> str:
    """Return a line that says which file a name means."""
    file = find_space(name)
    if file == Path(name):
        return f"space: file {name}"
    shipped = file.relative_to(_FOLDER).with_suffix("")
    return f"space: shipped {shipped}; `xraytune space copy {shipped}` makes a copy to change"


def _find_shipped(name: Path) -> Path | None:
    """Return the shipped space of a name, or None if there is none."""
    bare = name.as_posix().removeprefix("search_spaces/").removesuffix(".yaml")
    file = _FOLDER / f"{bare}.yaml"
    return file if file.is_file() and not name.is_absolute() else None
