"""Writes that survive `kill -9` and power loss at any instruction: the next reader finds them whole, or not there.

A file is written beside its final place, flushed to the disk and renamed. JSONL logs grow by one `write` a row; a last
line torn by a crash is skipped by readers and cut off before the next append.

Files may come from anyone. `require_file` refuses to read pipes, devices and files of absurd size; `require_own` refuses to
write through symbolic links.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Literal, TypeAlias

from xraytune.errors import ArtifactError, ConfigError, MachineError, Problem, SourceLine, XraytuneError
from xraytune.limits import FILE_SIZE, OPEN_FILES

Kind: TypeAlias = Literal["space file", "JSON file", "log", "table", "image", "file of tensors"]
_LARGEST_BYTES: dict[Kind, int] = {
    "space file": 2**18,
    "JSON file": 2**29,  # split.json: two million images
    "log": 2**31,  # optuna.journal: 400,000 trials of 30 epochs
    "table": 2**28,
    "image": 2**30,  # the largest image that is read has 100 million pixels, of at most 8 bytes
    "file of tensors": 2**34,
}
_NO_FILE = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_OTHER_FILE = "give the right file, or put it back from a copy"

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)
_AWAY = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN, errno.EHOSTDOWN)
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a cell begins that a spreadsheet runs. Source: OWASP, "CSV Injection"."""
_OTHER_PLACE = "give another path, or allow access to this one"
_RERUN = "then run the same command again: nothing that was written is lost"
_NO_INODES = ("the disk has room, but no inodes left for new files", f"remove files (`df -i` counts them), {_RERUN}")
_CAUSES = {
    errno.ENOSPC: ("the disk is full", f"free some space, {_RERUN}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some space, {_RERUN}"),
    errno.EFBIG: ("the file is too large: {file_size}", f"{FILE_SIZE.raised}; or use another disk; {_RERUN}"),
    errno.EMFILE: ("too many open files: {open_files}", f"{OPEN_FILES.raised}; {_RERUN}"),
    errno.ENFILE: ("too many files are open on this machine", f"end other programs, {_RERUN}"),
    **dict.fromkeys(_REFUSED, ("no access ({reason})", _OTHER_PLACE)),
}
"""What an error of the system means, and what to do."""
_fences: list[Callable[[], None]] = []


@contextmanager
def fenced(check: Callable[[], None]) -> Iterator[None]:
    """Ask `check` before each write of this process, while the block runs: it raises when somebody else took over."""
    _fences.append(check)
    try:
        yield
    finally:
        _fences.remove(check)


def check_fences() -> None:
    """Raise what a fence raises; for writes that other libraries make."""
    for check in _fences:
        check()


@contextmanager
def explained_disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left", "permission denied" and the like into messages that say where and what to do; other errors pass.

    Raises:
        MachineError: The disk or the quota of `path` is full, a limit of the system is reached, the system refuses
            access, or the storage does not answer.
    """
    try:
        yield
    except OSError as error:
        where = Path(error.filename) if isinstance(error.filename, str) else path
        if error.errno in _AWAY:
            raise storage_is_away(error, where) from error
        if error.errno not in _CAUSES:
            raise
        what, fix = _NO_INODES if error.errno == errno.ENOSPC and free_inodes(where) == 0 else _CAUSES[error.errno]
        what = what.format(reason=error.strerror, file_size=FILE_SIZE, open_files=OPEN_FILES)
        raise MachineError(Problem(what, where, fix)) from error


def nearest_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if os.access(place, os.F_OK))


def free_inodes(path: Path) -> int | None:
    """How many files can still be made on the disk of a path, which may not exist yet; None: no limit."""
    found = os.statvfs(nearest_folder(path))
    return found.f_favail if found.f_files else None


def storage_is_away(error: OSError, where: Path) -> MachineError:
    """The refusal where a disk or a server does not answer."""
    fix = "run the same command again when it does: nothing that was written is lost"
    return MachineError(Problem(f"the storage does not answer ({error.strerror})", where, fix))


def require_writable(folder: Path) -> None:
    """Refuse a folder, there already or not, in which nothing can be made: before work is spent on what would lie there.

    Raises:
        ConfigError: It, or what is above it, is a file.
        MachineError: It, or the nearest folder above it, may not be written to.
    """
    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            is_folder = stat.S_ISDIR(place.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise MachineError(Problem(f"no access ({error.strerror})", place, _OTHER_PLACE)) from error
        if not is_folder:
            raise ConfigError(Problem("this is a file, and a folder is needed here", place, "give another path"))
        if not os.access(place, os.W_OK | os.X_OK):
            raise MachineError(Problem("nothing can be written to this folder", place, _OTHER_PLACE))
        return


def require_new(out: Path) -> None:
    """Refuse to write where something is, or where nothing can be written.

    Raises:
        ConfigError: `out` exists, or a file is where its folder should be.
        MachineError: Its folder may not be written to.
    """
    require_writable(out.parent)
    if out.exists():
        raise ConfigError(Problem("there is something here already", out, "give a path that does not exist yet"))


def require_file(path: Path | str, kind: Kind, refusal: type[XraytuneError] = ArtifactError) -> None:
    """Refuse to read anything but a file of plausible size, before it is opened: opening a pipe blocks, a device may act.

    Raises:
        refusal: This is not a regular file, or it is too large for its kind.
        OSError: There is nothing here, or the system refuses access.
    """
    status = os.stat(path)  # noqa: PTH116  decoding reads many files, and a Path takes longer
    if entry := _NO_FILE.get(stat.S_IFMT(status.st_mode)):
        raise refusal(Problem(f"this is {entry}, not a file", Path(path), _OTHER_FILE))
    if status.st_size > (largest := _LARGEST_BYTES[kind]):
        size = f"{status.st_size / 2**20:,.2f} MiB; at most {largest / 2**20:,.2f} MiB are read"
        raise refusal(Problem(f"too large for a {kind}: {size}", Path(path), _OTHER_FILE))


def require_own(path: Path | str, refusal: type[XraytuneError] = ArtifactError) -> None:
    """Refuse to write where a symbolic link, a pipe, a socket or a device is; a missing file or a folder is fine.

    Raises:
        refusal: The next write would go elsewhere, or block.
    """
    try:
        kind = stat.S_IFMT(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if kind not in {stat.S_IFREG, stat.S_IFDIR}:
        fix = "replace it by the file or folder itself, or remove it"
        raise refusal(Problem(f"this is {_NO_FILE.get(kind, 'something else')}, not a file or folder", Path(path), fix))


def read_bytes(path: Path | str, kind: Kind, refusal: type[XraytuneError] = ArtifactError) -> bytes:
    """Read a whole file, if `require_file` lets it pass."""
    require_file(path, kind, refusal)
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123  as above
        return stream.read()


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that no other writer uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename inside it survives power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing; each survives power loss."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a whole file: it is at `path` completely, or what was there before still is.

    Without `durable` that holds for a killed process, not for power loss: for files that are only looked at.

    Raises:
        MachineError: The disk is full.
    """
    check_fences()
    temporary = temporary_name(path)
    with explained_disk_errors(path):
        try:
            make_folder(path.parent)
            with temporary.open("xb") as stream:
                stream.write(content)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            temporary.replace(path)
            if durable:
                sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, content: str, *, durable: bool = True) -> None:
    """`write_bytes` for text, in UTF-8."""
    write_bytes(path, content.encode(), durable=durable)


def write_json(path: Path, content: Any) -> None:
    """`write_text` of indented JSON. NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: It is no JSON in UTF-8.
        ArtifactError: It is no file, or too large.
    """
    return _parsed(read_bytes(path, "JSON file"))


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text.decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def csv_table(header: Sequence[str], rows: Iterable[Sequence[PurePath | str | float]]) -> str:
    """Return a table as CSV in which no cell is a formula for a spreadsheet.

    A relative path that would be one begins with `./`, so that it still leads to its file; other text begins with an
    apostrophe, as spreadsheets mark text. `cell_path` and `cell_text` give what was written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[_cell(cell) for cell in row] for row in (header, *rows)])
    return text.getvalue()


def _cell(value: PurePath | str | float) -> str | float:
    if isinstance(value, float) or not _FORMULA.match(str(value)):
        return value if isinstance(value, float) else str(value)
    return f"./{value}" if isinstance(value, PurePath) else f"'{value}"


def cell_path(cell: str) -> str:
    """Return the path in a cell of `csv_table`."""
    return cell.removeprefix("./")


def cell_text(cell: str) -> str:
    """Return the text in a cell of `csv_table`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row durably, after cutting off a torn last line.

    Raises:
        MachineError: The disk is full; the file then ends with its last whole row at the next append.
        ArtifactError: A symbolic link or a pipe is in its place.
    """
    check_fences()
    require_own(path)
    line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with explained_disk_errors(path):
        make_folder(path.parent)
        cut_torn_line(path)
        with path.open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        sync_folder(path.parent)  # each time: who made the file may have been killed before it did this


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole rows, in order; none when the file is missing. A torn last line is skipped.

    Raises:
        ArtifactError: A line before it is damaged, which no crash does, or is no row; or the file is too large.
    """
    if not path.exists():
        return []
    whole, _, _ = read_bytes(path, "log").rpartition(b"\n")
    rows = []
    for number, line in enumerate(whole.split(b"\n"), start=1):
        if not line:
            continue
        try:
            row = _parsed(line)
            if not isinstance(row, dict):
                raise ValueError("no row")
        except ValueError as error:
            fix = "put the file back as it was; trials.jsonl can be removed: the next search makes it again"
            raise ArtifactError(Problem("this line is damaged", SourceLine(path, number), fix)) from error
        rows.append(row)
    return rows


def cut_torn_line(path: Path) -> None:
    """Remove what follows the last newline of a log: half a row, left by a crash."""
    if not path.exists():
        return
    require_file(path, "log")
    with path.open("rb+") as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            return
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) == b"\n":
            return
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
        os.fsync(stream.fileno())


@contextmanager
def new_folder(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """Fill a folder under a temporary name; it appears at `path` whole when the block ends, or not at all.

    Args:
        path: Where it appears.
        is_shared: Whoever makes `path` makes the same: where somebody did meanwhile, theirs stays and ours is dropped.

    Raises:
        ConfigError: Something is at `path` now, and it is not shared: it stays as it is.
        MachineError: The disk is full.
    """
    check_fences()
    path = path.resolve()
    temporary = temporary_name(path)
    with explained_disk_errors(path):
        try:
            make_folder(path.parent)
            temporary.mkdir()
            yield temporary
            with ThreadPoolExecutor(8) as threads:  # a disk takes many flushes at once
                list(threads.map(_sync, temporary.rglob("*")))
            sync_folder(temporary)
            try:
                temporary.rename(path)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                    raise
                if not is_shared:
                    require_new(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sync(entry: Path) -> None:
    if entry.is_dir():
        sync_folder(entry)
    else:
        with entry.open("rb") as stream:
            os.fsync(stream.fileno())


def is_whole_zip(path: Path) -> bool:
    """Whether each member of a zip archive of torch's, which compresses nothing, has the bytes that its checksum tells."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                return False  # compressed: a small file could fill the memory
            return archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError):
        return False


def sha256_of(path: Path, kind: Kind | None = None) -> str:
    """Hex SHA-256 of a file's bytes; with `kind`, of a file that `require_file` lets pass."""
    if kind:
        require_file(path, kind)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
