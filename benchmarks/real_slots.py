"""Whether the simulated node is right: a search on two real slots, and its simulation.

    make bench ONLY=real_slots DATA=chest_xray WEIGHTS=weights [KEEP=folder]

Ray runs `gan_ratio_cpu`, two trials at a time with one core each. The simulation then has the same
trials, scores and seconds of computing, and decides itself which of them runs when. Both count
from the first trial's start to the last one's end. KEEP keeps the search.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from benchmarks.figures import Figure, figure
from benchmarks.simulated_node import TRACES, SimulatedNode
from xraytune.base.files import read_jsonl
from xraytune.base.records import EpochRecord, Node, TrialResult
from xraytune.data.prepare import prepare
from xraytune.nets.compute import choose_compute
from xraytune.search.trials import SearchTrials
from xraytune.space.allocation import allocation_of
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow
from xraytune.study.start import create_study
from xraytune.study.status import StudyView, status
from xraytune.study.trial import OpenTrial
from xraytune.synth.generator_inputs import GAN_STAGE, NETWORK_FILE

NEEDS = ("DATA", "WEIGHTS")
_SPACE = Path(__file__).parents[1] / "search_spaces" / "gan_ratio_cpu.yaml"
_SLOTS = 2


@dataclass(slots=True)
class RecordedNode(SimulatedNode):
    """A node on which each trial takes as long as it did in a real search.

    Attributes:
        view: The search.
        saved: When each generator was saved, in seconds since the epoch, in order.
    """

    view: StudyView = field(kw_only=True)
    saved: list[float] = field(kw_only=True)

    def start(self, suggestion: OpenTrial) -> None:
        """Queue what the trial has reported, at the seconds that it took."""
        row: TrialRow = self.view.trials[suggestion.number]
        file = StudyFolder(self.view.path).trial_path(row.number) / "epochs.jsonl"
        names = [one.name for one in fields(EpochRecord)]
        epochs = [EpochRecord(**{name: line[name] for name in names}) for line in read_jsonl(file)]
        assert row.seconds is not None, "the search has ended"
        self.running[row.number] = suggestion

        training = sum(epoch.seconds for epoch in epochs)
        when = self.now + row.seconds - training
        if suggestion.trains_generator and (generator := suggestion.parameters.gan):
            started = file.with_name("config.json").stat().st_mtime
            trained = self.saved[len(self.trained_at)] - started
            self.trained_at[self.now + trained] = generator.steps
        for epoch in epochs:
            when += epoch.seconds
            self.queue.append((when, row.number, epoch.seconds, epoch))

        assert row.value is not None, "no trial of this space fails"
        best = max(epochs, key=lambda epoch: epoch.val_score)
        result = TrialResult(
            value=row.value,
            best_epoch=best.epoch,
            epochs=len(epochs),
            val_b_score=row.val_b_score or row.value,
            threshold=0.5,
        )
        self.queue.append((when + 1e-6, row.number, 0.0, result))


def measure() -> Iterator[Figure]:
    """Search, simulate the same search, and yield the seconds of both and their ratio."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(os.environ.get("KEEP", place)).resolve()
        view = _search(root)
        node = _simulate(root, view)
    ended = max(row.number for row in view.trials) + 1
    yield figure(f"real slots: {ended} trials, two slots, seconds", view.seconds, "s")
    yield figure("real slots: simulated seconds", node.now, "s")
    ratio = node.now / view.seconds
    yield figure("real slots: simulated / real seconds", ratio, "x", ".8 to 1.2")


def _search(root: Path) -> StudyView:
    data, weights = (str(Path(os.environ[name]).resolve()) for name in NEEDS)
    words = ["search", "--space", str(_SPACE), "--data", data, "--weights-dir", weights]
    command = [sys.executable, "-m", "xraytune", *words]
    subprocess.run(command, cwd=root, stdout=sys.stderr, check=True)
    return status(root / "studies" / "gan-ratio-cpu")


def _simulate(root: Path, view: StudyView) -> SimulatedNode:
    data, weights = (Path(os.environ[name]).resolve() for name in NEEDS)
    space = load_space(_SPACE, (), data=data, weights_dir=weights)
    prepared, _ = prepare(space.settings, root / "cache")
    folder = StudyFolder(root / "simulated")
    create_study(folder, space, prepared, choose_compute(gpus=0, threads=1))

    machine = Node(cpus=_SLOTS, gpus=0)
    allocation = allocation_of(space.settings, has_gpu=False)
    files = (root / "cache" / GAN_STAGE).glob(f"*/{NETWORK_FILE}")
    saved = sorted(file.stat().st_mtime for file in files)
    node = RecordedNode(machine, allocation, TRACES["light"], view=view, saved=saved)
    node.run(SearchTrials(folder, space, node.need))
    return node
