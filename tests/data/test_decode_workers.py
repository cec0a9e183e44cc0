"""Many files, several processes: the same pixels in the same order, whatever becomes of the processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraytune.data import decoding as decode_workers
from xraytune.data.decoding import Block, BrokenImage, SquareImage, decode_block, decode_blocks, decode_file
from xraytune.seeding import numpy_generator

pytestmark = pytest.mark.slow

FILES = 1200


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1200 files that take a second to decode: several sizes, greys and colours; the fifth of every hundred is broken."""
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
        else (image.kind, bytes(image.pixels))
        for block in blocks
        for image in block
    ]


def children() -> set[int]:
    """The processes that this one started and that have not been waited for."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended since
            continue
        number, parent = text.partition(" ")[0], text.rpartition(")")[2].split()[1]
        if parent == str(os.getpid()):
            found.add(int(number))
    return found


@pytest.fixture(scope="module")
def alone(images: Path) -> list[tuple[str, bytes]]:
    return flat(list(decode_blocks(images, names(), 96, "crop", workers=1)))


def test_several_processes_give_the_same_as_one(images: Path, alone: list[tuple[str, bytes]]) -> None:
    before = children()

    together = flat(list(decode_blocks(images, names(), 96, "crop", workers=4)))

    assert together == alone
    assert [number for number, (kind, _) in enumerate(together) if kind == "broken"] == list(range(5, FILES, 100))
    assert children() <= before


def test_images_that_are_resized_together_have_the_bits_of_one_that_is_alone(
    images: Path, alone: list[tuple[str, bytes]]
) -> None:
    single = [decode_file(str(images / f"{number}.jpeg"), 96, "crop") for number in range(5)]

    assert [(image.kind, image.pixels) for image in single] == alone[:5]


def test_what_a_killed_process_leaves_is_decoded_all_the_same(images: Path, alone: list[tuple[str, bytes]]) -> None:
    before = children()
    blocks = decode_blocks(images, names(), 96, "crop", workers=4)
    found = [next(blocks) for _ in range(20)]
    helpers = children() - before

    for process in helpers:
        os.kill(process, signal.SIGKILL)
    found += blocks

    assert helpers
    assert flat(found) == alone


def test_processes_that_do_not_start_are_no_loss(
    images: Path, alone: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("/bin/false", str(images / "no such program")):
        monkeypatch.setattr(sys, "executable", program)

        assert flat(list(decode_blocks(images, names(), 96, "crop", workers=3))) == alone


def test_no_process_is_left_when_the_caller_stops_early(images: Path) -> None:
    before = children()
    blocks = decode_blocks(images, names(), 96, "squash", workers=3)
    for _ in range(20):
        next(blocks)
    assert children() - before

    blocks.close()

    assert children() <= before


def test_a_process_answers_orders_and_puts_pixels_at_their_place(images: Path) -> None:
    """The contract between the two sides: lines of JSON, and the file of pixels."""
    files = ["0.jpeg", "5.jpeg", "3.jpeg"]
    order = {"number": 7, "offset": 2048, "root": str(images), "files": files, "image_size_px": 8, "resize": "squash"}
    with tempfile.TemporaryFile() as pixels:
        answer = subprocess.run(
            [sys.executable, "-m", decode_workers.__name__, str(pixels.fileno())],
            input=json.dumps(order).encode() + b"\n",
            stdout=subprocess.PIPE,
            pass_fds=[pixels.fileno()],
            check=True,
        ).stdout
        placed = os.pread(pixels.fileno(), 1 << 20, 2048)

    started, reply, end = answer.split(b"\n")
    reason = "this is neither a JPEG, PNG, TIFF nor DICOM image"
    assert (started, end) == (b"", b"")
    assert json.loads(reply) == {"number": 7, "images": [["JPEG 8-bit", False], [reason], ["JPEG 8-bit", False]]}
    here = decode_block(str(images), files, 8, "squash")
    assert placed == b"".join(bytes(image.pixels) for image in here if isinstance(image, SquareImage))
