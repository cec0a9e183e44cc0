"""YAML files as plain objects that know the line of every key, so that every error message can name it.

The reader accepts a small dialect of YAML 1.2. Unquoted `null`, `true`, `false`, decimal integers and floats (also `1e-3`)
have their types. Everything else is text, including `no`, `on`, `010`, `12:30` and dates, which YAML 1.1 converts silently.
Aliases, tags (except `!!float` and `!!int`) and repeated keys are errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, TypeAlias

import yaml

from xraytune.errors import ConfigError, Problem, SourceLine
from xraytune.files import read_bytes
from xraytune.records import Json

KeyPath: TypeAlias = tuple[str | int, ...]
"""`("data", "split", "seed")`, `("points_to_evaluate", 2, "lr")`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The position of a key or value. `order` sorts places: the file from top to bottom, then the command line."""

    where: SourceLine | Path | str
    order: tuple[int, int, int]

    @property
    def is_on_command_line(self) -> bool:
        """Whether it comes from a command-line option."""
        return isinstance(self.where, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A YAML tree of plain objects, with the place of every key path."""

    content: Json
    places: Mapping[KeyPath, Place]

    def place(self, path: KeyPath) -> Place:
        """Return the place of a key path, or of its nearest parent."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def folder(self, path: KeyPath) -> Path:
        """Return what a file path there is relative to: the file's folder or, on the command line, the current one."""
        where = self.place(path).where
        return where.path.parent if isinstance(where, SourceLine) else Path()

    def get(self, path: KeyPath) -> Json:
        """Return the value at a path of mapping keys, or None."""
        value = self.content
        for key in path:
            value = value.get(str(key)) if isinstance(value, dict) else None
        return value

    def own_text(self, path: KeyPath) -> str:
        """Return a value as written in the file if it is on the line of its key, else formatted in one line."""
        where, value = self.place(path).where, self.get(path)
        own = where.text.strip().removeprefix(f"{path[-1]}:").strip() if isinstance(where, SourceLine) else ""
        with suppress(ConfigError):
            if own and parse_yaml(own, lambda _: "").content == value:
                return own
        return write_yaml(value).partition("\n...")[0].strip()

    def branch(self, path: KeyPath) -> Document | None:
        """Return the subtree at a path, or None."""
        if path not in self.places:
            return None
        places = {old[len(path) :]: place for old, place in self.places.items() if old[: len(path)] == path}
        return Document(content=self.get(path), places=places)

    def grafted(self, path: KeyPath, branch: Document) -> Document:
        """Return a copy with `branch` at `path`; missing mappings are created."""
        places = {old: place for old, place in self.places.items() if old[: len(path)] != path}
        places |= {path + new: place for new, place in branch.places.items()}
        return Document(content=with_value(self.content, path, branch.content), places=places)


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
        self._found: dict[tuple[tuple[int, int, int], Problem], KeyPath] = {}

    def add(self, path: KeyPath, what: str, fix: str = "") -> None:
        """Add a problem at a key path, unless it has been added before."""
        place = self.document.place(path)
        self._found.setdefault((place.order, Problem(what, place.where, fix)), path)

    def reject(self, path: KeyPath, what: str, fix: str) -> NoReturn:
        """Add a problem and give up on the value: raise `RejectedError`."""
        self.add(path, what, fix)
        raise RejectedError

    @property
    def found(self) -> list[tuple[KeyPath, Problem]]:
        """All problems with their key paths, in document order."""
        return [(path, problem) for (_, problem), path in sorted(self._found.items(), key=lambda found: found[0][0])]

    def raise_all(self) -> None:
        """Raise all problems as one `ConfigError`, in document order; do nothing if there are none."""
        if self._found:
            raise ConfigError(*(problem for _, problem in self.found))


def dotted(path: KeyPath) -> str:
    """Format a key path: `data.split.seed`, `points_to_evaluate[2].lr`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?")
_SCALARS: tuple[tuple[re.Pattern[str], Callable[[str], Json]], ...] = (
    (re.compile(r"(~|null|Null|NULL)?"), lambda _: None),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?(0|[1-9]\d{0,30})"), int),
    (_FLOAT, float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that escapes in quoted text can produce, but that no path or JSON file can hold."""
_MAX_DEPTH = 20
_LINE_LENGTH = 110
_TAG = "tag:yaml.org,2002:"


def read_document(path: Path, *, start: str = "name: my-study") -> Document:
    """Read a YAML file whose root is a mapping; `start` is its first line, for messages.

    Raises:
        ConfigError: It cannot be read, is not UTF-8 or not valid YAML, or its root is not a mapping.
    """
    try:
        text = read_bytes(path, "space file", ConfigError).decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(Problem("there is no such file", path, "check the path")) from None
    except UnicodeDecodeError:
        raise ConfigError(
            Problem("the file is not UTF-8 text", path, "save it as UTF-8, or give a YAML file")
        ) from None
    except OSError as error:
        raise ConfigError(Problem(f"cannot read the file: {error.strerror}", path, "check its permissions")) from error
    lines = _LINE_BREAK.split(text)

    def where(line: int) -> SourceLine:
        return SourceLine(path, line, lines[line - 1] if line <= len(lines) else "")

    document = parse_yaml(text, where)
    if not isinstance(document.content, dict):
        what = "the file is empty" if document.content is None else "the file is not a mapping of keys to values"
        raise ConfigError(Problem(what, path, f"start with: {start}"))
    return replace(document, places={**document.places, (): Place(where=path, order=(0, 0, 0))})


def parse_yaml(text: str, where: Callable[[int], SourceLine | str]) -> Document:
    """Parse YAML text.

    Args:
        text: One YAML document, or nothing (the content is then None).
        where: Called with a 1-based line number; returns the position for error messages.

    Raises:
        ConfigError: The text is not valid YAML, or not of the dialect above.
    """
    reader = _Reader(text, where)
    try:
        content = reader.read_document()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(*_syntax_problems(error, text, where)) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: an escape beyond Unicode
        what = f"not valid YAML: {str(error).splitlines()[0]}"
        raise ConfigError(Problem(what, where(1), "remove the character")) from None
    if reader.problems:
        raise ConfigError(*reader.problems)
    return Document(content=content, places=reader.places)


class _Reader:
    """Build plain objects from PyYAML's events, and record the place of every key and all problems."""

    def __init__(self, text: str, where: Callable[[int], SourceLine | str]) -> None:
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._where = where
        self.places: dict[KeyPath, Place] = {(): Place(where=where(1), order=(0, 1, 0))}
        self.problems: list[Problem] = []

    def read_document(self) -> Json:
        next(self._events)  # the stream starts
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        content = self._read(next(self._events), ())
        next(self._events)  # the document ends
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._add(self._place(event), "a second document starts here", "remove the line ---")
        return content

    def _place(self, event: yaml.Event) -> Place:
        mark = event.start_mark
        assert mark is not None
        return Place(where=self._where(mark.line + 1), order=(0, mark.line + 1, mark.column))

    def _add(self, place: Place, what: str, fix: str) -> None:
        self.problems.append(Problem(what, place.where, fix))

    def _read(self, event: yaml.Event, path: KeyPath) -> Json:
        place = self._place(event)
        self.places.setdefault(path, place)
        name = f"{dotted(path)}: " if path else ""
        if len(path) > _MAX_DEPTH:
            raise ConfigError(Problem("nested too deeply", place.where, "a space needs no more than five levels"))
        if isinstance(event, yaml.AliasEvent):
            self._add(place, f"{name}'*{event.anchor}' is an alias", "write the values out: aliases are not supported")
            return None
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag not in (None, f"{_TAG}float", f"{_TAG}int"):
            self._add(place, f"{name}the tag {event.tag} is not supported", "write plain text or a number")
        if isinstance(event, yaml.MappingStartEvent):
            return self._read_mapping(path)
        if isinstance(event, yaml.ScalarEvent):
            text = self._text(event, name)
            plain = (read(text) for form, read in _SCALARS if form.fullmatch(text))
            return next(plain, text) if event.style is None else text
        items: list[Json] = []
        while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
            items.append(self._read(item, (*path, len(items))))
        return items

    def _read_mapping(self, path: KeyPath) -> dict[str, Json]:
        mapping: dict[str, Json] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            place = self._place(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise ConfigError(Problem("a key must be one word", place.where, "write key: value"))
            key = self._text(event, "")
            if key in mapping:
                first = self.places[*path, key].order[1]
                self._add(place, f"'{key}' is given twice, first on line {first}", "keep one")
            self.places[*path, key] = place
            mapping[key] = self._read(next(self._events), (*path, key))
        return mapping

    def _text(self, event: yaml.ScalarEvent, name: str) -> str:
        text = str(event.value)
        if _UNSTORABLE.search(text):
            what = f"{name}holds a character (\\0 or half of a surrogate pair) that cannot be stored"
            self._add(self._place(event), what, "remove it")
        return text


def _syntax_problems(
    error: yaml.MarkedYAMLError, text: str, where: Callable[[int], SourceLine | str]
) -> tuple[Problem, ...]:
    tabbed = [number for number, line in enumerate(_LINE_BREAK.split(text), 1) if re.match(r" *\t\s*\S", line)]
    if tabbed:
        return tuple(Problem("a tab: YAML indents with spaces", where(n), "use spaces instead") for n in tabbed)
    mark = error.problem_mark or error.context_mark
    fix = "check the indentation, colons and brackets of this line and the one above"
    for context, opened in (("while parsing a flow", "bracket"), ("while scanning a quoted", "quote")):
        if error.context_mark and str(error.context).startswith(context):
            fix = f"close the {opened} that opens on line {error.context_mark.line + 1}"
    return (Problem(f"not valid YAML: {error.problem}", where(mark.line + 1 if mark else 1), fix),)


class _Dumper(yaml.SafeDumper):
    """Quote what YAML 1.1 or 1.2 would not read back as text; keep short collections on one line."""


_Dumper.add_implicit_resolver(f"{_TAG}float", re.compile(rf"({_FLOAT.pattern})\Z"), list("-+.0123456789"))
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
