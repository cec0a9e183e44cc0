"""A person's file as plain objects, with the place of every key path, so that any problem can be told with its line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import yaml

from xraytune.errors import ConfigError, Problem, SourceLine
from xraytune.files import read_bytes
from xraytune.records import Json

KeyPath: TypeAlias = tuple[str | int, ...]
"""`("data", "split", "seed")`, `("points_to_evaluate", 2, "lr")`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a key or value stands. `order` sorts places: the file from top to bottom, then the command line."""

    where: SourceLine | Path | str
    order: tuple[int, int, int]

    @property
    def is_on_command_line(self) -> bool:
        """Whether an option put it there, rather than the file."""
        return isinstance(self.where, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """A key or value that cannot be taken at its word; the content holds its text."""

    path: KeyPath
    place: Place
    what: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A YAML tree of plain objects, with the place of every key path in it."""

    content: Json
    places: Mapping[KeyPath, Place]
    traps: tuple[Trap, ...]

    def place(self, path: KeyPath) -> Place:
        """The place of a key path, or of the nearest key around it."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def folder(self, path: KeyPath) -> Path:
        """What a path written there is relative to: the file's folder, or on the command line the current one."""
        where = self.place(path).where
        return where.path.parent if isinstance(where, SourceLine) else Path()

    def get(self, path: KeyPath) -> Json:
        """The value at a path of mapping keys; None where there is nothing."""
        value = self.content
        for key in path:
            value = value.get(str(key)) if isinstance(value, dict) else None
        return value

    def branch(self, path: KeyPath) -> Document | None:
        """The part of the document at a path, as a document of its own; None where there is nothing."""
        if path not in self.places:
            return None
        below = len(path)
        places = {old[below:]: place for old, place in self.places.items() if old[:below] == path}
        traps = tuple(replace(trap, path=trap.path[below:]) for trap in self.traps if trap.path[:below] == path)
        return Document(content=self.get(path), places=places, traps=traps)

    def grafted(self, path: KeyPath, branch: Document) -> Document:
        """This document with the root of `branch` at `path`; mappings on the way are made where they are missing."""

        def is_kept(old: KeyPath) -> bool:
            return old[: len(path)] != path

        places = {old: place for old, place in self.places.items() if is_kept(old)}
        places |= {path + new: place for new, place in branch.places.items()}
        traps = tuple(trap for trap in self.traps if is_kept(trap.path))
        traps += tuple(replace(trap, path=path + trap.path) for trap in branch.traps)
        return Document(content=_with(self.content, path, branch.content), places=places, traps=traps)


def _with(content: Json, path: KeyPath, value: Json) -> Json:
    if not path:
        return value
    mapping = dict(content) if isinstance(content, dict) else {}
    key = str(path[0])
    mapping[key] = _with(mapping.get(key), path[1:], value)
    return mapping


class Problems:
    """Collects all that is wrong with a document, its traps included, and raises it as one error in document order."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found = [(trap.place.order, Problem(trap.what, trap.place.where, trap.fix)) for trap in document.traps]
        self._trapped = {trap.path for trap in document.traps}

    def add(self, path: KeyPath, what: str, fix: str = "") -> None:
        """Add a problem at a key path, once; none where the value is a trap, as its text is not what was meant."""
        place = self._document.place(path)
        found = (place.order, Problem(what, place.where, fix))
        if path not in self._trapped and found not in self._found:
            self._found.append(found)

    def raise_all(self) -> None:
        """Raise what was found.

        Raises:
            ConfigError: With every problem, in document order; nothing is raised when there is none.
        """
        if self._found:
            raise ConfigError(*(problem for _, problem in sorted(self._found, key=lambda found: found[0])))


def dotted(path: KeyPath) -> str:
    """`data.split.seed`, `points_to_evaluate[2].lr`: a key path as people write it."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


_TAG = "tag:yaml.org,2002:"
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]{0,30}|0x[0-9a-fA-F]{1,16}|0b[01]{1,64})")
_FLOAT = re.compile(r"[-+]?(\d[\d_]*(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
_LEADING_ZERO = re.compile(r"[-+]?0\d+")
_LONGEST_OCTAL = 30
_LINE_LENGTH = 110
_DEEPEST = 20
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that a quoted text can name, and no path or JSON file can hold."""
_FLATTER = "a space needs no more than five levels"
_BOOLEANS = {"true": True, "false": False}
_TRUE_WORDS = {"yes", "on"}


def read_document(path: Path) -> Document:
    """Read a YAML file whose root is a mapping.

    Raises:
        ConfigError: It is missing, unreadable, not UTF-8, empty, not YAML, or its root is no mapping.
    """
    text = _read_text(path)
    lines = _LINE_BREAK.split(text)

    def where(line: int) -> SourceLine:
        return SourceLine(path, line, lines[line - 1] if line <= len(lines) else "")

    document = parse_yaml(text, where)
    if document.content is None:
        raise ConfigError(Problem("the file is empty", path, "start with: name: my-study"))
    if not isinstance(document.content, dict):
        raise ConfigError(Problem("the file is not a mapping of keys to values", path, "start with: name: my-study"))
    root = Place(where=path, order=(0, 0, 0))
    return replace(document, places={**document.places, (): root})


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path, "space file", ConfigError).decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(Problem("there is no such file", path, "check the path")) from None
    except UnicodeDecodeError:
        raise ConfigError(Problem("this is not UTF-8 text", path, "save it as UTF-8, or name a YAML file")) from None
    except OSError as error:
        raise ConfigError(Problem(f"cannot be read: {error.strerror}", path, "check its permissions")) from error


def parse_yaml(text: str, where: Callable[[int], SourceLine | str], *, rank: int = 0) -> Document:
    """Parse YAML text.

    Args:
        text: One YAML document, or nothing (the content is then None).
        where: What to say of a 1-based line.
        rank: Sorts the places of several texts.

    Raises:
        ConfigError: The text is not YAML.
    """
    try:
        loader = _NoAliasLoader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(*_explain_syntax(error, text, where)) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: an escape that no character has
        raise ConfigError(Problem(f"not valid YAML: {_first_line(error)}", where(1), "remove the character")) from None
    except _TooDeepError as error:
        raise ConfigError(Problem("nested too deeply", where(error.line), _FLATTER)) from None
    except RecursionError:  # in the scanner, before a node is there
        raise ConfigError(Problem("nested too deeply", where(1), _FLATTER)) from None
    reader = _TreeReader(where=where, rank=rank, aliases=loader.aliases)
    content = reader.read(node, ()) if node is not None else None
    reader.places.setdefault((), reader.place(1, 0))
    return Document(content=content, places=reader.places, traps=tuple(reader.traps))


class _TooDeepError(Exception):
    """A node lies too deep; PyYAML takes quadratic time for what is nested in brackets."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _NoAliasLoader(yaml.SafeLoader):
    """Composes nodes and never follows an alias: a space repeats nothing, and a few aliases can expand to gigabytes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.aliases: dict[int, str] = {}
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if not self.check_event(yaml.AliasEvent):
            if self._depth > _DEEPEST:
                raise _TooDeepError(self.peek_event().start_mark.line + 1)  # type: ignore[no-untyped-call]
            self._depth += 1
            node = super().compose_node(parent, index)
            self._depth -= 1
            return node
        event = self.get_event()  # type: ignore[no-untyped-call]
        node = yaml.ScalarNode(f"{_TAG}str", f"*{event.anchor}", event.start_mark, event.end_mark)
        self.aliases[id(node)] = event.anchor
        return node


def _explain_syntax(
    error: yaml.MarkedYAMLError, text: str, where: Callable[[int], SourceLine | str]
) -> tuple[Problem, ...]:
    tabbed = [number for number, line in enumerate(_LINE_BREAK.split(text), 1) if re.match(r" *\t\s*\S", line)]
    if tabbed:
        return tuple(Problem("a tab: YAML indents with spaces", where(n), "write spaces instead") for n in tabbed)
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    fix = "check the indentation, colons and brackets of this line and the one above"
    for context, opened in (("while parsing a flow", "bracket"), ("while scanning a quoted", "quote")):
        if error.context_mark and str(error.context).startswith(context):
            fix = f"close the {opened} that opens on line {error.context_mark.line + 1}"
    return (Problem(f"not valid YAML: {error.problem}", where(line), fix),)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


@dataclass(slots=True, kw_only=True)
class _TreeReader:
    """Turns nodes into plain objects, and notes the place of every key and each trap on the way."""

    where: Callable[[int], SourceLine | str]
    rank: int
    aliases: Mapping[int, str]
    places: dict[KeyPath, Place] = field(default_factory=dict)
    traps: list[Trap] = field(default_factory=list)

    def place(self, line: int, column: int) -> Place:
        return Place(where=self.where(line), order=(self.rank, line, column))

    def trap(self, path: KeyPath, node: yaml.Node, what: str, fix: str) -> None:
        place = self.place(node.start_mark.line + 1, node.start_mark.column)
        self.traps.append(Trap(path=path, place=place, what=what, fix=fix))

    def value_trap(self, path: KeyPath, node: yaml.Node, what: str, fix: str) -> None:
        name = dotted(tuple(key for key in path if key != "parameters"))
        self.trap(path, node, f"{name}: {what}" if name else what, fix)

    def read(self, node: yaml.Node, path: KeyPath) -> Json:
        self.places.setdefault(path, self.place(node.start_mark.line + 1, node.start_mark.column))
        if id(node) in self.aliases:
            self.value_trap(path, node, f"'{node.value}' is an alias", "write the values out: aliases are not read")
            return str(node.value)
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        value = self._read_scalar(node, path)
        return self._storable(value, path, node) if isinstance(value, str) else value

    def _storable(self, text: str, path: KeyPath, node: yaml.Node) -> str:
        """The text, or where it holds what nothing can store, a trap and what is left of it."""
        if _UNSTORABLE.search(text):
            what = "holds a character (\\0 or half of a pair) that no file can hold"
            self.value_trap(path, node, what, "remove it")
        return _UNSTORABLE.sub("", text)

    def _read_mapping(self, node: yaml.MappingNode, path: KeyPath) -> Json:
        mapping: dict[str, Json] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.trap(path, key_node, "a key must be one word", "write key: value")
                continue
            key = self._storable(str(key_node.value), path, key_node)
            here = (*path, key)
            if key in mapping:
                first = self.places[here].order[1]
                self.trap((*here, "twice"), key_node, f"'{key}' is given twice, first on line {first}", "keep one")
                continue
            self.places[here] = self.place(key_node.start_mark.line + 1, key_node.start_mark.column)
            mapping[key] = self.read(value_node, here)
        return mapping

    def _read_scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Json:
        text = str(node.value)
        if node.style is not None or node.tag == f"{_TAG}str":
            return float(text) if node.style is None and _EXPONENT.fullmatch(text) else self._read_text(node, path)
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool" if text.lower() in _BOOLEANS:
                return _BOOLEANS[text.lower()]
            case "bool":
                truth = "true" if text.lower() in _TRUE_WORDS else "false"
                self.value_trap(path, node, f"YAML reads {text} as {truth}", f"write '{text}' in quotes, or {truth}")
            case "int" if _INTEGER.fullmatch(text):
                return int(text.replace("_", ""), 0)
            case "float" if _FLOAT.fullmatch(text):
                return float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
            case "int" if _LEADING_ZERO.fullmatch(text) and len(text) <= _LONGEST_OCTAL:
                plain = text.replace("0", "", 1).lstrip("0") or "0"
                what = f"YAML reads {text} as {int(text, 8)}, an octal number"
                self.value_trap(path, node, what, f"write {plain}, or '{text}' in quotes")
            case "int" | "float" if ":" in text:
                self.value_trap(path, node, f"YAML reads {text} as a number of base 60", f"write '{text}' in quotes")
            case "timestamp":
                self.value_trap(path, node, f"YAML reads {text} as a date", f"write '{text}' in quotes")
            case "value":
                return text
            case _:
                self.value_trap(
                    path, node, f"cannot read '{text}' with the tag {node.tag}", "write plain text or a number"
                )
        return text

    def _read_text(self, node: yaml.ScalarNode, path: KeyPath) -> str:
        text = str(node.value)
        if node.style is None and _LEADING_ZERO.fullmatch(text):
            plain = text.lstrip("+-0") or "0"
            self.value_trap(path, node, f"YAML reads {text} as text", f"write {plain}, or '{text}' in quotes")
        return text


class _Dumper(yaml.SafeDumper):
    """Quotes text that `parse_yaml` would not read back as that text; keeps short collections on one line."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if _EXPONENT.fullmatch(text) or _LEADING_ZERO.fullmatch(text):
        return dumper.represent_scalar(f"{_TAG}str", text, style="'")
    return dumper.represent_scalar(f"{_TAG}str", text, style='"' if _LINE_BREAK.search(text) else None)


def _represent_mapping(dumper: yaml.SafeDumper, mapping: dict[str, Json]) -> yaml.MappingNode:
    return dumper.represent_mapping(f"{_TAG}map", mapping, flow_style=len(str(mapping)) <= _LINE_LENGTH)


def _represent_list(dumper: yaml.SafeDumper, items: list[Json]) -> yaml.SequenceNode:
    return dumper.represent_sequence(f"{_TAG}seq", items, flow_style=len(str(items)) <= _LINE_LENGTH)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(dict, _represent_mapping)
_Dumper.add_representer(list, _represent_list)


def write_yaml(content: Json, header: str = "") -> str:
    """YAML text that `parse_yaml` reads back as `content`, with `header` as comment lines above it."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=10 * _LINE_LENGTH, allow_unicode=True)
