"""Read the file of an offline W&B run, as `wandb sync` does."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.study.studies import epoch
from xraytune.search.trackers import Trackers
from xraytune.search.tracking import TrackedRun
from xraytune.space.parameters import Parameters
from xraytune.space.search_settings import Tracking

EPOCHS = (epoch(1, 0.7), epoch(2, 0.9), epoch(3, 0.9))
_HEADER_BYTES = 7
_BLOCK_BYTES = 32768
_WHOLE = 1
_LAST = 4


@dataclass
class OfflineRun:
    """The content of an offline run.

    `rows` are the curves: one for each step, including `_step`; `artifacts` are records by type.
    """

    id: str
    group: str
    name: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    exit_code: int | None
    kind: str = ""
    artifacts: dict[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> list[int]:
        """Epochs in the curves, without the 0 of the sample grid."""
        return [row["epoch"] for row in self.rows if row["epoch"]]


def begin(folder: Path, tracking: Tracking, key: int = 7, **about: Any) -> Trackers:
    """Begin to track a trial in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {"metric": "val_auroc", "parameters": Parameters(), "name": f"#{key}"}
    run = TrackedRun(study=("small", "3f9a1c77"), folder=folder, key=key, **fields | about)
    return Trackers(tracking, run)


def run_files(trial: Path) -> list[Path]:
    """Return the run files below a trial's folder, in the order in which they started."""
    return sorted(trial.glob("wandb/*run-*/*.wandb"))


def read_run(file: Path) -> OfflineRun:
    # Slow to import.
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    run = OfflineRun(id="", group="", name="", config={}, rows=[], summary={}, exit_code=None)
    for data in _records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        match record.WhichOneof("record_type"):
            case "run":
                run.id = record.run.run_id
                run.group = record.run.run_group
                run.name = record.run.display_name
                run.config = _values(record.run.config.update)
                run.kind = record.run.job_type
            case "artifact":
                run.artifacts[record.artifact.type] = record.artifact
            case "history":
                run.rows.append(_values(record.history.item))
            case "summary":
                run.summary |= _values(record.summary.update)
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(content: bytes) -> Iterator[bytes]:
    """Parse LevelDB's log format after a header: blocks of records, complete or in parts."""
    place = _HEADER_BYTES
    parts = b""
    while place + _HEADER_BYTES <= len(content):
        left_in_block = _BLOCK_BYTES - place % _BLOCK_BYTES
        if left_in_block < _HEADER_BYTES:
            place += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        place += _HEADER_BYTES
        parts += content[place : place + length]
        place += length
        if kind in {_WHOLE, _LAST}:
            yield parts
            parts = b""
