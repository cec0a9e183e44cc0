"""`export` and bundles with files that were damaged or changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from tests.confirm.verdicts import write_verdict
from tests.in_process import CPU, command
from tests.model.conftest import CopyLab, change_record, seal
from xraytune.base.errors import ArtifactError, StudyError
from xraytune.base.files import append_jsonl, read_json, write_bytes
from xraytune.model.best import export
from xraytune.model.load import open_bundle
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "values",
    [
        {"positive": "NOBODY"},
        {"class_names": ["NORMAL"], "positive": "NORMAL"},
        {"input_channels": 1},
        {"compute": {"device": "tape", "threads": 1, "precision": "float32"}},
        {"study": "a\0b"},
        {"input_format": {"image_size_px": 10**6, "resolution_px": None, "mean": [0.5] * 3, "std": [0.2] * 3}},
    ],
    ids=str,
)
def test_an_invalid_bundle_is_refused(copy_lab: CopyLab, values: dict[str, Any]) -> None:
    model = copy_lab().model
    change_record(model, **values)

    with pytest.raises(ArtifactError, match=r"bundle\.json: this file is not valid in this version"):
        open_bundle(model)


def test_a_bundle_of_another_version_is_refused(copy_lab: CopyLab) -> None:
    model = copy_lab().model
    change_record(model, version=2)

    with pytest.raises(
        ArtifactError, match=r"bundle\.json: its format has version 2, but this xraytune reads version 1"
    ):
        open_bundle(model)


def test_an_error_names_the_file_with_another_network_or_split(copy_lab: CopyLab) -> None:
    model = copy_lab().model
    for name in ("model.safetensors", "split.json"):
        (model / name).write_bytes(b"[]")
        seal(model / name)
    bundle = open_bundle(model)

    with pytest.raises(ArtifactError, match=r"model\.safetensors: the file does not match the network"):
        bundle.network(CPU)
    with pytest.raises(ArtifactError, match=r"split\.json: this file is not valid in this version"):
        bundle.prepared()


@pytest.mark.parametrize(
    "verdict",
    [b"\xff", b"[]", b'{"finalists": [{"trial": 1}]}', b'{"finalists": [{"trial": "#99", "verdict": "helps"}]}'],
    ids=["bytes", "a list", "no verdict", "no such trial"],
)
def test_a_damaged_verdict_is_an_error_with_a_fix(copy_lab: CopyLab, tmp_path: Path, verdict: bytes) -> None:
    lab = copy_lab()
    write_bytes(lab.study / "confirm" / "verdict.json", verdict, is_recorded=True)

    with pytest.raises(StudyError, match=r"(?s)verdict\.json: .*missing or damaged.*xraytune confirm"):
        export(lab.study, out=tmp_path / "best.yaml")


def test_a_stopped_trial_that_a_confirm_finished_and_found_to_help_is_exported(
    copy_lab: CopyLab, tmp_path: Path
) -> None:
    """If ASHA stops all trials with synthetic images, finalists are among the stopped ones."""
    lab = copy_lab()
    folder = StudyFolder(lab.study)
    stopped = next(
        row for row in Journal(folder.journal_path, folder.space(), writable=False).rows() if row.status == "pruned"
    )
    name = f"#{stopped.number}"
    write_verdict(lab.study, {stopped.number: "helps"})
    run = {"number": 0, "label": f"{name} to its end", "status": "complete", "value": 0.75, "val_b_score": 0.625}
    append_jsonl(lab.study / "confirm" / "top_up" / "runs.jsonl", {"version": 1, **run})

    exported = export(lab.study, out=tmp_path / "best.yaml")

    assert (exported.trial, exported.val_score, exported.val_b_score) == (stopped.number, 0.75, 0.625)


@pytest.mark.parametrize("damage", ["nan", "inf", "std 0"])
def test_a_network_whose_output_is_not_finite_is_refused_instead_of_scored(copy_lab: CopyLab, damage: str) -> None:
    """NaN sorts last, so its AUROC could be 1."""
    lab = copy_lab()
    if damage == "std 0":
        change_record(lab.model, input_format=read_json(lab.model / "bundle.json")["input_format"] | {"std": [0.0] * 3})
    else:
        weights = safetensors.torch.load_file(lab.model / "model.safetensors")
        weights = {name: one * float(damage) if one.is_floating_point() else one for name, one in weights.items()}
        safetensors.torch.save_file(weights, lab.model / "model.safetensors")
        seal(lab.model / "model.safetensors")
    test = lab.xrays / "test"

    for arguments in (
        ("evaluate", lab.model, "--data", test),
        ("evaluate", lab.model, "--data", test, "--json"),
        ("predict", lab.model, test, "-o", lab.path / "table.csv"),
    ):
        result = command(*arguments)

        assert result.exit_code == 5, result.output
        assert "output is NaN or infinite for" in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""
    assert not (lab.path / "table.csv").exists()
    assert not (lab.study / "test_access.jsonl").exists()
