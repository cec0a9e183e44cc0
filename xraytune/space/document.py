"""YAML files with the line of every key, so that every error message can name it.

The reader accepts a small dialect of YAML 1.2. Unquoted `null`, `true`, `false`, decimal integers
and floats (also `1e-3`) have their types. Everything else is text, including `no`, `on`, `010`,
`12:30` and dates, which YAML 1.1 converts silently. Repeated keys are errors.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from xraytune.base.errors import ConfigError, FileLine, Place, Problem, printable
from xraytune.base.files import explain_disk_errors, read_bytes
from xraytune.base.records import Json

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys of mappings and positions in lists, such as `("data", "split", "seed")`."""


class Text(str):
    """A text of a file or an option; if the text is a path, `folder` is what it is relative to."""

    folder = Path()


class Block(dict[str, Any]):
    """A mapping, with the place of each key."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str | int, Place] = {}

    def put(self, key: str, value: Any, place: Place) -> None:
        """Set the value of a key."""
        self[key] = value
        self.places[key] = place


class Items(list[Any]):
    """A list, with the place of each item."""

    places: dict[str | int, Place]


@dataclass(slots=True)
class Document:
    """The content of a file, with the problems found in it."""

    content: Any
    place: Place
    problems: list[Problem] = field(default_factory=list)

    def get(self, *path: str) -> Any:
        """Return the value at a key path, or None if there is no value."""
        value = self.content
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def put(self, path: tuple[str, ...], value: Any, place: Place) -> None:
        """Set the value at a key path; missing mappings are created."""
        block = self.content
        *parents, last = path
        for key in parents:
            if not isinstance(block.get(key), Block):
                block.put(key, Block(), place)
            block = block[key]
        block.put(last, value, place)

    def trace(self, path: KeyPath) -> tuple[KeyPath, Place]:
        """Return as much of a key path as the file has, and its place."""
        value = self.content
        place = self.place
        for depth, key in enumerate(path):
            places = getattr(value, "places", {})
            if key not in places:
                return path[:depth], place
            place = places[key]
            value = value[key]
        return path, place

    def has(self, path: KeyPath) -> bool:
        """Return whether the file has a key path."""
        return self.trace(path)[0] == path

    def locate(self, path: KeyPath) -> Place:
        """Return the place of a key path, or of the nearest block around it."""
        return self.trace(path)[1]

    def is_option(self, path: KeyPath) -> bool:
        """Return whether an option of the command line gives a key path."""
        return self.has(path) and isinstance(self.locate(path), str)

    def error(self, path: KeyPath, what: str, fix: str = "") -> ConfigError:
        """Return an error with a problem at a key path."""
        return ConfigError(Problem(what, self.locate(path), fix))

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Collect the problems of a ConfigError in this block, instead of raising it."""
        try:
            yield
        except ConfigError as error:
            self.problems += error.problems

    def raise_problems(self) -> None:
        """Raise the problems, if there are any, as one ConfigError in the order of their lines."""
        if self.problems:
            raise ConfigError(*sorted(dict.fromkeys(self.problems), key=_line_of))


def _line_of(problem: Problem) -> float:
    return problem.where.line if isinstance(problem.where, FileLine) else float("inf")


_TAG = "tag:yaml.org,2002:"
_FLOAT = r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?"
_SCALARS = {
    "null": "(~|null|Null|NULL)?",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9]\d{0,30})",
    "float": rf"{_FLOAT}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
"""The forms of unquoted scalars that are not text."""
_LINE_LENGTH = 110
_MOST_NODES = 100_000
"""The limit for a file, since aliases of aliases can be many times as long as their text."""


class _Loader(yaml.SafeLoader):
    """Resolve unquoted scalars as the dialect does."""


_Loader.yaml_implicit_resolvers = {}
for _name, _form in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"({_form})\Z"), None)


def read_document(path: Path) -> Document:
    """Read a YAML file whose root is a mapping, else raise ConfigError."""
    try:
        with explain_disk_errors(path):
            text = read_bytes(path, ConfigError).decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("there is no such file", path, "check the path") from None
    except UnicodeDecodeError:
        raise ConfigError("this is not UTF-8 text", path, "save it as YAML in UTF-8") from None
    content = parse_yaml(text, path)
    document = Document(content, path)
    if not isinstance(content, Block):
        raise document.error(
            (),
            "the file is not a mapping of keys to values",
            "start with a line such as data: {path: images}",
        )
    return document


def parse_yaml(text: str, where: Path | str) -> Any:
    """Return the content of one YAML document: `Block`, `Items`, a scalar, or None.

    `where` is the file, or the option of the command line that has the text. Paths are relative to
    the folder of the file, or to the current folder. Raises ConfigError if the text is not in the
    dialect that the docstring of this module describes.
    """
    reader = _Reader(text, where)
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return reader.read(root, loader) if root else None
    except RecursionError:
        raise ConfigError(
            "the values are nested too deeply",
            where,
            "close brackets, and use no alias inside itself",
        ) from None
    except yaml.YAMLError as error:
        opened = getattr(error, "context_mark", None)
        what = f"not valid YAML: {getattr(error, 'problem', None) or error}"
        if opened:
            what += f" (in what begins on line {opened.line + 1})"
        raise ConfigError(
            what,
            reader.place_of(getattr(error, "problem_mark", None)),
            "check the indentation (spaces, not tabs), colons, quotes and brackets up to this line",
        ) from None


class _Reader:
    """Reads the nodes of a text, with the place of each key and item."""

    def __init__(self, text: str, where: Path | str) -> None:
        self._where = where
        self._lines = [*text.splitlines(), ""]
        self._most_nodes = max(len(text), _MOST_NODES)
        self._node_count = 0

    def place_of(self, mark: yaml.Mark | None) -> Place:
        """Return the line of a mark, or the option that has the text."""
        if not isinstance(self._where, Path):
            return self._where
        line = mark.line if mark else 0
        return FileLine(self._where, line + 1, self._lines[line])

    def read(self, node: yaml.Node, loader: yaml.SafeLoader) -> Any:
        """Return the content of a node."""
        self._node_count += 1
        if self._node_count > self._most_nodes:
            raise ConfigError(
                f"its aliases stand for more than {self._most_nodes:,} values",
                self.place_of(node.start_mark),
                "write values without aliases",
            )
        if isinstance(node, yaml.MappingNode):
            block = Block()
            for key, value in node.value:
                name = str(key.value)
                if name in block:
                    raise ConfigError(
                        f"'{name}' is given twice, first at {block.places[name]}",
                        self.place_of(key.start_mark),
                        "keep one",
                    )
                block.put(name, self.read(value, loader), self.place_of(key.start_mark))
            return block
        if isinstance(node, yaml.SequenceNode):
            items = Items(self.read(item, loader) for item in node.value)
            places = (self.place_of(item.start_mark) for item in node.value)
            items.places = dict(enumerate(places))
            return items
        value = loader.construct_object(node)
        if isinstance(value, str):
            value = Text(value)
            value.folder = self._where.parent if isinstance(self._where, Path) else Path()
        return value


class _Dumper(yaml.SafeDumper):
    """Quote what YAML 1.1 or 1.2 would not read back as text; keep short collections on a line."""


def _write_collection(dumper: yaml.SafeDumper, content: Any) -> yaml.Node:
    is_short = len(str(content)) <= _LINE_LENGTH
    if isinstance(content, dict):
        return dumper.represent_mapping(f"{_TAG}map", content, is_short)
    return dumper.represent_sequence(f"{_TAG}seq", content, is_short)


_Dumper.add_implicit_resolver(f"{_TAG}float", re.compile(rf"({_FLOAT})\Z"), list("-+.0123456789"))
_Dumper.add_representer(dict, _write_collection)
_Dumper.add_representer(list, _write_collection)


def write_yaml(content: Json, header: str = "") -> str:
    """Return YAML text that `parse_yaml` reads back as `content`, below `header` as a comment."""
    comment = "".join(f"# {printable(line)}".rstrip() + "\n" for line in header.splitlines())
    return comment + yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, width=10 * _LINE_LENGTH, allow_unicode=True
    )
