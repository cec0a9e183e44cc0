"""Decode a JPEG, PNG, TIFF, BMP, GIF, WebP or DICOM file to upright 8-bit grey, whatever its name says.

Transparent parts are composited over black, like an X-ray's background. Of an animation, the first frame counts. A file that
is not one picture of known grey levels (several pages, floating point, an unknown compression) is refused.

DICOM files raise MachineError if pydicom is not installed.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from xraytune.base.errors import DataError, Problem
from xraytune.data.dicom import REPAIR, ImageHeader, content_bits, dicom_grey, is_dicom, open_dicom

UNUSED_BITS = " with "
"""In the `kind` of images that have more bits than their content."""
NAMING_SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
IMAGE_SUFFIXES = NAMING_SUFFIXES | {".dcm", ".dicom"}
LARGEST_SIDE_PX = 20_000
LARGEST_AREA_PX = 100_000_000
_SAVE_AGAIN = "save it as a grey PNG of 8 or 16 bits, or leave broken images out with --skip-broken"
_BAD_HEADER = "the image's header is damaged, or its format is not supported"
_DAMAGE = (
    *(OSError, SyntaxError, TypeError, ValueError, EOFError, LookupError, OverflowError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow raises for files that are truncated or overwritten, depending on where."""
_READERS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),
    b"BM": BmpImageFile,
    **dict.fromkeys((b"GIF87a", b"GIF89a"), GifImageFile),
    b"RIFF": WebPImageFile,
}
"""Pillow's reader by the first bytes of a file."""
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO, _ORIENTATION = 258, 262, 0, 274
_COLOUR_MAP, _SAMPLE_FORMAT, _SIGNED = 320, 339, 2
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
"""How to turn an image upright, by its orientation tag (EXIF 2.32, table 6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GreyImage:
    """An upright image of mode L, and the file's format and depth, such as `PNG 16-bit with 12-bit content`.

    Attributes:
        reduced_from: Width and height of the whole image, if `image` is a JPEG of reduced size.
    """

    image: Image.Image
    kind: str
    reduced_from: tuple[int, int] | None = None


def ignore_decoder_warnings() -> None:
    """Ignore warnings about odd metadata from now on; `catch_warnings` would race between the threads that decode."""
    warnings.filterwarnings("ignore", module=r"PIL\.|pydicom\.|xraytune\.data\.(dicom|formats)$")


def without_suffix(path: str) -> str:
    """Return a path without an image suffix; other suffixes stay, since DICOM UIDs contain dots."""
    stem, dot, suffix = path.rpartition(".")
    return stem if f"{dot}{suffix.lower()}" in IMAGE_SUFFIXES else path


def read_header(content: bytes, path: Path | str) -> ImageHeader:
    """Read size and patient from a file's header; DataError for an unsupported format, or too large an image."""
    if is_dicom(content):
        return _open_dicom(content, path, with_pixels=False)[1]
    width_px, height_px = _upright_size(_open(content, path))
    return ImageHeader(width_px=width_px, height_px=height_px)


def read_grey(content: bytes, path: Path | str, *, needed_px: int) -> GreyImage:
    """Decode an image; a JPEG may be reduced while decoding, to no less than twice `needed_px` on either side.

    Raises DataError if it is broken; its single problem says why.
    """
    if is_dicom(content):
        levels, stated_bits, bits = dicom_grey(_open_dicom(content, path, with_pixels=True)[0], path)
        return GreyImage(image=Image.fromarray(levels), kind=_kind("DICOM", stated_bits, bits))
    image = _open(content, path)
    try:
        if isinstance(image, TiffImageFile):
            return _tiff_grey(image, path)
        if isinstance(image, PngImageFile):
            grey = _grey(image, "PNG", content[24], path)
            return replace(grey, image=_turned(grey.image, _orientation(image)))
        whole_px = _upright_size(image)
        image.draft("L", (2 * needed_px, 2 * needed_px))  # the decoder itself scales by 1/2, 1/4 or 1/8
        turned = _turned(_eight_bit_grey(image, 8, path), _orientation(image))
        return GreyImage(image=turned, kind=f"{image.format} 8-bit", reduced_from=whole_px)
    except _DAMAGE as error:
        raise DataError(Problem("the image is truncated or damaged", path, REPAIR)) from error


def _open_dicom(content: bytes, path: Path | str, *, with_pixels: bool) -> tuple[Any, ImageHeader]:
    dataset, header = open_dicom(content, path, with_pixels=with_pixels)
    _refuse_too_large(header.width_px, header.height_px, path)
    return dataset, header


def _open(content: bytes, path: Path | str) -> ImageFile.ImageFile:
    """Parse the header; Pillow decodes the pixels on first use."""
    reader = next((reader for start, reader in _READERS.items() if content.startswith(start)), None)
    if reader is None:
        reason = "this is no JPEG, PNG, TIFF, BMP, GIF, WebP or DICOM image" if content else "the file is empty"
        raise DataError(Problem(reason, path, REPAIR))
    try:
        image = reader(BytesIO(content))
    except _DAMAGE as error:
        raise DataError(Problem(_BAD_HEADER, path, _SAVE_AGAIN)) from error
    _refuse_too_large(*image.size, path)
    return image


def _refuse_too_large(width_px: int, height_px: int, path: Path | str) -> None:
    if width_px < 1 or height_px < 1:
        raise DataError(Problem(_BAD_HEADER, path, REPAIR))
    if max(width_px, height_px) > LARGEST_SIDE_PX or width_px * height_px > LARGEST_AREA_PX:
        raise DataError(Problem(f"{width_px} x {height_px} pixels are too many for an X-ray", path, REPAIR))


def _tiff_grey(image: TiffImageFile, path: Path | str) -> GreyImage:
    """Decode a TIFF, which is already upright: Pillow applies its orientation tag."""
    with suppress(EOFError):
        image.seek(1)
        what = "this TIFF has several pages, and it is unclear which one to use"
        raise DataError(Problem(what, path, "save the page that you need as a separate file"))
    bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    if bits == 8 and image.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED:
        raise DataError(Problem("this TIFF contains signed numbers of 8 bits", path, _SAVE_AGAIN))
    if 0 < max(image.tag_v2.get(_COLOUR_MAP, (0,))) < 256:
        raise DataError(Problem("the colour map of this TIFF has 8 bits instead of 16", path, _SAVE_AGAIN))
    # Pillow inverts 8-bit levels where 0 is white, but not 16-bit ones.
    return _grey(image, "TIFF", bits, path, is_inverted=image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def _grey(
    image: ImageFile.ImageFile, name: str, stated_bits: int, path: Path | str, *, is_inverted: bool = False
) -> GreyImage:
    """Decode a PNG or TIFF, by its `name`; `is_inverted` is about integer modes only."""
    image.load()
    if image.mode == "F":
        what = "this TIFF contains floating-point numbers, which do not define black and white"
        raise DataError(Problem(what, path, _SAVE_AGAIN))
    if not image.mode.startswith("I"):
        return GreyImage(image=_eight_bit_grey(image, stated_bits, path), kind=_kind(name, stated_bits, stated_bits))
    levels = np.asarray(image)
    lowest, highest = int(levels.min()), int(levels.max())
    if lowest < 0 or highest > 65535:
        what = f"this TIFF contains grey levels from {lowest} to {highest}; 0 to 65535 are supported"
        raise DataError(Problem(what, path, _SAVE_AGAIN))
    if (transparent := image.info.get("transparency")) is not None:
        levels = np.where(levels == transparent, 0, levels)
        highest = int(levels.max())
    bits = content_bits(min(stated_bits, 16), highest)
    largest = 2**bits - 1
    grey = ((levels.astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8)
    return GreyImage(image=Image.fromarray(255 - grey if is_inverted else grey), kind=_kind(name, stated_bits, bits))


def _kind(name: str, stated_bits: int, bits: int) -> str:
    return f"{name} {stated_bits}-bit" + (f"{UNUSED_BITS}{bits}-bit content" if bits < min(stated_bits, 16) else "")


def _eight_bit_grey(image: Image.Image, bits: int, path: Path | str) -> Image.Image:
    """Return grey by the weights of ITU-R 601, transparent parts over black."""
    if image.mode == "L" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode in ("LAB", "La"):  # La is already multiplied by its opacity
        grey = image.getchannel("L")
    elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        opacity = clear.getchannel("A")
        if not opacity.getbbox():
            raise DataError(Problem("all of its pixels are transparent", path, _SAVE_AGAIN))
        grey = ImageChops.multiply(clear.convert("L"), opacity)
    else:
        grey = image.convert("L")
    if bits == 16 and np.asarray(grey).max() < 16:  # Pillow keeps only the upper 8 bits
        what = "16-bit colours, none above 4095: too dark to determine the stored bit depth"
        raise DataError(Problem(what, path, _SAVE_AGAIN))
    return grey


def _orientation(image: ImageFile.ImageFile) -> int:
    """Return the orientation tag; 1 (upright) if it is missing or the metadata are damaged."""
    if image.info.keys().isdisjoint(_METADATA):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:
        return 1


def _upright_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    width_px, height_px = image.size
    lies = not isinstance(image, TiffImageFile) and _orientation(image) in (5, 6, 7, 8)  # Pillow turns a TIFF itself
    return (height_px, width_px) if lies else (width_px, height_px)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
