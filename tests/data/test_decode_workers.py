"""Many files, several processes: the same pixels in the same order, even if processes are killed or do not start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
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


def children() -> set[int]:
    """Process ids of our children that have not been waited for."""
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


def test_multiple_processes_give_identical_pixels(images: Path, alone: list[tuple[str, bytes]]) -> None:
    before = children()

    together = flat(list(decode_blocks(images, names(), 96, "crop", workers=4)))

    assert together == alone
    assert [number for number, (kind, _) in enumerate(together) if kind == "broken"] == list(range(5, FILES, 100))
    assert children() <= before


def test_batch_resize_is_bit_identical_to_single(images: Path, alone: list[tuple[str, bytes]]) -> None:
    single = [decode_file(str(images / f"{number}.jpeg"), 96, "crop") for number in range(5)]

    assert [(image.kind, image.pixels) for image in single] == alone[:5]


def test_images_of_killed_worker_are_decoded_by_others(images: Path, alone: list[tuple[str, bytes]]) -> None:
    before = children()
    blocks = decode_blocks(images, names(), 96, "crop", workers=4)
    found = [next(blocks) for _ in range(20)]
    workers = children() - before

    for process in workers:
        os.kill(process, signal.SIGKILL)
    found += blocks

    assert workers
    assert flat(found) == alone


def test_failed_worker_start_does_not_affect_results(
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


def test_worker_returns_pixels_of_files(images: Path) -> None:
    """So that the tests above do not pass because the caller decodes everything itself."""
    files = ["0.jpeg", "5.jpeg", "3.jpeg"]

    answer = subprocess.run(
        [sys.executable, "-m", decode_workers.__name__, str(images), "8", "squash"],
        input=json.dumps(files).encode() + b"\n",
        stdout=subprocess.PIPE,
        check=True,
    ).stdout

    about, _, rest = answer.partition(b"\n")
    decoded = {"kind": "JPEG 8-bit", "has_unused_bits": False, "size": 64}
    reason = "this is neither a JPEG, PNG, TIFF nor DICOM image"
    assert json.loads(about) == [decoded, {"file": "5.jpeg", "reason": reason}, decoded]
    here = decode_block(str(images), files, 8, "squash")
    assert rest == b"".join(image.pixels for image in here if isinstance(image, SquareImage)) + b"0\n"
