"""How busy a search keeps a node of 1 or 8 GPUs: the real loop, with simulated trials and time.

It runs `gan_ratio.yaml`. Durations are those of docs/results.md, "On a GPU": steps of GAN and
network on an H100, the start of a process, and on an H200 the first epoch in a new one. It is
assumed that a trial alone computes for 40 % of its time, and that trials on a GPU slow each other
down beyond 100 %. Shares are of the slots from the end of the first GAN to the start of the last
trial.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.figures import Figure, figure
from xraytune.base.records import Compute, EpochRecord, Node, TrialResult
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import prepare
from xraytune.search.loop import TrialLoop, count_slots, reserve
from xraytune.search.trials import SearchTrials
from xraytune.space.allocation import Allocation, allocation_of
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study
from xraytune.study.trial import OpenTrial, TrialMessage
from xraytune.synth.generator_inputs import Training

_SPACE = Path(__file__).parents[1] / "search_spaces" / "gan_ratio.yaml"
_NODES = (Node(cpus=16, gpus=1), Node(cpus=64, gpus=8))
_GAN_STEPS, _IMAGES = 465.0, 8144.0  # a second
_TRAIN_IMAGES, _EPOCHS, _ALONE = 558, 27, 0.4
_START_SECONDS, _FIRST_EPOCH_SECONDS = 4.0, 11.0


@dataclass(slots=True)
class SimulatedNode:
    """Runs the trials of a loop. What they report waits in a queue: when, trial, seconds of training, message."""

    node: Node
    allocation: Allocation
    slots: int = 0
    now: float = 0.0
    first_gan: float = 0.0
    last_start: float = 0.0
    queue: list[tuple[float, int, float, TrialMessage]] = field(default_factory=list)
    running: dict[int, OpenTrial] = field(default_factory=dict)
    steps_trained: int = 0
    started: int = 0
    """Processes, which run one trial after another."""
    trained_at: dict[float, int] = field(default_factory=dict)
    """When a generator is trained, and its steps."""
    log: list[tuple[float, float, float]] = field(default_factory=list)
    """Until when, the seconds of slots in use, and those of training."""

    def need(self, generator: Training | None, draw: int | None, size_px: int) -> str | None:
        """Return the lineage of a generator that is not trained yet; the space has one."""
        del draw, size_px
        return "GAN" if generator and self.steps_trained < generator.length else None

    def run(self, loop: TrialLoop) -> None:
        """Start trials until no slot is free, then pass on the next report, until all have ended."""
        self.slots = count_slots(self.allocation, [self.node])
        while True:
            place = partial(reserve, self.allocation, [self.node])
            while isinstance(trial := loop.next_trial(self.slots, place), OpenTrial):
                self.start(trial)
            if not self.queue:
                return
            report = min(self.queue, key=lambda report: report[:2])
            self.queue.remove(report)
            when, number, training, message = report
            slots, trial = loop.slots_in_use(), self.running[number]
            self.log.append((when, slots * (when - self.now), trial.slots * training))
            self.now = when
            for trained_at, steps in self.trained_at.items():
                if trained_at <= when:
                    self.steps_trained = max(self.steps_trained, steps)
                    self.first_gan = self.first_gan or trained_at
            if not loop.on_result(number, message):
                del self.running[number]
                self.queue = [report for report in self.queue if report[1] != number]

    def start(self, suggestion: OpenTrial) -> None:
        """Queue what a trial will report."""
        number, parameters = suggestion.number, suggestion.parameters
        self.last_start, self.running[number] = self.now, suggestion
        is_new = len(self.running) > self.started
        self.started = max(self.started, len(self.running))
        when, best, dice = self.now + is_new * _START_SECONDS, 0.0, random.Random(number)
        slowdown = max(1.0, _ALONE * len(self.running) / self.node.gpus)
        if suggestion.trains_generator and (generator := parameters.gan):
            gan_seconds = slowdown * (generator.steps - self.steps_trained) / _GAN_STEPS
            when += gan_seconds
            self.trained_at[when] = generator.steps
        seconds = slowdown * _TRAIN_IMAGES * (1 + parameters.synthetic_ratio) / _IMAGES
        when += is_new * _FIRST_EPOCH_SECONDS
        for epoch in range(1, _EPOCHS + 1):
            best, when = max(best, dice.betavariate(8, 2)), when + seconds
            record = EpochRecord(
                epoch=epoch,
                steps=epoch,
                train_loss=0.0,
                val_loss=0.0,
                val_score=best,
                best_val_score=best,
                lr=1e-3,
                seconds=seconds,
            )
            self.queue.append((when, number, seconds, record))
        result = TrialResult(
            value=best, best_epoch=1, epochs=_EPOCHS, val_b_score=best, threshold=0.5
        )
        self.queue.append((when + 1e-6, number, 0.0, result))


def measure() -> Iterator[Figure]:
    """Simulate a search for each node and share of a GPU."""
    with tempfile.TemporaryDirectory() as name:
        paint_phantoms(Path(name, "xrays"), patients=20, seed=1, image_size_px=32)
        for node in _NODES:
            for share in (1, 0.5, 0.25):
                yield from _simulated(Path(name), node, share)


def _simulated(root: Path, gpu_node: Node, share: float) -> Iterator[Figure]:
    overrides = [
        f"resources.gpus_per_trial={share}",
        "data.train_patients=null",
        "data.split.val_a=0.25",
    ]
    space = load_space(_SPACE, overrides, data=root / "xrays")
    folder, (prepared, _) = (
        StudyFolder(root / f"{gpu_node.gpus}-{share}"),
        prepare(space.settings, root / "cache"),
    )
    create_study(folder, space, prepared, Compute(device="cuda", threads=2, precision="bfloat16"))
    node = SimulatedNode(gpu_node, allocation_of(space.settings, has_gpu=True))
    node.run(SearchTrials(folder, space, node.need))
    counted = [entry for entry in node.log if node.first_gan < entry[0] <= node.last_start]
    slot_seconds = node.slots * (node.last_start - node.first_gan)
    what = f"simulated node of {gpu_node.gpus:g} GPU(s), gpus_per_trial {share:g}"
    yield figure(f"{what}: seconds", node.now, "s")
    if slot_seconds:  # else all trials started at once
        yield figure(
            f"{what}: slots busy", sum(busy for _, busy, _ in counted) / slot_seconds, "", ">= 0.85"
        )
        yield figure(
            f"{what}: training", sum(training for *_, training in counted) / slot_seconds, ""
        )
