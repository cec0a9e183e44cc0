"""From a study to a verdict on phantom X-rays, with Ray, in separate processes; interrupted once and resumed."""

import json
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.end_to_end.test_main_job import SPACE, xraytune
from tests.faults.ray_processes import PROGRAM
from tests.in_process import said, search_in_process
from xraytune.base.files import read_jsonl
from xraytune.confirm.arms import read_plan
from xraytune.data.phantom import draw_phantoms
from xraytune.space.load import load_space

CONFIRM = """\
confirm: {finalists: 1, replicates: 2, controls: {matched: [none, duplicate], tuned: [real_only]}}
"""
QUICK = (
    *("budget.trials=2", "budget.max_epochs=1", "scheduler.name=none"),
    *("quality.allow_memorised=true", "gan.steps={values: [5, 10]}"),
    "points_to_evaluate=[{source: gan, gan.steps: 5}, {source: none, classical: 0}]",
)


def interrupt_after_a_run(folder: Path, study: Path) -> int:
    """Start a confirmation, interrupt it after its first replicate, and return its exit code."""
    ended = study / "confirm" / "runs.jsonl"
    with (folder / "interrupted.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen([PROGRAM, "confirm", str(study)], cwd=folder, stdout=log, stderr=log)
        while process.poll() is None and not (ended.exists() and ended.stat().st_size):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        return process.wait()


@pytest.mark.ray
@pytest.mark.slow
def test_a_confirm_resumes_after_an_interruption_and_accesses_the_test_folder_once(tmp_path: Path) -> None:
    draw_phantoms(tmp_path / "xrays", patients=60, seed=0, image_size_px=32)
    (tmp_path / "small.yaml").write_text(SPACE + CONFIRM, encoding="utf-8")
    study = search_in_process(load_space(tmp_path / "small.yaml", QUICK), tmp_path).path

    assert interrupt_after_a_run(tmp_path, study) == 130
    assert not (study / "test_access.jsonl").exists()
    ended_before = len(read_jsonl(study / "confirm" / "runs.jsonl"))
    done = xraytune(tmp_path, "confirm", str(study), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    # The finalist, its two matched controls, the tuned one, and the other ratios; each with two replicates, each once.
    numbers = Counter(row["number"] for row in read_jsonl(study / "confirm" / "runs.jsonl"))
    plan = read_plan(study / "confirm")
    assert plan is not None
    assert 0 < ended_before < len(numbers)
    assert numbers == Counter(range(len(plan.trainings) * 2))
    assert [arm.role for arm in plan.arms] == ["finalist", "matched", "matched", *["ratio"] * 8, "tuned"]
    (access,) = read_jsonl(study / "test_access.jsonl")
    assert (access["command"], access["images"]) == ("confirm", found["test"]["images"])
    assert found == json.loads((study / "confirm" / "verdict.json").read_text(encoding="utf-8"))
    assert found["verdict"] in {"helps", "hurts", "no_better", "undecided"}
    assert found["exploratory"] == ["it has only 2 replicates, and the 95 % intervals need at least 4"]
    assert [point["ratio"] for point in found["ratio_response"]] == [0, 0.25, 0.5, 1, 2, 4]
    assert all(point["duplicate"] and point["over_duplicate"] for point in found["ratio_response"][1:])
    (finalist,) = found["finalists"]
    for comparison in finalist["comparisons"]:
        assert comparison["low"] <= comparison["difference"] <= comparison["high"]
        assert comparison["difference"] == pytest.approx(finalist["score"] - comparison["control_score"])

    again = said("confirm", study)

    assert again == found, "nothing is trained or accessed again"
    assert len(read_jsonl(study / "test_access.jsonl")) == 1
