"""The files that the architecture page names exist."""

import re

from tests.docs.commands import ROOT


def test_the_files_of_the_architecture_page_exist() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    files = re.findall(r"`(\w[\w/]*\.py)`", page)
    folders = (ROOT, ROOT / "xraytune")

    missing = [file for file in files if not any((folder / file).is_file() for folder in folders)]

    assert len(files) > 50
    assert missing == []
