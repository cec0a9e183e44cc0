"""What a search of `tiny.py` left on the disk: what of it must be there, and all of it, to be compared."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.faults.tiny import Tree
from xraytune.base.artifacts import is_intact
from xraytune.base.files import read_json, read_jsonl, sha256_of
from xraytune.search.asha import Rungs
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.row import ended_trials
from xraytune.study.status import status

_LOOKED_AT_ONLY = ("progress.json", "hang.txt", "step_*.png")
"""What a trial does before its first epoch, where it hung, and how its GAN draws: nothing follows from them."""


def read_marks(path: Path) -> Counter[tuple[Any, ...]]:
    """How often each thing happened."""
    return Counter(tuple(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())


def told_and_missing(tree: Tree, marks: Path) -> list[str]:
    """What the director, or the list of runs, had heard and written, and the disk does not have. Reads, never writes."""
    told = read_marks(marks)
    missing = []
    if told[("created",)] and not tree.study.space_path.exists():
        return ["the study"]
    folder = tree.study if tree.study.space_path.exists() else tree.runs
    journal = rows = None
    if folder == tree.study:
        journal = Journal(folder.journal_path, folder.space(), writable=False)
        rows = {*ended_trials(folder)}
    else:
        rows = {row["number"] for row in read_jsonl(folder.runs_path)}
    for what, *about in told:
        if what == "told" and about[1]:
            number, epoch = about
            in_log = {row["epoch"] for row in read_jsonl(folder.trial_path(number) / "epochs.jsonl")}
            if epoch not in in_log:
                missing.append(f"epoch {epoch} of {number} in epochs.jsonl")
            if journal and epoch not in journal.reported(number):
                missing.append(f"epoch {epoch} of {number} in the journal")
        if what == "ended":
            if about[0] not in rows:
                missing.append(f"the row of {about[0]}")
            if journal and journal.status(about[0]) is None:
                missing.append(f"the end of {about[0]} in the journal")
    return missing


def look(tree: Tree) -> None:
    """Read a study as `status` does."""
    if tree.study.space_path.exists():
        status(tree.study.path)


def ends(tree: Tree) -> dict[int, tuple[Any, ...]]:
    """The ended trials of a study, by number: how, and with which value."""
    if not tree.study.space_path.exists():
        return {}
    journal = Journal(tree.study.journal_path, tree.study.space(), writable=False)
    return {row.number: (row.status, row.value) for row in journal.rows()}


def wall(tree: Tree) -> dict[str, Any]:
    """The time that was used, as it was written down."""
    path = tree.study.path / "wall.json"
    return dict(read_json(path)) if path.exists() else {"seconds": 0.0, "trials": {}}


def picture(tree: Tree) -> dict[str, Any]:
    """All that a search or a list of runs leaves, but for times: two that are equal went the same way, bit for bit."""
    found: dict[str, Any] = {
        "artifacts": {
            str(file.relative_to(tree.cache)): _content(file)
            for file in sorted(tree.cache.glob("*/[!.]*/*"))
            if file.is_file()
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
    reports = list(journal.reports())
    rungs = Rungs(grace=1, reduction=2, max_epochs=2)
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
        "reports": reports,
        "decisions": [rungs.should_continue(*report) for report in reports],
        "rungs": rungs.reached(),
        "rows": _untimed(read_jsonl(folder.rows_path)),
    }


def _settings(config: Path) -> Any:
    """What a trial was trained with; how many there were to be is no setting of it."""
    content = read_json(config)
    del content["settings"]["budget"]["trials"]
    return content


def _content(file: Path) -> str:
    """A hash of a file; of one of torch's, of what is in it: the same content can be written in several ways."""
    if file.suffix != ".pt":
        return sha256_of(file)
    digest = hashlib.sha256()
    _digest(torch.load(file, weights_only=True), digest)
    return digest.hexdigest()


def _digest(content: Any, digest: Any) -> None:
    if isinstance(content, torch.Tensor):
        digest.update(f"{content.dtype} {tuple(content.shape)}".encode() + content.contiguous().numpy().tobytes())
    elif isinstance(content, dict):
        for name, value in content.items():
            digest.update(str(name).encode())
            _digest(value, digest)
    elif isinstance(content, list | tuple):
        for value in content:
            _digest(value, digest)
    else:
        digest.update(repr(content).encode())


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
    """Of a GAN: removed when it is trained. A power loss in that moment brings it back, until the GAN is used again."""
    return any(part.endswith(".work") for part in file.parts)
