"""Forecast what a search takes: wall time, GPU-hours and disk, each with a range.

Studies are simulated. Their trials are drawn at random from the space, do their work at the measured speeds, and run on the
machine's slots in the order of `TrialQueue`. ASHA prunes them by its own rule, with values that do not depend on the
settings. What trials share is done once.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from xraytune.config.settings import Experiment, Parameters
from xraytune.config.space import Space
from xraytune.generators.pool import BLOCK
from xraytune.metrics.generator_quality import SCALE_PX
from xraytune.mix.plan import plan_mix
from xraytune.pipeline.network import MAX_STAGE_BYTES, view_count
from xraytune.pipeline.pools import blocks_for
from xraytune.pipeline.prepare import Prepared
from xraytune.pipeline.quality import FEWEST_IMAGES, MOST_IMAGES
from xraytune.pipeline.synthesize import generator_need, network_labels
from xraytune.records import Progress, ignore_progress, time_range
from xraytune.search.asha import Rungs, rungs_of
from xraytune.search.calibration import BATCH, Machine, Speed, generator_kind, measured_speeds, network_kind
from xraytune.search.journal import random_parameters
from xraytune.search.trial_queue import DRAWN_AHEAD, generators_first, reuses_processes
from xraytune.seeding import numpy_generator

_DRAWS, _TRIALS, _MOST_KINDS = 400, 5000, 4
_RAY_STARTS = 1.5
"""Ray takes as long to start as this many trials."""
_FIGURES_SECONDS = 4.0
"""Seconds to compute the quality metrics of a pool on one core, without its features."""
_EPOCH_SECONDS = 0.1
"""Until an epoch's record has passed through Ray into the journal."""
_SPEED_ERROR = 0.1
_GENERATOR, _START = -2, -1
"""Ends of parts of a trial: the training of its generator, and the start of its process; from 0 on, ASHA's rungs."""
_BUSY = 1.3

Range = tuple[float, float, float]
"""Low, expected and high: 5 %, 50 % and 95 % of the simulated studies, the ends a tenth wider for errors in speed."""


class Shared(NamedTuple):
    """The work of one artifact: its seconds and its size; `has_views` if it is of augmented images."""

    seconds: float
    size_bytes: float = 0.0
    has_views: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work of a trial, in seconds: the steps of a generator of some lineage, artifacts, its own, and each epoch."""

    lineage: Hashable = None
    steps: int = 0
    step: float = 0.0
    before_steps: float = 0.0
    generator_bytes: float = 0.0
    shared: Mapping[Hashable, Shared]
    own: float
    epoch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchForecast:
    """What a search is expected to take.

    Attributes:
        seconds: Wall time: low, expected, high.
        gpu_seconds: GPUs held, times seconds: low, expected, high.
        disk_bytes: Size of the cache afterwards.
        slots: Trials that run at once.
        repeats: Of the leaders in the race, if none leaves it early.
        epochs: Of a trial, on average; without ASHA, `max_epochs`.
        generators: Mean number that is trained.
        pruning_saves: Seconds of work that ASHA saves.
        sharing_saves: Seconds of work that trials save by sharing generators, pools and features.
        notes: What the forecast leaves out.
    """

    seconds: Range
    gpu_seconds: Range
    disk_bytes: float
    slots: int
    trials: int
    repeats: int
    epochs: float
    max_epochs: int
    generators: float
    pruning_saves: float
    sharing_saves: float
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The wall time as one line."""
        at_once = f"{self.slots} at once" if self.slots > 1 else "one at a time"
        repeats = f" and {self.repeats} repeats of the leaders" if self.repeats else ""
        return f"{time_range(self.seconds[0], self.seconds[2])} for {self.trials} trials{repeats}, {at_once}"


@dataclass(slots=True)
class Simulation:
    """One run of trials on slots. `run` computes the rest: totals of slot seconds, epochs by trial, sizes of artifacts.

    `fixed` trials are known from the start; `processes` is the number of trials whose process is new, not one that has run
    others. `alone` is the work if nothing were shared, `pruned` that of the epochs that ASHA saved.
    """

    works: Sequence[Work]
    fixed: int
    slots: int
    generator_slots: int
    processes: int
    rungs: Rungs
    last_epoch: int
    values: Sequence[float]
    trained: dict[Hashable, set[int]]
    wall: float = 0.0
    busy: float = 0.0
    alone: float = 0.0
    pruned: float = 0.0
    generators: int = 0
    epochs: dict[int, int] = field(default_factory=dict)
    sizes: dict[Hashable, float] = field(default_factory=dict)

    def run(self) -> Simulation:
        """Run all trials in the order of `TrialQueue`."""
        events, order = list[tuple[float, int, int, int]](), count_from()
        stops = [*self.rungs.reached(), self.last_epoch]
        generator_slots = min(self.generator_slots, self.slots)
        free, processes, now = self.slots, 0, 0.0
        started, training = dict[int, float](), set[Hashable]()
        waiting, upcoming = list(range(self.fixed)), list(range(self.fixed, len(self.works)))[::-1]

        def missing(trial: int) -> Hashable | None:
            work = self.works[trial]
            return None if work.lineage is None or work.steps in self.trained[work.lineage] else work.lineage

        def next_trial() -> int | None:
            while True:
                first, ready = generators_first(waiting, missing, lambda trial: self.works[trial].steps, training)
                if first or ready:
                    return (first or ready)[0]
                if not upcoming or len(waiting) >= DRAWN_AHEAD * self.slots:
                    return None
                waiting.append(upcoming.pop())

        def push(seconds: float, trial: int, stop: int) -> None:
            heapq.heappush(events, (now + seconds, next(order), trial, stop))

        while True:
            while free and (trial := next_trial()) is not None:
                work, lineage = self.works[trial], missing(trial)
                taken = 1 if lineage is None else generator_slots
                if taken > free:
                    break
                waiting.remove(trial)
                free -= taken
                started[trial] = now
                if lineage is not None:
                    training.add(lineage)
                    shorter = (steps for steps in self.trained[lineage] if steps < work.steps)
                    seconds = work.before_steps + (work.steps - max(shorter, default=0)) * work.step
                    push(work.own + seconds, trial, _GENERATOR)
                else:
                    processes += 1
                    push(work.own if processes <= self.processes else 0.0, trial, _START)
            if not events:
                self.wall = now
                return self
            now, _, trial, stop = heapq.heappop(events)
            work = self.works[trial]
            if stop == _GENERATOR:
                free += generator_slots
                self.busy += (now - started[trial]) * self.generator_slots
                training.remove(work.lineage)
                insort(waiting, trial)
                self.trained[work.lineage].add(work.steps)
                self.generators += 1
                self.sizes[work.lineage, work.steps] = work.generator_bytes
            elif stop == _START:
                new = {key: one for key, one in work.shared.items() if key not in self.sizes}
                self.sizes |= {key: one.size_bytes for key, one in new.items()}
                push(sum(one.seconds for one in new.values()) + stops[0] * work.epoch, trial, 0)
            elif stops[stop] < self.last_epoch and self.rungs.should_continue(trial, stops[stop], self.values[trial]):
                push((stops[stop + 1] - stops[stop]) * work.epoch, trial, stop + 1)
            else:
                free += 1
                self.busy += now - started[trial]
                self.epochs[trial] = stops[stop]
                of_generator = (work.before_steps + work.steps * work.step) * self.generator_slots
                self.alone += of_generator + sum(one.seconds for one in work.shared.values())
                self.alone += work.own + stops[stop] * work.epoch
                self.pruned += (self.last_epoch - stops[stop]) * work.epoch


class Forecaster:
    """Simulated studies of one space on one machine. `prepare` has decoded its images into the cache."""

    def __init__(self, space: Space, prepared: Prepared, machine: Machine, cache: Path) -> None:
        self.settings, self.prepared, self._space = space.settings, prepared, space
        self._machine, self._cache = machine, cache
        self._counts = [
            np.bincount(prepared.side(name).labels, minlength=len(prepared.class_names))
            for name in ("train", "val_a", "val_b")
        ]
        points = space.points()[: space.trial_budget()]
        draws = _DRAWS if len(points) < space.trial_budget() else 0
        drawn = random_parameters(space, space.settings.sampler.seed, points=points)
        self._first, self._drawn = tuple(islice(drawn, len(points))), tuple(islice(drawn, draws))
        self._possible = self._first + self._drawn
        self._speeds: Mapping[Parameters, Speed] = {}
        self._trained: dict[Hashable, set[int]] = {}

    def measure(self, *, may_measure: bool = True, on_progress: Progress = ignore_progress) -> bool:
        """Look up the speeds that trials need, or measure them; return whether all are known."""
        kinds = Counter[Parameters]()
        for one in self._possible:
            kinds.update(filter(None, [generator_kind(one)]))
            kinds.update([network_kind(one)] if not self.settings.objective.is_of_generator else [])
            kinds.update([self._quality_kind(one)] if one.has_synthetic_images else [])
        ranked, of_source = list[Parameters](), Counter[str]()
        for kind, _ in kinds.most_common():
            of_source[kind.source] += 1
            ranked += [kind] if of_source[kind.source] <= _MOST_KINDS else []
        self._speeds = measured_speeds(
            ranked,
            self.settings,
            self.prepared,
            self._machine,
            self._cache,
            may_measure=may_measure,
            on_progress=on_progress,
        )
        for chosen in {one.generator for one in self._possible}:
            if chosen and generator_need(chosen, self.prepared, self._machine.compute, self._cache) is None:
                self._trained.setdefault(chosen.model_copy(update={"steps": 1}), set()).add(chosen.steps)
        return bool(self._speeds)

    def studies(self) -> Iterator[tuple[Parameters, ...]]:
        """Yield the trials of simulated studies: the points to evaluate, then random draws."""
        trials, random = self._space.trial_budget(), numpy_generator(self.settings.sampler.seed, "forecast")
        for _ in range(min(max(_TRIALS // trials, 10), 100)):
            places = random.integers(0, max(len(self._drawn), 1), trials - len(self._first))
            yield (*self._first, *(self._drawn[place] for place in places))

    def simulate(
        self, works: Sequence[Work], *, is_search: bool = True, cached: Mapping[Hashable, float] = MappingProxyType({})
    ) -> Simulation:
        """Run trials: those of a search, or of replicates, of which none is pruned, with generators of their own.

        `cached` are the sizes of artifacts that exist already.
        """
        last = self.settings.budget.max_epochs
        return Simulation(
            works=works,
            fixed=len(self._first) if is_search else len(works),
            slots=self._machine.slots,
            generator_slots=self._machine.allocation.generator_slots,
            processes=self._machine.slots if reuses_processes(self._space) else len(works),
            rungs=rungs_of(self.settings, ()) if is_search else Rungs(grace=last, reduction=2, max_epochs=last),
            last_epoch=last,
            values=numpy_generator(self.settings.sampler.seed, len(works)).permutation(len(works)).tolist(),
            trained=defaultdict(set, {key: {*steps} for key, steps in self._trained.items()} if is_search else {}),
            sizes={**cached},
        ).run()

    def forecast(self) -> SearchForecast:
        """Return what the search takes."""
        works = {one: self.work(one) for one in self._possible}
        studies = [(study, self.simulate([works[one] for one in study])) for study in self.studies()]
        runs = [run for _, run in studies]
        races = [self._race(study, run) for study, run in studies]
        both = [*zip(runs, races, strict=True)]
        ray, most = _RAY_STARTS * self.start, 3600 * (self.settings.budget.hours or float("inf"))
        gpus = self._machine.allocation.trial.gpus
        pixels = sum(file.stat().st_size for file in (self._cache / self.prepared.pixels).glob("*"))
        return SearchForecast(
            seconds=_range([min(run.wall + race.wall + ray, most) for run, race in both]),
            gpu_seconds=_range([(run.busy + race.busy) * gpus for run, race in both]),
            disk_bytes=pixels + float(np.mean([sum(race.sizes.values()) for race in races])),
            slots=self._machine.slots,
            trials=self._space.trial_budget(),
            repeats=max(len(race.works) for race in races),
            epochs=float(np.mean([epochs for run in runs for epochs in run.epochs.values()])),
            max_epochs=self.settings.budget.max_epochs,
            generators=float(np.mean([run.generators + race.generators for run, race in both])),
            pruning_saves=float(np.mean([run.pruned for run in runs])),
            sharing_saves=max(0.0, float(np.mean([run.alone - run.busy for run in runs]))),
            notes=tuple(self._notes()),
        )

    def _race(self, study: Sequence[Parameters], run: Simulation) -> Simulation:
        """Simulate the repeats of a study's leaders, none of which leaves the race."""
        budget, complete = self.settings.budget, [one for one, last in run.epochs.items() if last == run.last_epoch]
        complete.sort(key=lambda one: -run.values[one])
        leaders = [*dict.fromkeys(study[one] for one in complete)][: budget.leaders]
        rounds = range(budget.repeats if len(leaders) > 1 else 0)
        works = [self.replicate(one, each, each) for each in rounds for one in leaders]
        return self.simulate(works, is_search=False, cached=run.sizes)

    def replicate(self, parameters: Parameters, gan_seed: int, classifier_seed: int) -> Work:
        """Return the work of a trial with new seeds, counted from 0.

        Its process has run others before; each classifier seed draws its own views.
        """
        work = self.work(parameters.with_generator(seed=-1 - gan_seed) if parameters.generator else parameters)
        shared = {(key, classifier_seed) if one.has_views else key: one for key, one in work.shared.items()}
        return replace(work, own=0.0, shared=shared)

    @property
    def start(self) -> float:
        """Seconds until a trial's process can work."""
        return float(np.median([speed.start for speed in self._speeds.values()]))

    def _notes(self) -> Iterator[str]:
        if (load := max(speed.load for speed in self._speeds.values())) > _BUSY:
            yield f"other processes slowed the measurements down up to {load:.1f} times; the forecast is for idle cores"
        if any(one.generator and one.generator.mask_from == "segmenter" for one in self._possible):
            yield "without the training of the segmenter that labels generated images"
        if any(one.early_stop_epochs for one in self._possible):
            yield "without early stopping, which can only save time"

    def _quality_kind(self, parameters: Parameters) -> Parameters:
        """Return the network whose features measure the quality of a trial's images."""
        if (chosen := self.settings.quality).backbone is None:
            return network_kind(parameters)
        return network_kind(Parameters(backbone=chosen.backbone, weights=chosen.weights, trainable="head"))

    def _speed(self, kind: Parameters) -> Speed:
        """Return a measured speed; of too many kinds, that of the nearest one, scaled by the size of a generator's batch."""
        if kind in self._speeds:
            return self._speeds[kind]
        nearest = min(
            (one for one in self._speeds if one.source == kind.source),
            key=lambda one: abs(np.log(_size(kind) / _size(one))),
        )
        scale, speed = _size(kind) / _size(nearest), self._speeds[nearest]
        return Speed(**{name: getattr(speed, name) * scale for name in Speed.__slots__})

    def work(self, parameters: Parameters) -> Work:
        """Return the work of a trial."""
        experiment = Experiment(settings=self.settings, parameters=parameters)
        extra = np.bincount(plan_mix(self.prepared.train_counts, parameters), minlength=len(self._counts[0]))
        blocks = [*map(blocks_for, extra.tolist())] if parameters.has_synthetic_images else []
        shared = self._pool(experiment, blocks) if blocks else {}
        generator, kind = parameters.generator, generator_kind(parameters)
        own, before, step, size = self.start, 0.0, 0.0, 0.0
        if generator and kind:
            speed, networks = self._speed(kind), len(network_labels(generator, self.prepared))
            before, step, size = (networks * one for one in (speed.before, speed.step, speed.size_bytes))
        if self.settings.objective.is_of_generator:
            steps = generator.steps / self.settings.budget.max_epochs if generator else 0.0
            return Work(shared={}, own=own, epoch=before + steps * step + sum(one.seconds for one in shared.values()))
        epoch, features = self._network(experiment, blocks)
        return Work(
            lineage=generator and generator.model_copy(update={"steps": 1}),
            steps=generator.steps if generator else 0,
            step=step,
            before_steps=before,
            generator_bytes=size,
            shared={**shared, **features},
            own=own,
            epoch=epoch + _EPOCH_SECONDS,
        )

    def _pool(self, experiment: Experiment, blocks: Sequence[int]) -> dict[Hashable, Shared]:
        """Return the blocks of a trial's pool, and its quality if that is measured."""
        parameters, chosen = experiment.parameters, self.settings.quality
        kind, generator = self._quality_kind(parameters), generator_kind(parameters)
        train, val_a, val_b = (counts.clip(max=MOST_IMAGES) for counts in self._counts)
        origin, found = _origin(parameters), dict[Hashable, Shared]()
        drawn = np.maximum(blocks, 1)
        if kind.weights != "none" and min(val_a.min(), val_b.min()) >= FEWEST_IMAGES:
            of_class, image = -(-val_a // BLOCK), self._speed(kind).image
            drawn = np.maximum(drawn, of_class)
            passes = float(train.sum() + 2 * val_a.sum() + (1 + len(SCALE_PX)) * val_b.sum())
            network = kind.backbone, kind.weights, experiment.resolution_px, chosen.backbone
            found["real", network] = Shared(passes * image + 4 * _FIGURES_SECONDS)
            found["quality", network, origin] = Shared(2 * BLOCK * float(of_class.sum()) * image + _FIGURES_SECONDS)
        seconds = self._speed(generator).block * (1 if parameters.pool_filter == "none" else 2) if generator else 0.0
        side_px = parameters.generator.image_size if parameters.generator else self.prepared.image_size_px
        for label, count in enumerate(drawn.tolist()):
            for block in range(count):
                found["block", origin, label, block] = Shared(seconds, BLOCK * side_px**2)
        return found

    def _network(self, experiment: Experiment, blocks: Sequence[int]) -> tuple[float, dict[Hashable, Shared]]:
        """Return the seconds of an epoch, and the features that are computed before the first one."""
        parameters = experiment.parameters
        speed, steps = self._speed(network_kind(parameters)), self.prepared.steps_per_epoch(self.settings)
        train, val_a, val_b = (int(counts.sum()) for counts in self._counts)
        views, size = view_count(experiment), speed.size_bytes
        is_head = parameters.trainable == "head"
        drawn = parameters.batch_size
        if parameters.mixing != "pretrain":
            drawn = parameters.real_per_step + parameters.extra_per_step
        step = speed.step * (1.0 if is_head else drawn / BATCH)
        images = (train + BLOCK * sum(blocks)) * views
        if not size or not views or (not is_head and images * size > MAX_STAGE_BYTES):
            step += drawn * speed.image if size else 0.0  # the speed is of steps on cached inputs of the last stage
            return steps * step + speed.image * (val_a + min(256, train)) + speed.end, {}
        network = is_head, parameters.backbone, parameters.weights, parameters.input_channels, experiment.resolution_px
        seen, found = (network, views, parameters.classical), dict[Hashable, Shared]()

        def add(key: Hashable, images: int, has_views: bool) -> None:
            found[key] = Shared(images * speed.image, images * size, has_views)

        add(("train", seen), train * views, views > 1)
        add(("val", network), val_a + val_b, False)
        for label, count in enumerate(blocks):
            for block in range(count):
                add(("features", _origin(parameters), label, block, seen), BLOCK * views, views > 1)
        return steps * step + speed.end, found


def _origin(parameters: Parameters) -> Hashable:
    return parameters.source, parameters.generator, parameters.pool_filter, parameters.folder


def _size(kind: Parameters) -> float:
    generator = kind.generator
    return float(generator.batch_size * generator.image_size**2 * generator.width**1.5) if generator else 1.0


def _range(values: Sequence[float]) -> Range:
    low, expected, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    return low * (1 - _SPEED_ERROR), expected, high * (1 + _SPEED_ERROR)
