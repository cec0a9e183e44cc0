"""`verify`: the numbers of a model card, computed again."""

from __future__ import annotations

import json

import pytest

from tests.export.conftest import CopyLab, Lab, change_record, seal
from tests.in_process import command
from xraytune.errors import ConfigError, DataError
from xraytune.export.bundle import verify
from xraytune.files import read_json, write_json

pytestmark = pytest.mark.slow


def test_the_numbers_of_a_card_are_reproduced(lab: Lab) -> None:
    result = command("verify", lab.model, "--data", lab.xrays, "--json")

    assert result.exit_code == 0, result.output
    record, numbers = read_json(lab.model / "bundle.json"), json.loads(result.stdout)["numbers"]
    found = {one["name"]: one["recomputed"] for one in numbers}
    assert found["score on val-B"] == pytest.approx(record["val_b_score"], abs=1e-6)
    assert found["threshold"] == pytest.approx(record["threshold"], abs=1e-6)
    for metric in record["metrics"]:
        ends = [found[f"{metric['name']}, {end}"] for end in ("low", "high")]
        assert [found[metric["name"]], *ends] == pytest.approx([metric["value"], *metric["interval"]], abs=1e-6)
    card = (lab.model / "README.md").read_text(encoding="utf-8")
    assert f"| AUROC | {found['AUROC']:.3f} |" in card
    assert "synthetic images of this configuration is not confirmed: `xraytune confirm` has not compared" in card


def test_a_number_that_differs_is_named(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    record = read_json(lab.model / "bundle.json")
    record["metrics"][0]["value"] -= 0.01
    change_record(lab.model, metrics=record["metrics"])

    result = command("verify", lab.model, "--data", lab.xrays)

    assert result.exit_code == 5
    assert "these numbers differ by more than 0.001: AUROC\n" in result.stderr
    assert "recomputed" in result.stdout


def test_other_images_are_refused(copy_lab: CopyLab, lab: Lab) -> None:
    copy = copy_lab()
    image = sorted(copy.xrays.glob("train/*/*.jpeg"))[0]
    image.write_bytes(sorted(copy.xrays.glob("train/*/*.jpeg"))[1].read_bytes())

    with pytest.raises(DataError, match=r"1 of \d+ images are missing or have changed: train/NORMAL/"):
        verify(lab.model, data=copy.xrays)


def test_out_of_fold_numbers_cannot_be_computed_again(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    split = read_json(lab.model / "split.json")
    write_json(lab.model / "split.json", split | {"images": [{**image, "side": "train"} for image in split["images"]]})
    seal(lab.model / "split.json")

    with pytest.raises(ConfigError, match="numbers are out-of-fold"):
        verify(lab.model, data=lab.xrays)
