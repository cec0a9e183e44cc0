"""Error messages for values that pydantic rejects: what is wrong, and the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xraytune.base.errors import join_names

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_COMPARISONS = {
    "greater_than": ("gt", "a number above {:g}"),
    "greater_than_equal": ("ge", "{:g} or more"),
    "less_than": ("lt", "a number below {:g}"),
    "less_than_equal": ("le", "{:g} or less"),
}
_WRONG_TYPES = {
    **dict.fromkeys(("int_type", "int_from_float"), ("is not a whole number", "write a whole number")),
    **dict.fromkeys(("string_type", "path_type"), ("is not text", "write one text, in quotes")),
    "float_type": ("is not a number", "write a number"),
    "finite_number": ("is not a finite number", "write a finite number"),
    "bool_type": ("is neither true nor false", "write true or false"),
    "tuple_type": ("is not a list", "write [A, B]"),
    "dict_type": ("is not a mapping", "write {A: B}"),
    "too_short": ("is empty", "give at least one"),
    "string_pattern_mismatch": (
        "cannot be a folder's name on every machine",
        "use up to 64 letters, digits, '.', '_' and '-', starting with a letter or digit",
    ),
}
_NAMES_SHOWN = 40
_SYNONYMS = {
    "learning_rate": "lr",
    "base_lr": "lr",
    "bs": "batch_size",
    "wd": "weight_decay",
    "model": "backbone",
    "arch": "backbone",
    "lr_scheduler": "schedule",
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "n_trials": "trials",
    "method": "sampler",
    "early_terminate": "scheduler",
    "log_uniform": "log_uniform_values",
    "loguniform": "log_uniform_values",
}
"""Our names of what other tools call differently."""


REMOVED = {
    "diffusion": "use source: folder with images that another program generated (docs/generators.md)",
    "pipeline": "write its images into a folder (examples/folder_from_pipeline.py) and use source: folder",
    "prompts": "give them to examples/folder_from_pipeline.py, and use source: folder",
    "replace": "use mixing: additive or pretrain",
    "conditional": "one network is trained for all classes",
    "spectral_norm": "gan.architecture: pca has it, dcgan does not",
    "loss": "gan.architecture decides: pca has a hinge loss, dcgan binary cross-entropy",
}
"""What to use instead of settings and values of earlier versions."""


def nearest(word: object, known: Iterable[str], otherwise: str = "") -> str:
    """Return the fix for an unknown word.

    That is the known word that ends with it (`gan.steps`, `synthetic_ratio`), or else the most similar one, else
    `otherwise`, else all known words.
    """
    if (name := str(word).rpartition(".")[2]) in REMOVED:
        return f"it was removed: {REMOVED[name]}"
    names = {name.lower(): name for name in known}
    meant = _SYNONYMS.get(str(word).lower(), str(word).lower())
    longer = [name for name in names if name.endswith((f".{meant}", f"_{meant}")) and meant not in names]
    similar = longer or difflib.get_close_matches(meant, names, n=1)
    if similar:
        return f"did you mean '{names[min(similar, key=len)]}'?"
    shown = [*names.values()]
    if otherwise or len(shown) == 1:
        return otherwise or f"write {shown[0]}"
    return f"use one of: {join_names(shown, _NAMES_SHOWN)}"


def format_value(value: object) -> str:
    """Format a value as a user would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "nothing" if value is None else str(value)


def explain(name: str, error: ErrorDetails) -> tuple[str, str]:
    """Return what is wrong with the value of `name` (dotted), and the fix."""
    value, kind, context = error["input"], error["type"], error.get("ctx", {})
    if value is None and kind != "value_error":
        return f"{name}: is empty", "give it a value, or leave it out"
    if kind == "rule":
        return context["what"], context["fix"]
    if kind in _COMPARISONS:
        bound, words = _COMPARISONS[kind]
        return f"{name}: {format_value(value)} is out of bounds", f"write {words.format(context[bound])}"
    if kind == "value_error":
        what, _, fix = str(context["error"]).partition("; ")
        return what, fix
    if kind == "literal_error":
        choices = [word for word in re.findall(r"[\w.+-]+", context["expected"]) if word != "or"]
        return f"{name}: unknown value {format_value(value)}", nearest(value, choices)
    what, fix = _WRONG_TYPES.get(kind, (error["msg"], ""))
    return f"{name}: {format_value(value)} {what}", fix


def group_regex_problem(group_regex: str) -> tuple[str, str]:
    """Return why a `group_regex` cannot identify patients, and the fix; empty if it can."""
    try:
        expression = re.compile(group_regex)
    except (re.error, OverflowError, RecursionError) as error:
        return f"not a regular expression: {error}", "write a regular expression as Python's re understands it"
    if expression.groups == 0:
        return "there is no group in it", "put the part that identifies the patient in parentheses: (p[0-9]+)_"
    return "", ""
