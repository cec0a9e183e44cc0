"""The commands of README, the tutorial and the demo work as they stand, with fewer images."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from docs.hooks import blocks, shell_commands
from tests.docs.commands import BLOCKS, ROOT, TINY, of_xraytune, used_by
from tests.in_process import command, confirm_in_process
from xraytune.base.files import read_json
from xraytune.data.phantom import paint_phantoms

pytestmark = pytest.mark.nightly


def run_all(commands: Iterable[Sequence[str]], folder: Path) -> list[str]:
    """Run commands in a folder, with trials in this process, and return what they print.

    Each must succeed, and replaces what it writes.
    """
    printed = []
    with pytest.MonkeyPatch.context() as patch, confirm_in_process():
        patch.chdir(folder)
        for words in commands:
            outputs = [after for option, after in itertools.pairwise(words) if option == "-o"]
            for path in map(Path, outputs):
                shutil.rmtree(path, ignore_errors=True)
            done = command(*words)
            assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}"
            printed.append(done.output)
    return printed


def shrink(words: list[str]) -> list[str]:
    """Return a command that searches, or has a space file, with tiny settings."""
    if "--space" in words:
        tiny = used_by(words[words.index("--space") + 1], TINY)
    elif words[0] == "search":
        tiny = used_by("gan_ratio_cpu", TINY)  # which is like a space that is written for images
    else:
        return words
    return [*words, *(word for line in tiny for word in ("--set", line))]


def test_the_commands_of_readme_run(tmp_path: Path) -> None:
    paint_phantoms(tmp_path / "chest_xray", patients=80, seed=1, image_size_px=32)
    commands = [
        arguments
        for page, block in BLOCKS
        if page == "README.md" and block.language == "bash"
        for words in shell_commands(block.text)
        if (arguments := of_xraytune(words))
    ]

    run_all(map(shrink, commands), tmp_path)

    for study in ("gan-ratio", "chest-xray"):
        assert (tmp_path / "studies" / study / "confirm/verdict.json").is_file()
    assert (tmp_path / "model/bundle.json").is_file()


NUMBER = re.compile(r"#?[-+]?\d[\d,]*(\.\d+)?")
RESULT = re.compile("no better|better|worse|equivalent|undecided")
TOLERANCE = 0.05
"""How much scores may differ between kinds of CPUs."""


def differs(shown: str, printed: str) -> bool:
    """Return whether a line of a page is another one than was printed.

    Results of single comparisons and numbers of trials, which follow from scores, may differ.
    """
    words, other_words = (
        RESULT.sub("", NUMBER.sub("0", " ".join(line.split()))) for line in (shown, printed)
    )
    if words != other_words:
        return True
    for found, other in zip(NUMBER.finditer(shown), NUMBER.finditer(printed), strict=True):
        if not found[0].startswith("#"):
            value, other_value = (float(number[0].replace(",", "")) for number in (found, other))
            if abs(value - other_value) > (TOLERANCE if found[1] else 0):
                return True
    return False


def test_the_tutorial_shows_what_its_commands_print(tmp_path: Path) -> None:
    """Counts are the same, and scores nearly; the model that it ends with is a good one."""
    printed: dict[str, str] = {}
    page = blocks((ROOT / "docs/tutorial.md").read_text("utf-8"))
    for block in page:
        if block.language == "yaml":
            (tmp_path / "tutorial.yaml").write_text(block.text, "utf-8")
        for words in shell_commands(block.text) if block.language == "bash" else ():
            if words[0] == "xraytune":
                (printed[" ".join(words)],) = run_all([words[1:]], tmp_path)

    shown = [
        (" ".join(shell_commands(before.text)[-1]), block.text)
        for before, block in itertools.pairwise(page)
        if block.language == "text"
    ]
    assert len(shown) == 6
    for command_line, output in shown:
        for line in output.splitlines():
            is_printed = not all(
                differs(line, other) for other in printed[command_line].splitlines()
            )
            assert is_printed or line == "...", f"{command_line}: {line}"
    (auroc,) = (line for line in shown[-1][1].splitlines() if line.startswith("AUROC"))
    assert float(auroc.split()[1]) > 0.9


def test_the_quick_demo_runs(tmp_path: Path) -> None:
    """It goes from phantoms to a verdict, its report, and the evaluation of a model."""
    (printed,) = run_all([["demo", "--quick"]], tmp_path)
    quick = tmp_path / "demo/quick"
    study = quick / "studies/other-hospital-demo"

    assert "sensitivity (PNEUMONIA)" in printed
    assert read_json(study / "confirm/verdict.json")["verdict"]
    assert printed.rstrip().endswith("report.html")
    assert (quick / "model/bundle.json").is_file()
