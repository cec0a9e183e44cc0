"""Many files, several threads: the same pixels in the same order, and no thread left behind."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraytune.base.seeding import numpy_generator
from xraytune.data.decoding import BrokenImage, SquareImage, decode_file, decode_files

pytestmark = pytest.mark.slow

FILES = 600


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 files that take half a second to decode: several sizes, greys and colours; one in a hundred is broken."""
    root = tmp_path_factory.mktemp("images")
    for kind, size in enumerate(((300, 300), (300, 300), (300, 300), (260, 330), (700, 640))):
        noise = numpy_generator(kind, "noise").integers(0, 256, (size[1], size[0]), dtype=np.uint8)
        image = Image.fromarray(noise)
        (image.convert("RGB") if kind == 2 else image).save(root / f"kind{kind}.jpeg")
    (root / "broken.jpeg").write_bytes(b"text")
    for number in range(FILES):
        (root / f"{number}.jpeg").hardlink_to(root / ("broken.jpeg" if number % 100 == 5 else f"kind{number % 5}.jpeg"))
    return root


NAMES = [f"{number}.jpeg" for number in range(FILES)]


def test_several_threads_give_the_same_as_one_file_after_the_other(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xraytune.base.cores.cpu_count", lambda: 4)

    together = list(decode_files(images, NAMES, 96, "crop"))

    for name, image in zip(NAMES, together, strict=True):
        if isinstance(image, SquareImage):
            alone = decode_file(images / name, 96, "crop")
            np.testing.assert_array_equal(image.pixels, alone.pixels)
            assert image.kind == alone.kind
        else:
            assert image == BrokenImage(file=name, reason="this is neither a JPEG, PNG, TIFF nor DICOM image")
    broken = [number for number, image in enumerate(together) if isinstance(image, BrokenImage)]
    assert broken == list(range(5, FILES, 100))


def test_no_thread_is_left_when_the_caller_stops_early(images: Path) -> None:
    before = threading.active_count()
    decoded = decode_files(images, NAMES, 96)
    next(decoded)
    assert threading.active_count() > before

    del decoded

    assert threading.active_count() == before


def test_odd_metadata_do_not_warn(images: Path, tmp_path: Path) -> None:
    odd = b"\xff\xd8\xff\xe1\x00\x10Exif\0\0II*\0\x08\0\0\0" + (images / "0.jpeg").read_bytes()[2:]
    (tmp_path / "odd.jpeg").write_bytes(odd)

    (image,) = decode_files(tmp_path, ["odd.jpeg"], 96)

    assert isinstance(image, SquareImage)
