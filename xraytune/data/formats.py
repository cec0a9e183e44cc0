"""What an image file holds, by its content and never by its name: JPEG, PNG, TIFF or DICOM to upright 8-bit grey.

Transparent parts lie over black, as an X-ray's background does. What is no single picture of known grey levels (several
pages, floating point, an unknown compression) is refused in plain words rather than guessed at.

NumPy and pydicom are imported where they are needed: most images need neither, and `crew.py` starts processes.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from xraytune.errors import DataError, Problem


def range_of_levels(image: Image.Image) -> tuple[int, int]:
    """The lowest and the highest level of an image in one of Pillow's integer modes."""
    levels = np.asarray(image)
    return int(levels.min()), int(levels.max())


def grey_of_levels(
    image: Image.Image, *, stated_bits: int = 16, inverted: bool = False, transparent: int | None = None
) -> tuple[Image.Image, int | None]:
    """8-bit grey, and the depth of the content where that is not the file's.

    Args:
        image: In one of Pillow's integer modes, levels 0 to 65535.
        stated_bits: The file's depth, below 16 only where it is certain.
        inverted: Whether level 0 is white.
        transparent: A level that stands for nothing, and becomes black.
    """
    levels = np.asarray(image)
    if transparent is not None:
        levels = np.where(levels == transparent, 0, levels)
    highest = int(levels.max())
    bits = stated_bits if stated_bits < 16 else 8 if highest < 256 else 12 if highest < 4096 else 16
    largest = 2**bits - 1
    grey = ((levels.astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8)
    return Image.fromarray(255 - grey if inverted else grey), bits if bits < min(stated_bits, 16) else None


LARGEST_SIDE_PX = 20_000
LARGEST_AREA_PX = 100_000_000
_PAGES_COUNTED = 100
REPAIR = "repair or remove the file, or leave broken images out with --skip-broken"
_SAVE_AGAIN = "save it as a grey PNG of 8 or 16 bits, or leave broken images out with --skip-broken"
_DAMAGE = (
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What Pillow raises on files that are cut off or overwritten, depending on where."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO, _ORIENTATION = 258, 262, 0, 274
_METADATA = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Where Pillow looks for an orientation tag."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image is turned upright, by its orientation tag (EXIF 2.32, table 6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What is known of an image before its pixels are decoded.

    Attributes:
        width_px: As the file states it.
        height_px: Likewise.
        patient: The patient that a DICOM header names, as a hash; None where none is named.
    """

    width_px: int
    height_px: int
    patient: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GreyImage:
    """An image as 8-bit grey.

    Attributes:
        image: Mode L, upright; a JPEG may be reduced, to no less than what was asked for.
        width_px: Of the whole image, upright, before any reduction.
        height_px: Likewise.
        kind: Format and depth, such as `PNG 16-bit`.
        content_bits: Bits that are really used, where the file's own depth says more; else None.
    """

    image: Image.Image
    width_px: int
    height_px: int
    kind: str
    content_bits: int | None = None


def is_dicom(content: bytes) -> bool:
    """Whether this is the start of a DICOM file: 128 bytes of anything, then DICM (PS3.10, section 7.1)."""
    return content[128:132] == b"DICM"


def read_header(content: bytes, path: Path | str) -> ImageHeader:
    """The size, and for DICOM the patient, as a file's header states them.

    Raises:
        DataError: It is no image that is read here, or one too large to be an X-ray.
        MachineError: It is DICOM, and pydicom is not installed.
    """
    if is_dicom(content):
        from xraytune.data.dicom import open_dicom

        dicom = open_dicom(content, path, with_pixels=False)
        _refuse_too_large(dicom.width_px, dicom.height_px, path)
        return ImageHeader(width_px=dicom.width_px, height_px=dicom.height_px, patient=dicom.patient)
    width_px, height_px = _open(content, path).size
    return ImageHeader(width_px=width_px, height_px=height_px)


def read_grey(content: bytes, path: Path | str, *, needed_px: int) -> GreyImage:
    """Decode an image.

    Args:
        content: The file.
        path: Named in refusals.
        needed_px: Neither side of a reduced JPEG is shorter than twice this.

    Raises:
        DataError: The image is broken: its one problem says why.
        MachineError: It is DICOM, and pydicom is not installed.
    """
    if is_dicom(content):
        from xraytune.data.dicom import dicom_grey, open_dicom

        dicom = open_dicom(content, path, with_pixels=True)
        _refuse_too_large(dicom.width_px, dicom.height_px, path)
        levels, bits = dicom_grey(dicom)
        return _whole(Image.fromarray(levels), f"DICOM {bits}-bit")
    image = _open(content, path)
    width_px, height_px = image.size
    try:
        if isinstance(image, TiffImageFile):
            return _tiff_grey(image, path)
        if isinstance(image, PngImageFile):
            return _png_grey(image, content[24], path)
        # The decoder itself scales large images down by 2, 4 or 8.
        image.draft("L", (2 * needed_px, 2 * needed_px))
        orientation = _orientation(image)
        if orientation in (5, 6, 7, 8):
            width_px, height_px = height_px, width_px
        grey = _turned(_eight_bit_grey(image), orientation)
        return GreyImage(image=grey, width_px=width_px, height_px=height_px, kind="JPEG 8-bit")
    except _DAMAGE as error:
        raise DataError(Problem("the image is cut off or damaged", path, REPAIR)) from error


def _open(content: bytes, path: Path | str) -> JpegImageFile | PngImageFile | TiffImageFile:
    """Parse an image as far as its size; Pillow decodes the pixels when they are asked for."""
    image: JpegImageFile | PngImageFile | TiffImageFile
    try:
        if content.startswith(b"\xff\xd8\xff"):
            image = JpegImageFile(BytesIO(content))
        elif content.startswith(_PNG):
            image = PngImageFile(BytesIO(content))
        elif content.startswith(_TIFF):
            image = _open_tiff(content)
        else:
            reason = "this is neither a JPEG, PNG, TIFF nor DICOM image" if content else "the file is empty"
            raise DataError(Problem(reason, path, REPAIR))
    except _DAMAGE as error:
        raise _header_refusal(error, path) from error
    _refuse_too_large(*image.size, path)
    return image


def _open_tiff(content: bytes) -> TiffImageFile:
    """A TIFF; also 16-bit grey where white is 0 and the high byte comes first, for which Pillow has no decoder.

    Such a file is opened as if black were 0, and its levels turned over like those of the other byte order.
    """
    try:
        return TiffImageFile(BytesIO(content))
    except SyntaxError:
        tag = _big_endian_white_is_zero(content)
        if tag is None:
            raise
        image = TiffImageFile(BytesIO(content[: tag + 8] + b"\0\1" + content[tag + 10 :]))
        image.tag_v2[_PHOTOMETRIC] = _WHITE_IS_ZERO
        return image


def _big_endian_white_is_zero(content: bytes) -> int | None:
    """Where a TIFF with the high byte first says that white is 0: the tag's offset; None where it does not."""
    if not content.startswith(b"MM\0*"):
        return None
    (directory,) = struct.unpack_from(">I", content, 4)
    (count,) = struct.unpack_from(">H", content, directory)
    for tag in range(directory + 2, directory + 2 + 12 * count, 12):
        if content[tag : tag + 12] == struct.pack(">HHIHH", _PHOTOMETRIC, 3, 1, _WHITE_IS_ZERO, 0):
            return tag
    return None


def _header_refusal(error: Exception, path: Path | str) -> DataError:
    """The reason in our words; where Pillow knows the format but not this kind of it, that is said."""
    told = str(error)
    if told.startswith("cannot handle ") and told.endswith("-bit layers"):
        bits = told.removeprefix("cannot handle ").removesuffix("-bit layers")
        return DataError(Problem(f"a JPEG of {bits} bits is not read", path, _SAVE_AGAIN))
    if told in ("unknown pixel mode", "unknown data organization"):
        return DataError(Problem("this kind of TIFF is not read, or its header is cut off", path, _SAVE_AGAIN))
    return DataError(Problem("the image's header is cut off or damaged", path, REPAIR))


def _refuse_too_large(width_px: int, height_px: int, path: Path | str) -> None:
    if width_px < 1 or height_px < 1:
        raise DataError(Problem("the image's header is cut off or damaged", path, REPAIR))
    if max(width_px, height_px) > LARGEST_SIDE_PX or width_px * height_px > LARGEST_AREA_PX:
        raise DataError(Problem(f"{width_px} x {height_px} pixels are too many for an X-ray", path, REPAIR))


def _whole(image: Image.Image, kind: str, content_bits: int | None = None) -> GreyImage:
    width_px, height_px = image.size
    return GreyImage(image=image, width_px=width_px, height_px=height_px, kind=kind, content_bits=content_bits)


def _png_grey(image: PngImageFile, bits: int, path: Path | str) -> GreyImage:
    kind = f"PNG {bits}-bit"
    image.load()
    if image.mode.startswith("I"):
        from xraytune.data.formats import grey_of_levels

        grey, content_bits = grey_of_levels(image, transparent=image.info.get("transparency"))
        return _whole(_turned(grey, _orientation(image)), kind, content_bits)
    grey = _eight_bit_grey(image)
    if bits == 16:
        _refuse_dark_colours(grey, path)
    return _whole(_turned(grey, _orientation(image)), kind)


def _tiff_grey(image: TiffImageFile, path: Path | str) -> GreyImage:
    """Upright by itself: Pillow follows a TIFF's orientation tag as it decodes."""
    pages = _page_count(image)
    if pages > 1:
        count = f"{pages}" if pages < _PAGES_COUNTED else f"{_PAGES_COUNTED} or more"
        raise DataError(Problem(f"this TIFF has {count} pages; which is meant?", path, "save each page as a file"))
    bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    kind = f"TIFF {bits}-bit"
    white_is_zero = image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    image.load()
    if image.mode == "F":
        what = "this TIFF holds floating-point numbers, which say neither what is black nor what is white"
        raise DataError(Problem(what, path, _SAVE_AGAIN))
    if image.mode.startswith("I"):
        from xraytune.data.formats import grey_of_levels, range_of_levels

        lowest, highest = range_of_levels(image)
        if lowest < 0 or highest > 65535:
            what = f"this TIFF holds grey levels from {lowest} to {highest}; 0 to 65535 are read"
            raise DataError(Problem(what, path, _SAVE_AGAIN))
        # Pillow turns 8-bit levels over where white is 0, but not those of 16 bits.
        grey, content_bits = grey_of_levels(image, stated_bits=bits, inverted=white_is_zero)
        return _whole(grey, kind, content_bits)
    grey = _eight_bit_grey(image)
    if bits == 16:
        _refuse_dark_colours(grey, path)
    return _whole(grey, kind)


def _page_count(image: TiffImageFile) -> int:
    """Up to `_PAGES_COUNTED`: Pillow parses every page to count it, and a file can chain thousands of empty ones."""
    for page in range(1, _PAGES_COUNTED):
        try:
            image.seek(page)
        except EOFError:
            image.seek(0)
            return page
    return _PAGES_COUNTED


def _refuse_dark_colours(grey: Image.Image, path: Path | str) -> None:
    """Of 16-bit colours Pillow keeps the upper 8 bits; where levels of 8 or 12 bits were stored, nothing is left."""
    _, highest = grey.getextrema()
    assert isinstance(highest, int)
    if highest < 16:
        what = "16-bit colours of which none is above 4095: too dark to tell what was stored"
        raise DataError(Problem(what, path, _SAVE_AGAIN))


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    """Grey by the weights of ITU-R 601, transparent parts over black."""
    if image.mode == "L" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode == "LAB":
        return image.getchannel("L")
    if image.mode == "La":  # already multiplied by its opacity
        return image.getchannel("L")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        return ImageChops.multiply(clear.convert("L"), clear.getchannel("A"))
    return image.convert("L")


def _orientation(image: ImageFile.ImageFile) -> int:
    """The orientation tag; 1 (upright) where there is none. Metadata that is damaged says nothing about the pixels."""
    if image.info.keys().isdisjoint(_METADATA):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)
