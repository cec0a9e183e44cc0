"""One image file to square grey pixels, or to the reason why not: what every process that decodes does with a file."""

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
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from PIL import Image

from xraytune.data.formats import REPAIR, GreyImage, read_grey
from xraytune.errors import DataError, Problem
from xraytune.files import read_bytes

Resize: TypeAlias = Literal["squash", "crop"]
"""How an image becomes square: squashed, or its shorter side scaled to S and its centre cut out."""

_FILTER = Image.Resampling.BILINEAR
_CHANNELS = 4
_SMALL_PX = 512
"""Larger images are not held back until others of their size come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenImage:
    """A file that does not decode: its name, as it was asked for, and why, in plain words."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareImage:
    """An image as it is stored.

    Attributes:
        pixels: S times S bytes of grey, row by row.
        kind: Format and depth of the file, such as `PNG 16-bit`, or `PNG 16-bit with 12-bit content`.
        is_oddly_deep: Whether the file has more bits than what is in it.
    """

    pixels: bytes | memoryview
    kind: str
    is_oddly_deep: bool


Block: TypeAlias = list[SquareImage | BrokenImage]
_Box: TypeAlias = tuple[float, float, float, float] | None


def decode_file(path: str, image_size_px: int, resize: Resize) -> SquareImage:
    """Read, decode and resize with antialiasing.

    Raises:
        DataError: The image is broken: its one problem says why.
        MachineError: It is DICOM, and pydicom is not installed.
    """
    grey = _read(path, image_size_px)
    small = grey.image.resize((image_size_px, image_size_px), _FILTER, _box(grey, image_size_px, resize))
    return _square(grey, small)


def decode_block(root: str, files: Sequence[str], image_size_px: int, resize: Resize) -> Block:
    """`decode_file` for some files below `root`, to the same bits; of a broken one, why it is.

    Small images of one size, as prepared sets have them, are resized four at a time, as the channels of one image: that
    takes a tenth off the whole.

    Raises:
        MachineError: One is DICOM, and pydicom is not installed.
    """
    found: dict[int, SquareImage | BrokenImage] = {}
    alike: dict[tuple[tuple[int, int], _Box], list[tuple[int, GreyImage]]] = defaultdict(list)

    def resize_alike(size: tuple[int, int], box: _Box) -> None:
        numbers, greys = zip(*alike.pop((size, box)), strict=True)
        images = [grey.image for grey in greys]
        together = Image.merge("CMYK", images) if len(images) == _CHANNELS else None
        channels = (
            together.resize((image_size_px, image_size_px), _FILTER, box).split()
            if together
            else [image.resize((image_size_px, image_size_px), _FILTER, box) for image in images]
        )
        found.update(zip(numbers, map(_square, greys, channels), strict=True))

    for number, file in enumerate(files):
        try:
            grey = _read(os.path.join(root, file), image_size_px)  # noqa: PTH118 a tenth of a Path's time
        except DataError as error:
            found[number] = BrokenImage(file=file, reason=error.problems[0].what)
            continue
        key = grey.image.size, _box(grey, image_size_px, resize)
        alike[key].append((number, grey))
        if len(alike[key]) == _CHANNELS or max(grey.image.size) > _SMALL_PX:
            resize_alike(*key)
    for key in list(alike):
        resize_alike(*key)
    return [found[number] for number in range(len(files))]


def _read(path: str, image_size_px: int) -> GreyImage:
    try:
        content = read_bytes(path, "image", DataError)
    except OSError as error:
        raise DataError(Problem(f"cannot be read ({error.strerror})", path, REPAIR)) from error
    return read_grey(content, path, needed_px=image_size_px)


def _square(grey: GreyImage, small: Image.Image) -> SquareImage:
    kind = grey.kind if grey.content_bits is None else f"{grey.kind} with {grey.content_bits}-bit content"
    return SquareImage(pixels=small.tobytes(), kind=kind, is_oddly_deep=grey.content_bits is not None)


def _box(grey: GreyImage, image_size_px: int, resize: Resize) -> _Box:
    """What is resized: left, upper, right, lower; None is all."""
    return _centre_square(grey, image_size_px) if resize == "crop" else None


def _centre_square(grey: GreyImage, image_size_px: int) -> tuple[float, float, float, float]:
    """The part of the image that `Resize(S)` and `CenterCrop(S)` would leave: left, upper, right, lower.

    They scale the shorter side to S, the longer one to whole pixels, and cut at whole pixels there; only this part is
    scaled here, for a long and narrow image would fill the memory. The size is the whole image's, as a reduced JPEG's
    own is rounded up.

    Source: torchvision 0.21, `transforms.functional.resize` and `center_crop`.
    """
    shorter = min(grey.width_px, grey.height_px)
    sides = []
    for whole, decoded in zip((grey.width_px, grey.height_px), grey.image.size, strict=True):
        scaled = int(image_size_px * whole / shorter)
        first = round((scaled - image_size_px) / 2)
        sides.append((first * decoded / scaled, (first + image_size_px) * decoded / scaled))
    (left, right), (upper, lower) = sides
    return left, upper, right, lower


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
        [sys.executable, "-W", "ignore", "-m", "xraytune.data.decoding", str(pixels)],
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
