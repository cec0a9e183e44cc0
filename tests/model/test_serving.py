"""The server of docs/serving.md, and the ONNX file of examples/export_onnx.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.model.conftest import Lab
from tests.model.conftest import predict_classes as predict

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def test_the_server_of_the_page_predicts(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = sorted(lab.xrays.glob("test/*/*.jpeg"))[0]
    (expected,) = predict(lab.model, image, out=tmp_path / "table.csv").predictions
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(lab.path)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/serving.md", "exec"), names)
    client = TestClient(names["app"])
    head = {"Content-Type": "application/octet-stream"}

    answer = client.post("/predict", content=image.read_bytes(), headers=head)
    refused = client.post("/predict", content=b"no image", headers=head)

    assert answer.json() == pytest.approx(expected["probabilities"])
    assert (refused.status_code, "detail" in refused.json()) == (422, True)


def test_the_example_exports_a_model_that_predicts_as_pytorch_does(lab: Lab, tmp_path: Path) -> None:
    """The program compares them itself."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the example's own packages")
    example = PAGE.parents[1] / "examples" / "export_onnx.py"
    program = [sys.executable, *map(str, (example, lab.model, tmp_path / "model.onnx"))]

    done = subprocess.run(program, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.onnx").is_file()
