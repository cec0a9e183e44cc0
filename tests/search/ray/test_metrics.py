"""The metrics of a search, and the Grafana dashboard that shows them."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

from tests.study.studies import direct, ended, epoch
from xraytune.search.messages import TrialFailed
from xraytune.search.ray.metrics import EPOCHS, GAUGES
from xraytune.study.folder import StudyFolder


def test_statistics_follow_the_trials_and_survive_a_restart(study: StudyFolder) -> None:
    with closing(direct(study, "scheduler.name=none")) as search:
        for _ in range(3):
            search.next_trial(4)
        before = search.statistics(4)
        for number, value in ((0, 0.7), (1, 0.6)):
            search.on_result(number, epoch(1, value))
            search.on_result(number, ended(value))
        search.on_result(2, TrialFailed(reason="why", cause="settings"))
        after = search.statistics(4)

    assert before["best_value"] is None
    assert before["trials"]["running"] == 3
    assert before["slots"] == {"running": 3, "idle": 1}
    assert after["best_value"] == 0.7
    assert after["trials"] == {"running": 0, "waiting": 0, "complete": 2, "failed": 1}
    with closing(direct(study, "scheduler.name=none")) as again:
        assert again.statistics(4) == after


def test_trials_that_wait_for_a_generator_are_counted(study: StudyFolder) -> None:
    """One trial trains the generator that the others need."""
    with closing(
        direct(study, "source=gan", "gan.steps=100", generator_need=lambda one: "it" if one else None)
    ) as search:
        for _ in range(2):
            search.next_trial(2)
        training = search.statistics(2)

    assert training["trials_waiting_for_generator"] == training["trials"]["waiting"] > 0


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    file = Path(__file__).parents[3] / "docker" / "grafana-dashboard.json"
    panels = json.loads(file.read_text(encoding="utf-8"))["panels"]
    queries = " ".join(target["expr"] for panel in panels for target in panel["targets"])

    assert {*re.findall(r"ray_xraytune_(\w+)", queries)} == {*GAUGES, f"{EPOCHS}_total"}
