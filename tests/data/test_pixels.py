"""Every image becomes grey, upright and square, or is broken for a reason in plain words."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from xraytune.data.pixels import (
    BrokenImage,
    broken_images_error,
    decode_image,
    image_size,
    open_pixels,
    store_pixels,
    stored_files,
)
from xraytune.errors import DataError


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    """Dark at the top left, bright at the bottom right; smooth, so that JPEG and resizing change it little."""
    ramp = np.linspace(0, 120, height)[:, None] + np.linspace(0, 120, width)[None, :]
    return ramp.astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_an_image_of_the_right_size_keeps_its_grey_levels(tmp_path: Path) -> None:
    pixels = gradient(32, 32)
    Image.fromarray(pixels).save(tmp_path / "a.png")

    decoded = decode_image(tmp_path / "a.png", 32)

    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_a_png_of_any_mode_gives_the_same_grey(tmp_path: Path, mode: str) -> None:
    Image.fromarray(gradient(32, 32)).convert(mode).save(tmp_path / "a.png")

    np.testing.assert_array_equal(decode_image(tmp_path / "a.png", 32), gradient(32, 32))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(256))])
def test_a_palette_is_resolved_and_its_transparency_ignored(tmp_path: Path, transparency: int | bytes | None) -> None:
    image = Image.fromarray(gradient(32, 32)).convert("P")
    if transparency is not None:
        image.info["transparency"] = transparency
    image.save(tmp_path / "a.png")

    np.testing.assert_allclose(decode_image(tmp_path / "a.png", 32).astype(int), gradient(32, 32), atol=1)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(gradient(32, 32) > 100).save(tmp_path / "a.png")

    np.testing.assert_array_equal(decode_image(tmp_path / "a.png", 32), np.where(gradient(32, 32) > 100, 255, 0))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_of_any_mode_gives_the_same_grey(tmp_path: Path, mode: str) -> None:
    Image.fromarray(gradient(32, 32)).convert(mode).save(tmp_path / "a.jpeg", quality=100)

    np.testing.assert_allclose(decode_image(tmp_path / "a.jpeg", 32).astype(int), gradient(32, 32), atol=3)


@given(level=st.integers(0, 65535))
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path_factory: pytest.TempPathFactory, level: int) -> None:
    file = tmp_path_factory.mktemp("deep") / "a.png"
    Image.fromarray(np.full((8, 8), level, dtype=np.uint16)).save(file)

    assert abs(decode_image(file, 8).astype(float) - level / 257).max() <= 0.5


def test_a_large_jpeg_decoded_small_shows_the_same_as_one_that_is_fully_decoded(tmp_path: Path) -> None:
    large = Image.fromarray(gradient(900, 1200))
    large.save(tmp_path / "a.jpeg", quality=95)

    whole = np.asarray(large.resize((64, 64), Image.Resampling.BOX))

    np.testing.assert_allclose(decode_image(tmp_path / "a.jpeg", 64).astype(int), whole, atol=3)


def test_a_fine_pattern_becomes_its_mean_and_not_stripes(tmp_path: Path) -> None:
    """Antialiasing: every second column is bright; without it, a resized image would be black or striped."""
    stripes = np.zeros((256, 256), dtype=np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(tmp_path / "a.png")

    decoded = decode_image(tmp_path / "a.png", 32)[:, 1:-1]

    assert abs(decoded.astype(int) - 100).max() <= 2


def test_an_image_is_turned_upright_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(gradient(32, 48)).save(tmp_path / "a.jpeg", quality=100, exif=exif)

    upright = np.asarray(Image.fromarray(np.rot90(gradient(32, 48), -1).copy()).resize((32, 32)))

    np.testing.assert_allclose(decode_image(tmp_path / "a.jpeg", 32).astype(int), upright, atol=4)


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpeg").write_bytes(encoded(Image.fromarray(gradient(32, 32))))

    np.testing.assert_array_equal(decode_image(tmp_path / "a.jpeg", 32), gradient(32, 32))


BROKEN = {
    "empty": (b"", "the file is empty"),
    "text": (b"dear reader", "neither a JPEG nor a PNG"),
    "gif": (encoded(Image.new("L", (9, 9)), "GIF"), "neither a JPEG nor a PNG"),
    "jpeg_cut_in_its_header": (encoded(Image.new("L", (64, 64)), "JPEG")[:30], "header is cut off or damaged"),
    "jpeg_cut_in_its_pixels": (encoded(Image.fromarray(gradient(64, 64)), "JPEG")[:-100], "cut off or damaged"),
    "png_cut_in_its_header": (encoded(Image.fromarray(gradient(64, 64)))[:20], "header is cut off or damaged"),
    "png_cut_in_its_pixels": (encoded(Image.fromarray(gradient(64, 64)))[:-100], "cut off or damaged"),
    "wide": (png_header(30_000, 100), "30000 x 100 pixels are too many for an X-ray"),
    "bomb": (png_header(19_000, 19_000), "19000 x 19000 pixels are too many for an X-ray"),
    "hollow": (png_header(100, 100), "cut off or damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_refused_for_a_plain_reason(tmp_path: Path, name: str) -> None:
    content, reason = BROKEN[name]
    (tmp_path / "a.jpeg").write_bytes(content)

    with pytest.raises(DataError, match=reason) as refusal:
        decode_image(tmp_path / "a.jpeg", 32)

    assert str(tmp_path / "a.jpeg") in str(refusal.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        decode_image(tmp_path / "a.jpeg", 32)


@given(position=st.integers(0, 10_000), value=st.integers(0, 255), kind=st.sampled_from(["JPEG", "PNG"]))
def test_an_overwritten_byte_gives_an_image_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, kind: str
) -> None:
    """Never another exception, never a warning."""
    content = bytearray(encoded(Image.fromarray(gradient(24, 24)), kind))
    content[position % len(content)] = value
    file = tmp_path_factory.mktemp("overwritten") / "a.jpeg"
    file.write_bytes(content)

    image_size(bytes(content))
    with contextlib.suppress(DataError):
        assert decode_image(file, 16).shape == (16, 16)


def test_a_store_has_a_row_for_each_file_that_decodes_in_order(tmp_path: Path) -> None:
    files = [f"{number}.png" for number in range(150)]
    for number, file in enumerate(files):
        Image.new("L", (40, 40), number).save(tmp_path / file)
    (tmp_path / "7.png").write_bytes(b"")
    (tmp_path / "99.png").write_bytes(b"text")
    out = tmp_path / "store"
    out.mkdir()

    broken = store_pixels(tmp_path, files, 8, out, workers=2)

    pixels = open_pixels(out)
    stored = stored_files(out)
    assert pixels.shape == (148, 8, 8)
    assert [f"{level}.png" for level in pixels[:, 0, 0]] == list(stored.files)
    assert broken == stored.broken
    assert [image.file for image in broken] == ["7.png", "99.png"]
    assert not pixels.flags.writeable


def test_a_store_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    files = [f"{number}.png" for number in range(20)]
    for number, file in enumerate(files):
        Image.new("L", (40, 40), number).save(tmp_path / file)
    stores = []
    for workers in (1, 3):
        out = tmp_path / f"store{workers}"
        out.mkdir()
        store_pixels(tmp_path, files, 8, out, workers=workers)
        stores.append((out / "pixels.npy").read_bytes())

    assert stores[0] == stores[1]


def test_progress_counts_broken_images_too(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    store_pixels(tmp_path, ["a.png"], 8, tmp_path, workers=1, on_progress=lambda *progress: told.append(progress))

    assert told == [("decode images", 1, 1)]


def test_the_refusal_lists_ten_broken_images_and_counts_all(tmp_path: Path) -> None:
    broken = [BrokenImage(file=f"{number}.png", reason="the file is empty") for number in range(12)]

    message = str(broken_images_error(broken, tmp_path))

    assert "0.png: the file is empty" in message
    assert "10.png" not in message
    assert "12 images are broken\n  fix: repair or remove them, or leave them out with --skip-broken" in message
