"""Decode DICOM files to 8-bit grey and read their headers.

No other module uses pydicom, which is optional.

Stored values go through the modality LUT (or rescale), then the file's own VOI LUT or window. If a
file has neither, the range of its values becomes 0 to 255. MONOCHROME1, where large values are
dark, is inverted. docs/data.md lists all attributes.
"""

import re
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from xraytune.base.arrays import AnyArray, BoolArray, Float64Array, UInt8Array
from xraytune.base.errors import DataError, MachineError

REPAIR = "repair or remove the file, or leave broken images out with --skip-broken"
DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""The errors that decoders raise for truncated or overwritten files, depending on the place."""
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Colour models that pydicom converts to RGB."""
_FIRST_ELEMENTS = [struct.pack("<HH", group, element) for group in (2, 8) for element in range(25)]
_FRONTAL = re.compile(r"(?<![a-z])(p[.]?a|a[.]?p|frontal)(?![a-z])", re.IGNORECASE)
_PLAIN = {(True, True): "", (False, True): ".1", (False, False): ".2"}
"""The ends of the transfer syntaxes of uncompressed values: implicit or explicit, either endian."""

Header: TypeAlias = dict[str, Any]
"""The content of a file's header, as fields of `ImageFile`: the size and, for DICOM, the patient
and view."""


def is_dicom(content: bytes) -> bool:
    """Return whether this is the start of a DICOM file: any 128 bytes, and then `DICM`.

    Some programs leave these 132 bytes out, and the file begins with an element of group 2 or 8.

    From: PS3.10, section 7.1.
    """
    return content[128:132] == b"DICM" or (len(content) >= 132 and content[:4] in _FIRST_ELEMENTS)


def read_dicom(
    content: bytes, path: Path | str, *, with_pixels: bool
) -> tuple[Header, UInt8Array, int, int]:
    """Return a file's header and, with `with_pixels`, what a radiologist's screen shows, [H, W].

    Also returns the number of bits that the file states, and the number that its content has.

    Raises DataError if the file is damaged, does not hold exactly one image or is not supported,
    and MachineError if pydicom is not installed.
    """
    try:
        from pydicom import dcmread
        from pydicom.errors import BytesLengthException
    except ImportError as error:
        raise MachineError(
            "this is a DICOM file, and pydicom is not installed",
            path,
            "pip install 'xraytune[dicom]'",
        ) from error
    try:
        dataset = dcmread(BytesIO(content), stop_before_pixels=not with_pixels, force=True)
        obstacle = _find_obstacle(dataset)
        if obstacle:
            raise DataError(f"this DICOM file cannot be used: {obstacle}", path, REPAIR)
        header = {
            "width_px": dataset.Columns,
            "height_px": dataset.Rows,
            "kind": "DICOM",
            "patient_id": str(dataset.get("PatientID") or "").strip(),
            "view": _view(dataset),
        }
        if not with_pixels:
            return header, np.zeros((0, 0), dtype=np.uint8), 0, 0
        return header, *_displayed_pixels(dataset)
    except (*DAMAGE, BytesLengthException) as error:  # pydicom parses a value on first use
        raise DataError(
            f"this DICOM file is truncated or damaged: {error}",
            path,
            f"export it again; or {REPAIR}",
        ) from error


def read_attribute(path: Path, keyword: str) -> str:
    """Return an attribute of a DICOM file by its keyword, such as `InstitutionName`, as text.

    The text is empty if the file is damaged, is no DICOM file, or has no such attribute.
    """
    try:
        with path.open("rb") as stream:
            if not is_dicom(stream.read(132)):
                return ""
        from pydicom import dcmread

        tags = [keyword]
        dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
        return str(dataset.get(keyword) or "").strip()
    except DAMAGE:
        return ""


def _find_obstacle(dataset: Any) -> str:
    """Return why an intact file cannot be shown, and what to do, or "" if it can.

    A header that was read without pixels tells only whether the file is a single image.
    """
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import RLELossless

    frames = int(dataset.get("NumberOfFrames") or 1)
    if not dataset.get("Rows"):
        return "it contains no image, but perhaps a report"
    if frames > 1:
        return f"it contains {frames} images instead of one; save the one to use as its own file"
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        return "its pixels are floating-point numbers; export it with 8 to 16 bits"
    if "PixelData" not in dataset:
        return ""
    model = dataset.get("PhotometricInterpretation") or "MONOCHROME2"
    if model not in (*_COLOUR, "MONOCHROME1", "MONOCHROME2"):
        return f"the colour model {model} is not supported; convert it to grey"
    if model == "MONOCHROME2" and dataset.get("PresentationLUTShape") == "INVERSE":
        what = "it may be a negative, since MONOCHROME2 contradicts PresentationLUTShape INVERSE"
        return f"{what}; correct one of them (dcmodify)"
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_encapsulated:
        return ""
    if not get_decoder(syntax).is_available:
        return f"no decoder of {syntax.name} is installed; decompress it (gdcmconv --raw)"
    if syntax != RLELossless and dataset.get("HighBit", 0) >= dataset.BitsStored:
        return "HighBit is above BitsStored in compressed pixels; decompress it (gdcmconv --raw)"
    return ""


def _view(dataset: Any) -> str:
    """Return what a header says about the view, in whichever attribute the device fills in."""
    codes = dataset.get("ViewCodeSequence") or ()
    words = [dataset.get("Modality"), dataset.get("ViewPosition")]
    words += [code.get("CodeMeaning") for code in codes]
    description = str(dataset.get("SeriesDescription") or "")
    if not _FRONTAL.search(description):  # "chest PA and lateral" describes both images
        words.append(description)
    if next(iter(dataset.get("PatientOrientation") or ("",))) in ("A", "P"):  # of a row
        words.append("lateral")
    return " ".join(filter(None, words))


def content_bits(stated_bits: int, largest: int) -> int:
    """Return the depth, in bits, of values from 0 to `largest`.

    Some programs store 8 or 12 bits in files that state more.
    """
    return min(stated_bits, next(bits for bits in (8, 12, 16, 32) if largest < 2**bits))


def _displayed_pixels(dataset: Any) -> tuple[UInt8Array, int, int]:
    if dataset.preamble is None and not dataset["PixelData"].is_undefined_length:
        syntax = f"1.2.840.10008.1.2{_PLAIN[dataset.original_encoding]}"
        dataset.file_meta.setdefault("TransferSyntaxUID", syntax)
    if not dataset.get("PhotometricInterpretation"):
        dataset.PhotometricInterpretation = "MONOCHROME2"  # as viewers do
    model = dataset.PhotometricInterpretation
    bits = int(dataset.BitsStored)
    high_bit = min(int(dataset.get("HighBit", 0)), int(dataset.BitsAllocated) - 1)
    below = max(0, high_bit + 1 - bits)
    dataset.BitsStored = bits + below  # else pydicom clears the bits at the upper end
    stored: AnyArray = _clear_unused_bits(dataset.pixel_array, bits + below) >> below
    if model in _COLOUR and stored.ndim == 3:  # grey by the weights of ITU-R 601
        depth = content_bits(bits, int(stored.max()))
        colours = np.rint(stored / (2**depth - 1) * 255).astype(np.uint8)
        return np.asarray(Image.fromarray(colours).convert("L")), bits, depth
    if stored.ndim != 2:
        raise ValueError(f"{model} pixels have {stored.ndim} axes instead of 2")

    is_padding = _find_padding(stored, dataset, bits)
    content = stored if is_padding.all() else stored[~is_padding]
    black = min(0, int(content.min()))
    depth = content_bits(bits, int(content.max()) - black)
    white = min(black + 2**depth, 2 ** (bits - dataset.PixelRepresentation)) - 1
    slope = float(dataset.get("RescaleSlope") or 1)
    intercept = float(dataset.get("RescaleIntercept") or 0)
    values = stored * slope + intercept
    low, high = sorted((black * slope + intercept, white * slope + intercept))
    if dataset.get("ModalityLUTSequence"):
        low = 0
        values, high = _look_up(stored, dataset.ModalityLUTSequence[0])
    grey = None
    if dataset.get("VOILUTSequence"):
        low = 0
        values, high = _look_up(values, dataset.VOILUTSequence[0])
    else:
        grey = _apply_window(values, dataset)
    if grey is None:
        grey = np.clip((values - low) / (high - low), 0.0, 1.0)
    else:
        depth = bits  # the window does not depend on the depth of the content
    if model == "MONOCHROME1":
        grey = 1 - grey
    if is_padding.any():  # at the border; elsewhere, it may be saturated bone or metal
        from scipy.ndimage import binary_propagation  # type: ignore[import-untyped]

        border = is_padding.copy()
        border[1:-1, 1:-1] = False
        grey[binary_propagation(border, mask=is_padding)] = 0
    return np.rint(grey * 255).astype(np.uint8), bits, depth


def _clear_unused_bits(stored: AnyArray, bits: int) -> AnyArray:
    """Clear the bits above BitsStored, where overlays may be, or let them extend the sign.

    Some decoders return these bits.
    """
    unused = max(0, 8 * stored.itemsize - bits)
    return np.asarray(stored << unused >> unused)


def _find_padding(stored: AnyArray, dataset: Any, bits: int) -> BoolArray:
    """Return a mask of padding (PixelPaddingValue to PixelPaddingRangeLimit).

    The sign of these attributes may be misread.
    """
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    ends = np.array([value, dataset.get("PixelPaddingRangeLimit", value)]).astype(stored.dtype)
    first, last = sorted(_clear_unused_bits(ends, bits))
    return np.asarray((stored >= first) & (stored <= last))


def _look_up(values: AnyArray, lut: Any) -> tuple[Float64Array, float]:
    """Apply a modality or VOI LUT; return its values, and the largest value of their depth.

    The stated depth is often 16 bits for entries of 12 bits. The first value mapped is often
    negative, but written as unsigned. pydicom's own functions refuse some tables, and take
    positions modulo 256 in tables with entries of 8 bits.
    """
    count, first_value, bits = lut.LUTDescriptor
    count = count or 2**16
    data = lut.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * count else np.uint16)
    entries = np.array(data).astype(np.uint16)[:count]
    if first_value > values.max():
        first_value -= 2**16
    positions = np.clip(np.rint(values) - first_value, 0, count - 1).astype(np.int64)
    return entries[positions].astype(np.float64), 2.0 ** content_bits(bits, int(entries.max())) - 1


def _apply_window(values: Float64Array, dataset: Any) -> Float64Array | None:
    """Apply the first window of a header; return None if it has none, or a placeholder of no width.

    pydicom's `apply_windowing` returns numbers in the range of the stored values, which would have
    to be scaled back.

    From: DICOM PS3.3, sections C.11.2.1.2.1 and C.11.2.1.3.
    """
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return None
    center = float(np.ravel(dataset.WindowCenter)[0])
    width = float(np.ravel(dataset.WindowWidth)[0])
    function = str(dataset.get("VOILUTFunction")).upper()
    is_linear = function not in ("LINEAR_EXACT", "SIGMOID")
    if not np.isfinite([center, width]).all() or width < (1 if is_linear else 1e-9):
        return None
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))))
    if is_linear:
        center -= 0.5
        width = max(width - 1, 1e-9)
    return np.clip((values - center) / width + 0.5, 0.0, 1.0)
