"""Damage to files as disks, editors and ill will do it; and what a reader may do about it.

A damaged file is a whole one after a few edits. `XRAYTUNE_FUZZ_EXAMPLES` inputs are tried for each target, drawn anew each
time; without it a few, always the same. A failure names the seed of its input.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, TypeAlias

from xraytune.base.errors import XraytuneError

Damage: TypeAlias = Callable[[Random], bytes]
"""Draws what is in a damaged file."""
_ASKED_FOR = os.environ.get("XRAYTUNE_FUZZ_EXAMPLES")
_USUAL, _FEWEST = 60, 6
_LONGEST_SECONDS = 20.0

NAMES = (
    "", ".", "..", "../x", "../../outside/x", "/tmp/x", "a\0b", "a/b", "\udcff", "\ud800", "a\nb", "~nobody/x",
    "x" * 300,
)  # fmt: skip
"""Names that would leave a folder, or that no file system takes."""
TRAPS = (
    "a: &a [x, x, x, x, x, x, x, x, x]", "b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]",
    "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]", "&self self: *self", "<<: *a",
    "x: !!python/object/apply:os.system ['touch pwned']", "x: !!binary aGVsbG8=", "x: !!set {a, b}", "\tname: tab",
    "---", "...", "? [a, b] : c", "? ", "- ", "%YAML 9.9", "'", '"', "{", "}", "[" * 500, "{a: " * 500, "- " * 500,
    'name: "\\0"', 'name: "\\ud800"', "name: >-", "\x00", "\ufeff", "x: " + "9" * 5000,
    "points_to_evaluate: [{lr: 1}]", "points_to_evaluate: [[]]", "parameters: 1", "parameters: []",
    "  source: {values: [none, gan, duplicate, folder]}", "  lr: {min: 1e-300, max: 1e+300, step: 1e-300}",
    "  batch_size: {min: 1, max: 4096, when: {batch_size: 1}}",
    "  gan: {parameters: {seed: {min: 0, max: 999999999999999999999999999999}}}",
    "  classical: {values: [0, 1, 2, 3], when: {source: [gan, none]}}",
    "  folder: {parameters: {path: {value: '~nobody-at-all/x'}}}", '  folder: {parameters: {path: {value: "a\\0b"}}}',
    '  weights: {value: "\\0"}',
)  # fmt: skip
"""Lines that a space file does without."""
SCALARS = (
    "~", "yes", "010", "12:30", "2024-01-01", "1e-5", ".inf", ".nan", "!!int x", "*a", "&a x", "|", "@", "`", "%",
    "'~nobody-at-all/x'", '"a\\0b"', '"\\ud800"', "../../x", "[none, gan]", "{value: none}", "{values: []}",
    "{min: 1, max: 2}", "{min: 0, max: 999999999999999999999}", "{min: 0.1, max: 1e300, step: 1e-9}",
    "{values: [1, 1]}", "{when: {lr: 1}}", "{min: 1, max: 9, step: 1e30}", "0x7fffffffffffffff", "1e999",
)  # fmt: skip
"""Values that YAML reads in its own way, or that fit nowhere."""
_NUMBERS = (0, -1, 2**31, 2**63, 10**30, 0.5, 1e308, 5e-324, float("nan"), float("inf"))
_DEEP: Any = None
for _ in range(300):
    _DEEP = [_DEEP]
_VALUES: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"a": 1}, "none", "gan", *_NUMBERS, *NAMES, _DEEP)
_BYTES = (
    b"", b"\0", b"\xff", b"\n", b"{}", b"[]", b"null", b'"', b"\xff\xff\xff\xff", b"\0" * 64, b"[" * 3000, b"1" * 5000,
)  # fmt: skip


def fuzz(attempt: Callable[[Random], None], kinds: int = 1) -> None:
    """Try many inputs; the `kinds` of one target share their number."""
    first = 0 if _ASKED_FOR is None else SystemRandom().randrange(2**40)
    for seed in range(first, first + max(_FEWEST, int(_ASKED_FOR or _USUAL) // kinds)):
        try:
            attempt(Random(seed))
        except BaseException as error:
            error.add_note(f"the input of Random({seed})")
            raise


def read_damaged(file: Path, damage: Damage, read: Callable[[], object], *unchanged: Path, kinds: int = 1) -> None:
    """Read a file with each damage; in the end it is whole again.

    `unchanged` are folders to which `read` writes nothing; `kinds` of files share the number of inputs.
    """
    whole = file.read_bytes()

    def attempt(draw: Random) -> None:
        file.write_bytes(damage(draw))
        with only_our_errors(*unchanged):
            read()

    fuzz(attempt, kinds)
    file.write_bytes(whole)


@contextmanager
def only_our_errors(*unchanged: Path) -> Iterator[None]:
    """A block that ends, well or with an error that tells what to do, soon, and with these folders as they were."""

    def hangs(*_: object) -> None:
        raise TimeoutError(f"a reader that takes more than {_LONGEST_SECONDS:g} s")

    before = [_listing(folder) for folder in unchanged]
    was = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, _LONGEST_SECONDS)
    try:
        yield
    except XraytuneError as error:
        str(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, was)
    assert [_listing(folder) for folder in unchanged] == before, "something was written"


@contextmanager
def little_memory() -> Iterator[None]:
    """A block that may take 200 MB more than what is taken."""
    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 200_000_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    entries = ((entry, entry.lstat()) for entry in sorted(folder.rglob("*")))
    return [(str(entry), status.st_size, status.st_mtime_ns) for entry, status in entries]


def text(draw: Random, longest: int) -> str:
    """A few characters, half of them ASCII."""
    size = draw.randint(0, longest)
    return "".join(chr(draw.choice((draw.randrange(128), draw.randrange(0x11_0000)))) for _ in range(size))


def any_of(*damages: Damage) -> Damage:
    """One of them."""
    return lambda draw: draw.choice(damages)(draw)


def damaged_bytes(whole: bytes) -> Damage:
    """A file with bits flipped, bytes overwritten, put in, cut out or doubled, or its end cut off; most near its start."""

    def damage(draw: Random) -> bytes:
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            start = draw.randrange(draw.choice((min(len(content), 600), len(content))) or 1)
            end = start + 1 + int(200 * draw.random() ** 2)
            new = draw.choice((*_BYTES, draw.randbytes(draw.randint(1, 8))))
            match draw.choice(("flip", "write", "insert", "cut", "double", "end")):
                case "flip" if content:
                    content[start] ^= 1 << draw.randrange(8)
                case "write":
                    content[start : start + len(new)] = new
                case "insert":
                    content[start:start] = new
                case "cut":
                    del content[start:end]
                case "double":
                    content[end:end] = content[start:end]
                case "end":
                    del content[start:]
        return bytes(content)

    return damage


def damaged_lines(whole: str, extra_lines: Sequence[str] = (), scalars: Sequence[str] = ()) -> Damage:
    """A text with lines gone, doubled, moved or put in, or the word behind a colon replaced."""
    words = [*scalars, *map(str, _NUMBERS), "[]", "{}", "''"]

    def damage(draw: Random) -> bytes:
        lines = whole.splitlines()
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(lines) or 1)
            line = lines.pop(at) if lines else ""
            match draw.choice(("gone", "double", "move", "put", "word", "word", "word")):
                case "double":
                    lines[at:at] = [line, line]
                case "move":
                    lines.insert(draw.randint(0, len(lines)), line)
                case "put":
                    lines[at:at] = [draw.choice([*extra_lines, *lines, ""]), line]
                case "word":
                    head, colon, _ = line.rpartition(": ")
                    lines.insert(at, f"{head}{colon}{draw.choice([*words, text(draw, 6)])}")
        return ("\n".join(lines) + "\n").encode(errors="surrogatepass")

    return damage


def damaged_json(whole: Any) -> Damage:
    """A file that is still JSON, in which some values are others, or gone, or of another type; or damaged bytes."""

    def damage(draw: Random) -> bytes:
        box = {"": _copy(whole)}
        for _ in range(draw.randint(1, 3)):
            places = [*_places(box)]
            if not places:
                break
            (holder, key), (other_holder, other_key) = draw.choice(places), draw.choice(places)
            value = _copy(draw.choice(_VALUES))
            match draw.choice(("replace", "replace", "replace", "remove", "swap", "add")):
                case "replace":
                    holder[key] = value
                case "remove":
                    del holder[key]
                case "swap":
                    holder[key] = _copy(other_holder[other_key])
                case "add" if isinstance(holder, dict):
                    holder["unknown"] = value
                case "add":
                    holder.append(value)
        return _as_json(box.get(""))

    return any_of(damage, damage, damaged_bytes(_as_json(whole)))


def damaged_rows(whole: Sequence[Any]) -> Damage:
    """JSONL with damaged, doubled, missing or reordered rows."""
    rows = [*map(_as_json, whole)]

    def one(draw: Random) -> bytes:
        number = draw.randrange(len(rows))
        return _joined([*rows[:number], damaged_json(whole[number])(draw), *rows[number + 1 :]])

    def order(draw: Random) -> bytes:
        return _joined(draw.choices(rows, k=draw.randint(0, len(rows) + 3)))

    return any_of(one, one, order, damaged_bytes(_joined(rows)))


def _joined(rows: Iterable[bytes]) -> bytes:
    return b"".join(row + b"\n" for row in rows)


def _as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _places(holder: Any) -> Iterator[tuple[Any, Any]]:
    """The lists and objects below a value, each with one of its keys."""
    for key, value in [*holder.items()] if isinstance(holder, dict) else [*enumerate(holder)]:
        yield holder, key
        if isinstance(value, dict | list):
            yield from _places(value)


def with_good_crcs(png: bytes) -> bytes:
    """A damaged PNG whose checksums are right all the same, so that the damage gets past them."""
    content, place = bytearray(png), 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 8 + length
        if end + 4 > len(content):
            break
        struct.pack_into(">I", content, end, zlib.crc32(content[place + 4 : end]))
        place = end + 4
    return bytes(content)
