"""The CSV file of `predict`, the server of docs/final-model.md, and the ONNX file of examples/export_onnx.py."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.data.test_dicom import dicom
from tests.in_process import command
from tests.model.conftest import Lab, read_rows
from tests.model.conftest import predict_classes as predict
from xraytune.base.errors import DataError
from xraytune.model.load import open_bundle

pytestmark = pytest.mark.slow


def test_every_image_at_any_depth_has_a_row_in_sorted_order(lab: Lab, tmp_path: Path) -> None:
    """A score at the threshold is positive."""
    images = shutil.copytree(lab.xrays / "train", tmp_path / "images" / "ward")
    loose = next(iter(images.glob("NORMAL/*")))
    shutil.copy(loose, tmp_path / "images" / "a, b.jpeg")
    threshold = open_bundle(lab.model).record.threshold

    predicted = predict(lab.model, tmp_path / "images", out=tmp_path / "table.csv")

    rows = read_rows(tmp_path / "table.csv")
    files = [
        "a, b.jpeg",
        *(f"ward/{file.relative_to(images).as_posix()}" for file in images.glob("*/*")),
    ]
    assert [row["file"] for row in rows] == sorted(files)
    assert sum(predicted.counts.values()) == len(rows)
    by_file = {row["file"]: row for row in rows}
    assert by_file["a, b.jpeg"]["predicted"] == by_file[f"ward/NORMAL/{loose.name}"]["predicted"]
    assert {row["predicted"] for row in rows} == {"NORMAL", "PNEUMONIA"}
    for row in rows:
        assert (row["predicted"] == "PNEUMONIA") == (
            float(row["probability_PNEUMONIA"]) >= threshold
        )
        assert float(row["probability_NORMAL"]) + float(
            row["probability_PNEUMONIA"]
        ) == pytest.approx(1)


def test_dicom_and_json(lab: Lab, tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "ward").mkdir(parents=True)
    jpeg = sorted(lab.xrays.glob("test/*/*.jpeg"))[0]
    shutil.copy(jpeg, images / "ward" / "a.jpeg")
    with Image.open(jpeg) as opened:
        (images / "a.dcm").write_bytes(dicom(np.asarray(opened), 8))

    result = command("predict", lab.model, images, "-o", tmp_path / "t.csv", "--json")

    content, rows = json.loads(result.stdout), read_rows(tmp_path / "t.csv")
    assert [row["file"] for row in rows] == ["a.dcm", "ward/a.jpeg"]
    assert rows[0]["probability_PNEUMONIA"] == rows[1]["probability_PNEUMONIA"]
    assert {row["threshold"] for row in rows} == {str(open_bundle(lab.model).record.threshold)}
    assert content["counts"] == {"NORMAL": 0, "PNEUMONIA": 0} | Counter(
        row["predicted"] for row in rows
    )


def test_prediction_does_not_depend_on_batch(lab: Lab, tmp_path: Path) -> None:
    predict(lab.model, lab.path / "xrays", out=tmp_path / "many.csv")
    many = read_rows(tmp_path / "many.csv")
    assert len(many) > 64

    for row in (many[0], many[-1]):
        out = tmp_path / f"{Path(row['file']).stem}.csv"
        predict(lab.model, lab.xrays / row["file"], out=out)

        (alone,) = read_rows(out)
        assert alone["file"] == Path(row["file"]).name
        assert float(alone["probability_NORMAL"]) == pytest.approx(
            float(row["probability_NORMAL"]), abs=1e-6
        )


def test_nothing_is_written_when_images_are_missing_or_broken(lab: Lab, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "table.csv"
    images.mkdir()
    (images / "empty.png").touch()

    with pytest.raises(DataError, match="there is no such folder"):
        predict(lab.model, tmp_path / "nowhere", out=out)
    with pytest.raises(DataError, match=r"empty\.png: the file is empty"):
        predict(lab.model, images, out=out)
    with pytest.raises(DataError, match="all 1 images are broken"):
        predict(lab.model, images, out=out, skip_broken=True)
    assert not out.exists()


PAGE = Path(__file__).parents[2] / "docs" / "final-model.md"


def test_the_server_of_the_page_predicts(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = sorted(lab.xrays.glob("test/*/*.jpeg"))[0]
    predict(lab.model, image, out=tmp_path / "table.csv")
    (expected,) = read_rows(tmp_path / "table.csv")
    blocks = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    (code,) = (block for block in blocks if "FastAPI" in block)
    monkeypatch.chdir(lab.path)
    names: dict[str, Any] = {}
    exec(compile(code, PAGE.name, "exec"), names)
    client = TestClient(names["app"])
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
    example = PAGE.parents[1] / "examples" / "export_onnx.py"
    program = [sys.executable, *map(str, (example, lab.model, tmp_path / "model.onnx"))]

    done = subprocess.run(program, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.onnx").is_file()
