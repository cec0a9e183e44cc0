"""Modules that quick commands import."""

import sys
from pathlib import Path

import pytest

from tests.in_process import other_process
from xraytune import api

HEAVY = ("torch", "torchvision", "ray", "wandb", "optuna", "pandas", "sklearn")
COMMANDS = """
from xraytune.cli.main import build_app
for line in sys.argv[1:]:
    build_app()(line.split(), standalone_mode=False)
"""
UP_TO_ITS_FIRST_LINE = f"""
import contextlib, io
class FirstLine(io.StringIO):
    def write(self, text):
        raise SystemExit
sys.stderr = FirstLine()
with contextlib.suppress(SystemExit):
    {COMMANDS.strip().replace(chr(10), chr(10) + "    ")}
"""


def loaded_by(code: str, *arguments: str, names: tuple[str, ...] = HEAVY) -> list[str]:
    code = f"import sys\n{code}\nprint(*(name for name in {names} if name in sys.modules))"
    done = other_process(sys.executable, "-c", code, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_quick_commands_load_nothing_heavy(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "name: small\ndata: {path: x}\nparameters:\n  lr: {min: 1e-5, max: 1e-3}\n",
    )

    assert loaded_by(COMMANDS, "--help", "train --help", "--version", f"space check {space}") == []


@pytest.mark.parametrize("line", ["status", "plan", "data inspect xrays"])
def test_a_command_says_what_it_does_before_it_loads_anything_heavy(line: str) -> None:
    """Imports take seconds."""
    assert loaded_by(UP_TO_ITS_FIRST_LINE, line, names=(*HEAVY, "scipy")) == []


def test_torchs_compiler_is_imported_when_it_is_used() -> None:
    """Importing it takes as long as torch itself."""
    compiler = ("torch._dynamo",)
    use = "sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu')"

    check = "from xraytune.nets.backbones import accepts; import xraytune.search.run"
    check += "; assert accepts('mobilenet_v2', 64)"

    assert loaded_by(check, names=compiler) == []
    assert loaded_by(f"import xraytune.nets.vision; {use}", names=compiler) == [*compiler]


def test_a_trial_starts_without_the_parts_of_scipy_that_it_may_need_at_its_end() -> None:
    """Their imports take a quarter of those of its process."""
    unused = ("scipy.stats", "scipy.ndimage", "scipy.optimize")

    assert loaded_by("import xraytune.search.worker", names=unused) == []


def test_rays_process_makes_its_decisions_without_torch() -> None:
    code = "import xraytune.search.ray.tuning, xraytune.search.trials, xraytune.confirm.run_list"

    assert loaded_by(code, names=("torch",)) == []


def test_all_public_names_can_be_imported() -> None:
    assert all(callable(getattr(api, name)) for name in api.__all__)
