"""A search for a generator with Ray, from the space file of the project to a trained GAN."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.end_to_end.test_main_job import xraytune
from tests.in_process import command, said
from xraytune.base.files import read_jsonl
from xraytune.nets.backbones import build_backbone

SPACE = str(Path(__file__).resolve().parents[2] / "search_spaces" / "gan_quality.yaml")
TINY = (
    *("data.train_patients=null", "data.image_size=32", "data.split.val_a=0.42", "data.split.val_b=0.42"),
    *("gan.image_size=32", "gan.width=4", "gan.steps=4"),
    *("budget.trials=3", "budget.max_epochs=2", "scheduler.name=none", "resources.concurrent=2"),
    *("quality.backbone=small_cnn", "quality.weights=own.safetensors", "quality.allow_memorised=true"),
)


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
def test_from_images_to_the_best_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search, status, export and `generator train`; `train` and `confirm` say what to do instead."""
    monkeypatch.chdir(tmp_path)
    said("data", "phantom", "xrays", "--patients", 230, "--seed", 3, "--size", 32)
    backbone, _ = build_backbone("small_cnn", weights=None)
    save_file(backbone.state_dict(), tmp_path / "own.safetensors")
    overrides = [part for override in TINY for part in ("--set", override)]

    done = xraytune(tmp_path, "search", "--space", SPACE, "--data", "xrays", *overrides)

    assert done.returncode == 0, done.stderr
    rows = read_jsonl(tmp_path / "studies/gan-quality/trials.jsonl")
    assert [row["status"] for row in rows] == ["complete"] * 3, done.stderr
    best = min(rows, key=lambda row: row["value"])
    assert f"best on val-A: #{best['number']} gan (4 steps), KID {best['value']:.3f}" in done.stdout
    assert "next: xraytune export studies/gan-quality" in done.stdout

    assert f"best on val-A: #{best['number']}" in command("status", "studies/gan-quality").stdout
    exported = said("export", "studies/gan-quality", "-o", "best.yaml")
    assert (exported["trial"], exported["val_score"]) == (best["number"], best["value"])
    assert exported["command"] == "xraytune generator train --space best.yaml -o gan"
    trained = said("generator", "train", "--space", "best.yaml", "-o", "gan")
    assert trained["settings"]["steps"] == exported["generator_steps"]
    assert trained["settings"]["lr_g"] == best["parameters"]["gan.lr_g"]

    refused = command("train", "--config", "best.yaml", "-o", "model")
    assert "xraytune generator train --space best.yaml" in refused.output
    refused = command("confirm", "studies/gan-quality")
    assert "it has no mix to compare with controls" in refused.output
