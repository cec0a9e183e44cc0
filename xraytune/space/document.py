"""YAML files as trees that know the line of every value, so that every error message can name it.

The reader accepts a small dialect of YAML 1.2. Unquoted `null`, `true`, `false`, decimal integers
and floats (also `1e-3`) have their types. Everything else is text, including `no`, `on`, `010`,
`12:30` and dates, which YAML 1.1 converts silently. Tags of other types and repeated keys are
errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import yaml

from xraytune.base.errors import ConfigError, Problem, SourceLine
from xraytune.base.files import explain_disk_errors, read_bytes
from xraytune.base.records import Json

Key: TypeAlias = str | int
Place: TypeAlias = SourceLine | Path | str
"""The position of a key or value; text is an option of the command line."""


class Text(str):
    """A text of a file or an option, with what it is relative to if it is a path."""

    folder = Path()


@dataclass(slots=True)
class Node:
    """A value and its place: the line of its key, or the option that sets it. Mappings and lists hold nodes."""

    content: Any
    place: Place

    @property
    def is_option(self) -> bool:
        """Whether an option of the command line sets it."""
        return isinstance(self.place, str)

    @property
    def mapping(self) -> dict[str, Node]:
        """The nodes of a mapping; {} of anything else."""
        return self.content if isinstance(self.content, dict) else {}

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.content, list):
            return [item.plain() for item in self.content]
        if isinstance(self.content, dict):
            return {key: value.plain() for key, value in self.content.items()}
        return self.content

    def get(self, *path: Key) -> Node | None:
        """Return the node at a key path, such as `"data", "split", "seed"`."""
        node = self
        for key in path:
            is_list = isinstance(node.content, list)
            inside: dict[Any, Node] = dict(enumerate(node.content)) if is_list else node.mapping
            if key not in inside:
                return None
            node = inside[key]
        return node

    def nearest(self, path: Iterable[Key]) -> Node:
        """Return the node at a key path, or its nearest parent; keys that do not exist are skipped."""
        node = self
        for key in path:
            node = node.get(key) or node
        return node

    def put(self, path: Iterable[str], node: Node) -> None:
        """Set the node at a key path; missing mappings are created."""
        *blocks, last = path
        parent = self
        for block in blocks:
            if not isinstance(parent.content, dict):
                parent.content = {}
            parent = parent.content.setdefault(block, Node({}, node.place))
        parent.content = {**parent.mapping, last: node}


class RejectedError(Exception):
    """A value is invalid; its problem has been added to `Problems`."""


class Problems:
    """Collect the problems of a file and of options, to raise all of them as one error."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self._file = root.place
        self._problems: dict[Problem, None] = {}

    def __len__(self) -> int:
        return len(self._problems)

    def add(self, node: Node, what: str, fix: str = "") -> None:
        """Add a problem of a node, unless it has been added before."""
        self._problems[Problem(what, node.place, fix)] = None

    def reject(self, node: Node, what: str, fix: str) -> NoReturn:
        """Add a problem and give up on the value: raise `RejectedError`."""
        self.add(node, what, fix)
        raise RejectedError

    def raise_all(self) -> None:
        """Raise all problems as one `ConfigError`, in the order of the file's lines; do nothing if there are none."""
        if self._problems:
            raise ConfigError(*sorted(self._problems, key=self._line))

    def _line(self, problem: Problem) -> float:
        where = problem.where
        if isinstance(where, SourceLine) and where.path == self._file:
            return where.line
        return 0 if where == self._file else float("inf")


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


class _Loader(yaml.SafeLoader):
    """Resolve unquoted scalars as the dialect does."""


_Loader.yaml_implicit_resolvers = {}
for _name, _form in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"({_form})\Z"), None)


def read_document(path: Path, *, start: str = "name: my-study") -> Node:
    """Read a YAML file whose root is a mapping, else raise ConfigError; `start` is its first line, for messages."""
    try:
        with explain_disk_errors(path):
            text = read_bytes(path, ConfigError).decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(Problem("there is no such file", path, "check the path")) from None
    except UnicodeDecodeError:
        fix = "save it as UTF-8, or give a YAML file"
        raise ConfigError(Problem("the file is not UTF-8 text", path, fix)) from None
    lines = ["", *text.splitlines(), ""]
    root = parse_yaml(text, lambda line: SourceLine(path, line, lines[line]), path.parent)
    if not isinstance(root.content, dict):
        what = (
            "the file is empty"
            if root.content is None
            else "the file is not a mapping of keys to values"
        )
        raise ConfigError(Problem(what, path, f"start with: {start}"))
    root.place = path
    return root


def parse_yaml(text: str, where: Callable[[int], Place], folder: Path = Path()) -> Node:
    """Parse one YAML document, or nothing (None); raise ConfigError if it is not of the dialect above.

    `where` returns the position of a line, counted from 1, for messages. Paths are relative to the
    folder.
    """
    problems: list[Problem] = []

    def read(node: yaml.Node, place: Place) -> Node:
        tag = node.tag.removeprefix(_TAG)
        if tag not in (*_SCALARS, "str", "map", "seq"):
            problems.append(
                Problem(
                    f"the tag {node.tag} is not supported", place, "write plain text or a number"
                )
            )
        elif isinstance(node, yaml.MappingNode):
            return Node(read_mapping(node), place)
        elif isinstance(node, yaml.SequenceNode):
            return Node([read(item, where(_line(item))) for item in node.value], place)
        elif tag != "str":
            return Node(loader.construct_object(node), place)
        content = Text(node.value)
        content.folder = folder
        return Node(content, place)

    def read_mapping(node: yaml.MappingNode) -> dict[str, Node]:
        mapping: dict[str, Node] = {}
        for key, value in node.value:
            place = where(_line(key))
            if not isinstance(key, yaml.ScalarNode):
                problems.append(Problem("a key must be one word", place, "write key: value"))
            elif key.value in mapping:
                first = mapping[key.value].place
                problems.append(
                    Problem(f"'{key.value}' is given twice, first at {first}", place, "keep one")
                )
            else:
                mapping[key.value] = read(value, place)
        return mapping

    try:
        loader = _Loader(text)
        document = loader.get_single_node()
        root = read(document, where(1)) if document else Node(None, where(1))
    except yaml.MarkedYAMLError as error:
        raise ConfigError(*_explain_syntax(error, text, where)) from None
    except yaml.YAMLError as error:
        what = f"not valid YAML: {str(error).splitlines()[0]}"
        raise ConfigError(Problem(what, where(1), "remove the character")) from None
    if problems:
        raise ConfigError(*problems)
    return root


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _explain_syntax(
    error: yaml.MarkedYAMLError, text: str, where: Callable[[int], Place]
) -> list[Problem]:
    lines = enumerate(text.splitlines(), start=1)
    if tabbed := [number for number, line in lines if re.match(r" *\t\s*\S", line)]:
        return [
            Problem("a tab: YAML indents with spaces", where(number), "use spaces instead")
            for number in tabbed
        ]
    fix = "check the indentation, colons and brackets of this line and the one above"
    for context, opened in (
        ("while parsing a flow", "bracket"),
        ("while scanning a quoted", "quote"),
    ):
        if error.context_mark and str(error.context).startswith(context):
            fix = f"close the {opened} that opens on line {error.context_mark.line + 1}"
    mark = error.problem_mark or error.context_mark
    return [Problem(f"not valid YAML: {error.problem}", where(mark.line + 1 if mark else 1), fix)]


class _Dumper(yaml.SafeDumper):
    """Quote what YAML 1.1 or 1.2 would not read back as text; keep short collections on one line."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar(f"{_TAG}str", text, None if text.isprintable() else '"')


def _write_mapping(dumper: yaml.SafeDumper, items: Mapping[str, Json]) -> yaml.Node:
    return dumper.represent_mapping(f"{_TAG}map", items, len(str(items)) <= _LINE_LENGTH)


def _write_list(dumper: yaml.SafeDumper, items: list[Json]) -> yaml.Node:
    return dumper.represent_sequence(f"{_TAG}seq", items, len(str(items)) <= _LINE_LENGTH)


_Dumper.add_implicit_resolver(f"{_TAG}float", re.compile(rf"({_FLOAT})\Z"), list("-+.0123456789"))
_Dumper.add_representer(str, _write_text)
_Dumper.add_representer(dict, _write_mapping)
_Dumper.add_representer(list, _write_list)


def write_yaml(content: Json, header: str = "") -> str:
    """Return YAML text that `parse_yaml` reads back as `content`, with `header` as comment lines at the top."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, width=10 * _LINE_LENGTH, allow_unicode=True
    )
