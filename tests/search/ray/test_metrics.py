"""The metrics of a search, and the Grafana dashboard that shows them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.study.studies import CPU, DirectSearch, direct, ended, epoch, two_images
from xraytune.base.files import write_json
from xraytune.search.messages import Job, StartTrial, TrialEnded, TrialFailed, Usage
from xraytune.search.order import GeneratorNeeds
from xraytune.search.ray.metrics import COUNTERS, GAUGES, Metrics
from xraytune.space.load import load_space
from xraytune.space.settings import Parameters
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study
from xraytune.study.suggestion import TrialSuggestion

DOCKER = Path(__file__).parents[3] / "docker"
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


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DOCKER / "grafana-dashboard.json").read_text(encoding="utf-8"))
    return content


def queries() -> dict[str, str]:
    """The query of each panel."""
    return {panel["title"]: target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]}


def needs(lineage: str) -> GeneratorNeeds:
    return lambda generator: lineage if generator else None


def test_statistics_follow_the_trials_and_survive_a_restart(study: StudyFolder) -> None:
    search = direct(study, "scheduler.name=none")
    first, second, third = (search.next_trial(4) for _ in range(3))
    assert isinstance(first, TrialSuggestion)
    assert isinstance(second, TrialSuggestion)
    assert isinstance(third, TrialSuggestion)
    before = search.statistics(4)
    for trial, value in ((first, 0.7), (second, 0.6)):
        search.on_result(trial.number, epoch(1, value))
        search.on_result(trial.number, ended(value))
    search.on_result(third.number, TrialFailed(reason="why", cause="settings"))
    after = search.statistics(4)
    search.close()

    assert before["best_value"] is None
    assert before["trials"]["running"] == 3
    assert before["slots"] == {"running": 3, "idle": 1}
    assert after["best_value"] == 0.7
    assert after["trials"] == {"running": 0, "waiting": 0, "complete": 2, "failed": 1}
    again = direct(study, "scheduler.name=none")
    assert again.statistics(4) == after
    again.close()


def test_the_best_value_is_the_lowest_if_the_objective_is_minimised(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(QUALITY_SPACE, encoding="utf-8")
    space, folder = load_space(tmp_path / "space.yaml"), StudyFolder(tmp_path / "quality")
    create_study(folder, space, two_images(), CPU)
    search = DirectSearch(folder, space)
    for value in (3.0, -0.5, 2.0):
        trial = search.next_trial()
        assert isinstance(trial, TrialSuggestion)
        search.on_result(trial.number, epoch(1, value))
        search.on_result(trial.number, TrialEnded(result=replace(ended(value).result, val_b_score=None)))

    assert search.statistics(1)["best_value"] == -0.5
    search.close()


def test_trials_that_wait_for_a_generator_and_its_speed_are_counted(study: StudyFolder) -> None:
    """One trial trains the generator that the others need."""
    search = direct(study, "source=gan", "gan.steps=100", generator_need=needs("the only one"))
    trains = search.next_trial(2)
    assert isinstance(trains, TrialSuggestion)
    search.next_trial(2)
    progress = {"what": "training the GAN (steps)", "done": 40, "total": 100, "seconds_left": 30.0}
    write_json(study.trial_path(trains.number) / "progress.json", progress)

    statistics = search.statistics(2)

    assert statistics["trials_waiting_for_generator"] == statistics["trials"]["waiting"] > 0
    assert statistics["generator_steps_per_second"] == 2.0
    write_json(study.trial_path(trains.number) / "progress.json", progress | {"what": "waiting for the GAN (steps)"})
    assert search.statistics(2)["generator_steps_per_second"] == 0.0
    search.close()


@pytest.mark.parametrize(
    ("mixing", "images"), [("additive", 12), ("replace", 8), ("pretrain", 8)], ids=["additive", "replace", "pretrain"]
)
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
    used = set(re.findall(r"ray_xraytune_(\w+)", " ".join(queries().values())))

    assert used == {*GAUGES, *(f"{name}_total" for name in COUNTERS)}
