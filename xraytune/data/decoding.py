"""Decode image files to upright 8-bit grey and to squares, in threads.

The formats are JPEG, PNG, TIFF, BMP, GIF, WebP and DICOM. Transparent parts are composited over
black, like an X-ray's background. Of an animation, only the first frame is read. A file that is not
one picture of known grey levels (several pages, floating point, an unknown compression) is refused.
Pillow releases Python's lock while it decodes and resizes.

DICOM files raise MachineError if pydicom is not installed.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageOps

from xraytune.base.arrays import UInt8Array
from xraytune.base.cores import map_on_cores
from xraytune.base.errors import DataError, counted
from xraytune.base.files import read_bytes
from xraytune.base.records import Progress, frozen, ignore_progress
from xraytune.data.dicom import DAMAGE, REPAIR, Header, content_bits, is_dicom, read_dicom

_logger = logging.getLogger(__name__)
NAMING_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
IMAGE_SUFFIXES = NAMING_SUFFIXES | {".dcm", ".dicom", ".ima"}
LARGEST_SIDE_PX = 20_000
"""With this value as `needed_px`, an image is decoded at full size."""
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")
_SAVE_AGAIN = "save it as a grey PNG of 8 or 16 bits, or leave broken images out with --skip-broken"
_METADATA = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""Pillow looks for an orientation tag there."""
_MOST_COLOUR = 16
"""The mean range of a pixel's red, green and blue above which an image is in colour."""
DECODER = 3
"""Raise this number if files decode to other pixels, so that cached images are decoded again."""
Resize: TypeAlias = Literal["squash", "crop"]
"""An image is squashed to a square, or its shorter side is scaled to S and its centre cut out."""


@frozen
class GreyImage:
    """An upright image of mode L, and its `kind`, such as `PNG 16-bit with 12-bit content`.

    Attributes:
        whole_px: Width and height of the whole image; `image` may be a JPEG of reduced size.
    """

    image: Image.Image
    kind: str
    whole_px: tuple[int, int]

    @property
    def pixels(self) -> UInt8Array:
        """The grey levels, uint8 [H, W]."""
        return np.asarray(self.image)


@frozen
class BrokenImage:
    """A file that cannot be decoded, and why."""

    file: str
    reason: str


@frozen
class InputFormat:
    """How pixels become a network's input (`nets/inputs.py`).

    The format is stored with a trained model and used for its predictions.

    Attributes:
        mean: The mean of each input channel, for pixels in [0, 1]; `std` is the standard deviation.
    """

    image_size_px: int
    resize: Resize = "squash"
    mean: tuple[float, ...]
    std: tuple[float, ...]


def decode_files(
    root: Path,
    files: Sequence[str],
    image_size_px: int,
    resize: Resize = "squash",
    *,
    on_progress: Progress = ignore_progress,
) -> Iterator[GreyImage | BrokenImage]:
    """Decode files below `root` to upright squares, in order, on all cores, with antialiasing.

    The log warns of blank images, and of files whose content has less depth than the file states.
    """

    def decode(file: str) -> GreyImage | BrokenImage:
        try:
            grey = read_image(root / file, image_size_px)
        except DataError as error:
            return BrokenImage(file=file, reason=error.problems[0].what)
        box = square_box(grey.whole_px, grey.image.size, image_size_px, resize)
        size_px = (image_size_px, image_size_px)
        square = grey.image.resize(size_px, Image.Resampling.BILINEAR, box)
        return GreyImage(image=square, kind=grey.kind, whole_px=grey.whole_px)

    ignore_decoder_warnings()
    kinds: Counter[str] = Counter()
    blank = 0
    for count, image in enumerate(map_on_cores(decode, files), start=1):
        on_progress("decoding images", count, len(files))
        if isinstance(image, GreyImage):
            kinds[image.kind] += 1
            darkest, brightest = image.image.getextrema()
            blank += darkest == brightest
        if count == len(files):
            _warn_of_oddities(root, kinds, blank)
        yield image


def _warn_of_oddities(root: Path, kinds: Counter[str], blank: int) -> None:
    if blank:
        images = counted(blank, "blank image")
        _logger.warning("%s: %s, in which all pixels have one grey", root, images)
    if coloured := sum(count for kind, count in kinds.items() if kind.endswith("in colour")):
        note = "read by their brightness, from which a colour map cannot be undone"
        _logger.warning("%s: %s in colour, %s", root, counted(coloured, "image"), note)
    for kind, count in sorted(kinds.items()):
        stated, _, content = kind.partition(" with ")
        if content:
            images = counted(count, "image")
            note = f"{images} of {kind}, scaled by the depth of the content"
            if kinds[stated]:
                note += f"; {kinds[stated]} others use their full depth, so if the former are "
                note += "merely dark, they appear too bright"
            _logger.warning("%s: %s", root, note)


def read_image(path: Path | str, needed_px: int) -> GreyImage:
    """Read and decode an image (see `read_grey`).

    Raises DataError if the image cannot be read or is broken.
    """
    try:
        content = read_bytes(path, DataError)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path, REPAIR) from error
    return read_grey(content, path, needed_px=needed_px)


def square_box(
    whole_px: tuple[int, int], decoded_px: tuple[int, int], image_size_px: int, resize: Resize
) -> tuple[float, float, float, float] | None:
    """Return the part of the image to scale to S x S (left, upper, right, lower), or None for all.

    A crop gives the same as `Resize(S)` and `CenterCrop(S)`, but scales only the returned part: a
    long and narrow image scaled as a whole would fill the memory. Sizes are width and height; the
    size of a JPEG decoded at a reduced size is rounded up.

    Source: torchvision 0.21, `transforms.functional.resize` and `center_crop`.
    """
    if resize == "squash":
        return None
    shorter = min(whole_px)
    sides = []
    for side_px, decoded in zip(whole_px, decoded_px, strict=True):
        scaled = int(image_size_px * side_px / shorter)
        first = round((scaled - image_size_px) / 2)
        sides.append((first * decoded / scaled, (first + image_size_px) * decoded / scaled))
    (left, right), (upper, lower) = sides
    return left, upper, right, lower


def ignore_decoder_warnings() -> None:
    """Ignore warnings about odd metadata from now on.

    `catch_warnings` would race between the threads that decode.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.|pydicom\.|xraytune\.data\.(dicom|decoding)$")


def without_suffix(path: str) -> str:
    """Return a path without an image suffix; other suffixes stay, since DICOM UIDs contain dots."""
    stem, dot, suffix = path.rpartition(".")
    return stem if f"{dot}{suffix.lower()}" in IMAGE_SUFFIXES else path


def read_header(content: bytes, path: Path | str) -> Header:
    """Read size, format, orientation tag, patient and view from a file's header.

    Raises DataError for an unsupported format, or too large an image.
    """
    if is_dicom(content):
        return read_dicom(content, path, with_pixels=False)[0]
    image = _open(content, path)
    width_px, height_px = _upright_size(image)
    return {
        "width_px": width_px,
        "height_px": height_px,
        "kind": f"{image.format} {image.mode}",
        "orientation": _orientation(image),
    }


def read_grey(content: bytes, path: Path | str, *, needed_px: int) -> GreyImage:
    """Decode an image.

    A JPEG may be reduced while decoding, to no less than twice `needed_px` on either side.

    Raises DataError if the image is broken; the single problem of the error says why.
    """
    if is_dicom(content):
        _, levels, stated_bits, bits = read_dicom(content, path, with_pixels=True)
        return _grey_image("DICOM", levels, stated_bits, bits)
    image = _open(content, path)
    name = image.format
    whole_px = _upright_size(image)
    bits = content[24] if name == "PNG" else 8
    is_inverted = False
    try:
        # The decoder itself scales by 1/2, 1/4 or 1/8.
        image.draft("L", (2 * needed_px, 2 * needed_px))
        if name == "TIFF":
            if image.n_frames > 1:
                raise DataError(
                    "this TIFF has several pages, and it is unclear which one to use",
                    path,
                    "save the page that you need as a separate file",
                )
            bits = max(image.tag_v2.get(ExifTags.Base.BitsPerSample, (1,)))
            if bits == 8 and image.tag_v2.get(ExifTags.Base.SampleFormat) == (2,):
                raise DataError("this TIFF contains signed bytes", path, _SAVE_AGAIN)
            is_inverted = image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0
        image.load()
        with suppress(*DAMAGE):  # damaged metadata
            image = ImageOps.exif_transpose(image)
        levels = np.asarray(image)
        if image.mode.startswith(("I", "F")):
            if "transparency" in image.info:
                levels = np.where(levels == image.info["transparency"], 0, levels)
            if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
                raise DataError(
                    f"this file contains numbers from {levels.min():g} to {levels.max():g}"
                    "; integers from 0 to 65535 are supported",
                    path,
                    _SAVE_AGAIN,
                )
            depth = content_bits(min(bits, 16), int(levels.max()))
            largest = 2**depth - 1
            grey = ((levels.astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8)
            # Pillow inverts 8-bit levels where 0 is white, but not 16-bit ones.
            return _grey_image(name, 255 - grey if is_inverted else grey, bits, depth)
        in_colour = " in colour" if _is_coloured(image) else ""
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            with_alpha = image.convert("RGBA")
            image = ImageChops.multiply(with_alpha.convert("L"), with_alpha.getchannel("A"))
        image = image.convert("L")  # by the weights of ITU-R 601
    except DAMAGE as error:
        raise DataError(
            f"the image is truncated, damaged or of an unsupported kind: {error}", path, REPAIR
        ) from error
    if not image.getbbox() and (levels != levels[0, 0]).any():
        raise DataError("transparency or the colour map makes all pixels black", path, _SAVE_AGAIN)
    if bits == 16 and np.asarray(image).max() < 16:  # Pillow keeps only the upper 8 bits
        raise DataError(
            "16-bit colours, none above 4095: too dark to determine the stored bit depth",
            path,
            _SAVE_AGAIN,
        )
    return GreyImage(image=image, kind=f"{name} {bits}-bit{in_colour}", whole_px=whole_px)


def _is_coloured(image: Any) -> bool:
    """Return whether the colours of an image say more than its grey, as with a colour map."""
    if image.mode not in ("P", "RGB", "RGBA"):
        return False
    colours = np.asarray(image.convert("RGB").resize((32, 32)))
    return bool((colours.max(axis=2) - colours.min(axis=2)).mean() > _MOST_COLOUR)


def _grey_image(name: str, levels: UInt8Array, stated_bits: int, bits: int) -> GreyImage:
    odd = f" with {bits}-bit content" if bits < min(stated_bits, 16) else ""
    image = Image.fromarray(levels)
    return GreyImage(image=image, kind=f"{name} {stated_bits}-bit{odd}", whole_px=image.size)


def _open(content: bytes, path: Path | str) -> Any:
    """Parse the header; Pillow decodes the pixels on first use."""
    try:
        return Image.open(BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(f"too many pixels for an X-ray ({error})", path, REPAIR) from error
    except DAMAGE as error:
        what = _damage_of_header(content)
        if not what:
            beginning = f"it begins with {content[:30]!r}" if content else "the file is empty"
            what = f"this is no JPEG, PNG, TIFF, BMP, GIF, WebP or DICOM image; {beginning}"
        raise DataError(what, path, f"download it again; or {_SAVE_AGAIN}") from error


def _damage_of_header(content: bytes) -> str:
    """Return what Pillow says of a header if it knows the format by its first bytes, or ""."""
    for name in _FORMATS:
        parse, accepts = Image.OPEN[name]
        if accepts is not None and accepts(content[:16]) is True:
            try:  # Image.open says only that no format fits
                parse(BytesIO(content), "")
            except DAMAGE as error:
                return f"the header of this {name} is damaged or unusual: {error}"
    return ""


def _upright_size(image: Any) -> tuple[int, int]:
    width_px, height_px = image.size
    # Pillow turns a TIFF itself.
    is_on_its_side = image.format != "TIFF" and _orientation(image) >= 5
    return (height_px, width_px) if is_on_its_side else (width_px, height_px)


def _orientation(image: Any) -> int:
    """Return the orientation tag, from 1 (upright, also without a tag) to 8."""
    if image.format == "TIFF" or _METADATA & image.info.keys():
        with suppress(*DAMAGE):
            tag = image.getexif().get(ExifTags.Base.Orientation)
            return tag if tag in range(1, 9) else 1
    return 1
