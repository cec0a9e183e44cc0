"""Damage to files as disks, editors and ill will do it, drawn by hypothesis; and what a reader may do about it.

A damaged file is drawn as a few edits of a whole one, so that a failing example shrinks to the one edit that matters.
`XRAYTUNE_FUZZ_EXAMPLES` inputs are tried for each target, drawn anew each time; without it a few, always the same.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xraytune.base.errors import XraytuneError

_Test = TypeVar("_Test", bound=Callable[..., None])
_ASKED_FOR = os.environ.get("XRAYTUNE_FUZZ_EXAMPLES")
_USUAL, _FEWEST = 100, 8
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


def fuzzed(kinds: int = 1) -> Callable[[_Test], _Test]:
    """Run a test on many inputs, which the `kinds` of one target share; CI sees the same few each time."""
    return settings(
        max_examples=max(_FEWEST, int(_ASKED_FOR or _USUAL) // kinds),
        derandomize=_ASKED_FOR is None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


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


Edit: TypeAlias = tuple[str, float, float, bytes]
"""What is done, from where and as far as (as shares of the whole), and with which bytes."""

_SHARES = st.floats(0.0, 1.0, allow_nan=False)


def damaged_bytes(whole: bytes) -> st.SearchStrategy[bytes]:
    """A small file with bits flipped, bytes overwritten, put in, cut out, doubled, or its end cut off."""
    return edits().map(lambda drawn: edited(whole, drawn))


def edits() -> st.SearchStrategy[list[Edit]]:
    """What `edited` does to a large file: hypothesis keeps all that it has drawn, and that should not be the files."""
    edit = st.tuples(
        st.sampled_from(["flip", "flip near start", "write", "write near start", "insert", "cut", "double", "end"]),
        _SHARES,
        _SHARES,
        st.one_of(st.sampled_from(_BYTES), st.binary(min_size=1, max_size=8)),
    )
    return st.lists(edit, min_size=1, max_size=4)


def edited(whole: bytes, drawn: Sequence[Edit]) -> bytes:
    """A file after a few edits."""
    content = bytearray(whole)
    for kind, place, extent, new in drawn:
        reach = min(len(content), 600) if kind.endswith("near start") else len(content)
        start = min(int(place * reach), max(reach - 1, 0))
        end = min(len(content), start + 1 + int(extent * extent * 200))
        if not content and kind != "insert":
            continue
        match kind.removesuffix(" near start"):
            case "flip":
                content[start] ^= 1 << int(extent * 7)
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


def damaged_lines(whole: str, extra_lines: Sequence[str] = (), scalars: Sequence[str] = ()) -> st.SearchStrategy[bytes]:
    """A text with lines gone, doubled, moved or put in, or the word behind a colon replaced."""
    lines = whole.splitlines()
    number = st.integers(0, max(len(lines) - 1, 0))
    words = st.one_of(st.sampled_from([*scalars, *map(str, _NUMBERS), "[]", "{}", "''"]), st.text(max_size=6))
    new = st.sampled_from([*extra_lines, *lines, ""])
    edit = st.tuples(
        st.sampled_from(["gone", "double", "move", "put", "word", "word", "word"]), number, number, words, new
    )
    return st.lists(edit, min_size=1, max_size=4).map(lambda edits: _with_lines(lines, edits))


def _with_lines(lines: Sequence[str], edits: Sequence[tuple[str, int, int, str, str]]) -> bytes:
    text = list(lines)
    for kind, number, other, word, line in edits:
        at = min(number, len(text) - 1)
        if at < 0:
            break
        match kind:
            case "gone":
                del text[at]
            case "double":
                text.insert(at, text[at])
            case "move":
                text.insert(min(other, len(text)), text.pop(at))
            case "put":
                text.insert(at, line)
            case "word":
                head, colon, _ = text[at].rpartition(": ")
                text[at] = f"{head}{colon}{word}"
    return ("\n".join(text) + "\n").encode(errors="surrogatepass")


def damaged_json(whole: Any, values: Sequence[Any] = ()) -> st.SearchStrategy[bytes]:
    """A file that is still JSON, in which some values are others, or gone, or of another type; or damaged bytes."""
    places = _places(whole)
    edit = st.tuples(
        st.sampled_from(["replace", "replace", "replace", "remove", "swap", "add"]),
        st.integers(0, len(places) - 1),
        st.integers(0, len(places) - 1),
        st.sampled_from([*_VALUES, *values]),
    )
    changed = st.lists(edit, min_size=1, max_size=3).map(lambda edits: _as_json(_with_values(whole, places, edits)))
    return st.one_of(changed, changed, damaged_bytes(_as_json(whole)))


def damaged_rows(whole: Sequence[Any], values: Sequence[Any] = ()) -> st.SearchStrategy[bytes]:
    """JSONL with damaged, doubled, missing or reordered rows."""
    rows = [_as_json(row) for row in whole]
    one = st.tuples(st.integers(0, len(rows) - 1), st.integers(0, len(rows) - 1)).flatmap(
        lambda chosen: damaged_json(whole[chosen[0]], values).map(lambda row: _with_row(rows, chosen[0], row))
    )
    order = st.lists(st.integers(0, len(rows) - 1), max_size=len(rows) + 3).map(
        lambda some: _joined(rows[n] for n in some)
    )
    return st.one_of(one, one, order, damaged_bytes(_joined(rows)))


def _with_row(rows: Sequence[bytes], number: int, row: bytes) -> bytes:
    return _joined([*rows[:number], row, *rows[number + 1 :]])


def _joined(rows: Iterator[bytes] | Sequence[bytes]) -> bytes:
    return b"".join(row + b"\n" for row in rows)


def _as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _places(value: Any, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, one in inner for place in _places(one, (*here, key)))]


def _with_values(
    whole: Any, places: Sequence[tuple[str | int, ...]], edits: Sequence[tuple[str, int, int, Any]]
) -> Any:
    content = json.loads(json.dumps(whole))
    for kind, number, other, value in edits:
        path, value = places[number], json.loads(json.dumps(value))  # one of its own: further edits may change it
        if not path:
            content = value if kind == "replace" else content
            continue
        try:
            holder = _at(content, path[:-1])
            if kind == "replace":
                holder[path[-1]] = value
            elif kind == "swap":
                holder[path[-1]] = json.loads(json.dumps(_at(content, places[other])))
            elif kind == "remove":
                del holder[path[-1]]
            elif isinstance(holder, dict):
                holder["unknown"] = value
            else:
                holder.append(value)
        except (AttributeError, LookupError, TypeError):  # an earlier edit took the place away
            continue
    return content


def _at(content: Any, path: Sequence[str | int]) -> Any:
    for key in path:
        content = content[key]
    return content


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


def read_damaged(
    file: Path, damage: st.SearchStrategy[Any], read: Callable[[], object], *unchanged: Path, kinds: int = 1
) -> None:
    """Read a file with each damage, its content or the edits of the whole one; in the end it is whole again.

    `unchanged` are folders to which `read` writes nothing; `kinds` of files share the number of inputs.
    """
    whole = file.read_bytes()

    @fuzzed(kinds)
    @given(damage)
    def read_it(damage: bytes | Sequence[Edit]) -> None:
        file.write_bytes(damage if isinstance(damage, bytes) else edited(whole, damage))
        with only_our_errors(*unchanged):
            read()

    read_it()
    file.write_bytes(whole)
