"""A plan only grows, and survives its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xraytune.config.settings import Parameters
from xraytune.confirm.plan import Arm, Plan, read_plan, write_plan
from xraytune.errors import StudyError

GAN = Arm(
    name="gan #1",
    role="finalist",
    trial="#1",
    parameters=Parameters.model_validate({"source": "gan", "gan": {"ema_half_life_images": None, "steps": 7}}),
)
NONE = Arm(name="none, matched to #1", role="matched", trial="#1", parameters=Parameters(), resolution_px=64)


def test_every_arm_has_a_run_for_each_pair_of_seeds() -> None:
    plan = Plan().grown([GAN, NONE], 3, 2)

    assert len(plan.runs) == 2 * 3 * 2
    assert sorted(plan.numbers("gan #1")) == [(g, c) for g in range(3) for c in range(2)]
    assert not set(plan.numbers("gan #1").values()) & set(plan.numbers("none, matched to #1").values())


def test_added_seeds_keep_the_numbers_of_existing_runs() -> None:
    """Nothing is trained again under another number."""
    plan = Plan().grown([GAN, NONE], 2, 2)

    more = plan.grown((), 4, 2)

    assert more.runs[: len(plan.runs)] == plan.runs
    assert len(more.runs) == 2 * len(plan.runs)
    assert more.grown((), 3, 1) == more, "fewer seeds take nothing away"


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = Plan().grown([GAN, NONE], 2, 1)

    write_plan(plan, tmp_path)

    assert read_plan(tmp_path) == plan
    assert read_plan(tmp_path / "elsewhere") is None


def test_a_plan_moves_with_its_study_and_the_files_next_to_it(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "confirm").mkdir(parents=True)
    settings = {"source": "folder", "folder": {"path": here / "copies"}, "weights": str(here / "net.pth")}
    arm = Arm(name="folder #1", role="finalist", trial="#1", parameters=Parameters.model_validate(settings))
    write_plan(Plan().grown([arm], 1, 1), here / "confirm")

    here.rename(there)
    plan = read_plan(there / "confirm")

    assert plan is not None
    moved = plan.arms[0].parameters
    assert moved.folder is not None
    assert (moved.folder.path, moved.weights) == (there / "copies", str(there / "net.pth"))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("runs", [["nobody", 0, 0]]),
        ("runs", [["gan #1", "0", 0]]),
        ("gan_seeds", None),
        ("arms", [{"name": "gan #1"}]),
        ("version", 3),
    ],
)
def test_a_damaged_plan_is_refused_with_its_path(tmp_path: Path, place: str, value: Any) -> None:
    write_plan(Plan().grown([GAN], 1, 1), tmp_path)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), place: value}), encoding="utf-8")

    with pytest.raises(StudyError, match=r"plan\.json: the plan of this confirmation is damaged"):
        read_plan(tmp_path)


def test_a_binary_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(b"\xff")

    with pytest.raises(StudyError, match="is damaged"):
        read_plan(tmp_path)
