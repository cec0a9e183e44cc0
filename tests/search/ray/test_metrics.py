"""The metrics of a search: their values, the Grafana dashboard, and what Prometheus scrapes from a live search."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.search.studies import CPU, direct, ended, epoch, no_gan, two_images
from xraytune.config.load import load_space
from xraytune.config.settings import Parameters
from xraytune.data.phantom import draw_phantoms
from xraytune.files import write_json
from xraytune.search.controller import SearchController
from xraytune.search.journal import Journal
from xraytune.search.messages import TrialSuggestion
from xraytune.search.ray.metrics import COUNTERS, GAUGES, Metrics
from xraytune.search.study import StudyFolder, create_study
from xraytune.search.trial_queue import GeneratorNeeds

DOCKER = Path(__file__).parents[3] / "docker"
PROMETHEUS = shutil.which("prometheus")
DISCOVERY = "/tmp/ray/prom_metrics_service_discovery.json"
PROGRAM = str(Path(sys.executable).with_name("xraytune"))
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "dashboard_port": None})
print("\\ncluster", cluster.address, cluster.head_node.get_session_dir_path(), flush=True)
sys.stdin.read()
cluster.shutdown()
"""
SPACE = """\
version: 1
name: watched
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {values: [none, gan]}
  synthetic_ratio: {value: 0.5, when: {source: gan}}
  gan: {when: {source: gan}, parameters: {image_size: {value: 32}, steps: {value: 20}, width: {value: 4}}}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
  batch_size: {value: 8}
points_to_evaluate: [{source: none, lr: 1e-2}, {source: gan, lr: 1e-2}]
budget: {trials: 200, max_epochs: 2, steps_per_epoch: 2}
scheduler: {name: none}
quality: {allow_memorised: true}
resources: {concurrent: 2}
"""
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
    search.on_result(third.number, {"failed": "why", "cause": "settings"})
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
    journal = Journal(folder.journal_path, space, writable=True)
    search = SearchController(folder, space, journal, generator_need=no_gan)
    for value in (3.0, -0.5, 2.0):
        trial = search.next_trial()
        assert isinstance(trial, TrialSuggestion)
        search.on_result(trial.number, epoch(1, value))
        search.on_result(trial.number, ended(value))

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


def test_trials_add_up_and_a_finished_search_shows_nothing_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("Gauge", "Counter"):
        monkeypatch.setattr(f"xraytune.search.ray.metrics.{kind}", Recorded)
    monkeypatch.setattr(Recorded, "values", {})
    metrics, values = Metrics("small"), Recorded.values
    usage = {"gpu_memory_bytes": 1000, "cache_requests": [["gan", "hit", 2]]}
    now = {"best_value": None, "trials": {"running": 2, "complete": 1}, "slots": {"running": 2, "idle": 1}}

    for number in (4, 5):
        metrics.on_result({"number": number, "images_per_step": 12}, epoch(2, 0.5), usage)
    metrics.show(now)
    running = dict(values)
    metrics.on_stop(5)
    metrics.show(now)
    one_less = dict(values)
    metrics.on_end()

    assert ("best_value",) not in running, "None is no value"
    assert running["epochs",] == 2
    assert running["cache_requests", "gan", "hit"] == 4
    assert running["images_per_second",] == 2 * 12 * 8, "8 steps a second"
    assert running["gpu_memory_bytes",] == 2000
    assert (one_less["images_per_second",], one_less["gpu_memory_bytes",]) == (12 * 8, 1000)
    still = {key: value for key, value in values.items() if value}
    assert still == {("epochs",): 2, ("cache_requests", "gan", "hit"): 4, ("trials", "complete"): 1}


def test_metrics_that_fail_leave_one_traceback_and_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no metrics here")

    monkeypatch.setattr("xraytune.search.ray.metrics.Gauge", refuse)

    metrics = Metrics("small")
    metrics.show({"best_value": 0.5, "trials": {"running": 1}})
    metrics.on_result({"number": 0, "images_per_step": 8}, epoch(1, 0.5), {"nothing": "known"})
    metrics.on_end()

    assert capsys.readouterr().err.count("Traceback") == 1


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    used = set(re.findall(r"ray_xraytune_(\w+)", " ".join(queries().values())))

    assert used == {*GAUGES, *(f"{name}_total" for name in COUNTERS)}


def test_the_dashboard_fits_the_schema_of_grafana() -> None:
    """The classes of Grafana's SDK, made from the schema, keep every entry: a misspelt one would be lost."""
    register_default_plugins()
    content = dashboard()

    read = json.loads(JSONEncoder().encode(Dashboard.from_json(content)))

    assert content["schemaVersion"] == Dashboard().schema_version
    assert {variable["name"] for variable in content["templating"]["list"]} == {"datasource", "study"}
    assert list(lost(content, read)) == []


def lost(given: Any, kept: Any, place: str = "") -> Iterator[str]:
    """Where `kept` lacks something of `given`, or differs."""
    if isinstance(given, dict):
        for name, value in given.items():
            yield from lost(value, kept[name], f"{place}/{name}") if name in kept else [f"{place}/{name}"]
    elif isinstance(given, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{place}/{number}")
    elif given != kept:
        yield place


@contextmanager
def ended_after(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def cluster(environment: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """A Ray cluster; yields its address and the folder of its session."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", CLUSTER]
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        _, address, folder = next(line.split() for line in process.stdout if line.startswith("cluster "))
        yield address, Path(folder)


@contextmanager
def prometheus(folder: Path, session: Path) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Prometheus with the configuration of docker/, for this session of Ray; yields a function that asks it."""
    config = (DOCKER / "prometheus.yml").read_text(encoding="utf-8")
    assert DISCOVERY in config
    config = config.replace(DISCOVERY, str(session / Path(DISCOVERY).name)).replace("interval: 10s", "interval: 1s")
    (folder / "prometheus.yml").write_text(config, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(PROMETHEUS), "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}"]
    opener = build_opener(ProxyHandler({}))

    def ask(query: str) -> list[dict[str, Any]]:
        query = query.replace("$study", ".*").replace("$__rate_interval", "1m")
        try:
            with opener.open(
                f"http://127.0.0.1:{port}/api/v1/query?{urlencode({'query': query})}", timeout=10
            ) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except URLError:  # it is starting
            return []
        return [one for one in result if one["value"][1] != "NaN"]

    with (
        (folder / "prometheus.log").open("w") as log,
        ended_after(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, text=True)),
    ):
        yield ask


def wait_for(condition: Callable[[], bool], seconds: float, failed: Callable[[], object]) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, failed()
        time.sleep(0.5)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="needs `prometheus` (apt-get install prometheus)")
def test_every_panel_shows_something_during_a_search_and_nothing_runs_after_it(tmp_path: Path) -> None:
    draw_phantoms(tmp_path / "xrays", patients=20, seed=1, image_size_px=32)
    (tmp_path / "space.yaml").write_text(SPACE, encoding="utf-8")
    environment = {**os.environ, "RAY_metrics_report_interval_ms": "1000"}
    with cluster(environment) as (address, session), prometheus(tmp_path, session) as ask:
        command = [PROGRAM, "search", "--space", "space.yaml", "--address", address]
        with (
            (tmp_path / "search.log").open("w") as log,
            ended_after(
                subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, text=True)
            ) as search,
        ):
            empty = set(queries())

            def all_shown() -> bool:
                nonlocal empty
                assert search.poll() is None, (tmp_path / "search.log").read_text(encoding="utf-8")
                empty = {title for title, query in queries().items() if not ask(query)}
                return not empty

            wait_for(all_shown, 300, lambda: empty)
            running = 'sum(ray_xraytune_trials{state="running"}) + sum(ray_xraytune_slots)'
            assert float(ask(running)[0]["value"][1]) > 0
            logs = "\n".join(file.read_text(encoding="utf-8") for file in (session / "logs").glob("worker-*.out"))
            search.send_signal(signal.SIGINT)
            search.wait(120)
        wait_for(lambda: all(float(one["value"][1]) == 0 for one in ask(running)), 120, lambda: ask(running))
    assert re.search(r'(watched #.+): start\n(?s:.*)\1: {"epoch": {"epoch": 1, (?s:.*)\1: {"ended": ', logs)
