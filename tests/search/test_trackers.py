"""MLflow and TensorBoard: an interrupted trial is one run, and a fault harms no trial."""

import logging
import socket
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from tests.search.wandb.offline_runs import EPOCHS
from xraytune.base.errors import MachineError
from xraytune.search.trackers import Trackers
from xraytune.search.tracking import TrackedRun
from xraytune.space.parameters import Parameters
from xraytune.space.search_settings import MlflowSettings, Tracking
from xraytune.space.task_settings import PACKAGES
from xraytune.trial.preflight import open_space

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # the trackers' own


def begin(
    folder: Path,
    uri: str | None = None,
    key: int = 7,
    kind: Literal["trial", "train"] = "trial",
) -> Trackers:
    folder.mkdir(parents=True, exist_ok=True)
    run = TrackedRun(
        metric="val_auroc",
        study=("small", "3f9a1c77"),
        parameters=Parameters(lr=0.125),
        folder=folder,
        kind=kind,
        key=key,
        name=f"#{key}",
    )
    mlflow = MlflowSettings(uri=uri, experiment="xrays") if uri else None
    return Trackers(Tracking(mlflow=mlflow, tensorboard=True), run)


def train_with_three_kills(folder: Path, uri: str | None = None) -> None:
    """A trial that is killed after each epoch, and sends the earlier ones again."""
    grid = folder.parent / "grid.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(grid)
    for count in (1, 2, 3):
        killed = begin(folder, uri)
        killed.log_samples(grid)
        for record in EPOCHS[:count]:
            killed.log(record)
    resumed = begin(folder, uri)
    for record in EPOCHS:
        resumed.log(record)
    resumed.finish({"status": "complete", "value": 0.9, "val_b_score": 0.85})


def mlflow_runs(uri: str) -> tuple[Any, list[Any]]:
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny, see `make install`")
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("xrays")
    return client, client.search_runs([experiment.experiment_id])


@pytest.mark.parametrize("store", ["sqlite:///{}/mlflow.db", "file://{}/mlruns"])
def test_a_trial_with_three_kills_is_one_run_of_mlflow_with_each_epoch_once(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs mlflow-skinny, see `make install`")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    uri = store.format(tmp_path)

    train_with_three_kills(tmp_path / "trial", uri)
    other = begin(tmp_path / "other", uri, key=8)
    other.finish({"status": "failed"})

    client, runs = mlflow_runs(uri)
    named = {run.info.run_name: run for run in runs}
    assert sorted(named) == ["#7", "#8"]
    run = named["#7"]
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "val_auroc")]
    assert sorted(steps) == [1, 2, 3]
    assert (run.data.params["lr"], run.data.params["trial"]) == ("0.125", "7")
    assert run.data.metrics.items() >= {"value": 0.9, "val_b_auroc": 0.85}.items()
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "complete")
    assert [file.path for file in client.list_artifacts(run.info.run_id, "samples")] == [
        "samples/grid.png"
    ]
    assert named["#8"].info.status == "FAILED"


def test_a_trial_with_three_kills_is_one_run_of_tensorboard_with_each_epoch_once(
    tmp_path: Path,
) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    train_with_three_kills(tmp_path / "trial")

    events = reader.EventAccumulator(str(tmp_path / "trial/tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val_auroc")] == [1, 2, 3]
    assert [round(event.value, 3) for event in events.Scalars("val_auroc")] == [0.7, 0.9, 0.9]
    assert {event.step for event in events.Images("samples")} == {0}
    (text,) = [name for name in events.Tags()["tensors"] if name.startswith("result")]
    assert b"val_b_auroc: 0.85" in events.Tensors(text)[0].tensor_proto.string_val[0]


def test_a_model_does_not_hide_the_curves_of_another_one_beside_it(tmp_path: Path) -> None:
    """A training that starts again replaces its own epochs, and no others."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_multiplexer")

    for key, count in ((1, 3), (2, 1), (2, 2)):
        training = begin(tmp_path, key=key, kind="train")
        for record in EPOCHS[:count]:
            training.log(record)
        training.finish({"status": "complete"})

    events = reader.EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    events.Reload()
    epochs = [
        [event.step for event in events.Scalars(run, "val_auroc")] for run in sorted(events.Runs())
    ]
    assert epochs == [[1, 2, 3], [1, 2]]


def test_a_tracker_that_cannot_be_reached_costs_one_warning_and_the_others_continue(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"

    with caplog.at_level(logging.WARNING, "xraytune"):
        train = begin(tmp_path / "trial", uri)
        for record in EPOCHS:
            train.log(record)
        train.finish({"status": "complete"})

    assert caplog.text.count("its metrics are in epochs.jsonl") == 1
    assert "MLflow failed" in caplog.text
    assert list((tmp_path / "trial/tensorboard").iterdir())


def test_a_search_does_not_begin_without_the_package_of_its_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that ended without its run would not be in the tracker any more."""
    monkeypatch.setitem(PACKAGES, "mlflow", ("no-such-package",))
    file = tmp_path / "space.yaml"
    file.write_text("name: x\ndata: {path: xrays}\n")

    with pytest.raises(MachineError, match=r"mlflow needs no-such-package") as refused:
        open_space(file, ["tracking.mlflow={}"])

    assert refused.value.problems[0].fix == "pip install 'xraytune[mlflow]'"
