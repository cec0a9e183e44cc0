"""Lists of images that a generator has seen, as people and programs write them."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from xraytune.base.errors import DataError
from xraytune.base.sha256_lists import read_sha256_list

HASHES = [sha256(number.encode()).hexdigest() for number in "123"]
UPPER = [name.upper() for name in HASHES]


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(UPPER).encode(),
        ("Hash  Path\r\n---------  ----  ----\r\n" + "\r\n".join(UPPER)).encode("utf-16"),
        "\n".join(f"{name}  NORMAL/{name[:3]}.png" for name in HASHES).encode("utf-8-sig"),
        "\n".join(f"sha256:{name}" for name in HASHES).encode(),
        ("file,sha256\n" + "\n".join(f'"NORMAL/1.png","{name}"' for name in UPPER)).encode(),
        json.dumps(HASHES, indent=2).encode(),
        ", ".join(HASHES).encode(),
    ],
)
def test_a_list_of_seen_images_is_read_in_any_notation(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "seen.txt").write_bytes(content)

    assert read_sha256_list(tmp_path / "seen.txt") == {*HASHES}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", ""),
        ("\n\n", ""),
        ("The generator has seen no patient of this study.", ""),
        ("NORMAL/1.png\nNORMAL/2.png", ":1"),
        (HASHES[0][1:], ":1"),
        (f"{HASHES[0]}0", ":1"),
        (f"{HASHES[0]}\n{HASHES[1]}\nand others", ":3"),
        (f"sha256\n{HASHES[0]}\n{HASHES[1][:40]}", ":3"),
        ("{", ""),
    ],
)
def test_a_list_that_names_no_images_or_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, content: str, line: str
) -> None:
    (tmp_path / "seen.txt").write_text(content)

    with pytest.raises(DataError) as caught:
        read_sha256_list(tmp_path / "seen.txt")
    (problem,) = caught.value.problems
    assert str(problem.where) == f"{tmp_path}/seen.txt{line}"


def test_a_pipe_in_place_of_a_list_is_refused_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "seen.txt")

    with pytest.raises(DataError, match="not a file"):
        read_sha256_list(tmp_path / "seen.txt")
