"""Features of images: each is computed once, for all trials, commands and studies that need it.

A store has the features of one frozen network, under keys that name an image's pixels and its view,
so that sets with an image in common share its features. Its folder is an artifact that grows:

    features.bin    float32 [N, D]: a row for each key
    keys.bin        [N]: the key, the CRC-32 of its row, and D

Rows are written before their keys, and the next writer removes what a killed one left behind them.
A damaged row is computed again, in its place.

Processes share the work. Each key belongs to one of 32 buckets, and a process computes those in
buckets that it has locked, a block at a time. It waits only if others compute all that is missing.
The system releases the locks of a process that dies.
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xraytune.base.arrays import Float32Array, Int64Array
from xraytune.base.artifacts import artifact_path, discard, record_use, start_folder
from xraytune.base.files import explain_disk_errors
from xraytune.base.locks import POLL_SECONDS, build_lock, lock_if_free
from xraytune.base.records import Progress, ignore_progress

FEATURES_STAGE = "features-7"
FEATURES_FILE = "features.bin"
KEYS_FILE = "keys.bin"
KEY_BYTES = 16
_RECORD = np.dtype([("key", f"V{KEY_BYTES}"), ("crc", "<u4"), ("width", "<u4")])
_BUCKETS = 32
_BLOCK = 256
"""A process computes at most so many rows before others can read them."""
_logger = logging.getLogger(__name__)


class FeatureStore:
    """The features of images in one network.

    `inputs` are what they depend on besides the images and their views.
    """

    def __init__(self, cache: Path, inputs: Mapping[str, Any]) -> None:
        self._artifact = (cache, FEATURES_STAGE, inputs)
        self._path = artifact_path(*self._artifact)
        self._forget()

    def find(
        self,
        keys: Sequence[bytes],
        compute: Callable[[Int64Array], Iterator[Float32Array]],
        *,
        what: str = "features",
        on_progress: Progress = ignore_progress,
    ) -> tuple[Float32Array, Int64Array]:
        """Return all rows, [N, D], memory-mapped, and where the row of each key is, [n].

        Both belong together: the next call may return others.

        Args:
            keys: Of 16 bytes; some may be equal.
            compute: Takes the places of some keys, [m], and yields their features in parts, [k, D].
            what: What they are, for `on_progress`.
            on_progress: Called with the number of keys whose row is there, and of all keys.
        """
        places = {key: place for place, key in enumerate(keys)}
        missing = list(places)
        self._refresh()
        record_use(self._path)
        while True:
            missing = [key for key in missing if not self._has(key)]
            if not missing:
                return self._rows, np.array([self._row_of[key] for key in keys], dtype=np.int64)
            done = len(places) - len(missing)
            with self._claim(missing) as claimed:
                self._refresh()  # what another process has added since
                needed = [places[key] for key in claimed if not self._has(key)]
                block = np.sort(np.array(needed[:_BLOCK], dtype=np.int64))
                parts = []
                for part in compute(block) if len(block) else ():
                    on_progress(what, done, len(places))
                    parts.append(part)
                    done += len(part)
                if parts:
                    self._write([keys[place] for place in block], np.concatenate(parts))
                    on_progress(what, done, len(places))
            if not claimed:
                waiting = f"waiting for {what}, which another process computes"
                on_progress(waiting, done, len(places))
                time.sleep(POLL_SECONDS)
            self._refresh()

    @contextmanager
    def _claim(self, keys: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Lock free buckets of these keys, until they have enough for a block; yield their keys."""
        buckets = defaultdict(list)
        for key in keys:
            buckets[key[0] % _BUCKETS].append(key)
        claimed: list[bytes] = []
        with ExitStack() as locks:
            for bucket, members in buckets.items():
                lock = self._path.with_name(f".{self._path.name}.{bucket}.lock")
                if len(claimed) < _BLOCK and locks.enter_context(lock_if_free(lock)):
                    claimed += members
            yield claimed

    def _has(self, key: bytes) -> bool:
        """Return whether the row of a key is there and intact."""
        row = self._row_of.get(key)
        if row is None:
            return False
        if row not in self._intact and zlib.crc32(self._rows[row]) == self._crcs[row]:
            self._intact.add(row)
        return row in self._intact

    def _forget(self) -> None:
        self._rows: Float32Array = np.empty((0, 0), dtype=np.float32)
        self._crcs: list[int] = []
        self._row_of: dict[bytes, int] = {}
        self._intact: set[int] = set()
        self._inode = 0

    def _refresh(self) -> None:
        """Read what was added since; all, if the folder is another one."""
        try:
            with (self._path / FEATURES_FILE).open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_ino != self._inode:
                    self._forget()
                    self._inode = status.st_ino  # not used again while the file is mapped
                known = len(self._rows)
                start = known * _RECORD.itemsize
                added = np.fromfile(self._path / KEYS_FILE, _RECORD, offset=start)
                if not len(added):
                    return
                width = self._rows.shape[1] or max(1, int(added["width"][0]))
                total = min(known + len(added), status.st_size // (4 * width))
                if total == known:
                    return
                mapped = np.memmap(stream, dtype="<f4", mode="r", shape=(total, width))
        except FileNotFoundError:
            self._forget()
            return
        self._rows = mapped.view(np.ndarray)
        added = added[: total - known]
        self._crcs += added["crc"].tolist()
        self._row_of.update(zip(added["key"].tolist(), range(known, total), strict=True))

    def _write(self, keys: Sequence[bytes], features: Float32Array) -> None:
        """Append rows, [n, D]; write damaged ones in the place that they have."""
        with (
            build_lock(self._path.with_name(f".{self._path.name}.lock")),
            explain_disk_errors(self._path),
        ):
            is_damaged = any(key in self._row_of for key in keys)
            if is_damaged:
                _logger.warning("%s is damaged and will be built again in part", self._path)
                self._forget()
            self._refresh()
            if self._rows.shape[1] != features.shape[1]:  # there are none, or all are damaged
                discard(self._path)
                self._forget()
                start_folder(*self._artifact)
            end = len(self._rows)
            added = iter(range(end, end + len(keys)))
            rows = [self._row_of[key] if key in self._row_of else next(added) for key in keys]
            records = np.empty(len(keys), dtype=_RECORD)
            records["key"] = keys
            records["crc"] = [zlib.crc32(row) for row in features]
            records["width"] = features.shape[1]
            for name, contents in ((FEATURES_FILE, features), (KEYS_FILE, records)):
                with (self._path / name).open("ab"):  # creates it
                    pass
                with (self._path / name).open("r+b") as stream:
                    stream.truncate(end * contents[0].nbytes)
                    for row, content in zip(rows, contents, strict=True):
                        stream.seek(row * content.nbytes)
                        stream.write(content.tobytes())
            if is_damaged:
                self._forget()
