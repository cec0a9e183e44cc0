"""Images, their names and who is on them, whatever is there: told in our words, and nothing else happens."""

from __future__ import annotations

import json
import shutil
import struct
import warnings
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.test_formats import png
from tests.faults import fuzzing
from tests.faults.fuzzing import damaged_bytes, fuzz, little_memory, only_our_errors, read_damaged, with_good_crcs
from tests.faults.specimens import make_images
from xraytune.data.decoding import BrokenImage, decode_files
from xraytune.data.formats import read_header
from xraytune.data.index import read_index
from xraytune.data.patients import PATIENTS_CSV
from xraytune.space.settings import DataSettings

pytestmark = pytest.mark.slow

IMAGES = make_images()


@pytest.mark.parametrize("kind", IMAGES)
def test_damaged_image_is_reported(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "image.jpeg"
    file.touch()
    damaged = damaged_bytes(IMAGES[kind])

    def damage(draw: Random) -> bytes:
        return with_good_crcs(damaged(draw)) if kind.startswith("PNG") else damaged(draw)

    def decode() -> None:
        with warnings.catch_warnings():  # Pillow's remarks on odd metadata
            warnings.simplefilter("ignore")
            for resize in ("squash", "crop"):
                list(decode_files(tmp_path, [file.name], 32, resize))
            read_header(file.read_bytes(), file)

    read_damaged(file, damage, decode, tmp_path, kinds=len(IMAGES))


def with_size(kind: str, width_px: int, height_px: int) -> bytes:
    """A small file whose header says that it is large."""
    content = bytearray(IMAGES[kind])
    if kind == "JPEG":
        place = content.index(b"\xff\xc0")
        struct.pack_into(">HH", content, place + 5, height_px % 65536, width_px % 65536)
    elif kind == "PNG":
        return png(width_px, height_px, 8, 0, b"\0" * 100)
    elif kind == "TIFF":
        (directory,) = struct.unpack_from("<I", content, 4)
        for number, value in enumerate((width_px, height_px)):
            struct.pack_into("<HII", content, directory + 2 + 12 * number + 2, 4, 1, value)
    else:
        for tag, value in ((b"\x28\0\x10\0US\2\0", height_px), (b"\x28\0\x11\0US\2\0", width_px)):
            struct.pack_into("<H", content, content.index(tag) + 8, value % 65536)
    return bytes(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "DICOM"])
def test_image_bomb_is_refused_before_allocation(tmp_path: Path, kind: str) -> None:
    """A file of a kilobyte that would fill gigabytes."""

    def decode(draw: Random) -> None:
        width_px, height_px = (draw.randint(20_001, 65_535) for _ in range(2))
        (tmp_path / "bomb").write_bytes(with_size(kind, width_px, height_px))
        with only_our_errors(tmp_path), little_memory():
            (found,) = decode_files(tmp_path, ["bomb"], 32)
        assert isinstance(found, BrokenImage)
        assert "too many for an X-ray" in found.reason

    fuzz(decode, kinds=4)


def word(draw: Random) -> str:
    known = ("NORMAL", "PNEUMONIA", "a.png", "IM-0001-0001.jpeg", "p1", *fuzzing.NAMES)
    return draw.choice((*known, *[fuzzing.text(draw, 8)] * len(known)))


@pytest.mark.parametrize("classes", ["binary", "auto"])
def test_damaged_patient_table_is_reported(tmp_path: Path, classes: Any) -> None:
    root = tmp_path / "xrays"
    files = [f"{name}/{name[0]}{number}.png" for name in ("NORMAL", "PNEUMONIA") for number in range(4)]
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, dtype=np.uint8)).save(root / file)
    table = root / PATIENTS_CSV
    table.touch()
    head = "file,patient,class"
    whole = "\n".join([head, *(f"{file},{file[-6:-4]},{file.partition('/')[0]}" for file in files)])

    def words(draw: Random) -> bytes:
        rows = (",".join(word(draw) for _ in range(draw.randint(0, 4))) for _ in range(draw.randint(0, 4)))
        return "\n".join([head, *rows]).encode(errors="surrogatepass")

    lines = fuzzing.damaged_lines(whole, ["file", ",", '"', "file,file"])
    damage = fuzzing.any_of(lines, damaged_bytes(whole.encode()), words)

    read_damaged(table, damage, lambda: read_index(DataSettings(path=root, classes=classes)), tmp_path, kinds=2)


def test_odd_file_and_folder_names_are_reported(tmp_path: Path) -> None:
    root, outside = tmp_path / "xrays", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(IMAGES["PNG"])

    def write_entry(draw: Random, number: int) -> None:
        folder = word(draw).replace("/", "").strip(".") or "NORMAL"
        path = root / folder / f"{word(draw)}{draw.choice(('.png', '.jpeg', '.dcm', '', '.csv'))}".replace("/", "")
        path.parent.mkdir(exist_ok=True)
        kind = draw.choice(("file", "link", "folder"))
        if kind == "link":
            path.symlink_to(outside / "secret.png")
        elif kind == "folder":
            path.mkdir()
        else:
            path.write_bytes(IMAGES["PNG"] + bytes([number]))

    def read_it(draw: Random) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for number in range(draw.randint(0, 8)):
            with suppress(OSError, ValueError):  # not every name can be one
                write_entry(draw, number)
        classes: Any = draw.choice(("binary", "three", "auto"))
        with only_our_errors(tmp_path):
            index = read_index(DataSettings(path=root, classes=classes))
            assert not any((root / image.file).is_symlink() for image in index.images), "a link out of the folder"
            json.dumps([index.class_names, [image.file for image in index.images]], ensure_ascii=False).encode()

    fuzz(read_it)
