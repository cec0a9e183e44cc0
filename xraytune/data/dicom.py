"""Decode DICOM files to 8-bit grey and read their patient; the only module that uses pydicom, which is optional.

Stored values go through the modality LUT (or rescale), then the file's own window or VOI LUT. Without one, the whole range
that the bits can hold becomes 0 to 255. MONOCHROME1, where large values are dark, is inverted.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.errors import DataError, MachineError, Problem

REPAIR = "repair or remove the file, or leave broken images out with --skip-broken"
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Colour models that pydicom converts to RGB."""
_DEFLATED = b"1.2.840.10008.1.2.1.99"
"""The transfer syntax that compresses header and pixels together: pydicom would inflate a bomb without limit."""
_BAD_HEADER, _BAD_PIXELS = "the DICOM header is truncated or damaged", "the DICOM pixels are truncated or damaged"
_NO_PIXELS = "this DICOM file contains no pixels, or is truncated"


class ImageHeader(NamedTuple):
    """The size that a file states, upright, and the PatientID of a DICOM header, empty if it has none."""

    width_px: int
    height_px: int
    patient_id: str = ""


def _damage() -> tuple[type[Exception], ...]:
    """Return what pydicom and its decoders raise for files that are truncated, overwritten or non-standard."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    pydicom = (BytesLengthException, InvalidDicomError, NotImplementedError, struct.error, zlib.error)
    python = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError)
    return (*pydicom, *python, Image.DecompressionBombError)


def is_dicom(content: bytes) -> bool:
    """Return whether this is the start of a DICOM file: any 128 bytes, then DICM (PS3.10, section 7.1).

    Some programs leave these 132 bytes out. The file then begins with two short elements of group 2 or 8, in order.
    """
    if content[128:132] == b"DICM" or len(content) < 132:
        return content[128:132] == b"DICM"
    order = "<" if content[1] == 0 else ">"
    is_explicit = content[4:6].isalpha() and content[4:6].isupper()
    length = struct.unpack_from(f"{order}H", content, 6)[0] if is_explicit else struct.unpack_from("<I", content, 4)[0]
    first, second = (struct.unpack_from(f"{order}HH", content, place) for place in (0, 8 + min(length, 120)))
    return first < second and {first[0], second[0]} <= {2, 8}


def open_dicom(content: bytes, path: Path | str, *, with_pixels: bool) -> tuple[Any, ImageHeader]:
    """Parse a file to pydicom's dataset, with its pixels (still encoded) if `with_pixels`; also return its header.

    Raises:
        DataError: It is damaged, or does not hold exactly one image.
        MachineError: pydicom is not installed.
    """
    try:
        from pydicom import dcmread
    except ImportError as error:
        fix = "pip install 'xraytune[dicom]'"
        raise MachineError(Problem("this is a DICOM file, and pydicom is not installed", path, fix)) from error

    def refusal(what: str, fix: str = REPAIR) -> DataError:
        return DataError(Problem(what, path, fix))

    if _DEFLATED in content:  # anywhere: what precedes it in the header may be long
        fix = "inflate it (dcmconv +te), or leave broken images out with --skip-broken"
        raise refusal("this DICOM file is deflated as a whole, which is not supported", fix)
    try:
        dataset = dcmread(BytesIO(content), stop_before_pixels=not with_pixels, force=True)
        rows, columns = dataset.get("Rows"), dataset.get("Columns")
        frames = int(dataset.get("NumberOfFrames") or 1)
        patient_id = str(dataset.get("PatientID") or "").strip()
    except _damage() as error:
        raise refusal(_BAD_HEADER) from error
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise refusal(_NO_PIXELS)
    if frames > 1:
        fix = "export the frame that you need, or leave broken images out with --skip-broken"
        raise refusal(f"this DICOM file contains {frames} frames, and it is unclear which one to use", fix)
    return dataset, ImageHeader(width_px=columns, height_px=rows, patient_id=patient_id)


def dicom_grey(dataset: Any, path: Path | str) -> tuple[NDArray[np.uint8], int]:
    """Decode the pixels as a radiologist's screen shows them, [H, W] uint8; also return the bits of a stored value.

    Raises:
        DataError: No pixels, an unsupported compression or colour model, or damage.
    """
    try:
        if problem := _unsupported(dataset):
            what, fix = problem
            raise DataError(Problem(what, path, fix))
        return _grey(dataset)
    except _damage() as error:  # pydicom parses a value on first use
        raise DataError(Problem(_BAD_PIXELS, path, REPAIR)) from error


def _unsupported(dataset: Any) -> tuple[str, str] | None:
    """Return what keeps the pixels from being decoded, and what to do."""
    from pydicom.pixels.decoders.base import get_decoder

    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        return "this DICOM file contains floating-point numbers, which do not define black and white", REPAIR
    if "PixelData" not in dataset:
        return _NO_PIXELS, REPAIR
    if dataset.preamble is None and not dataset["PixelData"].is_undefined_length:  # plain numbers (PS3.5, section 10)
        end = {(True, True): "", (False, True): ".1", (False, False): ".2"}[dataset.original_encoding]
        dataset.file_meta.setdefault("TransferSyntaxUID", f"1.2.840.10008.1.2{end}")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        return "the DICOM header does not say how the pixels are stored", REPAIR
    try:
        is_known = get_decoder(syntax).is_available
    except NotImplementedError:
        is_known = False
    if not is_known:
        fix = "decompress it (dcmdjpeg, dcmdjpls or gdcmconv --raw), or pip install pylibjpeg[all]"
        return f"its pixels are compressed as {syntax.name}, for which no decoder is installed", fix
    colours = str(dataset.get("PhotometricInterpretation", ""))
    if colours not in (*_GREY, *_COLOUR):
        return f"the colour model {colours or '(none)'} of this DICOM file is not supported", REPAIR
    slope = dataset.get("RescaleSlope")
    if slope is not None and (slope == 0 or not np.isfinite(float(slope))):
        return f"its RescaleSlope is {float(slope):g}, which makes all pixels equal", REPAIR
    return None


def _grey(dataset: Any) -> tuple[NDArray[np.uint8], int]:
    stored, bits = dataset.pixel_array, int(dataset.BitsStored)
    if dataset.PhotometricInterpretation in _COLOUR:  # RGB [H, W, 3]; grey by the weights of ITU-R 601
        largest = 2**bits - 1
        colours = (stored.astype(np.uint32) * 255 + largest // 2) // largest
        return np.asarray(Image.fromarray(np.minimum(colours, 255).astype(np.uint8)).convert("L")), bits
    grey = np.rint(_shown(stored, dataset) * 255).astype(np.uint8)
    return 255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey, bits


def _shown(stored: NDArray[Any], dataset: Any) -> NDArray[np.float64]:
    """Map stored values to 0 (black) .. 1 (white), before MONOCHROME1 is inverted."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

    values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
    first, last = _ends(dataset)
    if dataset.get("VOILUTSequence"):
        values = np.asarray(apply_voi(np.rint(values).astype(np.int64), dataset), dtype=np.float64)
        first, last = 0.0, 2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    elif _has_window(dataset):
        with np.errstate(over="ignore"):  # far from the centre of a sigmoid
            values = apply_windowing(values, dataset)  # black becomes `first`, white `last`
    else:
        first, last = sorted((first, last))
    return np.clip((values - first) / (last - first), 0.0, 1.0)


def _has_window(dataset: Any) -> bool:
    """Return whether the first window is more than a placeholder of no width; an unknown function becomes LINEAR."""
    centers, widths = (dataset.get(name) for name in ("WindowCenter", "WindowWidth"))
    if centers is None or widths is None:
        return False
    center, width = (float(value if isinstance(value, (int, float)) else value[0]) for value in (centers, widths))
    if str(dataset.get("VOILUTFunction")).upper() not in ("LINEAR_EXACT", "SIGMOID"):
        dataset.VOILUTFunction = "LINEAR"
    is_wide_enough = width >= 1 if dataset.VOILUTFunction == "LINEAR" else width > 0
    return is_wide_enough and bool(np.isfinite([center, width]).all())


def _ends(dataset: Any) -> tuple[float, float]:
    """Return what the modality LUT or rescale makes of the smallest and largest value that the bits can hold."""
    if dataset.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits = int(dataset.BitsStored)
    least, largest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    if None in (slope := dataset.get("RescaleSlope"), intercept := dataset.get("RescaleIntercept")):
        return least, largest
    return least * float(slope) + float(intercept), largest * float(slope) + float(intercept)
