"""What CONTRIBUTING and the decisions name exists: files, options, and names in the code."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "decisions").glob("*.md"))]
CODE = [ROOT / "Makefile", ROOT / "pyproject.toml"]
CODE += [
    file for folder in ("xraytune", "tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")
]
CODE += (ROOT / "search_spaces").rglob("*.yaml")
IN_BACKTICKS = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
OPTION_PATH_OR_NAME = re.compile(
    r"(--[a-z-]+)|([\w./-]*/[\w./-]+|[\w-]+\.(?:py|md|toml|cff))|(\w*[A-Za-z_]\w*)"
)
OF_OTHERS = {"should_stop"}
"""Names of earlier designs and of other programs."""


@pytest.fixture(scope="session")
def code() -> str:
    texts = (file.read_text("utf-8") for file in CODE if file != Path(__file__))
    return "\n".join(texts)


def named_on(page: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each option, path and name in backticks. A word of a longer text is a name if it looks like one."""
    for span in IN_BACKTICKS.findall(page.read_text("utf-8")):
        for option, path, name in OPTION_PATH_OR_NAME.findall(span):
            is_name = name == span or re.search(r"_|[a-z][A-Z]", name)
            yield option, path, name if is_name else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_exists(page: Path, code: str) -> None:
    words = {*re.findall(r"\w+", code)} | OF_OTHERS
    folders = (ROOT, ROOT / "xraytune", page.parent)

    missing = [
        option or path or name
        for option, path, name in named_on(page)
        if (option and option not in code)
        or (path and path not in code and not any((folder / path).exists() for folder in folders))
        or (name and name not in words)
    ]

    assert missing == []
