"""Puts what the command line says on top of a space file: `--set key=value`, `--data`, `--weights-dir`.

A document stays a document: a value is grafted where the file would say it, with the option as its place, so that what
is wrong with it is found and told like anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from xraytune.config.document import Document, KeyPath, Place, Trap, parse_yaml
from xraytune.config.fields import BLOCKS, parameter_fields
from xraytune.config.grammar import SPEC_KEYS, path_of
from xraytune.config.messages import nearest
from xraytune.config.read_settings import BESIDE_SETTINGS, dotted_settings
from xraytune.config.settings import Settings
from xraytune.errors import ConfigError, Problem

_TRUTHS = {"no": "false", "off": "false", "yes": "true", "on": "true"}


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """The document with each `key=value` of `--set`, the last one winning; a wrong one becomes a trap."""
    for rank, override in enumerate(overrides, 1):
        try:
            document = _applied(document, override, rank)
        except ConfigError as error:
            place = Place(where=_where(override), order=(rank, 1, 0))
            traps = [Trap(path=(_where(override),), place=place, what=one.what, fix=one.fix) for one in error.problems]
            document = replace(document, traps=(*document.traps, *traps))
    return document


def apply_paths(document: Document, paths: dict[KeyPath, tuple[str, Path | None]]) -> Document:
    """The document with the folders that options name; an option that is not given (None) changes nothing."""
    for rank, (path, (option, folder)) in enumerate(paths.items(), 1_000_000):
        if folder is not None:
            where = f"{option} {folder}"
            place = Place(where=where, order=(rank, 1, 0))
            document = document.grafted(path, Document(content=str(folder), places={(): place}, traps=()))
    return document


def _applied(document: Document, override: str, rank: int) -> Document:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(Problem("not key=value", fix=f"write --set {key or 'lr'}=VALUE"))
    key = key.strip()
    value = _fit_for_a_shell(parse_yaml(text, lambda _: _where(override), rank=rank), key, text.strip())
    path = _path(document, key)
    if path[0] != "parameters":
        return document.grafted(path, value)
    return _with_parameter(document, path, value)


def _fit_for_a_shell(value: Document, key: str, text: str) -> Document:
    """The value, its traps with fixes that suit its key: a shell takes the quotes away that a file would keep."""
    field = parameter_fields().get(key)
    truth = _TRUTHS.get(text.lower())

    def fix(trap: Trap) -> str:
        if truth and field is not None and field.choices == (False, True):
            return f"write {truth}"
        if truth == "false" and field is not None and (key == "weights" or "none" in field.choices):
            return "write none"
        return trap.fix.replace(f"'{text}' in quotes", f"""--set "{key}='{text}'\"""")

    return replace(value, traps=tuple(replace(trap, fix=fix(trap)) for trap in value.traps))


def _where(override: str) -> str:
    return f"--set {override}"


def _path(document: Document, key: str) -> KeyPath:
    if key in parameter_fields():
        return path_of(document, key)
    first = key.partition(".")[0]
    if first in Settings.model_fields or first in set(BESIDE_SETTINGS) - {"parameters"}:
        return tuple(key.split("."))
    names = [name for name in parameter_fields() if name.startswith(f"{key}.")]
    if key in BLOCKS:
        raise ConfigError(Problem(f"{key} is a block of parameters", fix=f"set one of: {', '.join(names)}"))
    bare = key.replace("parameters.", "").removesuffix(".value")  # as the file nests it
    known = [*parameter_fields(), *dotted_settings()]
    inner = [name for name in known if name.endswith(f".{bare}")]
    fix = f"did you mean '{inner[0]}'?" if inner else nearest(bare, known, "give a parameter or a setting")
    raise ConfigError(Problem(f"unknown key '{key}'", fix=fix))


def _with_parameter(document: Document, path: KeyPath, value: Document) -> Document:
    """A spec replaces the parameter's, a plain value fixes it; a `when:` of the file stays unless the spec has one."""
    is_spec = isinstance(value.content, dict) and any(key in value.content for key in SPEC_KEYS)
    old_when = document.branch((*path, "when"))
    place = value.places[()]
    spec = value if is_spec else Document(content={}, places={(): place}, traps=()).grafted(("value",), value)
    if old_when is not None and ("when",) not in spec.places:
        spec = spec.grafted(("when",), old_when)
    return document.grafted(path, spec)
