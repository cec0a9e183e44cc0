"""The commands of the pages work as they stand, but for their size (tests/docs/commands.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.commands import commands_to_run
from tests.docs.conftest import SEGMENTER, run_all

pytestmark = pytest.mark.slow

FIRST, *OTHERS = commands_to_run()
MAIN_JOB = FIRST[1]
PARAMETERS = [
    pytest.param([one for one in commands if SEGMENTER not in one], id=f"{page}:{block.lines[0] + 1}")
    for page, block, commands in OTHERS
]


def test_the_main_job_of_readme_runs(main_job: Path) -> None:
    assert "xraytune train studies/gan-ratio-cpu -o model" in MAIN_JOB.text
    assert (main_job / "studies" / "gan-ratio-cpu" / "confirm" / "verdict.json").is_file()
    assert (main_job / "model" / "bundle.json").is_file()


@pytest.mark.nightly
@pytest.mark.parametrize("commands", PARAMETERS)
def test_commands_run(commands: list[tuple[str, ...]], main_job: Path, world: Path) -> None:
    """A study that no earlier command of the block searches is a copy of README's."""
    for words in commands:
        for study in (world / word for word in words if word.startswith("studies/")):
            if not study.exists():
                finished = shutil.ignore_patterns(*("confirm", "rehearsal") if words[0] == "confirm" else ())
                shutil.copytree(main_job / "studies" / "gan-ratio-cpu", study, ignore=finished)
        run_all([[word.replace("/shared/", f"{world}/shared/") for word in words]], world)
