"""The commands that other commands propose, so that they can be copied and run."""

from pathlib import Path

import pytest

from tests.in_process import command, proposed_by
from tests.pair_files import draw_xrays


@pytest.mark.parametrize("line", ["data inspect xrays", "plan --data xrays --skip-broken"])
def test_a_search_leaves_out_the_broken_images_that_another_command_left_out(
    here: Path, line: str
) -> None:
    draw_xrays(here, patients=60)
    plain = line.removesuffix(" --skip-broken")
    assert proposed_by(command(plain))["search"] == "search --data xrays"
    min(here.glob("xrays/train/*/*")).write_bytes(b"")

    assert proposed_by(command(line))["search"] == "search --data xrays --skip-broken"


def test_no_search_is_proposed_on_a_machine_that_lacks_something(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_xrays(here, patients=60)
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")

    result = command("plan --data xrays")

    assert result.exit_code == 4
    assert "Ray startup" in result.stdout
    assert proposed_by(result) == {}
