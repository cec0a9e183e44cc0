"""Decode a JPEG, PNG, TIFF, BMP, GIF, WebP or DICOM file to upright 8-bit grey.

Transparent parts are composited over black, like an X-ray's background. Of an animation, the first
frame counts. A file that is not one picture of known grey levels (several pages, floating point, an
unknown compression) is refused.

DICOM files raise MachineError if pydicom is not installed.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from xraytune.base.errors import DataError, Problem
from xraytune.data.dicom import REPAIR, Header, content_bits, dicom_grey, is_dicom, open_dicom

UNUSED_BITS = " with "
"""In the `kind` of images that have more bits than their content."""
NAMING_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
IMAGE_SUFFIXES = NAMING_SUFFIXES | {".dcm", ".dicom"}
LARGEST_SIDE_PX = 20_000
"""As `needed_px`: decode at full size."""
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")
_SAVE_AGAIN = "save it as a grey PNG of 8 or 16 bits, or leave broken images out with --skip-broken"
_DAMAGE = (
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    EOFError,
    LookupError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What Pillow raises for files that are truncated or overwritten, depending on where."""
_METADATA = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""Where Pillow looks for an orientation tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GreyImage:
    """An upright image of mode L, and its `kind`, such as `PNG 16-bit with 12-bit content`.

    Attributes:
        reduced_from: Width and height of the whole image, if `image` is a JPEG of reduced size.
    """

    image: Image.Image
    kind: str
    reduced_from: tuple[int, int] | None = None

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The grey levels, uint8 [H, W]."""
        return np.asarray(self.image)


def ignore_decoder_warnings() -> None:
    """Ignore warnings about odd metadata from now on.

    `catch_warnings` would race between the threads that decode.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.|pydicom\.|xraytune\.data\.(dicom|formats)$")


def without_suffix(path: str) -> str:
    """Return a path without an image suffix; other suffixes stay, since DICOM UIDs contain dots."""
    stem, dot, suffix = path.rpartition(".")
    return stem if f"{dot}{suffix.lower()}" in IMAGE_SUFFIXES else path


def read_header(content: bytes, path: Path | str) -> Header:
    """Read size, patient and view from a file's header.

    Raises DataError for an unsupported format, or too large an image.
    """
    if is_dicom(content):
        return open_dicom(content, path, with_pixels=False)[1]
    width_px, height_px = _upright_size(_open(content, path))
    return {"width_px": width_px, "height_px": height_px}


def read_grey(content: bytes, path: Path | str, *, needed_px: int) -> GreyImage:
    """Decode an image.

    A JPEG may be reduced while decoding, to no less than twice `needed_px` on either side.

    Raises DataError if it is broken; its single problem says why.
    """
    if is_dicom(content):
        levels, stated_bits, bits = dicom_grey(open_dicom(content, path, with_pixels=True)[0], path)
        return GreyImage(image=Image.fromarray(levels), kind=_kind("DICOM", stated_bits, bits))
    image = _open(content, path)
    whole_px = _upright_size(image)
    stated_bits = {"PNG": content[24]}.get(image.format or "", 8)
    is_inverted = False
    try:
        image.draft(
            "L", (2 * needed_px, 2 * needed_px)
        )  # the decoder itself scales by 1/2, 1/4 or 1/8
        if isinstance(image, TiffImageFile):
            _refuse_second_page(image, path)
            stated_bits = max(image.tag_v2.get(ExifTags.Base.BitsPerSample, (1,)))
            is_inverted = image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0
        image.load()
        upright: Image.Image = image
        with suppress(*_DAMAGE):  # damaged metadata
            upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):
            grey, bits = _sixteen_bit_grey(upright, stated_bits, path)
            if is_inverted:  # Pillow inverts 8-bit levels where 0 is white, but not 16-bit ones
                grey = 255 - grey
            return GreyImage(
                image=Image.fromarray(grey), kind=_kind(image.format or "", stated_bits, bits)
            )
        grey_image = _eight_bit_grey(upright, stated_bits, path)
    except _DAMAGE as error:
        raise DataError(Problem("the image is truncated or damaged", path, REPAIR)) from error
    return GreyImage(
        image=grey_image,
        kind=_kind(image.format or "", stated_bits, stated_bits),
        reduced_from=whole_px,
    )


def _open(content: bytes, path: Path | str) -> Any:
    """Parse the header; Pillow decodes the pixels on first use."""
    try:
        return Image.open(BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise DataError(Problem(_describe_content(content), path, REPAIR)) from error
    except Image.DecompressionBombError as error:
        raise DataError(Problem(f"too many pixels for an X-ray ({error})", path, REPAIR)) from error
    except _DAMAGE as error:
        what = "the image's header is damaged, or its format is not supported"
        raise DataError(Problem(what, path, _SAVE_AGAIN)) from error


def _describe_content(content: bytes) -> str:
    """Return why a file is no image."""
    if not content:
        return "the file is empty"
    if content.startswith(b"version https://git-lfs"):
        return "this is a pointer of Git LFS, not the image: run `git lfs pull` in its repository"
    if content.lstrip()[:1] == b"<":
        return "this is a web page or another text in HTML or XML, not an image: download it again"
    return "this is no JPEG, PNG, TIFF, BMP, GIF, WebP or DICOM image, or its header is damaged"


def _refuse_second_page(image: TiffImageFile, path: Path | str) -> None:
    if image.n_frames > 1:
        what = "this TIFF has several pages, and it is unclear which one to use"
        raise DataError(Problem(what, path, "save the page that you need as a separate file"))


def _sixteen_bit_grey(
    image: Image.Image, stated_bits: int, path: Path | str
) -> tuple[NDArray[np.uint8], int]:
    """Scale integer levels, at the depth of their content, to 8 bits; also return that depth."""
    levels = np.asarray(image)
    if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
        what = f"this TIFF contains numbers from {levels.min():g} to {levels.max():g}"
        raise DataError(
            Problem(f"{what}; integers from 0 to 65535 are supported", path, _SAVE_AGAIN)
        )
    transparent = image.info.get("transparency")
    if transparent is not None:
        levels = np.where(levels == transparent, 0, levels)
    bits = content_bits(min(stated_bits, 16), int(levels.max()))
    largest = 2**bits - 1
    return ((levels.astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8), bits


def _kind(name: str, stated_bits: int, bits: int) -> str:
    return f"{name} {stated_bits}-bit" + (
        f"{UNUSED_BITS}{bits}-bit content" if bits < min(stated_bits, 16) else ""
    )


def _eight_bit_grey(image: Image.Image, bits: int, path: Path | str) -> Image.Image:
    """Return grey by the weights of ITU-R 601, transparent parts over black."""
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        grey = ImageChops.multiply(clear.convert("L"), clear.getchannel("A"))
    else:
        grey = image.convert("L")
    if bits == 16 and np.asarray(grey).max() < 16:  # Pillow keeps only the upper 8 bits
        what = "16-bit colours, none above 4095: too dark to determine the stored bit depth"
        raise DataError(Problem(what, path, _SAVE_AGAIN))
    return grey


def _upright_size(image: Any) -> tuple[int, int]:
    width_px, height_px = image.size
    if isinstance(image, TiffImageFile) or _METADATA.isdisjoint(
        image.info
    ):  # Pillow turns a TIFF itself
        return width_px, height_px
    with suppress(*_DAMAGE):
        if image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
            return height_px, width_px
    return width_px, height_px
