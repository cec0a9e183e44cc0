"""The shared JSON encoder."""

from dataclasses import dataclass
from pathlib import Path

from xraytune.base.files import read_json, write_json
from xraytune.base.records import Compute, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    path: Path
    compute: Compute
    intervals: dict[str, tuple[float, float]]
    best: int | None


def test_record_converts_to_json(tmp_path: Path) -> None:
    compute = Compute(device="cpu", threads=2, precision="float32")
    content = to_json(Report(path=Path("a/b"), compute=compute, intervals={"auroc": (0.1 + 0.2, 1.0)}, best=None))

    write_json(tmp_path / "report.json", content)

    assert read_json(tmp_path / "report.json") == content
    assert content == {
        "path": "a/b",
        "compute": {"device": "cpu", "threads": 2, "precision": "float32", "generator_threads": 2},
        "intervals": {"auroc": [0.30000000000000004, 1.0]},
        "best": None,
    }
