"""Files of images as programs and devices write them, and what is read from them."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from xraytune.base.arrays import AnyArray, Int64Array, UInt8Array
from xraytune.base.errors import DataError
from xraytune.data.decoding import read_grey

FILE = Path("a.jpeg")
"""The name says JPEG, whatever the content."""


def gradient(height: int = 32, width: int = 32) -> UInt8Array:
    """Dark at the top left, bright at the bottom right; JPEG and resizing change it little."""
    ramp = np.linspace(0, 120, height)[:, None] + np.linspace(0, 120, width)[None, :]
    return ramp.astype(np.uint8)


def encoded(image: Image.Image | AnyArray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def grey_of(content: bytes) -> Int64Array:
    with warnings.catch_warnings():  # Pillow warns about odd metadata
        warnings.simplefilter("ignore")
        return np.asarray(read_grey(content, FILE, needed_px=32).image).astype(np.int64)


def reason_of(content: bytes) -> str:
    with pytest.raises(DataError) as refusal:
        grey_of(content)
    (problem,) = refusal.value.problems
    assert problem.where == FILE
    assert problem.fix
    return problem.what


def ramp(lowest: int, highest: int, kind: type[np.generic] = np.uint16) -> AnyArray:
    """Levels [24, 32] that rise evenly from the top left."""
    return np.linspace(lowest, highest, 24 * 32).round().reshape(24, 32).astype(kind)


def dicom(
    pixels: AnyArray | None,
    bits: int = 12,
    syntax: UID = ExplicitVRLittleEndian,
    **attributes: Any,
) -> bytes:
    """A DICOM file of these stored values.

    `attributes` add to its header, or replace what is there.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = UID("1.2.3.4")
    if pixels is not None:
        is_grey = pixels.ndim == 2
        stored = {
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "SamplesPerPixel": 1 if is_grey else 3,
            "PhotometricInterpretation": "MONOCHROME2" if is_grey else "RGB",
            "BitsAllocated": pixels.dtype.itemsize * 8,
            "BitsStored": bits,
            "HighBit": bits - 1,
            "PixelRepresentation": int(pixels.dtype.kind == "i"),
            "PixelData": pixels.tobytes(),
        }
        if not is_grey:
            stored["PlanarConfiguration"] = 0
        attributes = stored | attributes
    for name, value in attributes.items():
        setattr(dataset, name, value)
    if syntax.is_encapsulated:
        dataset["PixelData"].is_undefined_length = True
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
