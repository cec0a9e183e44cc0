"""Files are complete or absent: after a kill, on a full disk, after a torn line."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from xraytune.base.errors import ArtifactError
from xraytune.base.files import (
    append_jsonl,
    new_folder,
    read_json,
    read_jsonl,
    require_recorded,
    sha256_of,
    write_json,
    write_text,
)


def test_nan_is_not_written_and_no_temporary_file_stays(tmp_path: Path) -> None:
    for auroc in (0.5, 0.6):
        write_json(tmp_path / "result.json", {"auroc": auroc})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "result.json", {"auroc": float("nan")})

    assert os.listdir(tmp_path) == ["result.json"]  # noqa: PTH208
    assert read_json(tmp_path / "result.json") == {"auroc": 0.6}
    (tmp_path / "result.json").write_text('{"auroc": NaN}')
    with pytest.raises(ValueError, match="NaN is not JSON"):
        read_json(tmp_path / "result.json")


KILLED_WHILE_WRITING = """
import os, sys
from pathlib import Path
import xraytune.base.files as files
real = os.fsync
def killed(descriptor):
    os.kill(os.getpid(), 9)
os.fsync = killed
files.write_text(Path(sys.argv[1]), "new")
"""


@pytest.mark.slow
def test_killed_writer_preserves_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_text(path, "old")

    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(path)], check=False)

    assert done.returncode == -9
    assert path.read_text() == "old"


def make_folder(path: Path, _: object) -> None:
    with new_folder(path):
        pass


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """The files and folders that are flushed."""
    flushed: set[Path] = set()
    monkeypatch.setattr(
        "os.fsync", lambda number: flushed.add(Path(f"/proc/self/fd/{number}").readlink())
    )
    return flushed


@pytest.mark.parametrize("write", [write_json, append_jsonl, make_folder])
def test_new_file_and_parent_folders_are_flushed(
    write: Callable[..., object], tmp_path: Path, flushed: set[Path]
) -> None:
    """After a power loss a name is missing unless its folder was flushed."""
    write(tmp_path / "trials/0007/checkpoint/what", {})

    assert {
        tmp_path,
        *(tmp_path / name for name in ("trials", "trials/0007", "trials/0007/checkpoint")),
    } <= flushed


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_is_created_whole_or_not_at_all(tmp_path: Path, fails: bool) -> None:
    def create() -> None:
        with new_folder(tmp_path / "model") as folder:
            (folder / "a.txt").write_text("1")
            assert not (tmp_path / "model").exists()
            if fails:
                raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost") if fails else nullcontext():
        create()

    assert [file.name for file in tmp_path.rglob("*")] == ([] if fails else ["model", "a.txt"])


@pytest.mark.parametrize("is_chained", [True, False])
@pytest.mark.parametrize("row_bytes", [1, 4095, 4096, 5000, 20000])
def test_a_torn_line_of_any_length_is_skipped_and_cut_off_before_the_next_row(
    tmp_path: Path, row_bytes: int, is_chained: bool
) -> None:
    log = tmp_path / "log.jsonl"
    assert read_jsonl(log, is_chained=is_chained) == []
    rows = [{"text": letter * row_bytes} for letter in "abc"]
    for number, row in enumerate(rows):
        append_jsonl(log, row, is_chained=is_chained)
        with log.open("ab") as stream:
            stream.write(b'{"text": "' + b"d" * row_bytes * (number % 2))
        assert read_jsonl(log, is_chained=is_chained) == rows[: number + 1]

    append_jsonl(log, *rows, is_chained=is_chained)

    assert read_jsonl(log, is_chained=is_chained) == rows * 2
    log.write_bytes(b"torn")
    append_jsonl(log, {}, is_chained=is_chained)
    assert read_jsonl(log, is_chained=is_chained) == [{}]


def bytes_read() -> int:
    """How much this process has read from files."""
    counts = Path("/proc/self/io").read_text().split()
    return int(counts[counts.index("rchar:") + 1])


def test_an_append_reads_the_end_of_a_log_alone(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    append_jsonl(log, *({"text": "a" * 1000} for _ in range(1000)), is_chained=True)
    before = bytes_read()

    append_jsonl(log, {"text": "b"}, is_chained=True)

    assert bytes_read() - before < 10_000


@pytest.mark.slow
def test_unchanged_files_are_hashed_once_however_many_they_are(tmp_path: Path) -> None:
    """As the images of a folder, which each trial reads in the same order."""
    files = [tmp_path / f"{number}.png" for number in range(5000)]
    for file in files:
        file.write_bytes(b"0" * 100)
    hashes = [sha256_of(file) for file in files]
    before = bytes_read()

    assert [sha256_of(file) for file in files] == hashes
    assert bytes_read() - before < 10_000


def test_a_missing_row_of_a_chained_log_is_an_error_that_names_the_next_one(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    append_jsonl(log, *({"number": number} for number in range(4)), is_chained=True)
    lines = log.read_bytes().splitlines(keepends=True)

    for place in range(3):
        log.write_bytes(b"".join(lines[:place] + lines[place + 1 :]))
        with pytest.raises(ArtifactError, match=rf"log\.jsonl:{place + 1}: .* are missing"):
            read_jsonl(log, is_chained=True)
    log.write_bytes(lines[0] + b"{]\n")
    with pytest.raises(ArtifactError, match=r"log\.jsonl: the last line is damaged"):
        append_jsonl(log, {}, is_chained=True)


@pytest.mark.parametrize("line", [b"{]", b"1", b"\xff", b'{"auroc": NaN}'])
def test_a_damaged_line_is_reported_with_its_number(tmp_path: Path, line: bytes) -> None:
    log = tmp_path / "epochs.jsonl"
    log.write_bytes(b'{"epoch": 1}\n' + line + b"\n")

    with pytest.raises(ArtifactError, match=r"epochs\.jsonl:2: this line is damaged"):
        read_jsonl(log)


def test_content_that_a_kill_kept_from_replacing_the_recorded_one_is_still_read(
    tmp_path: Path,
) -> None:
    """The checksum is recorded first, so a kill may leave the old content."""
    file = tmp_path / "file.json"
    write_json(file, {"score": 0.5}, is_recorded=True)
    killed = file.read_bytes()
    write_json(file, {"score": 0.6}, is_recorded=True)
    require_recorded(file)
    file.write_bytes(killed)

    require_recorded(file)
    file.write_bytes(b'{"score": 0.7}')
    with pytest.raises(ValueError, match="not what was written"):
        require_recorded(file)
