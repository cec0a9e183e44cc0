"""The server of docs/serving.md."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.export.conftest import Lab
from tests.export.conftest import predict_classes as predict

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def test_the_server_of_the_page_predicts(
    lab: Lab, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    shutil.copy(exported, tmp_path / "model")
    image = sorted(lab.xrays.glob("test/*/*.jpeg"))[0]
    (expected,) = predict(lab.model, image, out=tmp_path / "table.csv").predictions
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/serving.md", "exec"), names)
    client = TestClient(names["app"])
    head = {"Content-Type": "application/octet-stream"}

    answer = client.post("/predict", content=image.read_bytes(), headers=head)
    refused = client.post("/predict", content=b"no image", headers=head)

    assert answer.json() == pytest.approx(expected["probabilities"], abs=1e-4)
    assert (refused.status_code, "detail" in refused.json()) == (422, True)
