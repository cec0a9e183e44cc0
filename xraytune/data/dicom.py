"""DICOM files as 8-bit grey, and whom their header names: the only file that knows pydicom, which is optional.

Stored values go through the modality LUT (or rescale), then the file's own window or VOI LUT; without one, the whole
range that its bits can hold becomes 0 to 255. MONOCHROME1, where large values are dark, is turned over.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.errors import DataError, MachineError, Problem

_REPAIR = "repair or remove the file, or leave broken images out with --skip-broken"
_GREY = ("MONOCHROME1", "MONOCHROME2")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
"""The transfer syntax that zips header and pixels together: pydicom would inflate a bomb without end."""
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""What pydicom gives as RGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFile:
    """A parsed DICOM file of one image.

    Attributes:
        dataset: pydicom's.
        path: Named in refusals.
        width_px: As the header states it.
        height_px: Likewise.
        patient: A hash of its PatientID, as `dicom:` and 12 hex digits; None where the header names nobody.
    """

    dataset: Any
    path: Path | str
    width_px: int
    height_px: int
    patient: str | None


def _damage() -> tuple[type[Exception], ...]:
    """What pydicom and its decoders raise on files that are cut off, overwritten or against the standard."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        ArithmeticError,
        AttributeError,
        BytesLengthException,
        EOFError,
        InvalidDicomError,
        LookupError,
        NotImplementedError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    )


def require_pydicom(path: Path | str) -> None:
    """Refuse to go on without pydicom.

    Raises:
        MachineError: It is not installed; `path` is the file that needs it.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        fix = "pip install 'xraytune[dicom]'"
        raise MachineError(Problem("this is a DICOM file, and pydicom is not installed", path, fix)) from error


def open_dicom(content: bytes, path: Path | str, *, with_pixels: bool) -> DicomFile:
    """Parse a file; the pixels, still encoded, only where they are wanted.

    Raises:
        DataError: It is damaged, holds no image, or several.
        MachineError: pydicom is not installed.
    """
    require_pydicom(path)
    from pydicom import dcmread

    if _DEFLATED in content:  # anywhere: what stands before it in the header may be long
        fix = "inflate it (dcmconv +te), or leave broken images out with --skip-broken"
        raise DataError(Problem("this DICOM file is deflated as a whole, which is not read", path, fix))
    try:
        dataset = dcmread(BytesIO(content), stop_before_pixels=not with_pixels)
        rows, columns = dataset.get("Rows"), dataset.get("Columns")
        frames = int(dataset.get("NumberOfFrames") or 1)
        patient = str(dataset.get("PatientID") or "").strip()
    except _damage() as error:
        raise DataError(Problem("the DICOM header is cut off or damaged", path, _REPAIR)) from error
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise DataError(Problem("this DICOM file holds no pixels, or is cut off", path, _REPAIR))
    if frames > 1:
        fix = "export the frame that you mean, or leave broken images out with --skip-broken"
        raise DataError(Problem(f"this DICOM file holds {frames} frames; which is meant?", path, fix))
    return DicomFile(
        dataset=dataset, path=path, width_px=columns, height_px=rows, patient=_pseudonym(patient) if patient else None
    )


def dicom_grey(file: DicomFile) -> tuple[NDArray[np.uint8], int]:
    """The pixels as a radiologist's screen shows them, [H, W] uint8, and the bits of a stored value.

    Raises:
        DataError: No pixels, a compression or colour model that is not read, damage.
    """
    try:
        return _grey(file)
    except _damage() as error:  # pydicom reads a value only when it is asked for
        raise DataError(Problem("the DICOM pixels are cut off or damaged", file.path, _REPAIR)) from error


def _grey(file: DicomFile) -> tuple[NDArray[np.uint8], int]:
    dataset = file.dataset
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        what = "this DICOM file holds floating-point numbers, which say neither what is black nor what is white"
        raise DataError(Problem(what, file.path, _REPAIR))
    if "PixelData" not in dataset:
        raise DataError(Problem("this DICOM file holds no pixels, or is cut off", file.path, _REPAIR))
    _refuse_unknown_compression(file)
    colours = str(dataset.get("PhotometricInterpretation", ""))
    if colours not in (*_GREY, *_COLOUR):
        what = f"the colour model {colours or 'nothing'} of this DICOM file is not read"
        raise DataError(Problem(what, file.path, _REPAIR))
    slope = dataset.get("RescaleSlope")
    if slope is not None and (slope == 0 or not np.isfinite(float(slope))):
        raise DataError(
            Problem(f"its RescaleSlope is {float(slope):g}, which makes all pixels alike", file.path, _REPAIR)
        )
    stored, bits = dataset.pixel_array, int(dataset.BitsStored)
    if colours in _COLOUR:
        return _grey_of_colours(stored, bits), bits
    grey = np.rint(_shown(stored, dataset) * 255).astype(np.uint8)
    return 255 - grey if colours == "MONOCHROME1" else grey, bits


def _refuse_unknown_compression(file: DicomFile) -> None:
    from pydicom.pixels.decoders.base import get_decoder

    syntax = file.dataset.file_meta.get("TransferSyntaxUID")
    fix = "decompress it (dcmdjpeg, dcmdjpls or gdcmconv --raw), or pip install pylibjpeg[all]"
    if syntax is None:
        raise DataError(Problem("the DICOM header does not say how the pixels are stored", file.path, _REPAIR))
    try:
        is_known = get_decoder(syntax).is_available
    except NotImplementedError:
        is_known = False
    if not is_known:
        what = f"its pixels are compressed as {syntax.name}, for which no decoder is installed"
        raise DataError(Problem(what, file.path, fix))


def _shown(stored: NDArray[Any], dataset: Any) -> NDArray[np.float64]:
    """Stored values to 0 (black) .. 1 (white), before MONOCHROME1 is turned over."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        looked_up = np.asarray(apply_voi(np.rint(values).astype(np.int64), dataset), dtype=np.float64)
        return np.asarray(np.clip(looked_up / (2**bits - 1), 0.0, 1.0))
    window = _window(dataset)
    if window is not None:
        return windowed(values, *window)
    lowest, highest = _range(dataset)
    return np.clip((values - lowest) / (highest - lowest), 0.0, 1.0)


def windowed(values: NDArray[np.float64], center: float, width: float, function: str) -> NDArray[np.float64]:
    """A VOI window: values to 0 .. 1. Width >= 1, with the function SIGMOID or LINEAR_EXACT > 0.

    Source: DICOM PS3.3, sections C.11.2.1.2.1 and C.11.2.1.3.
    """
    if function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0))))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if width == 1:
        return np.where(values <= center - 0.5, 0.0, 1.0)
    return np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)


def _window(dataset: Any) -> tuple[float, float, str] | None:
    """The first window; None where there is none, or one so narrow that it is a placeholder (0, 0)."""
    centers, widths = (dataset.get(name) for name in ("WindowCenter", "WindowWidth"))
    if centers is None or widths is None:
        return None
    center, width = (float(value if isinstance(value, (int, float)) else value[0]) for value in (centers, widths))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    is_wide_enough = width >= 1 if function == "LINEAR" else width > 0
    return (center, width, function) if is_wide_enough and np.isfinite([center, width]).all() else None


def _range(dataset: Any) -> tuple[float, float]:
    """The least and the largest value that the bits can hold, after the modality LUT or rescale."""
    if dataset.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits = int(dataset.BitsStored)
    least, largest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    first, last = sorted((least * slope + intercept, largest * slope + intercept))
    return first, last


def _grey_of_colours(stored: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Grey by the weights of ITU-R 601, of RGB values [H, W, 3]."""
    largest = 2**bits - 1
    colours = (stored.astype(np.uint32) * 255 + largest // 2) // largest
    return np.asarray(Image.fromarray(np.minimum(colours, 255).astype(np.uint8)).convert("L"))


def _pseudonym(patient_id: str) -> str:
    return f"dicom:{hashlib.sha256(patient_id.encode()).hexdigest()[:12]}"
