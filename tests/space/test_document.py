"""The YAML dialect: types, positions and errors."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xraytune.base.errors import ConfigError
from xraytune.base.records import Json
from xraytune.space.document import parse_yaml, read_document, write_yaml

BOMB = "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))
BOMB = f"a0: &a0 x\n{BOMB}"
"""Nine lines that stand for 9^9 values."""


def parse(text: str) -> Json:
    content: Json = parse_yaml(text, Path("a.yaml"))
    return content


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("1e-5", 1e-5),
            ("1E4", 1e4),
            ("-2e3", -2e3),
            ("1.5e-3", 1.5e-3),
            ("True", True),
            ("false", False),
        ),
        *(
            (text, text)
            for text in (
                "no",
                "on",
                "Off",
                "YES",
                "010",
                "08",
                "12:30",
                "1:30.5",
                "2024-01-01",
                "0x10",
            )
        ),
        *((text, text) for text in ("1_000", "=")),
        *((f"'{text}'", text) for text in ("no", "010", "12:30", "1e-5", "null", "3")),
    ],
)
def test_an_unquoted_number_is_one_and_words_that_yaml_1_1_converts_stay_text(
    text: str, value: Json
) -> None:
    """YAML 1.1 reads 1e-5 as text, which is the most common way to write a learning rate."""
    assert parse(f"key: {text}") == {"key": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1\nx: 2\nlr: 3\n", "a.yaml:3: 'lr' is given twice, first at a.yaml:1"),
        ("a:\n\tb: 1\n", "a.yaml:2: "),
        ("a: [1, 2\nb: 3\n", "begins on line 1"),
        *((text, "a.yaml:1: ") for text in ("a: b: c", "a: 'x", "a: \x01")),
        ("a: 1\n---\nb: 2\n", "a.yaml:2: "),
        (BOMB, "a.yaml:1: its aliases"),
        ("a: &a [*a]", "a.yaml: the values are nested"),
        ("a: " + "[" * 2000, "a.yaml: the values are nested"),
    ],
)
def test_invalid_yaml_is_explained_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse(text)

    assert message in str(refusal.value)
    assert "fix: " in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not a mapping"),
        (b"- a\n", "not a mapping"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (None, "no such file"),
    ],
    ids=["empty", "a list", "bytes", "missing"],
)
def test_a_file_that_holds_no_mapping_is_refused(
    tmp_path: Path, content: bytes | None, what: str
) -> None:
    with pytest.raises(ConfigError, match="not a file, but a folder"):
        read_document(tmp_path)
    path = tmp_path / "space.yaml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=what):
        read_document(path)


_texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=12
) | st.sampled_from(["no", "on", "1e-5", "010", "08", "12:30", "2024-01-01", "null", "~", "="])
_numbers = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
_contents = st.recursive(
    st.none() | st.booleans() | _numbers | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(content=st.dictionaries(_texts, _contents, max_size=4))
@pytest.mark.slow
def test_written_document_round_trips(content: dict[str, Json]) -> None:
    assert parse(write_yaml(content, "a comment")) == content
