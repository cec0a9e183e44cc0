"""How near a search on 1, 2, 4 or 8 GPUs comes to its bound: the real loop, with simulated trials and time.

Two traces of `gan_ratio.yaml` on H100s:

- *light*: the space as it is. Its GANs make 465 steps a second, as measured (benchmarks/README.md,
  "On a GPU").
- *heavy*: a ResNet-50, all layers, on 5,000 images of 224 px, and a generator whose longer fit takes two hours,
  as a diffusion model's does.

Trials train at the speeds of `space/cost.py`, which charges each backbone, and the layers that are
trained. Four seconds are the start of a process, and eleven, as measured on an H200, the first epoch in a new one.

No schedule can take less than the *bound*: the longer of the longest chain (a process starts and
trains the generators, each from the shorter one, and then a network on the images of the longest) and all seconds
that trials compute, divided by the GPUs. Confirmation is not simulated.
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
from xraytune.space.cost import _FORWARD, _GPU, _NETWORKS, _TRAINED_SHARE
from xraytune.space.load import load_space
from xraytune.space.parameters import Parameters
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study
from xraytune.study.trial import OpenTrial, TrialMessage
from xraytune.synth.generator_inputs import Training

_SPACE = Path(__file__).parents[1] / "search_spaces" / "gan_ratio.yaml"
_GPUS = (1, 2, 4, 8)
_EPOCHS = 27
_START_SECONDS, _FIRST_EPOCH_SECONDS = 4.0, 11.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What the trials of a search compute.

    Attributes:
        gan_steps: Steps of a generator in a second.
        train_images: Real images of an epoch.
        size_px: Their side.
        overrides: Settings that differ from the space.
    """

    gan_steps: float
    train_images: int
    size_px: int = 128
    overrides: tuple[str, ...] = ()


TRACES = {
    "light": Trace(gan_steps=465.0, train_images=558),
    "heavy": Trace(
        gan_steps=15_000 / 7200,
        train_images=5000,
        size_px=224,
        overrides=("backbone=resnet50", "trainable=all"),
    ),
}


@dataclass(slots=True)
class SimulatedNode:
    """Runs the trials of a loop. What they report waits in a queue: when, trial, seconds of training, message."""

    node: Node
    allocation: Allocation
    trace: Trace
    slots: int = 0
    now: float = 0.0
    queue: list[tuple[float, int, float, TrialMessage]] = field(default_factory=list)
    running: dict[int, OpenTrial] = field(default_factory=dict)
    steps_trained: int = 0
    started: int = 0
    """Processes, which run one trial after another."""
    trained_at: dict[float, int] = field(default_factory=dict)
    """When a generator is trained, and its steps."""
    seconds: dict[int, float] = field(default_factory=dict)
    """What each trial has computed, without its generator."""
    needs: dict[int, int] = field(default_factory=dict)
    """Steps of the generator of each trial."""

    def need(self, generator: Training | None, draw: int | None, size_px: int) -> str | None:
        """Return the lineage of a generator that is not trained yet; the space has one."""
        del draw, size_px
        return "GAN" if generator and self.steps_trained < generator.length else None

    def run(self, loop: TrialLoop) -> None:
        """Start trials until no slot is free, then go on to the next event, until all have ended."""
        self.slots = count_slots(self.allocation, [self.node])
        while True:
            place = partial(reserve, self.allocation, [self.node])
            while isinstance(trial := loop.next_trial(self.slots, place), OpenTrial):
                self.start(trial)
            if not self.queue:
                return
            report = min(self.queue, key=lambda report: report[:2])
            when, number, training, message = report
            trained = [at for at in self.trained_at if self.now < at < when]
            self.now = min([when, *trained])
            for trained_at, steps in self.trained_at.items():
                if trained_at <= self.now:
                    self.steps_trained = max(self.steps_trained, steps)
            if trained:  # a trial that waits for the generator may start before the next report
                continue
            self.queue.remove(report)
            self.seconds[number] = self.seconds.get(number, 0.0) + training
            if not loop.on_result(number, message):
                del self.running[number]
                self.queue = [report for report in self.queue if report[1] != number]

    def start(self, suggestion: OpenTrial) -> None:
        """Queue what a trial will report."""
        number, parameters = suggestion.number, suggestion.parameters
        self.running[number] = suggestion
        is_new = len(self.running) > self.started
        self.started = max(self.started, len(self.running))
        when, best, dice = self.now, 0.0, random.Random(number)
        if parameters.gan:
            self.needs[number] = parameters.gan.steps
        if suggestion.trains_generator and (generator := parameters.gan):
            when += (generator.steps - self.steps_trained) / self.trace.gan_steps
            self.trained_at[when + is_new * _START_SECONDS] = generator.steps
        when += is_new * (_START_SECONDS + _FIRST_EPOCH_SECONDS)
        seconds = self._epoch_seconds(parameters)
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

    def _epoch_seconds(self, parameters: Parameters) -> float:
        """Return what an epoch takes; the frozen features of a head are computed once."""
        images = self.trace.train_images * (1 + parameters.synthetic_ratio)
        cost = (
            _NETWORKS.get(parameters.backbone, 1.0)
            * _GPU.training
            * (self.trace.size_px / 128) ** 2
        )
        share = _TRAINED_SHARE[parameters.trainable]
        if parameters.trainable == "head":
            share = _FORWARD / _EPOCHS
        return images * cost * share

    @property
    def bound(self) -> float:
        """Seconds that no schedule of these trials can fall below."""
        steps = max(self.needs.values(), default=0)
        fits = steps / self.trace.gan_steps
        tails = [self.seconds[number] for number, needed in self.needs.items() if needed == steps]
        chain = _START_SECONDS + fits + min(tails, default=0.0)
        work = (sum(self.seconds.values()) + fits) / self.slots
        return max(chain, work + _START_SECONDS + _FIRST_EPOCH_SECONDS)


def measure() -> Iterator[Figure]:
    """Simulate a search for each trace and number of GPUs."""
    with tempfile.TemporaryDirectory() as name:
        paint_phantoms(Path(name, "xrays"), patients=20, seed=1, image_size_px=32)
        for what, trace in TRACES.items():
            seconds = {}
            for gpus in _GPUS:
                node = _simulate(Path(name), what, trace, gpus)
                seconds[gpus] = node.now
                label = f"simulated node, {what} trace, {gpus} GPU(s)"
                yield figure(f"{label}: seconds", node.now, "s")
                yield figure(f"{label}: bound", node.bound, "s")
                yield figure(f"{label}: seconds / bound", node.now / node.bound, "x", "<= 1.15")
            yield figure(
                f"simulated node, {what} trace: one GPU / eight", seconds[1] / seconds[8], "x"
            )


def _simulate(root: Path, what: str, trace: Trace, gpus: int) -> SimulatedNode:
    overrides = [
        "resources.gpus_per_trial=1",
        "data.train_patients=null",
        "data.split.val_a=0.25",
        *trace.overrides,
    ]
    space = load_space(_SPACE, overrides, data=root / "xrays")
    folder = StudyFolder(root / f"{what}-{gpus}")
    prepared, _ = prepare(space.settings, root / "cache")
    create_study(folder, space, prepared, Compute(device="cuda", threads=2, precision="bfloat16"))
    machine = Node(cpus=8 * gpus, gpus=gpus)
    node = SimulatedNode(machine, allocation_of(space.settings, has_gpu=True), trace)
    node.run(SearchTrials(folder, space, node.need))
    return node
