"""Parts of error messages: values as a user writes them, and the name that a user may have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from xraytune.base.errors import join_names

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


def nearest(word: object, known: Iterable[str], otherwise: str = "") -> str:
    """Return the fix for an unknown word.

    That is the known word that ends with it (`gan.steps`, `synthetic_ratio`), or else the most
    similar one, else `otherwise`, else all known words.
    """
    names = {name.lower(): name for name in known}
    meant = _SYNONYMS.get(str(word).lower(), str(word).lower())
    longer = [
        name for name in names if name.endswith((f".{meant}", f"_{meant}")) and meant not in names
    ]
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


def group_regex_problem(group_regex: str) -> tuple[str, str]:
    """Return why a `group_regex` cannot identify patients, and the fix; empty if it can."""
    try:
        expression = re.compile(group_regex)
    except re.error as error:
        return (
            f"not a regular expression: {error}",
            "write a regular expression as Python's re understands it",
        )
    if expression.groups == 0:
        return (
            "there is no group in it",
            "put the part that identifies the patient in parentheses: (p[0-9]+)_",
        )
    return "", ""
