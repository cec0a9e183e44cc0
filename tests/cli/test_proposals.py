"""The commands that other commands propose, so that they can be copied and run."""

from pathlib import Path

import pytest

from tests.in_process import command, proposed_by
from xraytune.data.phantom import paint_phantoms


@pytest.mark.parametrize("line", ["data inspect xrays", "plan --data xrays --skip-broken"])
def test_a_search_leaves_out_the_broken_images_that_another_command_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    paint_phantoms(tmp_path / "xrays", patients=60, seed=1, image_size_px=32)
    monkeypatch.chdir(tmp_path)
    plain = line.removesuffix(" --skip-broken")
    assert proposed_by(command(plain))["search"] == "search --data xrays"
    min(tmp_path.glob("xrays/train/*/*")).write_bytes(b"")

    assert proposed_by(command(line))["search"] == "search --data xrays --skip-broken"


def test_no_search_is_proposed_on_a_machine_that_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint_phantoms(tmp_path / "xrays", patients=60, seed=1, image_size_px=32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")

    result = command("plan --data xrays")

    assert result.exit_code == 4
    assert "Ray startup" in result.stdout
    assert proposed_by(result) == {}
