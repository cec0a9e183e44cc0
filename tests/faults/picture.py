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


def picture(tree: Tree) -> dict[str, Any]:
    """All that a search or a list of runs leaves, except times; equal runs leave equal pictures."""
    artifacts = [
        file
        for file in sorted(tree.cache.glob("*/[!.]*/*"))
        if file.is_file()
        and file.suffix != ".pt"  # the same content can be written in several ways
        and file.name != "manifest.json"  # which lists the bytes of `checkpoint.pt`
        and not _is_in_training(file)
    ]
    found: dict[str, Any] = {
        "artifacts": {str(file.relative_to(tree.cache)): sha256_of(file) for file in artifacts},
        "whole": [
            is_intact(file.parent) for file in sorted(tree.cache.glob("*/[!.]*/manifest.json"))
        ],
        "files": sorted(_visible_files(tree.path)),
        "runs": _untimed(read_jsonl(tree.runs.runs_path)),
    }
    for folder in (tree.study, tree.runs):
        for trial in sorted(folder.path.glob("trials/*")):
            config = read_json(trial / "config.json")
            del config["settings"]["budget"]["trials"]  # how many there were to be
            network = trial / "checkpoint" / "best.safetensors"
            found[f"{folder.path.name} {trial.name}"] = [
                config,
                _untimed(read_jsonl(trial / "epochs.jsonl")),
                sha256_of(network) if network.exists() else None,
            ]
    if tree.study.space_path.exists():
        found |= _study_picture(tree.study)
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _study_picture(folder: StudyFolder) -> dict[str, Any]:
    journal = Journal(folder.journal_path, folder.space(), writable=False)
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
        "rows": _untimed(read_jsonl(folder.rows_path)),
    }


def _untimed(content: Any) -> Any:
    if isinstance(content, dict):
        # A row's checksum depends on its seconds.
        names = content.keys() - {"seconds", "crc"}
        return {name: _untimed(content[name]) for name in sorted(names)}
    return [_untimed(value) for value in content] if isinstance(content, list) else content


def _visible_files(path: Path) -> list[str]:
    names = [file.relative_to(path) for file in path.rglob("*") if file.is_file()]
    return [
        str(name)
        for name in names
        if not any(part.startswith(".") for part in name.parts)
        and not any(map(name.match, _LOOKED_AT_ONLY))
        and not _is_in_training(name)
    ]


def _is_in_training(file: Path) -> bool:
    """Of a GAN: removed when it is trained.

    A kill in that moment leaves it, until the GAN is used again.
    """
    return any(part.endswith(".work") for part in file.parts)
