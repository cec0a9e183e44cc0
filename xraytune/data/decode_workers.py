"""Decode many files in several processes, in order, a block at a time.

Threads do not help with small images: Pillow gives Python's lock back for a tenth of a millisecond at a time, less than
another thread needs to wake. So further processes join in. The caller's own process decodes from the first moment, and
gives blocks to the others as they report that they have started, so that none of them can make it slower; what one of
them leaves undone, because it was killed, it does itself. Run as a program, this file is such a process.

Names and replies cross as lines of JSON, pixels through a temporary file with a place for each block that is under way.
NumPy is not imported: that would take as long as a hundred images.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from xraytune.data.decoding import Block, BrokenImage, Resize, SquareImage, decode_block

_PROBED = 5
"""Files that are decoded first, one by one, to know how long one takes."""
_LARGEST_BLOCK = 16
_BLOCK_SECONDS = 0.005
"""A block is small enough for us to look after the others often, and no smaller."""
_UNDER_WAY = 3
"""Blocks that a process has at a time: one that it decodes, and some in case we are late with the next."""
_START_SECONDS = 0.1
"""Of work that has to be left for each process: none is started for less than it takes to start."""
_READ_AHEAD = 64
"""Decoded blocks that wait for their turn, at most, before we wait too."""


def decode_blocks(
    root: Path, files: Sequence[str], image_size_px: int, resize: Resize, *, workers: int
) -> Generator[Block, None, None]:
    """All of `files`, in their order, on up to `workers` cores.

    Raises:
        MachineError: One is DICOM, and pydicom is not installed.
    """
    probe = _Work(root=root, files=files[:_PROBED], block_size=1, image_size_px=image_size_px, resize=resize)
    seconds = []
    for number in range(probe.block_count):
        started = time.perf_counter()
        block = _decode_here(probe, number)
        seconds.append(time.perf_counter() - started)
        yield block
    rest = files[_PROBED:]
    if not rest:
        return
    per_file = sorted(seconds)[len(seconds) // 2]
    block_size = min(max(round(_BLOCK_SECONDS / per_file), 1), _LARGEST_BLOCK)
    work = _Work(root=root, files=rest, block_size=block_size, image_size_px=image_size_px, resize=resize)
    with ExitStack() as stack:
        crew = _start_crew(
            stack, work, min(workers - 1, int(per_file * len(rest) / _START_SECONDS), work.block_count - 1)
        )
        yield from _share(work, crew)


def _share(work: _Work, crew: Sequence[_Helper]) -> Iterator[Block]:
    """The blocks in their order; whoever is free takes the next one."""
    done: dict[int, Block] = {}
    for turn in range(work.block_count):
        while turn not in done:
            for helper in crew:
                done.update(helper.collect())
                helper.assign()
            if turn in done:
                break
            if work.todo and (len(done) < _READ_AHEAD or work.todo[0] == turn):
                number = heapq.heappop(work.todo)
                done[number] = _decode_here(work, number)
            else:
                _wait_for_any(crew)
        yield done.pop(turn)


def _wait_for_any(crew: Sequence[_Helper]) -> None:
    poll = select.poll()
    for helper in crew:
        if helper.is_busy:
            poll.register(helper.replies, select.POLLIN)
    poll.poll()


class _Work:
    """What there is to decode; `todo` is a heap of the numbers of the blocks that nobody has."""

    def __init__(
        self, *, root: Path, files: Sequence[str], block_size: int, image_size_px: int, resize: Resize
    ) -> None:
        self.root = str(root)
        self.block_size = block_size
        self.image_size_px = image_size_px
        self.resize = resize
        self.block_count = -(-len(files) // block_size)
        self.todo = list(range(self.block_count))
        self._files = files

    @property
    def block_bytes(self) -> int:
        """Room for a block's pixels."""
        return self.block_size * self.image_size_px**2

    def block(self, number: int) -> list[str]:
        """The files of a block."""
        return list(self._files[number * self.block_size : (number + 1) * self.block_size])


def _decode_here(work: _Work, number: int) -> Block:
    with warnings.catch_warnings():  # Pillow's remarks on odd metadata
        warnings.simplefilter("ignore")
        return decode_block(work.root, work.block(number), work.image_size_px, work.resize)


def _start_crew(stack: ExitStack, work: _Work, count: int) -> list[_Helper]:
    """Up to `count` further processes; fewer where the system gives no more."""
    crew: list[_Helper] = []
    with suppress(OSError):
        for _ in range(count):
            crew.append(stack.enter_context(_Helper(work)))
    return crew


class _Helper:
    """One further process, and the blocks that it has."""

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._places: dict[int, int] = {}
        """Where in the file of pixels each of its blocks goes."""
        self._received = b""
        self._has_started = False
        self._pixels = tempfile.TemporaryFile()
        try:
            self._process = _start(self._pixels.fileno())
        except OSError:
            self._pixels.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders = self._process.stdin
        self.replies = self._process.stdout.fileno()
        os.set_blocking(self.replies, False)

    def __enter__(self) -> _Helper:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._pixels.close()
        with suppress(BrokenPipeError), self._process:
            pass

    @property
    def is_busy(self) -> bool:
        """Whether it has blocks to decode."""
        return bool(self._places)

    def assign(self) -> None:
        """Give it the next blocks, as many as it takes."""
        work = self._work
        while self._has_started and work.todo and len(self._places) < _UNDER_WAY:
            number = heapq.heappop(work.todo)
            self._places[number] = min(set(range(_UNDER_WAY)) - set(self._places.values()))
            order = {
                "number": number,
                "offset": self._places[number] * work.block_bytes,
                "root": work.root,
                "files": work.block(number),
                "image_size_px": work.image_size_px,
                "resize": work.resize,
            }
            with suppress(BrokenPipeError):  # it is dead, as `collect` will find
                self._orders.write(json.dumps(order).encode() + b"\n")
                self._orders.flush()

    def collect(self) -> dict[int, Block]:
        """The blocks that it has decoded since; those of a dead one go back to what is to do."""
        is_dead = False
        with suppress(BlockingIOError):
            while received := os.read(self.replies, 1 << 16):
                self._received += received
            is_dead = True
        *lines, self._received = self._received.split(b"\n")
        decoded = dict(self._decoded(json.loads(line)) for line in lines if line)
        self._has_started = (self._has_started or bool(lines)) and not is_dead
        if is_dead:
            for number in self._places:
                heapq.heappush(self._work.todo, number)
            self._places.clear()
        return decoded

    def _decoded(self, reply: dict[str, Any]) -> tuple[int, Block]:
        number, size = reply["number"], self._work.image_size_px**2
        count = sum(len(image) == 2 for image in reply["images"])
        pixels = memoryview(
            os.pread(self._pixels.fileno(), count * size, self._places.pop(number) * self._work.block_bytes)
        )
        rows = (pixels[start : start + size] for start in range(0, count * size, size))
        return number, [
            SquareImage(pixels=next(rows), kind=image[0], is_oddly_deep=image[1])
            if len(image) == 2
            else BrokenImage(file=file, reason=image[0])
            for file, image in zip(self._work.block(number), reply["images"], strict=True)
        ]


def _start(pixels: int) -> subprocess.Popen[bytes]:
    """In a session of its own, so that Ctrl-C reaches us alone; it ends when its input does, however we end."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "xraytune.data.decode_workers", str(pixels)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=[pixels],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def _help(pixels: int) -> None:
    """What a further process does: say that it has started, then one block after another, until its input ends."""
    replies = sys.stdout.buffer
    replies.write(b"\n")
    replies.flush()
    for line in sys.stdin.buffer:
        order = json.loads(line)
        block = decode_block(order["root"], order["files"], order["image_size_px"], order["resize"])
        decoded = b"".join(image.pixels for image in block if isinstance(image, SquareImage))
        os.pwrite(pixels, decoded, order["offset"])
        images = [
            (image.kind, image.is_oddly_deep) if isinstance(image, SquareImage) else (image.reason,) for image in block
        ]
        replies.write(json.dumps({"number": order["number"], "images": images}).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    _help(int(sys.argv[1]))
