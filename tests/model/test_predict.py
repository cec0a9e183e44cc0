"""The files of `predict`, and the examples server.py and export_onnx.py."""

import json
import os
import shutil
import sys
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.data.image_files import dicom
from tests.docs.commands import ROOT
from tests.in_process import command, other_process
from tests.model.conftest import Lab, read_rows
from xraytune.base.errors import DataError
from xraytune.model.predict import predict
from xraytune.trial.saved_model import open_bundle


def test_every_image_at_any_depth_has_a_row_in_sorted_order(lab: Lab, tmp_path: Path) -> None:
    """A score at the threshold is positive."""
    images = shutil.copytree(lab.xrays / "train", tmp_path / "images/ward")
    loose = next(iter(images.glob("NORMAL/*")))
    shutil.copy(loose, tmp_path / "images/a, b.jpeg")
    threshold = open_bundle(lab.model).record.threshold

    predicted = predict(lab.model, tmp_path / "images", out=tmp_path / "table.csv")

    rows = read_rows(tmp_path / "table.csv")
    files = [f"ward/{file.relative_to(images).as_posix()}" for file in images.glob("*/*")]
    assert [row["file"] for row in rows] == ["a, b.jpeg", *sorted(files)]
    assert sum(predicted.counts.values()) == len(rows)
    for row in rows:
        assert (row["predicted"] == "PNEUMONIA") == (
            float(row["probability_PNEUMONIA"]) >= threshold
        )


def test_a_dicom_file_is_predicted_as_the_image_in_it(lab: Lab, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    jpeg = sorted(lab.xrays.glob("test/*/*.jpeg"))[0]
    shutil.copy(jpeg, images / "b.jpeg")
    with Image.open(jpeg) as opened:
        (images / "a.dcm").write_bytes(dicom(np.asarray(opened), 8))

    result = command(f"predict {lab.model} {images} -o {tmp_path}/t.csv --json")

    content = json.loads(result.stdout)
    rows = read_rows(tmp_path / "t.csv")
    assert [row["file"] for row in rows] == ["a.dcm", "b.jpeg"]
    assert rows[0]["probability_PNEUMONIA"] == rows[1]["probability_PNEUMONIA"]
    assert content["counts"][rows[0]["predicted"]] == 2
    assert content["positive"] == "PNEUMONIA"
    assert content["threshold"] == float(rows[0]["threshold"])


def test_one_image_needs_no_file_and_its_probabilities_are_printed(
    lab: Lab, tmp_path: Path
) -> None:
    image = min(lab.xrays.glob("test/NORMAL/*.jpeg"))
    predict(lab.model, image, out=tmp_path / "table.csv")
    (row,) = read_rows(tmp_path / "table.csv")

    shown = command("predict", lab.model, image).stdout
    folder = command("predict", lab.model, image.parent)

    probability = float(row["probability_PNEUMONIA"])
    assert f"predicted {row['predicted']}" in shown
    assert f"PNEUMONIA {probability:.3f}" in shown
    assert (folder.exit_code, "-o is missing" in folder.stderr) == (2, True)


def test_nothing_is_written_when_an_image_is_broken(lab: Lab, tmp_path: Path) -> None:
    images = tmp_path / "images"
    out = tmp_path / "table.csv"
    images.mkdir()
    (images / "empty.png").touch()

    for skip_broken in (False, True):
        with pytest.raises(DataError, match=r"empty\.png: .*the file is empty"):
            predict(lab.model, images, out=out, skip_broken=skip_broken)
    assert not out.exists()


def test_a_link_to_nothing_and_a_pipe_are_broken_images(lab: Lab, tmp_path: Path) -> None:
    images = shutil.copytree(lab.xrays / "test", tmp_path / "images")
    (images / "gone.png").symlink_to(tmp_path / "unmounted/gone.png")
    os.mkfifo(images / "pipe.png")

    with pytest.raises(DataError, match=r"gone\.png"):
        predict(lab.model, images, out=tmp_path / "table.csv")
    predicted = predict(lab.model, images, out=tmp_path / "table.csv", skip_broken=True)

    assert [image.file for image in predicted.broken] == ["gone.png", "pipe.png"]
    assert (
        predicted.images == len(read_rows(tmp_path / "table.csv")) == len([*images.rglob("*.jpeg")])
    )


EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_of_a_server_predicts(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = sorted(lab.xrays.glob("test/*/*.jpeg"))[0]
    predict(lab.model, image, out=tmp_path / "table.csv")
    (expected,) = read_rows(tmp_path / "table.csv")
    monkeypatch.chdir(lab.path)
    client = TestClient(run_path(str(EXAMPLES / "server.py"))["app"])
    head = {"Content-Type": "application/octet-stream"}

    answer = client.post("/predict", content=image.read_bytes(), headers=head)
    refused = client.post("/predict", content=b"no image", headers=head)

    by_class = {name: float(expected[f"probability_{name}"]) for name in ("NORMAL", "PNEUMONIA")}
    assert answer.json() == pytest.approx(by_class)
    assert (refused.status_code, "detail" in refused.json()) == (422, True)


def test_the_example_exports_a_model_that_predicts_as_pytorch_does(
    lab: Lab, tmp_path: Path
) -> None:
    """The program compares them itself."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the example's own packages")
    program = f"{sys.executable} {ROOT}/examples/export_onnx.py {lab.model} {tmp_path}/model.onnx"

    done = other_process(program)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.onnx").is_file()
