"""A person's file as plain objects, with the place of every key path, so that any problem can be told with its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from xraytune.errors import ConfigError, Problem, SourceLine
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
