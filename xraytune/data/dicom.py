"""Decode DICOM files to 8-bit grey and read their patient; the only module that uses pydicom, which is optional.

Stored values go through the modality LUT (or rescale), then the file's own VOI LUT or window. Without one, the range of
their content becomes 0 to 255. MONOCHROME1, where large values are dark, is inverted. docs/data.md lists all attributes.
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

    Raises DataError if it is damaged or does not hold exactly one image, and MachineError if pydicom is not installed.
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


def content_bits(stated_bits: int, largest: int) -> int:
    """Return the depth of values from 0 to `largest`: programs store 8 or 12 bits in files that state more."""
    return min(stated_bits, next(bits for bits in (8, 12, 16, 32) if largest < 2**bits))


def dicom_grey(dataset: Any, path: Path | str) -> tuple[NDArray[np.uint8], int, int]:
    """Decode the pixels as a radiologist's screen shows them, [H, W] uint8; also return the bits stated and of the content.

    Raises DataError if they are missing or damaged, or their compression or colour model is not supported.
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
    samples = dataset.get("SamplesPerPixel", 1)
    if not dataset.get("PhotometricInterpretation") and samples == 1:
        dataset.PhotometricInterpretation = "MONOCHROME2"  # as viewers do
    colours = str(dataset.get("PhotometricInterpretation") or "(none)")
    if colours not in (_GREY if samples == 1 else _COLOUR):
        return (
            f"the colour model {colours} of this DICOM file, with {samples} values per pixel, is not supported",
            REPAIR,
        )
    if colours == "MONOCHROME2" and dataset.get("PresentationLUTShape") == "INVERSE":
        return "it is MONOCHROME2, and its PresentationLUTShape is INVERSE: these contradict each other", REPAIR
    if (high := dataset.get("HighBit")) is not None and high >= dataset.BitsStored:
        return f"its HighBit is {high}, although only {dataset.BitsStored} bits are stored", REPAIR
    slope = dataset.get("RescaleSlope")
    if slope is not None and (slope == 0 or not np.isfinite(float(slope))):
        return f"its RescaleSlope is {float(slope):g}, which makes all pixels equal", REPAIR
    return None


def _grey(dataset: Any) -> tuple[NDArray[np.uint8], int, int]:
    bits = int(dataset.BitsStored)
    stored = _without_unused_bits(dataset.pixel_array, bits)
    if dataset.PhotometricInterpretation in _COLOUR:  # RGB [H, W, 3]; grey by the weights of ITU-R 601
        depth = content_bits(bits, int(stored.max()))
        colours = np.rint(stored / (2**depth - 1) * 255).astype(np.uint8)
        return np.asarray(Image.fromarray(colours).convert("L")), bits, depth
    is_padding = _is_padding(stored, dataset)
    shown, depth = _shown(stored, is_padding, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    if is_padding.any():
        shown[_background(is_padding)] = 0
    return np.rint(shown * 255).astype(np.uint8), bits, depth


def _without_unused_bits(stored: NDArray[Any], bits: int) -> NDArray[Any]:
    """Clear the bits above BitsStored, where overlays may be, or let them extend the sign; some decoders return them."""
    unused = max(0, 8 * stored.itemsize - bits)
    return np.asarray(stored << unused >> unused)


def _is_padding(stored: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:
    """Return which values are PixelPaddingValue, or from there to PixelPaddingRangeLimit; their sign may be misread."""
    if (value := dataset.get("PixelPaddingValue")) is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    ends = np.array([value, dataset.get("PixelPaddingRangeLimit", value)]).astype(stored.dtype)
    first, last = sorted(_without_unused_bits(ends, int(dataset.BitsStored)))
    return np.asarray((stored >= first) & (stored <= last))


def _background(is_padding: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the padding in regions at the border; single pixels of its value elsewhere may be saturated bone or metal."""
    from scipy.ndimage import label  # type: ignore[import-untyped]  # few files need it

    regions, _ = label(is_padding)
    at_border = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    sizes = np.bincount(regions.ravel())
    wide = np.flatnonzero(sizes >= regions.size / 1000)
    return np.isin(regions, np.intersect1d(wide[wide > 0], at_border))


def _shown(stored: NDArray[Any], is_padding: NDArray[np.bool_], dataset: Any) -> tuple[NDArray[np.float64], int]:
    """Map stored values to 0 (black) .. 1 (white), before MONOCHROME1 is inverted; also return the bits of their content."""
    from pydicom.pixels.processing import apply_windowing

    bits = int(dataset.BitsStored)
    content = stored if is_padding.all() else stored[~is_padding]
    black = min(0, int(content.min()))
    depth = content_bits(bits, int(content.max()) - black)
    ends = np.array([black, min(black + 2**depth, 2 ** (bits - dataset.PixelRepresentation)) - 1], dtype=np.float64)
    if dataset.get("ModalityLUTSequence"):
        values, ends = _looked_up(stored, dataset.ModalityLUTSequence[0])
        depth = bits
    else:
        slope, intercept = (dataset.get(f"Rescale{name}") for name in ("Slope", "Intercept"))
        slope, intercept = float(1 if slope is None else slope), float(intercept or 0)
        values, ends = stored * slope + intercept, np.sort(ends * slope + intercept)
    if dataset.get("VOILUTSequence"):
        values, ends = _looked_up(values, dataset.VOILUTSequence[0])
    elif window := _window(dataset):
        with np.errstate(over="ignore"):  # far from the centre of a sigmoid
            return apply_windowing(values, window), bits
    else:
        return np.clip((values - ends[0]) / (ends[1] - ends[0]), 0.0, 1.0), depth
    return values / ends[1], bits


def _looked_up(values: NDArray[Any], lut: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Apply a modality or VOI LUT; return its values, and the first and last one of their depth.

    The stated depth is often 16 bits for entries of 12. The first value mapped is often negative, but written as unsigned.
    pydicom's own functions refuse some tables, and take positions modulo 256 in tables with entries of 8 bits.
    """
    (count, first, bits), data = lut.LUTDescriptor, lut.LUTData
    count = count or 2**16
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * count else np.uint16)
    entries = np.array(data).astype(np.uint16)[:count]
    if len(entries) < count:
        raise ValueError("the table is shorter than its descriptor says")
    first -= 2**16 if first > values.max() else 0
    positions = np.clip(np.rint(values) - first, 0, count - 1).astype(np.int64)
    return entries[positions].astype(np.float64), np.array([0.0, 2.0 ** content_bits(bits, int(entries.max())) - 1])


def _window(dataset: Any) -> Any | None:
    """Return the first window of a header, for values from 0 to 1; None if it has none, or a placeholder of no width."""
    from pydicom.dataset import Dataset

    centers, widths = (dataset.get(name) for name in ("WindowCenter", "WindowWidth"))
    if centers is None or widths is None:
        return None
    center, width = (float(value if isinstance(value, (int, float)) else value[0]) for value in (centers, widths))
    function = str(dataset.get("VOILUTFunction")).upper()
    function = function if function in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
    if not np.isfinite([center, width]).all() or width < (1 if function == "LINEAR" else 1e-9):
        return None
    window = Dataset()
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, width, function
    window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 1, 0
    return window
