"""The name that a user may have meant."""

import difflib
from collections.abc import Iterable

from xraytune.base.errors import join_names

_NAMES_SHOWN = 40
_SYNONYMS = {
    "learning_rate": "lr",
    "bs": "batch_size",
    "wd": "weight_decay",
    "model": "backbone",
    "lr_scheduler": "schedule",
    "epochs": "max_epochs",
    "n_trials": "trials",
    "method": "sampler",
    "early_terminate": "scheduler",
    "log_uniform": "log_uniform_values",
}
"""Our names of what other tools call differently."""


def nearest(word: object, known: Iterable[str], otherwise: str = "") -> str:
    """Return the fix for an unknown word.

    That is the known word that ends with it (`gan.steps`, `synthetic_ratio`), or else the most
    similar one, else `otherwise`, else all known words.
    """
    names = {name.lower(): name for name in known}
    word = str(word).lower()
    meant = _SYNONYMS.get(word, word)
    longer = [name for name in names if name.endswith((f".{meant}", f"_{meant}"))]
    similar = (
        longer if longer and meant not in names else difflib.get_close_matches(meant, names, n=1)
    )
    if similar:
        return f"did you mean '{names[min(similar, key=len)]}'?"
    return otherwise or f"use one of: {join_names([*names.values()], _NAMES_SHOWN)}"
