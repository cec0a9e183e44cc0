"""A search with Ray as a person starts it, and the processes that it is made of, to be killed."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]
import requests
import torch

from tests.pair_files import draw_xrays
from xraytune.base.files import read_jsonl
from xraytune.nets.backbones import build_backbone
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal

PROGRAM = str(Path(sys.executable).with_name("xraytune"))
TRIAL = r"ray::(TrialActor|killed #)"
"""The title of a process of trials: between two epochs, or in one."""
Kind = Literal["driver", "ray driver", "both drivers", "raylet", "gcs", "worker", "all at once"]
_WORDS: dict[Kind, str] = {
    "ray driver": "xraytune.search.ray.driver",
    "raylet": "raylet/raylet",
    "gcs": "gcs_server",
    "worker": TRIAL,
}
IS_LONG = os.environ.get("XRAYTUNE_FAULTS") == "all"
_TRIALS = 6 if IS_LONG else 2
SPACE = """\
name: killed
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {values: [none, duplicate, gan]}
  synthetic_ratio: {value: 0.5, when: {source: [duplicate, gan]}}
  gan:
    when: {source: gan}
    parameters: {image_size: {value: 32}, steps: {value: 40}, width: {value: 8},
                 z_dim: {value: 8}, batch_size: {value: 8}}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
budget: {trials: 1, max_epochs: 12, steps_per_epoch: 40}
scheduler: {name: asha, grace: 6, reduction: 2, within: all}
sampler: {startup_trials: 3, seed: 1}
resources: {concurrent: 2}
"""
HEADS = """\
name: killed
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  backbone: {value: small_cnn}
  weights: {value: small_cnn.pth}
  trainable: {value: head}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
budget: {trials: 1, max_epochs: 12, steps_per_epoch: 400}
resources: {concurrent: 1}
"""
"""One process runs several of these trials."""


@dataclass(slots=True)
class Killable:
    """A search that is restarted after each kill, and with a larger budget after each end.

    Attributes:
        root: Of the images, the space, the studies and the log.
        arguments: Further ones of `xraytune search`.
        trials: The budget now.
    """

    root: Path
    arguments: tuple[str, ...] = ()
    trials: int = _TRIALS
    _process: subprocess.Popen[bytes] | None = None

    @property
    def study(self) -> Path:
        return self.root / "studies/killed"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The search as it was last started."""
        assert self._process is not None
        return self._process

    def keep_running(self) -> None:
        """Start it, if it does not run: again after a kill, with a larger budget after its end."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            assert self._process.returncode in {0, -signal.SIGKILL}, self.log()
            self.trials += 0 if self._process.returncode else _TRIALS
        search = f"search --space space.yaml --set budget.trials={self.trials}".split()
        command = [PROGRAM, *search, *self.arguments]
        with (self.root / "log.txt").open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(command, cwd=self.root, stdout=log, stderr=log)

    def log(self) -> str:
        return (self.root / "log.txt").read_text()

    def dashboard_port(self) -> int:
        """The port of Ray's dashboard, at the last start."""
        return int(re.findall(r"http://127\.0\.0\.1:(\d+)", self.log())[-1])

    def epochs(self) -> int:
        """Epochs on the disk, of all trials."""
        return sum(len(read_jsonl(file)) for file in self.study.glob("trials/*/epochs.jsonl"))

    def claims(self) -> dict[str, str]:
        """The process that had each trial last."""
        return {file.parent.name: file.read_text() for file in self.study.glob("trials/*/.owner")}

    def train_on(self, *, more_epochs: int, trials_at_once: int = 1) -> None:
        """Let it get somewhere: without it a kill would only meet a start."""
        enough = self.epochs() + more_epochs
        self.wait_for(lambda: self.epochs() >= enough and len(self.claims()) >= trials_at_once)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 300.0) -> None:
        """Wait for something to be true of the running search."""
        end = time.monotonic() + seconds
        self.keep_running()
        while not condition():
            assert time.monotonic() < end, f"no progress\n{self.log()}"
            time.sleep(0.1)
            self.keep_running()

    def finish(self) -> None:
        """Let it end: every trial ended once, with epochs 1 to k and the values it reported."""
        self.keep_running()
        assert self.process.wait() == 0, self.log()
        folder = StudyFolder(self.study)
        journal = Journal(folder.journal_path, folder.space(), is_writable=False)
        rows = journal.rows()
        assert [row.number for row in rows] == list(range(self.trials))
        assert sorted(row["number"] for row in read_jsonl(folder.rows_path)) == [
            *range(self.trials)
        ]
        reported = [report[:2] for report in journal.reports()]
        assert len(set(reported)) == len(reported), "a value was recorded twice"
        for row in rows:
            log = read_jsonl(folder.trial_path(row.number) / "epochs.jsonl")
            assert [epoch["epoch"] for epoch in log] == list(range(1, len(log) + 1))
            assert [*row.values] == [epoch["best_val_score"] for epoch in log[: row.epochs]]
            assert row.status in {"complete", "pruned"}, row.reason


def killable(root: Path, *arguments: str, space: str = SPACE) -> Killable:
    """A small data folder, a space, and weights for it."""
    draw_xrays(root, patients=30)
    (root / "space.yaml").write_text(space)
    torch.save(build_backbone("small_cnn")[0].state_dict(), root / "small_cnn.pth")
    return Killable(root, arguments)


def kill(kind: Kind, search: subprocess.Popen[bytes], dice: random.Random) -> bool:
    """Kill one process of a search, or all; False where there is none of the kind now."""
    own = dict(descendants(search.pid))
    if kind == "driver":
        chosen = [search.pid]
    elif kind == "all at once":
        chosen = [search.pid, *own]
    elif kind == "both drivers":
        ray_driver = _WORDS["ray driver"]
        chosen = [search.pid, *(pid for pid, line in own.items() if ray_driver in line)]
    else:
        found = sorted(pid for pid, line in own.items() if re.search(_WORDS[kind], line))
        chosen = [dice.choice(found)] if found else []
    for pid in chosen:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if search.pid in chosen:
        search.wait()
    return bool(chosen)


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """The processes below a process, with their command lines."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                yield child.pid, " ".join(child.cmdline())


def asked(port: int, path: str, token: str = "") -> tuple[int, str]:
    """The status and the text with which an HTTP server of this machine answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = requests.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=60)
    return answer.status_code, answer.text
