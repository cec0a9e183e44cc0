"""What a search of `tiny.py` left on the disk, to be compared."""

import json
from pathlib import Path
from typing import Any

from tests.faults.tiny import Tree
from xraytune.base.artifacts import is_intact
from xraytune.base.files import read_json, read_jsonl, sha256_of
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal

_LOOKED_AT_ONLY = ("progress.json", "step_*.png")
"""What a trial does before its first epoch, and how its GAN draws: nothing follows from them."""
_ONLY_THERE = ("*.pt", "manifest.json", "sha256.jsonl", "optuna.journal", "study.yaml")
"""The same content can be written in several ways, and a study begun with a smaller budget."""
_UNEQUAL = {"seconds", "started", "identity", "crc", "trials"}
"""Times, random numbers, a checksum of times, and how many trials there were to be."""


def picture(tree: Tree) -> dict[str, Any]:
    """All that a search or a list of runs leaves, except times; equal runs leave equal pictures."""
    found: dict[str, Any] = {
        str(file.relative_to(tree.path)): _content(file)
        for file in tree.path.rglob("*")
        if file.is_file() and _is_compared(file.relative_to(tree.path))
    }
    manifests = sorted(tree.cache.glob("*/[!.]*/manifest.json"))
    found["whole"] = [is_intact(file.parent) for file in manifests]
    if tree.study.space_path.exists():
        found |= _study_picture(tree.study)
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _content(file: Path) -> Any:
    if any(map(file.match, _ONLY_THERE)):
        return None
    if file.suffix == ".json":
        return _untimed(read_json(file))
    return _untimed(read_jsonl(file)) if file.suffix == ".jsonl" else sha256_of(file)


def _is_compared(name: Path) -> bool:
    """Neither hidden nor of a GAN in training.

    That is removed when it is trained. A kill in that moment leaves it, until the GAN is used.
    """
    is_hidden = any(part.startswith(".") or part.endswith(".work") for part in name.parts)
    return not is_hidden and not any(map(name.match, _LOOKED_AT_ONLY))


def _study_picture(folder: StudyFolder) -> dict[str, Any]:
    journal = Journal(folder.journal_path, folder.space(), is_writable=False)
    return {
        "journal": [
            {
                "number": trial.number,
                "status": trial.state.name,
                "value": trial.values,
                "params": trial.params,
                "distributions": {name: repr(each) for name, each in trial.distributions.items()},
                "reported": trial.intermediate_values,
                "attributes": _untimed(trial.user_attrs),
                "system": trial.system_attrs,
            }
            for trial in journal.trials
        ],
        "reports": list(journal.reports()),
    }


def _untimed(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _untimed(content[name]) for name in sorted(content.keys() - _UNEQUAL)}
    return [_untimed(value) for value in content] if isinstance(content, list) else content
