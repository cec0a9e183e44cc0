"""YAML files as plain objects that know the line of every key, so that every error message can name it.

The reader accepts a small dialect of YAML 1.2. Unquoted `null`, `true`, `false`, decimal integers and floats (also `1e-3`)
have their types. Everything else is text, including `no`, `on`, `010`, `12:30` and dates, which YAML 1.1 converts silently.
Aliases, tags of other types and repeated keys are errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, TypeAlias

import yaml

from xraytune.base.errors import ConfigError, Problem, SourceLine
from xraytune.base.files import explain_disk_errors, read_bytes
from xraytune.base.records import Json

KeyPath: TypeAlias = tuple[str | int, ...]
"""`("data", "split", "seed")`, `("points_to_evaluate", 2, "lr")`."""
Place: TypeAlias = SourceLine | Path | str
"""The position of a key or value; text is an option of the command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A YAML tree of plain objects, with the place of every key path, in the order of the file and then of the options."""

    content: Json
    places: Mapping[KeyPath, Place]

    def placed_path(self, path: KeyPath) -> KeyPath:
        """Return the key path, or its nearest parent, that has a place."""
        while path not in self.places:
            path = path[:-1]
        return path

    def place(self, path: KeyPath) -> Place:
        """Return the place of a key path, or of its nearest parent."""
        return self.places[self.placed_path(path)]

    def is_option(self, path: KeyPath) -> bool:
        """Return whether an option of the command line sets a key path."""
        return isinstance(self.place(path), str)

    def folder(self, path: KeyPath) -> Path:
        """Return what a file path there is relative to: the file's folder or, on the command line, the current one."""
        place = self.place(path)
        return place.path.parent if isinstance(place, SourceLine) else Path()

    def get(self, path: KeyPath) -> Json:
        """Return the value at a key path, or None."""
        value = self.content
        for key in path:
            if isinstance(value, dict):
                value = value.get(str(key))
            else:
                value = value[key] if isinstance(value, list) and isinstance(key, int) else None
        return value

    def mapping(self, path: KeyPath = ()) -> dict[str, Json]:
        """Return the mapping at a path; {} if there is none."""
        value = self.get(path)
        return value if isinstance(value, dict) else {}

    def branch(self, path: KeyPath) -> Document:
        """Return the subtree at a path that has a place."""
        places = {old[len(path) :]: place for old, place in self.places.items() if old[: len(path)] == path}
        return Document(content=self.get(path), places=places)

    def grafted(self, path: KeyPath, branch: Document) -> Document:
        """Return a copy with `branch` at `path`; missing mappings are created."""
        places = {old: place for old, place in self.places.items() if old[: len(path)] != path}
        places |= {path + new: place for new, place in branch.places.items()}
        return Document(content=with_value(self.content, path, branch.content), places=places)

    def with_value(self, path: KeyPath, value: Json, place: Place) -> Document:
        """Return a copy with `value` at `path`."""
        return self.grafted(path, Document(content=value, places={(): place}))


def with_value(content: Json, path: KeyPath, value: Json) -> Json:
    """Return a copy of nested mappings with `value` at `path`."""
    if not path:
        return value
    mapping = dict(content) if isinstance(content, dict) else {}
    key = str(path[0])
    mapping[key] = with_value(mapping.get(key), path[1:], value)
    return mapping


class RejectedError(Exception):
    """A value is invalid; its problem has been added to `Problems`."""


class Problems:
    """Collect the problems of a document, to raise all of them as one error."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._paths: dict[Problem, KeyPath] = {}

    def add(self, path: KeyPath, what: str, fix: str = "") -> None:
        """Add a problem at a key path, unless it has been added before."""
        self._paths.setdefault(Problem(what, self.document.place(path), fix), path)

    def reject(self, path: KeyPath, what: str, fix: str) -> NoReturn:
        """Add a problem and give up on the value: raise `RejectedError`."""
        self.add(path, what, fix)
        raise RejectedError

    def raise_all(self) -> None:
        """Raise all problems as one `ConfigError`, in document order; do nothing if there are none."""
        if self._paths:
            order = [*self.document.places]
            placed = self.document.placed_path
            raise ConfigError(*sorted(self._paths, key=lambda problem: order.index(placed(self._paths[problem]))))


def dotted(path: KeyPath) -> str:
    """Format a key path: `data.split.seed`, `points_to_evaluate[2].lr`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


_TAG = "tag:yaml.org,2002:"
_FLOAT = r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?"
_SCALARS: Mapping[str, tuple[str, Callable[[str], Json]]] = {
    "null": (r"(~|null|Null|NULL)?", lambda _: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?(0|[1-9]\d{0,30})", int),
    "float": (
        rf"{_FLOAT}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda text: float(re.sub(r"\.([ainAIN])", r"\1", text)),
    ),
}
"""The forms of unquoted scalars that are not text."""
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that escapes in quoted text can produce, but that no path or JSON file can hold."""
_MAX_DEPTH = 20
_LINE_LENGTH = 110


class _Loader(yaml.SafeLoader):
    """Resolve unquoted scalars as the dialect does, and refuse aliases and deep nesting before they cost anything."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node of the document."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            what = "aliases are not supported: write the values out"
            raise yaml.composer.ComposerError(None, None, what, event.start_mark)
        if self.depth > _MAX_DEPTH:
            what = "nested too deeply: a space needs no more than five levels"
            raise yaml.composer.ComposerError(None, None, what, event.start_mark)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _name, (_form, _) in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"({_form})\Z"), None)


def read_document(path: Path, *, start: str = "name: my-study") -> Document:
    """Read a YAML file whose root is a mapping, else raise ConfigError; `start` is its first line, for messages."""
    try:
        with explain_disk_errors(path):
            text = read_bytes(path, ConfigError).decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(Problem("there is no such file", path, "check the path")) from None
    except UnicodeDecodeError:
        fix = "save it as UTF-8, or give a YAML file"
        raise ConfigError(Problem("the file is not UTF-8 text", path, fix)) from None
    lines = _LINE_BREAK.split(text)

    def where(line: int) -> SourceLine:
        return SourceLine(path, line, lines[line - 1] if line <= len(lines) else "")

    document = parse_yaml(text, where)
    if not isinstance(document.content, dict):
        what = "the file is empty" if document.content is None else "the file is not a mapping of keys to values"
        raise ConfigError(Problem(what, path, f"start with: {start}"))
    return replace(document, places={**document.places, (): path})


def parse_yaml(text: str, where: Callable[[int], Place]) -> Document:
    """Parse one YAML document, or nothing (the content is then None); ConfigError if it is not of the dialect above.

    `where` returns the position of a line, counted from 1, for messages.
    """
    places: dict[KeyPath, Place] = {(): where(1)}
    problems: list[Problem] = []

    def add(node: yaml.Node, what: str, fix: str) -> None:
        problems.append(Problem(what, where(_line(node)), fix))

    def read(node: yaml.Node, path: KeyPath) -> Json:
        places.setdefault(path, where(_line(node)))
        name = f"{dotted(path)}: " if path else ""
        tag = node.tag.removeprefix(_TAG)
        if tag not in (*_SCALARS, "str", "map", "seq"):
            add(node, f"{name}the tag {node.tag} is not supported", "write plain text or a number")
        if isinstance(node, yaml.MappingNode):
            return read_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [read(item, (*path, index)) for index, item in enumerate(node.value)]
        text = read_text(node, name)
        return _SCALARS[tag][1](text) if tag in _SCALARS else text

    def read_mapping(node: yaml.MappingNode, path: KeyPath) -> dict[str, Json]:
        mapping: dict[str, Json] = {}
        lines: dict[str, int] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                add(key_node, "a key must be one word", "write key: value")
                continue
            key = read_text(key_node, "")
            if key in mapping:
                add(key_node, f"'{key}' is given twice, first on line {lines[key]}", "keep one")
            lines[key] = _line(key_node)
            places[*path, key] = where(lines[key])
            mapping[key] = read(value, (*path, key))
        return mapping

    def read_text(node: yaml.Node, name: str) -> str:
        text = str(node.value)
        if _UNSTORABLE.search(text):
            add(
                node, f"{name}contains a character (\\0 or half of a surrogate pair) that cannot be stored", "remove it"
            )
        return text

    try:
        node = yaml.compose(text, Loader=_Loader)
        content = read(node, ()) if node else None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(*_syntax_problems(error, text, where)) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: an escape beyond Unicode
        what = f"not valid YAML: {str(error).splitlines()[0]}"
        raise ConfigError(Problem(what, where(1), "remove the character")) from None
    if problems:
        raise ConfigError(*problems)
    return Document(content=content, places=places)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _syntax_problems(error: yaml.MarkedYAMLError, text: str, where: Callable[[int], Place]) -> tuple[Problem, ...]:
    tabbed = [number for number, line in enumerate(_LINE_BREAK.split(text), 1) if re.match(r" *\t\s*\S", line)]
    if tabbed:
        return tuple(Problem("a tab: YAML indents with spaces", where(n), "use spaces instead") for n in tabbed)
    mark = error.problem_mark or error.context_mark
    if isinstance(error, yaml.composer.ComposerError) and mark:  # of `_Loader`, or a second document
        what, _, fix = str(error.problem).partition(": ")
        return (Problem(what, where(mark.line + 1), fix or "keep one document"),)
    fix = "check the indentation, colons and brackets of this line and the one above"
    for context, opened in (("while parsing a flow", "bracket"), ("while scanning a quoted", "quote")):
        if error.context_mark and str(error.context).startswith(context):
            fix = f"close the {opened} that opens on line {error.context_mark.line + 1}"
    if "escape character" in str(error.problem):
        fix = "use single quotes: in double quotes, a backslash begins an escape"
    return (Problem(f"not valid YAML: {error.problem}", where(mark.line + 1 if mark else 1), fix),)


class _Dumper(yaml.SafeDumper):
    """Quote what YAML 1.1 or 1.2 would not read back as text; keep short collections on one line."""


_Dumper.add_implicit_resolver(f"{_TAG}float", re.compile(rf"({_FLOAT})\Z"), list("-+.0123456789"))
_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar(f"{_TAG}str", text, '"' if _LINE_BREAK.search(text) else None)
)
_Dumper.add_representer(
    dict, lambda dumper, items: dumper.represent_mapping(f"{_TAG}map", items, len(str(items)) <= _LINE_LENGTH)
)
_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence(f"{_TAG}seq", items, len(str(items)) <= _LINE_LENGTH)
)


def write_yaml(content: Json, header: str = "") -> str:
    """Return YAML text that `parse_yaml` reads back as `content`, with `header` as comment lines at the top."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=10 * _LINE_LENGTH, allow_unicode=True)
