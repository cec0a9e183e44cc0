"""Decode image files to square grey pixels, in this process and in worker processes.

The calling process decodes from the start, workers join in when they are ready, and what a killed worker leaves is decoded
by the others. Decision 14 says why this is no process pool.
"""

from __future__ import annotations

import heapq
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

from PIL import Image

from xraytune.data.formats import REPAIR, GreyImage, read_grey
from xraytune.errors import DataError, Problem
from xraytune.files import read_bytes

Resize: TypeAlias = Literal["squash", "crop"]
"""How an image becomes square: squashed, or its shorter side scaled to S and its centre cut out."""

_FILTER = Image.Resampling.BILINEAR
_CHANNELS = 4
_SMALL_PX = 512
"""Larger images are not resized together with others of their size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenImage:
    """A file that cannot be decoded, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareImage:
    """A decoded image.

    Attributes:
        pixels: S times S bytes of grey, row by row.
        kind: Format and depth of the file, such as `PNG 16-bit` or `PNG 16-bit with 12-bit content`.
        has_unused_bits: Whether the file has more bits than its content.
    """

    pixels: bytes
    kind: str
    has_unused_bits: bool


Block: TypeAlias = list[SquareImage | BrokenImage]
_Box: TypeAlias = tuple[float, float, float, float] | None


def decode_file(path: str, image_size_px: int, resize: Resize) -> SquareImage:
    """Read, decode and resize an image, with antialiasing.

    Raises:
        DataError: The image is broken.
        MachineError: It is DICOM, and pydicom is not installed.
    """
    grey = _read(path, image_size_px)
    return _square(grey, grey.image.resize((image_size_px, image_size_px), _FILTER, _box(grey, image_size_px, resize)))


def decode_block(root: str, files: Sequence[str], image_size_px: int, resize: Resize) -> Block:
    """Decode several files below `root`, to the same bits as `decode_file`.

    Small images of one size are resized four at a time, as the channels of one image, which saves a tenth of the time.

    Raises:
        MachineError: A file is DICOM, and pydicom is not installed.
    """
    found: dict[int, SquareImage | BrokenImage] = {}
    alike: dict[tuple[tuple[int, int], _Box], list[tuple[int, GreyImage]]] = defaultdict(list)
    size = (image_size_px, image_size_px)

    def resize_alike(key: tuple[tuple[int, int], _Box]) -> None:
        numbers, greys = zip(*alike.pop(key), strict=True)
        images = [grey.image for grey in greys]
        if len(images) == _CHANNELS:
            resized = Image.merge("CMYK", images).resize(size, _FILTER, key[1]).split()
        else:
            resized = tuple(image.resize(size, _FILTER, key[1]) for image in images)
        found.update(zip(numbers, map(_square, greys, resized), strict=True))

    for number, file in enumerate(files):
        try:
            grey = _read(os.path.join(root, file), image_size_px)  # noqa: PTH118  ten times as fast as a Path
        except DataError as error:
            found[number] = BrokenImage(file=file, reason=error.problems[0].what)
            continue
        key = grey.image.size, _box(grey, image_size_px, resize)
        alike[key].append((number, grey))
        if len(alike[key]) == _CHANNELS or max(grey.image.size) > _SMALL_PX:
            resize_alike(key)
    for key in list(alike):
        resize_alike(key)
    return [found[number] for number in range(len(files))]


def _read(path: str, image_size_px: int) -> GreyImage:
    try:
        content = read_bytes(path, "image", DataError)
    except OSError as error:
        raise DataError(Problem(f"cannot be read ({error.strerror})", path, REPAIR)) from error
    return read_grey(content, path, needed_px=image_size_px)


def _square(grey: GreyImage, small: Image.Image) -> SquareImage:
    kind = grey.kind if grey.content_bits is None else f"{grey.kind} with {grey.content_bits}-bit content"
    return SquareImage(pixels=small.tobytes(), kind=kind, has_unused_bits=grey.content_bits is not None)


def _box(grey: GreyImage, image_size_px: int, resize: Resize) -> _Box:
    """Return the part of the image to scale to S x S (left, upper, right, lower); None is all of it.

    A crop gives what `Resize(S)` and `CenterCrop(S)` would, but scales only that part: scaled as a whole, a long and narrow
    image would fill the memory. Sizes are those of the whole image, as a reduced JPEG's are rounded up.

    Source: torchvision 0.21, `transforms.functional.resize` and `center_crop`.
    """
    if resize == "squash":
        return None
    shorter = min(grey.width_px, grey.height_px)
    sides = []
    for whole, decoded in zip((grey.width_px, grey.height_px), grey.image.size, strict=True):
        scaled = int(image_size_px * whole / shorter)
        first = round((scaled - image_size_px) / 2)
        sides.append((first * decoded / scaled, (first + image_size_px) * decoded / scaled))
    (left, right), (upper, lower) = sides
    return left, upper, right, lower


_PROBED = 5
"""Files decoded first, one by one, to measure how long one takes."""
_LARGEST_BLOCK = 16
_BLOCK_SECONDS = 0.005
_START_SECONDS = 0.1
"""Least work for each worker: for less, starting one does not pay."""
_READ_AHEAD = 64
"""Maximum number of blocks that wait to be consumed."""


def decode_blocks(
    root: Path, files: Sequence[str], image_size_px: int, resize: Resize, *, workers: int
) -> Generator[Block, None, None]:
    """Decode files below `root` in order, on up to `workers` cores.

    Raises:
        MachineError: A file is DICOM, and pydicom is not installed.
    """

    def decode(block: Sequence[str]) -> Block:
        with warnings.catch_warnings():  # Pillow warns about odd metadata
            warnings.simplefilter("ignore")
            return decode_block(str(root), block, image_size_px, resize)

    seconds = []
    for file in files[:_PROBED]:
        started = time.perf_counter()
        block = decode([file])
        seconds.append(time.perf_counter() - started)
        yield block
    if rest := files[_PROBED:]:
        per_file = sorted(seconds)[_PROBED // 2]
        size = min(max(round(_BLOCK_SECONDS / per_file), 1), _LARGEST_BLOCK)
        work = _Work([list(rest[start : start + size]) for start in range(0, len(rest), size)])
        with ExitStack() as stack:
            with suppress(OSError):  # the system starts no more processes
                for _ in range(min(workers - 1, int(per_file * len(rest) / _START_SECONDS))):
                    stack.enter_context(_worker(work, [str(root), str(image_size_px), resize]))
            stack.callback(work.stop)
            yield from work.in_order(decode)


class _Work:
    """Blocks of files, decoded by the caller and by one thread per worker."""

    def __init__(self, blocks: list[list[str]]) -> None:
        self.blocks = blocks
        self._todo = list(range(len(blocks)))
        """A heap."""
        self._done: dict[int, Block] = {}
        self._is_stopped = False
        self._changed = threading.Condition()

    def in_order(self, decode: Callable[[Sequence[str]], Block]) -> Iterator[Block]:
        """Yield the decoded blocks; while the next one is missing, decode others in the caller."""
        for turn in range(len(self.blocks)):
            while (number := self._next(turn)) is not None:
                self.put(number, decode(self.blocks[number]))
            with self._changed:
                block = self._done.pop(turn)
                self._changed.notify_all()
            yield block

    def _next(self, turn: int) -> int | None:
        """Return a block for the caller to decode; None as soon as block `turn` is done."""
        with self._changed:
            self._changed.wait_for(lambda: turn in self._done or self._is_work(turn))
            return None if turn in self._done else heapq.heappop(self._todo)

    def take(self) -> int | None:
        """Return a block for a worker to decode; None when the work has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or self._is_work())
            return None if self._is_stopped else heapq.heappop(self._todo)

    def _is_work(self, turn: int | None = None) -> bool:
        return bool(self._todo) and (len(self._done) < _READ_AHEAD or self._todo[0] == turn)

    def put(self, number: int, block: Block | None) -> None:
        """Hand in a decoded block, or give it back for others to decode."""
        with self._changed:
            if block is None:
                heapq.heappush(self._todo, number)
            else:
                self._done[number] = block
            self._changed.notify_all()

    def stop(self) -> None:
        """Release the threads that wait in `take`."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()


@contextmanager
def _worker(work: _Work, arguments: list[str]) -> Iterator[None]:
    """A process that decodes blocks of `work`, and the thread that talks to it."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "xraytune.data.decoding", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches only us; the worker ends when its input does
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    thread = threading.Thread(target=_converse, args=(work, process.stdin, process.stdout), daemon=True)
    thread.start()
    try:
        yield
    finally:
        process.kill()
        thread.join()
        with suppress(BrokenPipeError), process:
            pass


def _converse(work: _Work, requests: IO[bytes], replies: IO[bytes]) -> None:
    """Send a worker lists of files until there are no more, or the worker is dead."""
    while (number := work.take()) is not None:
        block: Block | None = None
        try:
            with suppress(OSError, ValueError):
                requests.write(json.dumps(work.blocks[number]).encode() + b"\n")
                requests.flush()
                images = json.loads(replies.readline())
                pixels = [replies.read(image.pop("size", 0)) for image in images]
                json.loads(replies.readline())  # fails where the worker was killed halfway
                block = [
                    BrokenImage(**image) if "reason" in image else SquareImage(pixels=row, **image)
                    for image, row in zip(images, pixels, strict=True)
                ]
        finally:
            work.put(number, block)
        if block is None:
            return


def _serve(root: str, image_size_px: int, resize: Resize) -> None:
    """Answer each line (a JSON list of files) with a line that describes the images, their pixels, and a line `0`."""
    for line in sys.stdin.buffer:
        block = decode_block(root, json.loads(line), image_size_px, resize)
        images = [
            {"file": image.file, "reason": image.reason}
            if isinstance(image, BrokenImage)
            else {"kind": image.kind, "has_unused_bits": image.has_unused_bits, "size": len(image.pixels)}
            for image in block
        ]
        pixels = b"".join(image.pixels for image in block if isinstance(image, SquareImage))
        sys.stdout.buffer.write(json.dumps(images).encode() + b"\n" + pixels + b"0\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), "crop" if sys.argv[3] == "crop" else "squash")
