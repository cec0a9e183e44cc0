"""The whole workflow on phantom X-rays: searches with Ray in processes, the rest in this one."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from operator import itemgetter
from pathlib import Path

import pytest

from tests.confirm.labs import search_space
from tests.end_to_end.conftest import SPACE, search_until_a_trial_ends
from tests.faults.ray_processes import PROGRAM
from tests.in_process import other_process, said
from tests.model.conftest import read_rows
from tests.pair_files import draw_xrays
from xraytune.base.files import read_jsonl
from xraytune.confirm.arms import read_plan


@pytest.mark.ray
def test_from_images_to_a_model(here: Path) -> None:
    """A search is interrupted and resumed, and its model is trained, evaluated and used."""
    for name in ("random.py", "numpy.py", "queue.py"):  # neither Ray nor a trial imports them
        (here / name).write_text("raise ImportError")
    (here / "small.yaml").write_text(SPACE)
    said("data phantom xrays --patients 40 --seed 1 --size 64")
    said("data phantom others --patients 20 --seed 2 --size 64")
    search = "search --space small.yaml"

    assert search_until_a_trial_ends(here, search, signal.SIGINT) == 130
    assert "unfinished" in {trial["status"] for trial in said("status studies/small")["trials"]}

    done = other_process(f"{PROGRAM} {search}")

    assert done.returncode == 0, done.stderr
    rows = read_jsonl(here / "studies/small/trials.jsonl")
    rows.sort(key=itemgetter("number"))
    assert [row["number"] for row in rows] == [0, 1, 2], "each trial exactly once"
    assert {row["status"] for row in rows} <= {"complete", "pruned"}
    assert [row["arm"] for row in rows][:2] == ["real_only", "augmented+gan"]
    status = said("status studies/small")
    assert (len(status["trials"]), status["is_running"]) == (3, False)

    trained = said("train studies/small -o model")
    assert trained["val_score"] > 0.5

    evaluated = said("evaluate model --data others/test")
    assert {"auroc", "sensitivity (PNEUMONIA)", "intervals"} <= evaluated.keys()
    said("predict model others/test -o predictions.csv")
    assert len(read_rows(here / "predictions.csv")) == evaluated["images"]

    complete = next(row for row in rows if row["status"] == "complete")
    said(f"export studies/small --trial {complete['number']} --exact -o exact.yaml")
    exact = said("train --config exact.yaml -o exact")
    assert exact["val_b_score"] == complete["val_b_score"], "it differs without Ray"

    assert sum(said(search)["counts"].values()) == 3, "a finished search runs no more trials"


CONFIRM = """\
confirm: {finalists: 1, replicates: 2, controls: {matched: [none, duplicate], tuned: [real_only]}}
"""
QUICK = (
    *("budget.trials=2", "budget.max_epochs=1", "scheduler.name=none"),
    *("quality.allow_memorised=true", "gan.steps={values: [5, 10]}"),
    "points_to_evaluate=[{source: gan, gan.steps: 5, synthetic_ratio: 0.5}, "
    "{source: none, augmentation: none}]",
)


def interrupt_after_a_run(folder: Path, study: Path) -> int:
    """Start a confirmation, interrupt it after its first replicate, and return its exit code."""
    ended = study / "confirm/runs.jsonl"
    with (folder / "interrupted.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [PROGRAM, "confirm", str(study)], cwd=folder, stdout=log, stderr=log
        )
        while process.poll() is None and not (ended.exists() and ended.stat().st_size):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        return process.wait()


@pytest.mark.ray
def test_a_confirm_resumes_after_an_interruption_and_accesses_the_test_folder_once(
    tmp_path: Path,
) -> None:
    draw_xrays(tmp_path, patients=60, seed=0)
    study = search_space(tmp_path, SPACE + CONFIRM, overrides=QUICK)

    assert interrupt_after_a_run(tmp_path, study) == 130
    assert not (study / "test_access.jsonl").exists()
    ended_before = len(read_jsonl(study / "confirm/runs.jsonl"))
    done = other_process(f"{PROGRAM} confirm {study} --json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    # The finalist, its two matched controls and the tuned one; each with two replicates, each once.
    numbers = Counter(row["number"] for row in read_jsonl(study / "confirm/runs.jsonl"))
    plan = read_plan(study / "confirm")
    assert plan is not None
    assert 0 < ended_before < len(numbers)
    assert numbers == Counter(range(len(plan.trainings) * 2))
    assert [arm.role for arm in plan.arms] == ["finalist", "matched", "matched", "tuned"]
    (access,) = read_jsonl(study / "test_access.jsonl")
    assert (access["command"], access["images"]) == ("confirm", found["test"]["images"])
    assert found == json.loads((study / "confirm/verdict.json").read_text())
    assert found["verdict"] in {"helps", "hurts", "no_better", "undecided"}
    assert found["exploratory"] == [
        "there are only 2 replicates, and the 95 % intervals need at least 4"
    ]

    again = said(f"confirm {study}")

    assert again == found, "nothing is trained or accessed again"
    assert len(read_jsonl(study / "test_access.jsonl")) == 1


@pytest.mark.nightly
@pytest.mark.skipif(not shutil.which("uv"), reason="needs uv on the PATH")
def test_a_search_by_uv_run_does_not_hang(here: Path) -> None:
    """Ray's workers start in this environment, not by `uv run` in a copy of the project."""
    (here / "small.yaml").write_text(SPACE)
    said("data phantom xrays --patients 40 --seed 1 --size 64")
    search = f"{PROGRAM} search --space small.yaml --set budget.trials=1"

    done = other_process(f"uv run --no-project --python {sys.executable} -- {search}", timeout=300)

    assert done.returncode == 0, done.stderr
    assert "#0 complete" in done.stdout + done.stderr
