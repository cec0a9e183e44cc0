"""Features of images, computed once for all trials, commands and studies that need them.

A store has the features of one frozen network, under keys that name an image's pixels and its view,
so that sets with an image in common share its features. The folder of a store is an artifact that
grows, with one file of rows. A row has the number of features, a CRC-32, a key of the network and
the image, and the features.
If a writer was killed in the middle of a row, the next writer removes this row. A damaged row is
computed again and written in its place.

Processes share the work. Each key belongs to one of 32 buckets, and a process computes keys in
buckets that it has locked, a block at a time. It waits only if other processes compute everything
that is missing. The system releases the locks of a process that dies.
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from xraytune.base.arrays import Float32Array, Int64Array
from xraytune.base.artifacts import artifact_path, discard, record_use, start_folder
from xraytune.base.files import explain_disk_errors
from xraytune.base.locks import POLL_SECONDS, build_lock, lock_if_free
from xraytune.base.records import Progress, ignore_progress

FEATURES_STAGE = "features-1"
FEATURES_FILE = "features.bin"
KEY_BYTES = 16
_BUCKETS = 32
_BLOCK = 256
"""A process computes at most this many rows before others can read them."""
_logger = logging.getLogger(__name__)


_stores: dict[Path, FeatureStore] = {}


def open_store(cache: Path, inputs: Mapping[str, Any]) -> FeatureStore:
    """Return the store with these `inputs`, which keeps what this process has already read."""
    path = artifact_path(cache, FEATURES_STAGE, inputs)
    return _stores.setdefault(path, FeatureStore(cache, inputs))


class FeatureStore:
    """The features of images in one network.

    `inputs` has everything that the features depend on besides the images and their views.
    """

    def __init__(self, cache: Path, inputs: Mapping[str, Any]) -> None:
        self._artifact = (cache, FEATURES_STAGE, inputs)
        self._file = artifact_path(*self._artifact) / FEATURES_FILE
        self._network = self._file.parent.name.encode()
        self._forget()

    def find(
        self,
        keys: Sequence[bytes],
        compute: Callable[[Int64Array], Iterator[Float32Array]],
        *,
        what: str = "features",
        on_progress: Progress = ignore_progress,
    ) -> tuple[Float32Array, Int64Array]:
        """Return all rows, [N, D], memory-mapped, and the position of each key's row, [n].

        The positions are valid only for the returned rows, since the next call may return others.

        Args:
            keys: Keys of 16 bytes; some may be equal.
            compute: Takes the indices of some keys, [m], and yields features in parts, [k, D].
            what: The name of the features, for `on_progress`.
            on_progress: Called with the number of keys whose row is there, and of all keys.
        """
        # Each key names its network, so that the file of another one has none of its rows.
        keys = [sha256(self._network + key).digest()[:KEY_BYTES] for key in keys]
        index_of = {key: index for index, key in enumerate(keys)}
        missing = list(index_of)
        self._refresh()
        record_use(self._file.parent)
        while True:
            missing = [key for key in missing if not self._has(key)]
            if not missing:
                rows = np.array([self._row_of[key] for key in keys], dtype=np.int64)
                return self._rows["features"], rows
            done = len(index_of) - len(missing)
            with self._claim(missing) as claimed:
                self._refresh()  # another process may have added rows
                needed = [index_of[key] for key in claimed if not self._has(key)]
                block = np.sort(np.array(needed[:_BLOCK], dtype=np.int64))
                parts = []
                for part in compute(block) if len(block) else ():
                    on_progress(what, done, len(index_of))
                    parts.append(part)
                    done += len(part)
                if parts:
                    self._write([keys[index] for index in block], np.concatenate(parts))
                    on_progress(what, done, len(index_of))
            if not claimed:
                message = f"waiting for {what}, which another process computes"
                on_progress(message, done, len(index_of))
                time.sleep(POLL_SECONDS)
            self._refresh()

    @contextmanager
    def _claim(self, keys: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Lock free buckets of these keys until they hold a whole block, and yield their keys."""
        buckets = defaultdict(list)
        for key in keys:
            buckets[key[0] % _BUCKETS].append(key)
        claimed: list[bytes] = []
        folder = self._file.parent
        with ExitStack() as locks:
            for bucket, members in buckets.items():
                lock = folder.with_name(f".{folder.name}.{bucket}.lock")
                if len(claimed) < _BLOCK and locks.enter_context(lock_if_free(lock)):
                    claimed += members
            yield claimed

    def _has(self, key: bytes) -> bool:
        """Return whether the row of a key is there and intact."""
        row = self._row_of.get(key)
        if row is None:
            return False
        if row not in self._intact:
            content = self._rows[row]
            is_intact = _checksum(content) == content["crc"]
            if is_intact and content["key"].tobytes() != key:
                # Locks hold on one node only here, and another node has written its rows since, so
                # that `_refresh` has to map all of them.
                self._inode = 0
                return False
            if is_intact:
                self._intact.add(row)
        return row in self._intact

    def _forget(self) -> None:
        self._rows = np.empty(0, dtype=_row_type(0))
        self._row_of: dict[bytes, int] = {}
        self._intact: set[int] = set()
        self._inode = 0
        self._modified_ns = 0

    def _refresh(self) -> None:
        """Map the rows that were added since the last call, or all if the file was replaced."""
        try:
            stream = self._file.open("rb")
        except FileNotFoundError:
            self._forget()
            return
        with stream:
            status = os.fstat(stream.fileno())
            if status.st_ino != self._inode or status.st_size < self._rows.nbytes:
                self._forget()
                self._inode = status.st_ino  # not used again while the file is mapped
            if status.st_mtime_ns != self._modified_ns:
                self._intact.clear()
                self._modified_ns = status.st_mtime_ns
            row_count = len(self._rows)
            length = int.from_bytes(stream.read(3), "little")  # more would be damage
            row_type = self._rows.dtype if row_count else _row_type(length)
            total = status.st_size // row_type.itemsize
            if total > row_count:
                self._rows = np.memmap(stream, row_type, mode="r", shape=total).view(np.ndarray)
                added = self._rows["key"][row_count:].tolist()
                self._row_of.update(zip(added, range(row_count, total), strict=True))

    def _write(self, keys: Sequence[bytes], features: Float32Array) -> None:
        """Append rows of features, [n, D], and replace damaged rows where they are."""
        folder = self._file.parent
        with build_lock(folder.with_name(f".{folder.name}.lock")), explain_disk_errors(folder):
            self._refresh()
            if any(key in self._row_of for key in keys):
                _logger.warning("%s is damaged and will be built again in part", folder)
            rows = np.empty(len(keys), dtype=_row_type(features.shape[1]))
            if self._rows.dtype != rows.dtype:  # there are none, or the first one is damaged
                discard(folder)
                self._forget()
                start_folder(*self._artifact)
                self._file.touch()
            rows["width"] = features.shape[1]
            rows["key"] = keys
            rows["features"] = features
            rows["crc"] = [_checksum(row) for row in rows]
            end = len(self._rows)
            with self._file.open("r+b") as stream:
                stream.truncate(end * rows.itemsize)
                for key, row in zip(keys, rows, strict=True):
                    row_index = self._row_of.get(key, end)
                    end = max(end, row_index + 1)
                    stream.seek(row_index * rows.itemsize)
                    stream.write(row.tobytes())


def _row_type(width: int) -> np.dtype[np.void]:
    return np.dtype(
        [("width", "<u4"), ("crc", "<u4"), ("key", f"V{KEY_BYTES}"), ("features", "<f4", (width,))]
    )


def _checksum(row: np.void) -> int:
    content = row.tobytes()
    return zlib.crc32(content[:4] + content[8:])  # all but the checksum itself
