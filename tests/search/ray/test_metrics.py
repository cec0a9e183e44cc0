"""The metrics of a search, and the Grafana dashboard that shows them."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from tests.study.studies import CPU, DirectSearch, direct, ended, epoch, two_images
from xraytune.base.files import write_json
from xraytune.search.messages import Job, StartTrial, TrialEnded, TrialFailed, Usage
from xraytune.search.ray.metrics import COUNTERS, GAUGES, Metrics
from xraytune.space.load import load_space
from xraytune.space.settings import Parameters
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study

QUALITY_SPACE = """\
version: 1
name: quality
data: {path: xrays}
objective: {metric: gan_kid}
quality: {backbone: mobilenet_v2}
parameters: {source: {value: gan}, gan: {parameters: {steps: {values: [100, 200]}}}}
budget: {trials: 3}
scheduler: {name: none}
"""


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


def test_the_best_value_is_the_lowest_if_the_objective_is_minimised(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(QUALITY_SPACE, encoding="utf-8")
    space, folder = load_space(tmp_path / "space.yaml"), StudyFolder(tmp_path / "quality")
    create_study(folder, space, two_images(), CPU)
    with closing(DirectSearch(folder, space)) as search:
        for number, value in enumerate((3.0, -0.5, 2.0)):
            search.next_trial()
            search.on_result(number, epoch(1, value))
            search.on_result(number, TrialEnded(result=replace(ended(value).result, val_b_score=None)))
        assert search.statistics(1)["best_value"] == -0.5


def test_trials_that_wait_for_a_generator_and_its_speed_are_counted(study: StudyFolder) -> None:
    """One trial trains the generator that the others need."""
    progress = {"what": "training the GAN (steps)", "done": 40, "total": 100, "seconds_left": 30.0}
    with closing(
        direct(study, "source=gan", "gan.steps=100", generator_need=lambda one: "it" if one else None)
    ) as search:
        for _ in range(2):
            search.next_trial(2)
        write_json(study.trial_path(0) / "progress.json", progress)
        training = search.statistics(2)
        write_json(study.trial_path(0) / "progress.json", progress | {"what": "waiting for the GAN (steps)"})
        waiting = search.statistics(2)

    assert training["trials_waiting_for_generator"] == training["trials"]["waiting"] > 0
    assert (training["generator_steps_per_second"], waiting["generator_steps_per_second"]) == (2.0, 0.0)


@pytest.mark.parametrize(("mixing", "images"), [("additive", 12), ("replace", 8), ("pretrain", 8)])
def test_images_of_a_step_are_real_and_extra_ones(mixing: str, images: int) -> None:
    mix = {"source": "gan", "synthetic_ratio": 0.5, "mixing": mixing, "batch_size": 8}

    assert Parameters.model_validate(mix).images_per_step == images


class Recorded:
    """Stands for a gauge or counter of Ray: keeps the last value, or the sum, by name and tags."""

    values: ClassVar[dict[tuple[str, ...], float]] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        del description
        self._name, self._tag_keys = name.removeprefix("xraytune_"), tag_keys

    def _key(self, tags: dict[str, str]) -> tuple[str, ...]:
        assert set(tags) == set(self._tag_keys)
        return (self._name, *(tags[key] for key in self._tag_keys if key != "study"))

    def set(self, value: float | None, tags: dict[str, str]) -> None:
        if value is not None:
            self.values[self._key(tags)] = value

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.values[self._key(tags)] = self.values.get(self._key(tags), 0.0) + value


def started(number: int) -> StartTrial:
    job = Job(study="", cache="", number=number, label="", gpu_share=0.0, lock="", token="")
    return StartTrial(job=job, process="", resources={}, images_per_step=12)


def test_values_of_running_trials_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("Gauge", "Counter"):
        monkeypatch.setattr(f"xraytune.search.ray.metrics.{kind}", Recorded)
    monkeypatch.setattr(Recorded, "values", {})
    metrics, values = Metrics("small"), Recorded.values
    usage = Usage(gpu_memory_bytes=1000, cache_requests=(("gan", "hit", 2),))
    now = {"best_value": None, "trials": {"running": 2, "complete": 1}, "slots": {"running": 2, "idle": 1}}

    for number in (4, 5):
        metrics.on_result(started(number), epoch(2, 0.5), usage)
    metrics.show(now)
    running = dict(values)
    metrics.on_stop(5)
    metrics.show(now)
    one_less = dict(values)

    assert ("best_value",) not in running, "None is no value"
    assert running["epochs",] == 2
    assert running["cache_requests", "gan", "hit"] == 4
    assert running["images_per_second",] == 2 * 12 * 8, "8 steps a second"
    assert running["gpu_memory_bytes",] == 2000
    assert (one_less["images_per_second",], one_less["gpu_memory_bytes",]) == (12 * 8, 1000)


def test_metrics_that_fail_leave_one_traceback_and_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no metrics here")

    monkeypatch.setattr("xraytune.search.ray.metrics.Gauge", refuse)

    metrics = Metrics("small")
    metrics.show({"best_value": 0.5, "trials": {"running": 1}})
    metrics.on_result(started(0), epoch(1, 0.5), Usage(gpu_memory_bytes=0, cache_requests=()))

    assert capsys.readouterr().err.count("Traceback") == 1


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    file = Path(__file__).parents[3] / "docker" / "grafana-dashboard.json"
    panels = json.loads(file.read_text(encoding="utf-8"))["panels"]
    queries = " ".join(target["expr"] for panel in panels for target in panel["targets"])

    assert {*re.findall(r"ray_xraytune_(\w+)", queries)} == {*GAUGES, *(f"{name}_total" for name in COUNTERS)}
