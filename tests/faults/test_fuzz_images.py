"""Images, their names and who is on them, whatever is there: told in our words, and nothing else happens."""

from __future__ import annotations

import warnings
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.faults import fuzzing
from tests.faults.fuzzing import damaged_bytes, read_damaged, with_good_crcs
from tests.faults.specimens import make_images
from xraytune.data.decoding import decode_files
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
