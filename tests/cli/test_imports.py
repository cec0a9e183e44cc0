"""Modules that quick commands import."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "ray", "wandb", "optuna", "pandas", "sklearn")

RUN = """
import sys
from xraytune.cli.main import build_app
build_app()(sys.argv[1:], standalone_mode=False)
print(*(name for name in {heavy} if name in sys.modules))
"""


def loaded_by(*arguments: str) -> list[str]:
    code = RUN.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["train", "--help"], ["--version"]])
@pytest.mark.slow
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(*arguments) == []


@pytest.mark.slow
def test_space_check_loads_nothing_heavy(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("name: small\ndata: {path: x}\nparameters:\n  lr: {min: 1e-5, max: 1e-3}\n", encoding="utf-8")

    assert loaded_by("space", "check", str(file)) == []


@pytest.mark.slow
def test_status_and_export_load_no_torch() -> None:
    code = "import sys, xraytune.study.status, xraytune.model.best; print(*{'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "\n"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["xraytune.search.run", "xraytune.search.worker"])
def test_a_search_and_its_trials_load_slow_packages_only_when_needed(module: str) -> None:
    slow = {"ray", "pandas", "scipy.stats", "sklearn", "torchvision"}
    code = f"import sys, {module}; print(*{slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "\n"


@pytest.mark.slow
def test_package_import_is_light_and_exports_all_names() -> None:
    code = (
        "import sys, xraytune\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules))\n"
        "print(all(callable(getattr(xraytune, name)) for name in xraytune.__all__))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "\nTrue\n"
