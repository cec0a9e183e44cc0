"""Ways to start xraytune other than its console script, and completion in the shell."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from xraytune.cli.main import build_app


@pytest.mark.slow
def test_python_m_xraytune_is_the_command_with_its_exit_codes() -> None:
    version, unknown = (
        subprocess.run([sys.executable, "-m", "xraytune", *words], capture_output=True, text=True, check=False)
        for words in (["--version"], ["status", "nowhere"])
    )

    assert (version.returncode, version.stdout.split()[0]) == (0, "xraytune")
    assert (unknown.returncode, "no study here" in unknown.stderr) == (5, True)


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("xraytune con", ["confirm"]),
        ("xraytune data ", ["inspect", "phantom"]),
        ("xraytune search --stu", ["--studies"]),
    ],
)
def test_shell_completes_commands_and_options(words: str, completed: list[str]) -> None:
    env = {"_XRAYTUNE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}

    result = CliRunner().invoke(build_app(), [], prog_name="xraytune", env=env)

    assert result.stdout.split() == completed
