"""Find the name that a user may have meant."""

import difflib
from collections.abc import Iterable

from xraytune.base.errors import join_names

_NAMES_SHOWN = 40
_SYNONYMS = {
    "arch": "backbone",
    "augment": "augmentation",
    "base_lr": "lr",
    "bs": "batch_size",
    "class_weight": "imbalance",
    "class_weights": "imbalance",
    "classical": "augmentation",
    "early_terminate": "scheduler",
    "epochs": "budget.max_epochs",
    "image_size": "data.image_size",
    "img_size": "data.image_size",
    "learning_rate": "lr",
    "log_uniform": "log_uniform_values",
    "lr_scheduler": "schedule",
    "method": "sampler",
    "model": "backbone",
    "n_trials": "trials",
    "num_epochs": "budget.max_epochs",
    "pos_weight": "imbalance",
    "val_split": "data.split.val_a",
    "wd": "weight_decay",
}
"""The names in xraytune of things that other tools name differently."""


def nearest(word: object, choices: Iterable[str], otherwise: str = "") -> str:
    """Return the fix for an unknown word.

    The fix is the known word that ends with the unknown one (`gan.steps`, `synthetic_ratio`), or
    else the most similar word, or else `otherwise`, or else all known words.
    """
    names = {name.lower(): name for name in choices}
    word = str(word).lower()
    canonical = _SYNONYMS.get(word, word)
    longer = [name for name in names if name.endswith((f".{canonical}", f"_{canonical}"))]
    similar = difflib.get_close_matches(canonical, names, n=1)
    if longer and canonical not in names:
        similar = longer
    if similar:
        return f"did you mean '{names[min(similar, key=len)]}'?"
    return otherwise or f"use one of: {join_names([*names.values()], _NAMES_SHOWN)}"
