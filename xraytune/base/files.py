"""Atomic, durable writes, and reads of regular files.

A file is written under a temporary name, flushed to the disk and renamed, so `kill -9` or power
loss leaves either the old or the new content. JSONL logs grow by one `write` per append. If a crash
tears the last line, readers skip it, and the next append removes it. In a chained log, each line
has a checksum of itself and of all lines before it. Only regular files are read (`_require_file`).

Every write raises MachineError if the disk is full, the system refuses access or the storage does
not answer.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import html
import io
import json
import os
import re
import shutil
import stat
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from itertools import count
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from xraytune.base.errors import (
    ArtifactError,
    ConfigError,
    FileLine,
    MachineError,
    XraytuneError,
    printable,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

StrPath: TypeAlias = Path | str
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)
_AWAY = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN)
_OTHER_PLACE = "give another path, or check the permissions of this one"
_RESTORE = "restore the file from a backup"
BROKEN_CHAIN = "this line was changed or moved, or lines before it are missing"
_RERUN = "then run the same command again: nothing that was written is lost"
_CAUSES = {
    errno.ENOSPC: ("the disk is full", f"free some space or inodes, {_RERUN}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some space, {_RERUN}"),
    errno.EFBIG: ("too large a file", f"raise the limit (ulimit -f unlimited), {_RERUN}"),
    errno.EMFILE: ("too many open files", f"raise their limit (ulimit -n 65536), {_RERUN}"),
    **dict.fromkeys(_REFUSED, ("no access ({reason})", _OTHER_PLACE)),
    **dict.fromkeys(
        _AWAY, ("the storage does not answer ({reason})", f"wait until it does, {_RERUN}")
    ),
}
_CHECKSUMS_FILE = "sha256.jsonl"
_LAST_BYTES = 2**12
"""The number of bytes at a log's end that are read first, in search of its last line."""
_fences: list[Callable[[], None]] = []


@contextmanager
def fence_writes(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before each write in the block; it raises if another process has taken over."""
    _fences.append(check)
    try:
        yield
    finally:
        _fences.remove(check)


def _check_fences() -> None:
    for check in _fences:
        check()


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left", "permission denied" and the like into a MachineError."""
    try:
        yield
    except OSError as error:
        where = Path(error.filename) if isinstance(error.filename, str) else path
        if error.errno not in _CAUSES:
            raise
        what, fix = _CAUSES[error.errno]
        raise MachineError(what.format(reason=error.strerror), where, fix) from error


def optional_path(path: StrPath | None) -> Path | None:
    """Return a path that may have been given as text; None stands for one that was not given."""
    return None if path is None else Path(path)


def nearest_folder(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    return next(
        place for place in (path.absolute(), *path.absolute().parents) if os.access(place, os.F_OK)
    )


def require_writable(folder: Path) -> None:
    """Check, before any work, that files can be created in a folder, which need not exist.

    Raises:
        ConfigError: The folder is a file.
        MachineError: The system refuses to write there.
    """
    place = nearest_folder(folder)
    if not place.is_dir():
        raise ConfigError("this is a file, but a folder is needed here", place, "give another path")
    if not os.access(place, os.W_OK | os.X_OK):
        raise MachineError("cannot write to this folder", place, _OTHER_PLACE)


def unused_path(path: Path) -> Path:
    """Return the path or, if it exists, the first unused one of `best-2.yaml`, `best-3.yaml` ..."""
    unused = path
    numbers = count(2)
    while os.path.lexists(unused):
        unused = path.with_stem(f"{path.stem}-{next(numbers)}")
    return unused


def require_new(out: Path, *, outside: Path | None = None) -> None:
    """Check, before any work, that `out` does not exist and can be created.

    Raises ConfigError if `out` exists, or is inside of a folder of images.
    """
    require_writable(out.parent)
    if os.path.lexists(out):
        raise ConfigError("this path already exists", out, "give a path that does not exist yet")
    if outside and out.resolve().is_relative_to(outside.resolve()):
        raise ConfigError(
            "a figure in the image folder would be mistaken for an X-ray",
            out,
            "give a folder outside of it",
        )


def _require_file(path: Path | str, refusal: type[XraytuneError] = ArtifactError) -> None:
    """Check that a file is regular before it is opened: a pipe would block, and a device may act.

    Raises:
        refusal: The file is not a regular one.
        OSError: The file does not exist, or the system refuses access.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116  faster than a Path, as decoding reads many files
    if not stat.S_ISREG(mode):
        raise refusal(
            "this is not a file, but a folder, a pipe or a device",
            Path(path),
            "give the right file",
        )


def read_bytes(path: Path | str, refusal: type[XraytuneError] = ArtifactError) -> bytes:
    """Read a whole file after `_require_file`."""
    _require_file(path, refusal)
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123  as above
        return stream.read()


TEMPORARY_NAME = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")
"""Matches what `temporary_name` returns; a file of this name was left by a killed process."""


def temporary_name(path: Path) -> Path:
    """Return a unique hidden name in the folder of `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, so that a rename in it survives power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, durably."""
    for folder in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def write_bytes(
    path: Path,
    content: bytes,
    *,
    is_durable: bool = True,
    mode: int = 0o666,
    is_recorded: bool = False,
) -> None:
    """Write a whole file; after a crash, it has either the new or the old content.

    Without `is_durable`, this holds for a killed process, but not for power loss. The umask applies
    to `mode`. With `is_recorded`, the content's SHA-256 is first appended to `sha256.jsonl` next to
    the file, for `require_recorded`.
    """
    _check_fences()
    if is_recorded:
        row = {"version": 1, "file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
        append_jsonl(path.with_name(_CHECKSUMS_FILE), row)
    temporary = temporary_name(path)
    with explain_disk_errors(path):
        try:
            make_folder(path.parent)
            with open(temporary, "xb", opener=partial(os.open, mode=mode)) as stream:
                stream.write(content)
                stream.flush()
                if is_durable:
                    os.fsync(stream.fileno())
            temporary.replace(path)
            if is_durable:
                sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def require_recorded(path: Path) -> None:
    """Raise ValueError if the content of a file differs from what was written and recorded."""
    rows = read_jsonl(path.with_name(_CHECKSUMS_FILE))
    recorded = {row["sha256"] for row in rows if row["file"] == path.name}
    if sha256_of(path) not in recorded:
        raise ValueError("its content is not what was written to it")


def write_array(path: Path, array: NDArray[Any], *, is_recorded: bool = False) -> None:
    """Write an array in NumPy's format; see `write_bytes`.

    If NumPy wrote the file itself, its error would not name a full disk.
    """
    import numpy as np

    content = io.BytesIO()
    np.save(content, array)
    write_bytes(path, content.getvalue(), is_recorded=is_recorded)


def write_text(path: Path, content: str, *, is_durable: bool = True, mode: int = 0o666) -> None:
    """Write a whole text file in UTF-8; see `write_bytes`."""
    write_bytes(path, content.encode(), is_durable=is_durable, mode=mode)


def write_json(path: Path, content: Any, *, is_recorded: bool = False) -> None:
    """Write indented JSON. NaN and infinity raise ValueError."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), is_recorded=is_recorded)


def copy_file(file: Path, to: Path) -> None:
    """Copy a file. Errors of `shutil` neither name a full disk nor always say that it is full."""
    write_bytes(to, read_bytes(file))


def read_json(path: Path) -> Any:
    """Read a JSON file after `_require_file`; the errors are those of `parse_json`."""
    return parse_json(read_bytes(path))


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text; raise ValueError for NaN, or if it is no JSON in UTF-8."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    return json.loads(content, parse_constant=refuse)


def with_checksum(content: Mapping[str, Any], previous: int = 0) -> dict[str, Any]:
    """Return a JSON object with a checksum, for `without_checksum`.

    The checksum covers the content and, in a chained log, all lines before it; `previous` is the
    checksum of the line before.
    """
    return {**content, "crc": zlib.crc32(json.dumps(content).encode(), previous)}


def without_checksum(content: Mapping[str, Any], previous: int = 0) -> dict[str, Any]:
    """Return a JSON object without its checksum; raise ValueError if that is missing or wrong."""
    plain = {name: value for name, value in content.items() if name != "crc"}
    if content.get("crc") != with_checksum(plain, previous)["crc"]:
        raise ValueError("its content was changed")
    return plain


def read_chained(line: bytes, previous: int) -> tuple[dict[str, Any], int]:
    """Return the row and the checksum of a line of a chained log.

    Raises ValueError or TypeError unless the line is whole and follows the line whose checksum is
    `previous`, which is 0 for the first line.
    """
    content = {**parse_json(line)}
    return without_checksum(content, previous), content["crc"]


def csv_table(
    header: Sequence[str], rows: Iterable[Sequence[PurePath | str | float | None]]
) -> str:
    """Return a table as CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def markdown(text: str) -> str:
    r"""Return a line of Markdown that shows a text as it is; a line feed is shown as `\n`."""
    return re.sub(
        r"([\\`\[\]|])", r"\\\1", html.escape(printable(text).replace("\n", r"\n"), quote=False)
    )


def append_jsonl(
    path: Path, *rows: Mapping[str, Any], is_durable: bool = True, is_chained: bool = False
) -> None:
    """Append rows, after removing a torn last line.

    Without `is_durable`, a power loss may remove the rows. Only one process at a time may append to
    a chained log.

    Raises:
        ArtifactError: The last line of a chained log is damaged.
        MachineError: The disk is full, or the system refuses access.
    """
    _check_fences()
    with explain_disk_errors(path):
        make_folder(path.parent)
        last = cut_torn_line(path)
        if is_chained:
            try:
                rows = (*chain_rows(rows, json.loads(last)["crc"] if last else 0),)
            except (ValueError, TypeError, LookupError) as error:
                raise ArtifactError("the last line is damaged", path, _RESTORE) from error
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        try:
            with path.open("ab") as stream:
                stream.write("".join(lines).encode())
                stream.flush()
                if is_durable:
                    os.fsync(stream.fileno())
        except OSError:  # such as a full disk, which may leave half a line
            cut_torn_line(path)
            raise
        if is_durable:
            sync(path.parent)  # the process that created the file may have died before doing so


def chain_rows(rows: Iterable[Mapping[str, Any]], previous: int) -> list[dict[str, Any]]:
    """Return rows with the checksums of a chained log, after a line of checksum `previous`."""
    chained: list[dict[str, Any]] = []
    for row in rows:
        chained.append(with_checksum(row, previous))
        previous = chained[-1]["crc"]
    return chained


def read_jsonl(path: Path, *, is_chained: bool = False) -> list[dict[str, Any]]:
    """Read all complete rows; a missing file has none, and a torn last line is skipped.

    Raises:
        ArtifactError: An earlier line is damaged or, in a chained log, does not follow the line
            before it, which no crash can cause.
    """
    if not path.exists():
        return []
    complete, _, _ = read_bytes(path).rpartition(b"\n")
    rows = []
    previous = 0
    for number, line in enumerate(complete.splitlines(), start=1):
        try:
            if is_chained:
                row, previous = read_chained(line, previous)
            else:
                row = {**parse_json(line)}
        except (ValueError, TypeError) as error:
            what = BROKEN_CHAIN if is_chained else "this line is damaged"
            raise ArtifactError(what, FileLine(path, number), _RESTORE) from error
        rows.append(row)
    return rows


def cut_torn_line(path: Path) -> bytes:
    """Remove the incomplete row after a log's last newline, left by a crash.

    Returns the last complete line, or b"" if there is none. Only the end of the log is read.
    """
    if not path.exists():
        return b""
    _require_file(path)
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        tail = b""
        tail_bytes = _LAST_BYTES
        while tail.count(b"\n") < 2 and len(tail) < size:
            stream.seek(max(0, size - tail_bytes))
            tail = stream.read()
            tail_bytes *= 2
    complete, newline, torn = tail.rpartition(b"\n")
    if torn:
        os.truncate(path, size - len(torn))
    return complete.rpartition(b"\n")[2] if newline else b""


@contextmanager
def new_folder(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """Fill a folder under a temporary name, and move it to `path` if the block raises no error.

    If another process was first, raises ConfigError; but if every process creates the same content
    (`is_shared`), the folder of the other process is kept.
    """
    _check_fences()
    path = path.resolve()
    temporary = temporary_name(path)
    with explain_disk_errors(path):
        try:
            make_folder(path.parent)
            temporary.mkdir()
            yield temporary
            with ThreadPoolExecutor(8) as threads:  # a disk handles many flushes at once
                list(threads.map(sync, temporary.rglob("*")))
            sync(temporary)
            try:
                temporary.rename(path)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                    raise
                if not is_shared:
                    require_new(path)
            sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a regular file, which is read again only if it has changed."""
    _require_file(path)
    status = path.stat()
    return _sha256(path, status.st_ino, status.st_size, status.st_mtime_ns)


@cache  # with a limit, a folder of more images, which are read in turn, would fill it in vain
def _sha256(path: Path, *_: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
