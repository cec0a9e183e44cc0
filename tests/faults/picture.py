"""What a search of `tiny.py` left on the disk: what of it must be there, and all of it, to be compared."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.tiny import Tree
from xraytune.base.artifacts import is_intact
from xraytune.base.files import read_json, read_jsonl, sha256_of
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal

_LOOKED_AT_ONLY = ("progress.json", "step_*.png")
"""What a trial does before its first epoch, and how its GAN draws: nothing follows from them."""


def read_marks(path: Path) -> Counter[tuple[Any, ...]]:
    """How often each thing happened."""
    return Counter(
        tuple(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()
    )


def told_and_missing(tree: Tree, marks: Path) -> list[str]:
    """What the director, or the list of runs, had heard and written, and the disk does not have. Reads, never writes."""
    told = read_marks(marks)
    is_search = tree.study.space_path.exists()
    if told[("created",)] and not is_search:
        return ["the study"]
    folder = tree.study if is_search else tree.runs
    rows = {
        row["number"] for row in read_jsonl(folder.rows_path if is_search else folder.runs_path)
    }
    journal = Journal(folder.journal_path, folder.space(), writable=False) if is_search else None
    missing = []
    for what, number, epoch in ((*mark, 0)[:3] for mark in told if mark[0] in ("told", "ended")):
        if what == "told" and epoch:
            if epoch not in {
                row["epoch"] for row in read_jsonl(folder.trial_path(number) / "epochs.jsonl")
            }:
                missing.append(f"epoch {epoch} of {number} in epochs.jsonl")
            if journal and epoch not in journal.reported(number):
                missing.append(f"epoch {epoch} of {number} in the journal")
        elif what == "ended":
            if number not in rows:
                missing.append(f"the row of {number}")
            if journal and journal.row(number).status == "unfinished":
                missing.append(f"the end of {number} in the journal")
    return missing


def wall(tree: Tree) -> dict[str, Any]:
    """The time that was used, as it was written down."""
    path = tree.study.path / "wall.json"
    return dict(read_json(path)) if path.exists() else {"seconds": 0.0, "trials": {}}


def picture(tree: Tree) -> dict[str, Any]:
    """All that a search or a list of runs leaves, but for times: two that are equal went the same way, bit for bit."""
    found: dict[str, Any] = {
        "artifacts": {
            str(file.relative_to(tree.cache)): sha256_of(file)
            for file in sorted(tree.cache.glob("*/[!.]*/*"))
            if file.is_file()
            and file.suffix != ".pt"  # the same content can be written in several ways
            and file.name != "manifest.json"  # which lists the bytes of `checkpoint.pt`
            and not _is_in_training(file)
        },
        "whole": {
            str(manifest.relative_to(tree.cache)): is_intact(manifest.parent)
            for manifest in sorted(tree.cache.glob("*/[!.]*/manifest.json"))
        },
        "files": sorted(_visible_files(tree.path)),
    }
    for folder in (tree.study, tree.runs):
        for trial in sorted(folder.path.glob("trials/*")):
            name = f"{folder.path.name} {trial.name}"
            found[f"{name} settings"] = _settings(trial / "config.json")
            found[f"{name} epochs"] = _untimed(read_jsonl(trial / "epochs.jsonl"))
            network = trial / "checkpoint" / "best.safetensors"
            found[f"{name} network"] = sha256_of(network) if network.exists() else None
    found["runs"] = _untimed(read_jsonl(tree.runs.runs_path))
    if tree.study.space_path.exists():
        found |= _study_picture(tree.study)
    return found


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


def _settings(config: Path) -> Any:
    """What a trial was trained with; how many there were to be is no setting of it."""
    content = read_json(config)
    del content["settings"]["budget"]["trials"]
    return content


def _untimed(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _untimed(value) for name, value in content.items() if name != "seconds"}
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
    """Of a GAN: removed when it is trained. A kill in that moment leaves it, until the GAN is used again."""
    return any(part.endswith(".work") for part in file.parts)
