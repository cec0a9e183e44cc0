"""Decode DICOM files to 8-bit grey and read their headers.

The only module that uses pydicom, which is optional.

Stored values go through the modality LUT (or rescale), then the file's own VOI LUT or window.
Without one, the range of their content becomes 0 to 255. MONOCHROME1, where large values are dark,
is inverted. docs/data.md lists all attributes.
"""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.errors import DataError, MachineError, Problem

REPAIR = "repair or remove the file, or leave broken images out with --skip-broken"
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Colour models that pydicom converts to RGB."""
_FIRST_ELEMENTS = [struct.pack("<HH", group, element) for group in (2, 8) for element in range(25)]
_NO_PIXELS = "this DICOM file contains no pixels, or is truncated"


Header: TypeAlias = dict[str, Any]
"""What a file's header says, as fields of `ImageFile`: size, and of DICOM also patient and view."""


def _damage() -> tuple[type[Exception], ...]:
    """Return what pydicom and its decoders raise for damaged or non-standard files."""
    from pydicom.errors import BytesLengthException

    python = (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    )
    return (*python, BytesLengthException, struct.error, Image.DecompressionBombError)


def is_dicom(content: bytes) -> bool:
    """Return whether this is the start of a DICOM file.

    That is any 128 bytes, then DICM (PS3.10, section 7.1).

    Some programs leave these 132 bytes out. The file then begins with an element of group 2 or 8.
    """
    return content[128:132] == b"DICM" or (len(content) >= 132 and content[:4] in _FIRST_ELEMENTS)


def open_dicom(content: bytes, path: Path | str, *, with_pixels: bool) -> tuple[Any, Header]:
    """Parse a file to pydicom's dataset, with its pixels (still encoded) if `with_pixels`.

    Also return its header.

    Raises DataError if it is damaged or does not hold exactly one image, and MachineError if
    pydicom is not installed.
    """
    try:
        from pydicom import dcmread
    except ImportError as error:
        fix = "pip install 'xraytune[dicom]'"
        raise MachineError(
            Problem("this is a DICOM file, and pydicom is not installed", path, fix)
        ) from error
    try:
        dataset = dcmread(BytesIO(content), stop_before_pixels=not with_pixels, force=True)
        rows = dataset.get("Rows")
        columns = dataset.get("Columns")
        frames = int(dataset.get("NumberOfFrames") or 1)
        header = {
            "width_px": columns,
            "height_px": rows,
            "patient_id": str(dataset.get("PatientID") or "").strip(),
            "view": f"{dataset.get('Modality') or ''} {dataset.get('ViewPosition') or ''}".strip(),
        }
    except _damage() as error:
        raise DataError(
            Problem("the DICOM header is truncated or damaged", path, REPAIR)
        ) from error
    if not rows or not columns:
        raise DataError(Problem(_NO_PIXELS, path, REPAIR))
    if frames > 1:
        fix = "export the frame that you need, or leave broken images out with --skip-broken"
        what = f"this DICOM file contains {frames} frames, and it is unclear which one to use"
        raise DataError(Problem(what, path, fix))
    return dataset, header


def content_bits(stated_bits: int, largest: int) -> int:
    """Return the depth of values from 0 to `largest`.

    Programs store 8 or 12 bits in files that state more.
    """
    return min(stated_bits, next(bits for bits in (8, 12, 16, 32) if largest < 2**bits))


def dicom_grey(dataset: Any, path: Path | str) -> tuple[NDArray[np.uint8], int, int]:
    """Decode the pixels as a radiologist's screen shows them, [H, W] uint8.

    Also return the bits stated and of the content.

    Raises DataError if they are missing or damaged, or their compression or colour model is not
    supported.
    """
    try:
        _require_supported(dataset, path)
        return _grey(dataset)
    except _damage() as error:  # pydicom parses a value on first use
        raise DataError(
            Problem("the DICOM pixels are truncated or damaged", path, REPAIR)
        ) from error


def _require_supported(dataset: Any, path: Path | str) -> None:
    """Refuse pixels that cannot be decoded; fill in what the header leaves out."""
    from pydicom.pixels.decoders.base import get_decoder

    if "PixelData" not in dataset:
        raise DataError(Problem(_NO_PIXELS, path, REPAIR))
    if (
        dataset.preamble is None and not dataset["PixelData"].is_undefined_length
    ):  # plain numbers (PS3.5, section 10)
        end = {(True, True): "", (False, True): ".1", (False, False): ".2"}[
            dataset.original_encoding
        ]
        dataset.file_meta.setdefault("TransferSyntaxUID", f"1.2.840.10008.1.2{end}")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise DataError(
            Problem("the DICOM header does not say how the pixels are stored", path, REPAIR)
        )
    try:
        is_known = get_decoder(syntax).is_available
    except NotImplementedError:
        is_known = False
    if not is_known:
        fix = "decompress it (dcmdjpeg, dcmdjpls or gdcmconv --raw), or pip install pylibjpeg[all]"
        what = f"its pixels are compressed as {syntax.name}, for which no decoder is installed"
        raise DataError(Problem(what, path, fix))
    samples = dataset.get("SamplesPerPixel", 1)
    if not dataset.get("PhotometricInterpretation") and samples == 1:
        dataset.PhotometricInterpretation = "MONOCHROME2"  # as viewers do
    colours = dataset.get("PhotometricInterpretation")
    if colours not in (_GREY if samples == 1 else _COLOUR):
        what = f"the colour model {colours} of this DICOM file, "
        what += f"with {samples} values per pixel, is not supported"
        raise DataError(Problem(what, path, REPAIR))


def _grey(dataset: Any) -> tuple[NDArray[np.uint8], int, int]:
    bits = int(dataset.BitsStored)
    stored = _clear_unused_bits(dataset.pixel_array, bits)
    if (
        dataset.PhotometricInterpretation in _COLOUR
    ):  # RGB [H, W, 3]; grey by the weights of ITU-R 601
        depth = content_bits(bits, int(stored.max()))
        colours = np.rint(stored / (2**depth - 1) * 255).astype(np.uint8)
        return np.asarray(Image.fromarray(colours).convert("L")), bits, depth
    is_padding = _find_padding(stored, dataset)
    shown, depth = _show(stored, is_padding, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    if is_padding.any():
        shown[_find_background(is_padding)] = 0
    return np.rint(shown * 255).astype(np.uint8), bits, depth


def _clear_unused_bits(stored: NDArray[Any], bits: int) -> NDArray[Any]:
    """Clear the bits above BitsStored, where overlays may be, or let them extend the sign.

    Some decoders return them.
    """
    unused = max(0, 8 * stored.itemsize - bits)
    return np.asarray(stored << unused >> unused)


def _find_padding(stored: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:
    """Return a mask of padding pixels (PixelPaddingValue to PixelPaddingRangeLimit).

    Their sign may be misread.
    """
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    ends = np.array([value, dataset.get("PixelPaddingRangeLimit", value)]).astype(stored.dtype)
    first, last = sorted(_clear_unused_bits(ends, int(dataset.BitsStored)))
    return np.asarray((stored >= first) & (stored <= last))


def _find_background(is_padding: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the padding in regions at the border.

    Single pixels of its value elsewhere may be saturated bone or metal.
    """
    from scipy.ndimage import label  # type: ignore[import-untyped]  # few files need it

    regions, _ = label(is_padding)
    at_border = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    sizes = np.bincount(regions.ravel())
    wide = np.flatnonzero(sizes >= regions.size / 1000)
    return np.isin(regions, np.intersect1d(wide[wide > 0], at_border))


def _show(
    stored: NDArray[Any], is_padding: NDArray[np.bool_], dataset: Any
) -> tuple[NDArray[np.float64], int]:
    """Map stored values to 0 (black) .. 1 (white), before MONOCHROME1 is inverted.

    Also return the bits of their content.
    """
    bits = int(dataset.BitsStored)
    content = stored if is_padding.all() else stored[~is_padding]
    black = min(0, int(content.min()))
    depth = content_bits(bits, int(content.max()) - black)
    white = min(black + 2**depth, 2 ** (bits - dataset.PixelRepresentation)) - 1
    slope = float(dataset.get("RescaleSlope") or 1)
    intercept = float(dataset.get("RescaleIntercept") or 0)
    values = stored * slope + intercept
    ends = np.sort(np.array([black, white]) * slope + intercept)
    if dataset.get("ModalityLUTSequence"):
        values, ends = _look_up(stored, dataset.ModalityLUTSequence[0])
        depth = bits
    if dataset.get("VOILUTSequence"):
        values, ends = _look_up(values, dataset.VOILUTSequence[0])
        depth = bits
    else:
        windowed = _apply_window(values, dataset)
        if windowed is not None:
            return windowed, bits
    return np.clip((values - ends[0]) / (ends[1] - ends[0]), 0.0, 1.0), depth


def _look_up(values: NDArray[Any], lut: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Apply a modality or VOI LUT; return its values, and the first and last one of their depth.

    The stated depth is often 16 bits for entries of 12. The first value mapped is often negative,
    but written as unsigned. pydicom's own functions refuse some tables, and take positions modulo
    256 in tables with entries of 8 bits.
    """
    count, first, bits = lut.LUTDescriptor
    data = lut.LUTData
    count = count or 2**16
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * count else np.uint16)
    entries = np.array(data).astype(np.uint16)[:count]
    if len(entries) < count:
        raise ValueError("the table is shorter than its descriptor says")
    if first > values.max():
        first -= 2**16
    positions = np.clip(np.rint(values) - first, 0, count - 1).astype(np.int64)
    return entries[positions].astype(np.float64), np.array(
        [0.0, 2.0 ** content_bits(bits, int(entries.max())) - 1]
    )


def _apply_window(values: NDArray[np.float64], dataset: Any) -> NDArray[np.float64] | None:
    """Apply the first window of a header; return None if it has none, or a placeholder of no width.

    Source: DICOM PS3.3, sections C.11.2.1.2.1 and C.11.2.1.3.
    """
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return None
    center, width = (
        float(np.ravel(dataset[name].value)[0]) for name in ("WindowCenter", "WindowWidth")
    )
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
