"""Run a model from one ONNX file in onnxruntime, without PyTorch.

    input `pixels`             uint8 [n, S, S]: grey images, decoded and made square by `decode_file`
    output `probabilities`     float64 [n, C] of each class; for a segmenter float32 [n, S, S] of the mask
    metadata `xraytune`        an `OnnxRecord` as JSON

The network includes the rest of the preprocessing: resolution matching, normalisation, channels.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraytune.cores import cpu_count
from xraytune.errors import ArtifactError, MachineError, Problem
from xraytune.files import read_bytes
from xraytune.metrics.classification import require_finite_outputs
from xraytune.pipeline.predictor import ModelRecord, Pixels, Predictor, read_record

ONNX_FILE = "model.onnx"
"""The name of the file in its bundle."""
INPUT, OUTPUT, RECORD = "pixels", "probabilities", "xraytune"


class OnnxRecord(ModelRecord):
    """The metadata of the file; `model_sha256` is that of `model.safetensors` in the exported bundle."""

    model_sha256: str


def require_installed(*packages: str) -> None:
    """Raise MachineError unless these packages of the extra `onnx` are installed."""
    if missing := [name for name in packages if find_spec(name) is None]:
        what = f"ONNX files need {' and '.join(missing)}, which this installation lacks"
        raise MachineError(Problem(what, fix="pip install 'xraytune[onnx]'"))


def open_onnx(path: Path, content: bytes | None = None) -> Predictor:
    """Open a file of `export_onnx`, or its content, in onnxruntime on all CPU cores.

    Raises:
        ArtifactError: It is missing or from another program or version, or onnxruntime cannot run it.
        MachineError: onnxruntime is not installed.
    """
    require_installed("onnxruntime")
    import onnxruntime as ort  # type: ignore[import-untyped]  # optional

    if content is None and not path.exists():
        raise ArtifactError(Problem("there is no such file", path, "create it with `xraytune model export`"))
    content = read_bytes(path, "file of tensors") if content is None else content
    options = ort.SessionOptions()
    options.intra_op_num_threads = cpu_count()
    options.log_severity_level = 4  # errors are raised as exceptions anyway
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base class
        what = f"onnxruntime {ort.__version__} cannot run this file: {error}"
        raise ArtifactError(Problem(what, path, "export the model again, or update onnxruntime")) from error
    metadata = session.get_modelmeta().custom_metadata_map
    if RECORD not in metadata:
        what = "this ONNX file is not from `xraytune model export`"
        raise ArtifactError(Problem(what, path, "export the model with xraytune"))

    def run(pixels: Pixels) -> NDArray[Any]:
        probabilities = np.asarray(session.run([OUTPUT], {INPUT: pixels})[0])
        require_finite_outputs(probabilities.reshape(len(pixels), -1), ArtifactError, path)
        return probabilities

    return Predictor(record=read_record(OnnxRecord, metadata[RECORD], path), run=run)
