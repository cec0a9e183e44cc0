"""Modules that quick commands import."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HEAVY = ("torch", "torchvision", "ray", "wandb", "optuna", "pandas", "sklearn")
OF_A_TRIAL = ("ray", "pandas", "scipy.stats", "sklearn", "torchvision")
COMMAND = "from xraytune.cli.main import build_app\nbuild_app()(sys.argv[1:], standalone_mode=False)"


def loaded_by(code: str, *arguments: str, names: tuple[str, ...] = HEAVY) -> list[str]:
    code = f"import sys\n{code}\nprint(*(name for name in {names} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("line", ["--help", "train --help", "--version", "space check space.yaml"])
def test_a_quick_command_loads_nothing_heavy(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(
        "name: small\ndata: {path: x}\nparameters:\n  lr: {min: 1e-5, max: 1e-3}\n", encoding="utf-8"
    )

    assert loaded_by(COMMAND, *line.split()) == []


@pytest.mark.parametrize(
    ("modules", "names"),
    [
        ("xraytune.study.status, xraytune.model.best", ("torch", "ray")),
        ("xraytune.search.run", OF_A_TRIAL),
        ("xraytune.search.worker", OF_A_TRIAL),
        ("xraytune", HEAVY),
    ],
)
def test_a_module_loads_slow_packages_only_when_needed(modules: str, names: tuple[str, ...]) -> None:
    assert loaded_by(f"import {modules}", names=names) == []


def test_the_package_exports_all_names() -> None:
    code = "import xraytune; print(all(callable(getattr(xraytune, name)) for name in xraytune.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "True\n"
