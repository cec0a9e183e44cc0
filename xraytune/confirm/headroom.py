"""How much any generator could help: real images of other patients stand in for perfect synthetic ones.

The baseline of a space is trained on several draws of n patients, and on the same draws plus real
images of other patients, at each ratio of the space, with equal steps and seeds. All networks are
scored on the remaining training patients, who are in no draw. The test folder stays sealed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from xraytune.base.cores import cpu_count
from xraytune.base.errors import ConfigError, DataError, Problem
from xraytune.base.records import Progress, ignore_progress
from xraytune.data.prepare import ImageSource, Prepared, RunContext, side_images
from xraytune.data.sides import FEWEST_OF_CLASS, side_size
from xraytune.data.split import nested_order
from xraytune.nets.checkpoint import load_best
from xraytune.nets.compute import allocation_of, gpu_count, in_one_thread, pin
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.settings import Experiment, Parameters, extra_images
from xraytune.space.space import Space
from xraytune.stats.verdict import Interval, compare
from xraytune.study.journal import random_parameters
from xraytune.synth.mix import mix_label
from xraytune.tasks import task_of
from xraytune.tasks.task import Results
from xraytune.trial.network import Network
from xraytune.trial.prepare import open_space, prepare_space
from xraytune.trial.training import TrialTraining
from xraytune.trial.training_set import TrainingSet

_MOST_DRAWS, _FEWEST_DRAWS = 5, 3
_LADDER = (0.5, 1.0, 2.0)
"""Numbers of patients, as multiples of the space's own."""
_FEWEST_PATIENTS = 16
_TEST_SHARE = 0.25
"""At least this share of the training patients is held out for scoring."""
_SPARE = 1.2
"""Patients set aside for the extra images, as a multiple of the expected number, because patients differ in images."""
_TRIES = 1000
Numbers = NDArray[np.int64]
"""Positions of images on the train side, [n]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The mean gain over `draws` from adding `ratio` real images of other patients per image of `patients` patients.

    `baseline` is the mean score without them, `test_patients` is the number of patients scored, and
    `interval` accounts for both draws and scored patients.
    """

    patients: int
    ratio: float
    draws: int
    test_patients: int
    baseline: float
    interval: Interval

    @property
    def gain(self) -> float:
        """The mean gain."""
        return self.interval.difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """The gains at each ratio of a space, for one or more numbers of patients.

    Attributes:
        margin: The smallest gain that matters: `confirm.rope`.
        patients: `data.train_patients` of the space, or all training patients.
        baseline: The label of the arm without extra images.
    """

    name: str
    metric: str
    margin: float
    patients: int
    baseline: str
    gains: tuple[Gain, ...]

    @property
    def ladder(self) -> tuple[int, ...]:
        """The numbers of patients, ascending."""
        return tuple(sorted({gain.patients for gain in self.gains}))

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the largest gain means: at the number of patients closest to the space's own, then at the others."""
        first = min(self.ladder, key=lambda count: abs(count - self.patients))
        return tuple(
            self._sentence(count) for count in (first, *(n for n in self.ladder if n != first))
        )

    def _sentence(self, count: int) -> str:
        best = max(
            (gain for gain in self.gains if gain.patients == count), key=lambda gain: gain.gain
        )
        low, high = best.interval.low, best.interval.high
        if high < self.margin:
            means = f"less than the margin of {self.margin:g}: no generator can help here"
        elif low < 0 and high >= 2 * self.margin:
            means = f"too uncertain to compare with the margin of {self.margin:g}: more patients are needed to tell"
        elif best.gain < 2 * self.margin:
            means = f"less than twice the margin of {self.margin:g}: only a nearly perfect generator could help"
        else:
            means = f"{best.gain / self.margin:.1f} times the margin of {self.margin:g}: a good generator can help"
        gain = (
            f"gain {best.gain:.3f} {self.metric} ({low:.3f} to {high:.3f}) at ratio {best.ratio:g}"
        )
        return f"At {count:,} patients, even perfect images {gain}, {means}."


def headroom(
    space: Path,
    *,
    data: Path | None = None,
    weights_dir: Path | None = None,
    overrides: Sequence[str] = (),
    cache: Path = Path("cache"),
    skip_broken: bool = False,
    on_progress: Progress = ignore_progress,
    note: Callable[[str], None] = lambda _: None,
) -> Headroom:
    """Measure, before a search, how much perfect images would gain.

    With a frozen backbone, features are computed once, and several numbers of patients take about
    two minutes in all. Otherwise, whole networks are trained, and only for the number of patients
    closest to the space's own.

    Args:
        space: Search space (YAML).
        data: Image folder, or data file (YAML); overrides `data` of the space.
        weights_dir: Folder of official weight files, for machines without network access.
        overrides: `key=value` settings that override those of the space.
        cache: Artifact cache.
        skip_broken: Leave out broken images.
        on_progress: Called with progress.
        note: Called with messages for the user.

    Raises:
        ConfigError: The file is invalid, or the space has no arm without extra images, or no ratio.
        DataError: The images are invalid, or there are too few patients.
        MachineError: Weights or disk space are missing.
        TrialError: A loss is not finite.
    """
    own = open_space(space, overrides, data=data, weights_dir=weights_dir, note=note)
    all_patients = [*overrides, "data.train_patients=null"]
    whole = open_space(space, all_patients, data=data, weights_dir=weights_dir)
    settings, task = whole.settings, task_of(whole.settings)
    parameters, ratios = (
        _baseline(whole).model_copy(update={"early_stop_epochs": None}),
        _ratios(whole),
    )
    cache = cache.resolve()
    prepared, _ = prepare_space(
        whole, cache, skip_broken=skip_broken, note=note, on_progress=on_progress
    )
    compute = replace(
        allocation_of(settings, has_gpu=gpu_count() > 0).compute(), threads=cpu_count()
    )
    pin(compute)
    context = RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=on_progress)
    side = prepared.side("train")
    patients = nested_order(side.patients, side.targets, settings.data.split.seed)
    wanted = own.settings.data.train_patients or len(patients)
    chosen = _possible_designs(prepared, patients, wanted, max(ratios), settings.data.path)
    experiment = Experiment(settings=settings, parameters=parameters)
    if not Network(experiment, context).has_cached_features:
        chosen = [min(chosen, key=lambda design: abs(design[0] - wanted))]
    arms = [parameters, *(with_extra(parameters, ratio) for ratio in ratios)]
    total, trained = sum(draws for _, draws in chosen) * len(arms), 0
    everyone = side_images("train", prepared, cache)
    gains: list[Gain] = []
    for count, draws in chosen:
        size = _pool_size(count, max(ratios))
        results: list[Results] = []
        for arm in arms:
            for draw in range(draws):
                real, others = (
                    np.array([*chain(*part)])
                    for part in draw_and_others(patients, draw, count, size)
                )
                extra = others[: extra_images(arm.synthetic_ratio, len(real))]
                results.append(train_on_draw(experiment, arm, context, everyone, real, extra))
                trained += 1
                on_progress("training on draws of patients (networks)", trained, total)
        test = np.array([*chain(*patients[draws * size :])])
        of_test = [side.patients[number] for number in test]
        tested = np.stack([result[test] for result in results])
        measured = task.components(everyone.targets[test], tested, of_test, prepared.positive)
        scores = measured.scores.reshape(len(arms), draws)
        components = measured.components.reshape(len(arms), draws, -1)
        for number, ratio in enumerate(ratios, start=1):
            pair = replace(measured, scores=scores[[number, 0]], components=components[[number, 0]])
            gain = Gain(
                patients=count,
                ratio=ratio,
                draws=draws,
                test_patients=len({*of_test}),
                baseline=float(scores[0].mean()),
                interval=compare(pair).interval,
            )
            gains.append(gain)
    return Headroom(
        name=settings.name,
        metric=task.metric,
        margin=settings.confirm.rope,
        patients=wanted,
        baseline=mix_label(parameters),
        gains=tuple(gains),
    )


def _baseline(space: Space) -> Parameters:
    """Return the first arm without extra images in `points_to_evaluate`, or else the simplest one drawn at random."""
    for start in space.points_to_evaluate:
        with suppress(ConfigError):  # it leaves other parameters open
            parameters = parameters_from(replace(space, points_to_evaluate=(start,)).first_point())
            if parameters.source == "none":
                return parameters
    drawn = islice(random_parameters(space, space.settings.seed), _TRIES)
    baselines = [parameters for parameters in drawn if parameters.source == "none"]
    if not baselines:
        raise ConfigError(
            Problem(
                "the space has no arm without extra images", space.settings.name, "add source: none"
            )
        )
    return min(baselines, key=lambda parameters: parameters.simplicity)


def _ratios(space: Space) -> list[float]:
    """Return the ratios of the space, ascending; for a range, its two ends."""
    ratios = {
        ratio
        for (ratio,) in space.combinations("synthetic_ratio")
        if isinstance(ratio, int | float) and ratio > 0
    }
    if not ratios:
        what = "the space has no ratio of extra to real images"
        raise ConfigError(
            Problem(what, space.settings.name, "add a source of extra images and synthetic_ratio")
        )
    return sorted(map(float, ratios))


def with_extra(parameters: Parameters, ratio: float) -> Parameters:
    """Return the baseline with a stream of extra images, as many per step as in a trial with this ratio."""
    return parameters_from(
        {**flat_values(parameters), "source": "duplicate", "synthetic_ratio": ratio}
    )


def _pool_size(count: int, ratio: float) -> int:
    """Return the number of patients needed for a draw and its extra images."""
    return count + math.ceil(_SPARE * ratio * count)


def designs(patient_count: int, wanted: int, ratio: float) -> Iterator[tuple[int, int]]:
    """Yield each number of patients, and how many disjoint draws of it leave enough patients to score on."""
    available = int((1 - _TEST_SHARE) * patient_count)
    largest = int(available // _FEWEST_DRAWS / (1 + _SPARE * ratio))
    rungs = [
        count
        for factor in _LADDER
        if _FEWEST_PATIENTS <= (count := round(factor * wanted)) <= largest
    ]
    for count in rungs or ([largest] if largest >= _FEWEST_PATIENTS else []):
        yield count, min(_MOST_DRAWS, available // _pool_size(count, ratio))


def _possible_designs(
    prepared: Prepared, patients: Sequence[tuple[int, ...]], wanted: int, ratio: float, where: Path
) -> list[tuple[int, int]]:
    """Return the designs whose draws and scored patients have images of every class; DataError if there are none."""
    missing = {
        design: _missing(prepared, patients, *design, ratio)
        for design in designs(len(patients), wanted, ratio)
    }
    if possible := [design for design, what in missing.items() if not what]:
        return possible
    needed = math.ceil(_FEWEST_DRAWS * _pool_size(_FEWEST_PATIENTS, ratio) / (1 - _TEST_SHARE))
    few = f"{len(patients):,} training patients are too few for a ratio of {ratio:g}, which needs {needed:,}"
    raise DataError(
        Problem(next(iter(missing.values()), few), where, "lower the ratios, or add patients")
    )


def draw_and_others(
    patients: Sequence[tuple[int, ...]], draw: int, count: int, size: int
) -> tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]]:
    """Return a draw of `count` patients and the others of its `size`, both with about the class shares of all.

    `patients` are in nested order, so that successive ones have these shares; every third one, say,
    may be of one class.
    """
    first = draw * size
    return patients[first : first + count], patients[first + count : first + size]


def _missing(
    prepared: Prepared, patients: Sequence[tuple[int, ...]], count: int, draws: int, ratio: float
) -> str:
    """Return why so many draws are impossible: one lacks a class, or too few patients are left to score on; else ""."""
    images, size = (
        [image for image in prepared.images if image.side == "train"],
        _pool_size(count, ratio),
    )
    parts = [("draw", 1, draw_and_others(patients, draw, count, size)[0]) for draw in range(draws)]
    for name, fewest, part in (*parts, ("test side", FEWEST_OF_CLASS, patients[draws * size :])):
        chosen = [images[place] for place in chain(*part)]
        if few := side_size(name, chosen, prepared.outputs, prepared.positive).lacking(fewest):
            return f"a {name} of {len(part)} patients has too few of a class: {few}, and {fewest} are needed"
    return ""


def train_on_draw(
    experiment: Experiment,
    arm: Parameters,
    context: RunContext,
    everyone: ImageSource,
    real: Numbers,
    extra: Numbers,
) -> Results:
    """Train an arm on a draw, and return its results on all images of the train side, [N, C]."""
    settings = experiment.settings
    steps = settings.budget.steps_per_epoch or max(8, -(-len(real) // 32))
    budget = settings.budget.model_copy(update={"steps_per_epoch": steps})
    trial = Experiment(settings=settings.model_copy(update={"budget": budget}), parameters=arm)
    images = TrainingSet(sources=(everyone,), targets=everyone.targets, real=real, extra=extra)
    training = TrialTraining(trial, context, images)
    training.on_progress = ignore_progress
    with (
        TemporaryDirectory() as folder,
        in_one_thread() if training.network.has_cached_features else nullcontext(),
    ):
        for _ in training.epochs(Path(folder)):
            pass
        load_best(Path(folder), training.trained)
        return training.results(everyone)
