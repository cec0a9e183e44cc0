"""A space file or an override, whatever is in it: told in our words, and nothing else happens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.fuzzing import SCALARS, TRAPS, damaged_bytes, damaged_lines, fuzzed, only_our_errors
from xraytune.space.load import load_space

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a failing input
SPACES = sorted([*Path("search_spaces").glob("*.yaml"), *Path("search_spaces/studies").glob("*.yaml")])
KEYS = (
    *("lr", "gan", "gan.steps", "gan.seed", "batch_size", "folder.path", "source", "data", "data.path", "parameters"),
    *(
        "parameters.lr",
        "points_to_evaluate",
        "name",
        "budget.trials",
        "data.split.seed.x",
        "weights_dir",
        "exported_from.study",
    ),
    *("", "=", "..", "\0"),
)


def load(path: Path, overrides: tuple[str, ...] = ()) -> None:
    """All that a command does with a space before it starts."""
    space = load_space(path, overrides)
    space.identity()
    space.to_yaml(path.parent)
    space.experiment()


@pytest.mark.parametrize("space", SPACES, ids=lambda path: path.stem)
@pytest.mark.slow
def test_damaged_space_file_is_reported(tmp_path: Path, space: Path) -> None:
    whole = space.read_text(encoding="utf-8")
    file = tmp_path / "space.yaml"

    @fuzzed(kinds=len(SPACES))
    @given(st.one_of(*[damaged_lines(whole, TRAPS, SCALARS)] * 3, damaged_bytes(whole.encode())))
    def load_it(content: bytes) -> None:
        file.write_bytes(content)
        with only_our_errors(tmp_path):
            load(file)

    load_it()


@pytest.mark.slow
def test_damaged_override_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    shutil.copy("search_spaces/gan_ratio.yaml", file)
    value = st.one_of(st.sampled_from([*SCALARS, *TRAPS]), st.text(max_size=12))
    override = st.builds("{}{}{}".format, st.sampled_from(KEYS), st.sampled_from(["=", "=", "=", ""]), value)

    @fuzzed()
    @given(st.lists(override, min_size=1, max_size=3))
    def load_it(overrides: list[str]) -> None:
        with only_our_errors(tmp_path):
            load(file, tuple(overrides))

    load_it()
