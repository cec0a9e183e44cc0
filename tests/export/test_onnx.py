"""ONNX files: the predictions of PyTorch, without PyTorch; and files that are not what they seem."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import xraytune
from tests.export.conftest import CopyLab, Lab
from tests.faults.specimens import make_bundle
from tests.in_process import CPU, command
from xraytune.data.decoding import InputFormat
from xraytune.data.phantom import draw_patient
from xraytune.errors import ArtifactError, ConfigError
from xraytune.export import to_onnx
from xraytune.export.onnx_model import open_onnx
from xraytune.export.to_onnx import export_onnx
from xraytune.pipeline.bundle import open_bundle

pytestmark = pytest.mark.slow
MATCHED = InputFormat(image_size_px=64, resolution_px=28, mean=(0.5,), std=(0.2,))


def probabilities(table: Path) -> tuple[list[str], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [row["file"] for row in rows], np.array([float(row["probability_PNEUMONIA"]) for row in rows])


def test_onnxruntime_predicts_what_pytorch_does_and_imports_no_torch(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    result = command("model", "export", lab.model)
    assert result.exit_code == 0, result.output
    images, tables = lab.xrays / "test", {runtime: lab.path / f"{runtime}.csv" for runtime in ("torch", "onnx")}
    code = (
        "import sys; from xraytune.cli.main import build_app\n"
        "build_app()(sys.argv[1:], standalone_mode=False); print('torch' in sys.modules)"
    )
    arguments = ("predict", lab.model, images, "--runtime", "onnx", "-o", tables["onnx"])

    command("predict", lab.model, images, "-o", tables["torch"])
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "False"
    (files, ours), (theirs, other) = probabilities(tables["torch"]), probabilities(tables["onnx"])
    assert files == theirs
    assert np.ptp(ours) > 0.01
    np.testing.assert_allclose(ours, other, atol=1e-4)
    refused = command(*arguments[:-1], lab.path / "again.csv", "--grad-cam", lab.path / "maps")
    assert (refused.exit_code, "Grad-CAM needs PyTorch" in refused.stderr) == (2, True)


def test_resolution_matching_is_the_same_in_onnxruntime(tmp_path: Path) -> None:
    """Its rounding to 8 bits magnifies the smallest difference of an interpolation."""
    make_bundle(tmp_path / "model", MATCHED)
    pixels = np.stack([next(draw_patient(1, number, 64, 0.3)).pixels for number in range(200)])

    export_onnx(tmp_path / "model", out=tmp_path / "model.onnx")

    expected = open_bundle(tmp_path / "model").predictor(CPU).run(pixels)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(open_onnx(tmp_path / "model.onnx").run(pixels), expected, atol=1e-4)


def test_an_exported_file_holds_no_path_of_this_machine(exported: Path) -> None:
    """PyTorch's exporter records stack traces."""
    content = exported.read_bytes()

    for package in (xraytune, torch):
        assert str(Path(str(package.__file__)).parent).encode() not in content


def test_a_network_that_differs_is_not_exported(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_onnx, "LARGEST_DIFFERENCE", -1.0)

    with pytest.raises(ArtifactError, match="probabilities in onnxruntime differ from those in PyTorch by up to"):
        export_onnx(lab.model, out=tmp_path / "model.onnx")

    assert not (tmp_path / "model.onnx").exists()


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    class Bessel(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            found: Tensor = torch.special.bessel_j0(images.float())
            return found

    with pytest.raises(ConfigError, match=r"cannot be exported to ONNX: .*bessel_j0"):
        to_onnx.to_onnx(Bessel(), np.zeros((2, 8, 8), dtype=np.uint8), {}, tmp_path / "model")


def with_metadata(file: Path, **metadata: str) -> bytes:
    model = onnx.load(str(file))
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


def test_a_file_that_is_not_an_exported_model_is_refused(exported: Path, tmp_path: Path) -> None:
    content, file = exported.read_bytes(), tmp_path / "model.onnx"
    other = open_onnx(exported).record.model_dump_json().replace('"version":1', '"version":7')
    for damage, message in (
        (content[: len(content) // 2], r"onnxruntime \S+ cannot run this file"),
        (b"", "cannot run this file"),
        (with_metadata(exported), "this ONNX file is not from `xraytune model export`"),
        (with_metadata(exported, xraytune="{}"), "not valid in this version"),
        (with_metadata(exported, xraytune=other), "its format has version 7, but this xraytune reads"),
    ):
        file.write_bytes(damage)
        with pytest.raises(ArtifactError, match=message):
            open_onnx(file)
    with pytest.raises(ArtifactError, match="no such file"):
        open_onnx(tmp_path / "nothing.onnx")


def test_without_onnxruntime_the_extra_is_named(
    exported: Path, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    for arguments in (("predict", exported, lab.xrays, "-o", tmp_path / "t.csv"), ("model", "export", lab.model)):
        result = command(*arguments)

        assert result.exit_code == 4
        assert "pip install 'xraytune[onnx]'" in result.stderr
