"""The event files of a trial, read back as TensorBoard does."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.faults.small_disk import small_disk
from tests.tracking.test_wandb import EPOCHS, a_grid
from xraytune.tracking.tensorboard import TensorboardRun
from xraytune.tracking.tracker import TrackedRun


def events_of(trial: Path) -> list[Any]:
    """Return the events of a trial in the order in which they were written."""
    return [event for file in sorted(trial.glob("tensorboard/events*")) for event in _events(file.read_bytes())]


def _events(content: bytes) -> Iterator[Any]:
    """Parse TFRecords: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    place = 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        yield Event.FromString(content[place + 12 : place + 12 + length])
        place += 16 + length


def scalars_of(trial: Path, name: str) -> list[tuple[int, float]]:
    return [
        (event.step, round(value.simple_value, 6))
        for event in events_of(trial)
        for value in event.summary.value
        if value.tag == name
    ]


def track(trial: TrackedRun, samples: Callable[[], Image.Image] | None = a_grid) -> None:
    run = TensorboardRun(trial, samples=samples)
    for record in EPOCHS:
        run.log(record)
    run.finish("complete", {"val_b_score": 0.85})


def test_event_files_have_the_curves_and_the_sample_grid(trial: TrackedRun) -> None:
    track(trial)

    first, *_ = events_of(trial.folder)
    assert first.file_version == "brain.Event:2"
    assert scalars_of(trial.folder, "val_auroc") == [(1, 0.7), (2, 0.9), (3, 0.8)]
    assert scalars_of(trial.folder, "lr") == [(1, 0.001), (2, 0.001), (3, 0.001)]
    assert scalars_of(trial.folder, "epoch") == []
    (grid,) = [
        value.image for event in events_of(trial.folder) for value in event.summary.value if value.tag == "samples"
    ]
    with Image.open(io.BytesIO(grid.encoded_image_string)) as shown:
        assert (shown.size, shown.tobytes()) == ((grid.width, grid.height), a_grid().tobytes())


def test_event_files_equal_those_of_tensorboardx(trial: TrackedRun, tmp_path: Path) -> None:
    """With the checksums that TensorBoard verifies."""
    from tensorboardX.record_writer import RecordWriter

    track(trial)
    (file,) = trial.folder.glob("tensorboard/events*")
    writer = RecordWriter(str(tmp_path / "theirs"))
    for event in events_of(trial.folder):
        writer.write(event.SerializeToString())
    writer.close()

    assert "tfevents" in file.name, "TensorBoard reads no other files"
    assert file.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_missing_values_and_other_metrics_are_named_as_in_wandb(trial: TrackedRun) -> None:
    run = TensorboardRun(replace(trial, metric="gan_kid"))
    run.log(replace(EPOCHS[0], train_loss=None, val_loss=None, lr=None))
    run.finish("complete")

    assert scalars_of(trial.folder, "gan_kid") == [(1, 0.7)]
    assert scalars_of(trial.folder, "train_loss") == []


def test_a_resumed_trial_adds_a_file_and_draws_no_second_grid(trial: TrackedRun) -> None:
    track(trial)

    def drawn_again() -> Image.Image:
        raise AssertionError("the grid exists")

    track(trial, drawn_again)

    assert len(list(trial.folder.glob("tensorboard/events*"))) == 2
    assert len(scalars_of(trial.folder, "lr")) == 6


@pytest.mark.slow
@pytest.mark.parametrize("options", ["mode=755", "ro"])
def test_a_full_disk_or_a_read_only_folder_is_a_warning(
    options: str, trial: TrackedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk", 2**20, options) as disk:
        if options != "ro":
            disk.fill()
        track(replace(trial, folder=disk.path))

    (record,) = caplog.records
    assert record.getMessage().startswith("TensorBoard failed, the trial continues: OSError")
    assert "metrics are in epochs.jsonl" in record.getMessage()


def test_a_missing_package_is_a_warning(
    trial: TrackedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a node without it; on the machine that starts the search, it is an error before the start."""
    monkeypatch.setitem(sys.modules, "tensorboardX.proto.event_pb2", None)

    track(trial)

    (record,) = caplog.records
    assert record.getMessage().startswith("TensorBoard failed, the trial continues: ")
