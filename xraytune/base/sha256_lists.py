"""Lists of the SHA-256 of images, such as those that a generator has seen, in any notation."""

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints, TypeAdapter

from xraytune.base.errors import DataError, FileLine
from xraytune.base.files import read_bytes

_Sha256 = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[0-9A-Fa-f]{64}$")]
DECLARED_IMAGES: TypeAdapter[frozenset[str] | None] = TypeAdapter(frozenset[_Sha256] | None)
"""Reads a declared list, in lower case, or None if the images are unknown."""


def read_sha256_list(file: Path) -> frozenset[str]:
    """Return the SHA-256, in lower case, that a text file lists.

    Each line has one: alone, or as `sha256sum`, PowerShell's `Get-FileHash` or a table writes it. A
    line without words may have none, and neither may titles above the list.

    Raises DataError for another line, or if there is no SHA-256 or no file.
    """
    if not file.exists():
        raise DataError("there is no such list", file, "restore it")
    content = read_bytes(file, DataError)
    is_utf16 = content.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    text = content.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace")
    fix = "write a line for each image that the generator has seen: sha256sum IMAGES > LIST"
    seen_sha256: set[str] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        hashes = re.findall(r"\b[0-9a-f]{64}\b", line.lower())
        is_title = not seen_sha256 and not re.search(r"\d", line.replace("256", ""))
        if re.search(r"\w", line) and not (hashes or is_title):
            raise DataError("there is no SHA-256 in this line", FileLine(file, number, line), fix)
        seen_sha256.update(hashes)
    if not seen_sha256:
        raise DataError("this list names no image", file, fix)
    return frozenset(seen_sha256)
