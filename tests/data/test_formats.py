"""Every format becomes the same upright grey, or is refused for a clear reason."""

import struct
import zlib

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from tests.data.conftest import DataFolder
from tests.data.image_files import FILE, encoded, gradient, grey_of, reason_of
from xraytune.base.arrays import AnyArray
from xraytune.data.decoding import GreyImage, decode_files, read_grey


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG of these filtered rows; 0 is grey, 2 is RGB."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(levels: AnyArray, *, photometric: int = 1, sample_format: int = 1) -> bytes:
    """An uncompressed grey TIFF, written out by hand."""
    height, width = levels.shape
    pixels = levels.tobytes()
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, levels.dtype.itemsize * 8),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(pixels)),
        (339, 3, sample_format),
    ]
    directory = struct.pack("<H", len(tags))
    for tag, kind, value in tags:
        directory += struct.pack("<HHII", tag, kind, 1, value)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4)


MODES = {
    "PNG": "L RGB RGBA LA",
    "TIFF": "L RGB RGBA LA",
    "JPEG": "L RGB CMYK",
    "BMP": "L RGB RGBA",
    "WEBP": "L RGB RGBA",
    "GIF": "L P",
}


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes.split()]
)
def test_any_mode_gives_the_same_grey(mode: str, kind: str) -> None:
    options = {"quality": 100, "lossless": True} if kind in ("JPEG", "WEBP") else {}

    grey = grey_of(encoded(Image.fromarray(gradient()).convert(mode), kind, **options))

    assert_allclose(grey, gradient(), atol=3 if kind == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_transparency_is_composited_over_black(mode: str, kind: str) -> None:
    levels = (200,) * (len(mode) - 1)
    image = Image.new(mode, (16, 16), (*levels, 128))
    image.putpixel((0, 0), (*levels, 0))

    grey = grey_of(encoded(image, kind))

    assert (grey[0, 0], grey[5, 5]) == (0, 100)


def test_a_transparent_level_of_16_bits_is_black() -> None:
    grey = grey_of(encoded(SIXTEEN, transparency=int(SIXTEEN[-1, -1])))

    assert_array_equal(grey, np.where(gradient() == 240, 0, gradient()))


@pytest.mark.parametrize(
    ("largest", "kind"),
    [
        (255, "PNG 16-bit with 8-bit content"),
        (4095, "PNG 16-bit with 12-bit content"),
        (4096, "PNG 16-bit"),
    ],
)
def test_a_deep_file_with_shallow_content_is_read_at_the_depth_of_its_content(
    largest: int, kind: str
) -> None:
    levels = np.full((8, 8), largest, dtype=np.uint16)
    levels[0, 0] = largest // 2

    found = read_grey(encoded(levels), FILE, needed_px=8)

    full_range = largest if largest < 4096 else 65535
    assert_allclose(found.pixels, levels * (255 / full_range), atol=0.51)
    assert kind == found.kind


SIXTEEN = gradient().astype(np.uint16) * 257
TWELVE = (gradient() * (4095 / 255)).round().astype(np.uint16)


GREY = Image.fromarray(gradient())
LOSSLESS = {
    "16 bits": tiff(SIXTEEN),
    "white is zero": tiff(255 - gradient(), photometric=0),
    "white is zero, 12 bits in 16": tiff(4095 - TWELVE, photometric=0),
    "32 bits that 16 would hold": tiff(SIXTEEN.astype(np.int32), sample_format=2),
    "the first frame of a GIF": encoded(
        GREY, "GIF", save_all=True, append_images=[Image.new("L", GREY.size)]
    ),
    "16 bits, compressed": encoded(SIXTEEN, "TIFF", compression="tiff_lzw"),
}
LOSSY = {
    "a TIFF with JPEG inside": encoded(GREY, "TIFF", compression="jpeg", quality=100),
    "damaged metadata": encoded(
        GREY, "JPEG", quality=100, exif=b"Exif\0\0MM\0*nonsense, and too short"
    ),
}


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
def test_a_grey_file_is_read(name: str) -> None:
    assert_allclose(
        grey_of((LOSSLESS | LOSSY)[name]), gradient(), atol=0 if name in LOSSLESS else 4
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    stored = gradient(48, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {"quality": 100, "lossless": True} if kind in ("JPEG", "WEBP") else {}

    found = read_grey(encoded(stored, kind, exif=exif, **quality), FILE, needed_px=48)

    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored),
    }[orientation]
    assert_allclose(found.pixels, upright, atol=3)
    assert found.whole_px == upright.shape[::-1]


TWELVE_BITS = bytearray(encoded(GREY, "JPEG"))
TWELVE_BITS[TWELVE_BITS.index(b"\xff\xc0") + 4] = 12
RAMP = gradient(64, 64)
JPEG, PNG, TIFF = (encoded(RAMP, kind) for kind in ("JPEG", "PNG", "TIFF"))
PALETTE = Image.fromarray(RAMP).copy()
PALETTE.putpalette([level for level in range(256) for _ in range(3)])
COLOUR_MAP = np.tile(np.arange(256, dtype="<u2"), 3)
DARK_ROW = b"\0" + struct.pack(">3H", 4095, 4095, 4095) * 8
BROKEN = {
    "empty": (b"", "the file is empty"),
    "text": (b"dear reader" * 20, "this is no JPEG, PNG, TIFF, BMP, GIF, WebP or DICOM image"),
    "git_lfs": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "it begins with b'version https://git-lfs",
    ),
    "jpeg_cut_in_its_pixels": (JPEG[:-100], "the image is truncated, damaged"),
    "jpeg_of_12_bits": (
        bytes(TWELVE_BITS),
        "this JPEG is damaged or unusual: cannot handle 12-bit",
    ),
    "png_with_a_large_profile": (
        encoded(GREY, icc_profile=bytes(2**21)),
        "this PNG is damaged or unusual: Decompressed data too large",
    ),
    "png_cut_in_its_pixels": (PNG[:-100], "the image is truncated, damaged"),
    "png_of_dark_16_bit_colours": (
        png(8, 8, 16, 2, DARK_ROW * 8),
        "16-bit colours, none above 4095: too dark to",
    ),
    "tiff_cut_in_its_pixels": (TIFF[:-1000], "the image is truncated, damaged"),
    "tiff_of_two_pages": (
        encoded(GREY, "TIFF", save_all=True, append_images=[GREY]),
        "this TIFF has several pages, and it is unclear which one to use",
    ),
    "tiff_of_floats": (
        tiff(RAMP.astype(np.float32), sample_format=3),
        "this file contains numbers from 0 to 240; integers",
    ),
    "tiff_below_zero": (
        tiff(RAMP.astype(np.int16) - 100, sample_format=2),
        "this file contains numbers from -100",
    ),
    "tiff_of_large_integers": (tiff(RAMP.astype(np.uint32) << 9), "numbers from 0 to 122880"),
    "tiff_of_signed_bytes": (tiff(RAMP, sample_format=2), "this TIFF contains signed bytes"),
    "tiff_with_a_colour_map_of_8_bits": (
        encoded(PALETTE, "TIFF").replace((COLOUR_MAP * 256).tobytes(), COLOUR_MAP.tobytes()),
        "transparency or the colour map makes all pixels black",
    ),
    "tiff_of_lab": (
        encoded(Image.new("LAB", (8, 8)), "TIFF"),
        "of an unsupported kind: conversion from LAB to RGB not supported",
    ),
    "png_wholly_transparent": (
        encoded(Image.merge("LA", [GREY, Image.new("L", GREY.size)])),
        "transparency or the colour map makes all pixels black",
    ),
    "jpeg_2000": (encoded(GREY, "JPEG2000"), "this is no JPEG, PNG,"),
    "png_bomb": (png(19_000, 19_000, 8, 0, b"\0"), "too many pixels for an X-ray"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_refused_for_a_clear_reason(name: str) -> None:
    content, reason = BROKEN[name]

    assert reason in reason_of(content)


def test_images_in_colour_are_noted(xrays: DataFolder, caplog: pytest.LogCaptureFixture) -> None:
    """The brightness of a colour map says little of the greys that it shows."""
    xrays.images("NORMAL/{grey,mapped}.png")
    reds = np.zeros((16, 16, 3), np.uint8)
    reds[..., 0] = gradient(16, 16)
    Image.fromarray(reds).save(xrays / "NORMAL/mapped.png")

    images = decode_files(xrays, ["NORMAL/grey.png", "NORMAL/mapped.png"], 16)
    kinds = [image.kind for image in images if isinstance(image, GreyImage)]

    assert kinds == ["PNG 8-bit", "PNG 8-bit in colour"]
    assert "1 image in colour" in caplog.text
