"""Many files, several threads: the same pixels in the same order, and no thread left behind."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraytune.data.decoding import Block, BrokenImage, SquareImage, decode_blocks, decode_file
from xraytune.seeding import numpy_generator

pytestmark = pytest.mark.slow

FILES = 1200


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1200 files that take a second to decode: several sizes, greys and colours; one in a hundred is broken."""
    root = tmp_path_factory.mktemp("images")
    for kind, size in enumerate(((300, 300), (300, 300), (300, 300), (260, 330), (700, 640))):
        noise = numpy_generator(kind, "noise").integers(0, 256, (size[1], size[0]), dtype=np.uint8)
        image = Image.fromarray(noise)
        (image.convert("RGB") if kind == 2 else image).save(root / f"kind{kind}.jpeg")
    (root / "broken.jpeg").write_bytes(b"text")
    for number in range(FILES):
        (root / f"{number}.jpeg").hardlink_to(root / ("broken.jpeg" if number % 100 == 5 else f"kind{number % 5}.jpeg"))
    return root


def names() -> list[str]:
    return [f"{number}.jpeg" for number in range(FILES)]


def flat(blocks: list[Block]) -> list[tuple[str, bytes]]:
    return [
        ("broken", f"{image.file} {image.reason}".encode())
        if isinstance(image, BrokenImage)
        else (image.kind, image.pixels)
        for block in blocks
        for image in block
    ]


@pytest.fixture(scope="module")
def alone(images: Path) -> list[tuple[str, bytes]]:
    return flat(list(decode_blocks(images, names(), 96, "crop", workers=1)))


def test_several_threads_give_identical_pixels(images: Path, alone: list[tuple[str, bytes]]) -> None:
    together = flat(list(decode_blocks(images, names(), 96, "crop", workers=4)))

    assert together == alone
    assert [number for number, (kind, _) in enumerate(together) if kind == "broken"] == list(range(5, FILES, 100))


def test_batch_resize_is_bit_identical_to_single(images: Path, alone: list[tuple[str, bytes]]) -> None:
    single = [decode_file(str(images / f"{number}.jpeg"), 96, "crop") for number in range(5)]

    assert [(image.kind, image.pixels) for image in single] == alone[:5]


def test_no_thread_is_left_when_the_caller_stops_early(images: Path) -> None:
    before = threading.active_count()
    blocks = decode_blocks(images, names(), 96, "squash", workers=3)
    next(blocks)
    assert threading.active_count() > before

    blocks.close()

    assert threading.active_count() == before


def test_odd_metadata_do_not_warn(images: Path, tmp_path: Path) -> None:
    odd = b"\xff\xd8\xff\xe1\x00\x10Exif\0\0II*\0\x08\0\0\0" + (images / "0.jpeg").read_bytes()[2:]
    (tmp_path / "odd.jpeg").write_bytes(odd)

    ((image,),) = decode_blocks(tmp_path, ["odd.jpeg"], 96, "squash", workers=2)

    assert isinstance(image, SquareImage)
