"""Says in plain words what a value was refused for, and what was probably meant.

Takes pydantic's error details, gives what is wrong and how to mend it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import regex

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_COMPARISONS = {
    "greater_than": ("gt", "a number above {:g}"),
    "greater_than_equal": ("ge", "{:g} or more"),
    "less_than": ("lt", "a number below {:g}"),
    "less_than_equal": ("le", "{:g} or less"),
}

_NAMES_SHOWN = 40


def nearest(word: object, known: Iterable[str], otherwise: str = "") -> str:
    """The fix for an unknown word: the known one that looks most like it, else `otherwise`, else all known ones."""
    names = list(known)
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{by_lower[close[0]]}'?"
    if otherwise or len(names) == 1:
        return otherwise or f"write {names[0]}"
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN + 1 else ""
    return f"use one of: {', '.join(names[:_NAMES_SHOWN] if more else names)}{more}"


def shown(value: object) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "nothing" if value is None else str(value)


def explain(name: str, error: ErrorDetails, choices: tuple[Any, ...] = ()) -> tuple[str, str]:
    """What is wrong with the value of `name`, and the fix.

    Args:
        name: As people write it, `data.split.seed`.
        error: One of `ValidationError.errors()`.
        choices: What a choice may be, where the error is about one.
    """
    value, kind, context = error["input"], error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"{name}: is missing", f"write {name}"
    if value is None and kind != "value_error":
        return f"{name}: is empty", "give it a value, or leave it out"
    if kind in _COMPARISONS:
        bound, words = _COMPARISONS[kind]
        allowed = words.format(context[bound])
        return f"{name}: {shown(value)} is out of bounds", f"write {allowed}"
    if kind == "value_error":
        what, _, fix = str(context["error"]).partition("; ")
        return what, fix
    if kind == "literal_error":
        names = [shown(choice).strip("'") for choice in choices]
        return f"{name}: unknown value {shown(value)}", nearest(value, names)
    return _explain_type(name, kind, value) or (f"{name}: {shown(value)}: {error['msg']}", "")


def group_regex_refusal(group_regex: str) -> tuple[str, str] | None:
    """Why an expression tells no patients, and the fix; None: it may."""
    try:
        expression = re.compile(group_regex)
        regex.compile(group_regex)  # which searches, since re has no timeout
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        return f"not a regular expression: {error}", "write a regular expression as Python's re understands it"
    if expression.groups == 0:
        return "there is no group in it", "put the patient's part in brackets: (p[0-9]+)_"
    return None


def _explain_type(name: str, kind: str, value: Any) -> tuple[str, str] | None:
    is_whole = isinstance(value, float) and value.is_integer()
    match kind:
        case "int_type" | "int_from_float" | "int_parsing" | "int_parsing_size":
            fix = f"write {int(value)}" if is_whole else "write a whole number"
            return f"{name}: {shown(value)} is not a whole number", fix
        case "float_type" | "float_parsing":
            return f"{name}: {shown(value)} is not a number", "write a number"
        case "finite_number":
            return f"{name}: {shown(value)} is not a finite number", "write a finite number"
        case "bool_type" | "bool_parsing":
            return f"{name}: {shown(value)} is neither true nor false", "write true or false"
        case "string_type" | "path_type":
            fix = "write one piece of text" if isinstance(value, dict | list) else f"write '{value}' in quotes"
            return f"{name}: {shown(value)} is not text", fix
        case "string_pattern_mismatch":
            fix = "use up to 64 letters, digits, '.', '_' and '-', a letter or digit first"
            return f"{name}: {shown(value)} cannot be a folder's name on every machine", fix
    return None
