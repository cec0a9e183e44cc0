"""How much any generator could help.

Real images of other patients stand in for perfect synthetic ones.

The baseline of a space is trained on several draws of n patients, and on the same draws plus real
images of other patients, at each ratio of the space, with equal steps and seeds. All networks are
scored on the remaining training patients, who are in no draw. The test folder stays sealed.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from xraytune.base.cores import cpu_count
from xraytune.base.errors import ConfigError, DataError
from xraytune.base.records import Progress, frozen, ignore_progress
from xraytune.base.seeding import derive_seed
from xraytune.confirm.sealed import require_every_class
from xraytune.data.prepare import ImageSet, RunContext, side_images
from xraytune.data.sides import too_few_tested
from xraytune.data.split import nested_order
from xraytune.nets.checkpoint import load_best
from xraytune.nets.compute import compute_of, gpu_count, in_one_thread, pin
from xraytune.space.allocation import allocation_of
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.settings import Experiment, Parameters, Settings, extra_images
from xraytune.space.space import Space
from xraytune.stats.placements import structural_components
from xraytune.stats.verdict import Interval, compare
from xraytune.study.journal import random_parameters
from xraytune.synth.mix import mix_label
from xraytune.synth.sources.source import take
from xraytune.tasks import task_of
from xraytune.tasks.task import Results
from xraytune.trial.network import Network
from xraytune.trial.prepare import open_space, prepare_space, require_inputs
from xraytune.trial.training import TrialTraining
from xraytune.trial.training_set import TrainingSet

_MOST_DRAWS, _FEWEST_DRAWS = 5, 3
_FEWEST_PATIENTS = 16
_TEST_SHARE = 0.25
"""At least this share of the training patients is held out for scoring."""
_SPARE = 1.2
"""Patients set aside for the extra images, as a multiple of the expected number.

Patients differ in their numbers of images.
"""
_TRIES = 1000
Numbers = NDArray[np.int64]
"""Positions of images on the train side, [n]."""


@frozen
class Gain:
    """The mean gain over `draws` from adding real images of other patients.

    `ratio` of them are added per image of `patients` patients.

    `baseline` is the mean score without them, `test_patients` is the number of patients scored, and
    `interval` accounts for both draws and scored patients.
    """

    patients: int
    ratio: float
    draws: int
    test_patients: int
    baseline: float
    interval: Interval


@frozen
class Headroom:
    """The gains at each ratio of a space, ascending.

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
    def sentence(self) -> str:
        """What the largest gain means, and the largest that any ratio may have."""
        best = max(self.gains, key=lambda gain: gain.interval.difference)
        gained, low, high = best.interval.difference, best.interval.low, best.interval.high
        largest = max(gain.interval.high for gain in self.gains)
        if largest < self.margin:
            means = f"less than the margin of {self.margin:g}: no generator can help here"
        elif low < 0 and largest >= 2 * self.margin:
            means = (
                f"too uncertain to compare with the margin of {self.margin:g}: more patients are "
                "needed to tell"
            )
        elif gained < 2 * self.margin:
            means = (
                f"less than twice the margin of {self.margin:g}: only a nearly perfect generator "
                "could help"
            )
        else:
            means = (
                f"{gained / self.margin:.1f} times the margin of {self.margin:g}: a good "
                "generator can help"
            )
        gain = f"{gained:.3f} {self.metric} ({low:.3f} to {high:.3f}) at ratio {best.ratio:g}"
        return f"At {best.patients:,} patients, even perfect images gain {gain}, {means}."


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

    With a frozen backbone, features are computed once, and it takes about a minute. Otherwise,
    whole networks are trained.

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
    settings = whole.settings
    baseline = _baseline(whole).model_copy(update={"early_stop_epochs": None})
    # For a range, its two ends.
    trials = whole.extreme_parameters("source", "synthetic_ratio")
    ratios = sorted({trial.synthetic_ratio for trial in trials if trial.synthetic_ratio})
    if not ratios:
        what = "the space has no ratio of extra to real images"
        fix = "add a source of extra images and synthetic_ratio"
        raise ConfigError(what, settings.name, fix)
    cache = cache.resolve()
    require_inputs(settings, whole.networks())
    prepared, _ = prepare_space(
        whole, cache, skip_broken=skip_broken, note=note, on_progress=on_progress
    )

    trial = Experiment(settings=settings, parameters=baseline)
    prepared = prepared.sizes[trial.settings.data.image_size]
    side = prepared.side("train")
    order = nested_order(side.patients, side.targets, settings.data.split.seed)
    wanted = own.settings.data.train_patients or len(order)
    count, size, draws = choose_design(len(order), wanted, max(ratios))
    parts = [draw_and_others(order, draw, count, size) for draw in range(draws)]
    test = [*chain(*order[draws * size :])]
    for real, _ in parts:
        require_every_class([side[place] for place in real], prepared, count)
    few = too_few_tested([side[place] for place in test], prepared.outputs)
    if few:
        raise DataError(few, settings.data.path, "add patients")

    allocation = allocation_of(settings, has_gpu=gpu_count() > 0)
    compute = replace(compute_of(allocation), threads=cpu_count())
    pin(compute)
    context = RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=on_progress)
    everyone = side_images("train", prepared, cache)
    scored = take(everyone, np.array(test))
    arms = [baseline, *(with_extra(baseline, ratio) for ratio in ratios)]
    network = Network(trial, context)
    if network.has_cached_features and baseline.augmentation == "none":
        # At once: each training would load the backbone for what it lacks.
        shown = [*test]
        for real, others in parts:
            shown += [*real, *others[: extra_images(max(ratios), len(real))]]
        network.features(everyone, np.array(shown))
    results: list[Results] = []
    for arm in arms:
        for draw, (real, others) in enumerate(parts):
            extra = others[: extra_images(arm.synthetic_ratio, len(real))]
            results.append(
                train_on_draw(settings, draw, arm, context, everyone, real, extra, scored)
            )
            total = len(arms) * draws
            on_progress("training on draws of patients (networks)", len(results), total)
    patients = side.patients
    tested = [patients[place] for place in test]
    measured = structural_components(scored.targets, np.stack(results), tested, prepared.positive)
    by_arm = measured.by_arm(len(arms))
    gains = [
        Gain(
            patients=count,
            ratio=ratio,
            draws=draws,
            test_patients=len({*tested}),
            baseline=float(by_arm.scores[0].mean()),
            interval=compare(by_arm.pair(number, 0)),
        )
        for number, ratio in enumerate(ratios, start=1)
    ]
    return Headroom(
        name=settings.name,
        metric=task_of(settings).metric,
        margin=settings.confirm.rope,
        patients=wanted,
        baseline=mix_label(baseline),
        gains=tuple(gains),
    )


def _baseline(space: Space) -> Parameters:
    """Return the first arm without extra images in `points_to_evaluate`.

    Without one, the simplest one drawn at random.
    """
    for start in space.points_to_evaluate:
        with suppress(ConfigError):  # it leaves other parameters open
            parameters = parameters_from(replace(space, points_to_evaluate=(start,)).first_point())
            if parameters.source == "none":
                return parameters
    drawn = islice(random_parameters(space, space.settings.seed), _TRIES)
    baselines = [parameters for parameters in drawn if parameters.source == "none"]
    if not baselines:
        what = "the space has no arm without extra images"
        raise ConfigError(what, space.settings.name, "add source: none")
    return min(baselines, key=lambda parameters: parameters.simplicity)


def with_extra(parameters: Parameters, ratio: float) -> Parameters:
    """Return the baseline with a stream of extra images.

    There are as many per step as in a trial with this ratio.
    """
    return parameters_from(
        {**flat_values(parameters), "source": "duplicate", "synthetic_ratio": ratio}
    )


def choose_design(patients: int, wanted: int, ratio: float) -> tuple[int, int, int]:
    """Return a draw's patients, the same with those of its extra images, and the number of draws.

    As many of `wanted` as leave enough patients to score on; DataError if there are too few.
    """
    available = int((1 - _TEST_SHARE) * patients)
    largest = int(available // _FEWEST_DRAWS / (1 + _SPARE * ratio))
    if largest < _FEWEST_PATIENTS:
        what = f"{patients:,} training patients are too few for a ratio of {ratio:g}"
        raise DataError(what, fix="lower the ratios, or add patients")
    count = min(max(wanted, _FEWEST_PATIENTS), largest)
    size = count + math.ceil(_SPARE * ratio * count)
    return count, size, min(_MOST_DRAWS, available // size)


def draw_and_others(
    order: Sequence[tuple[int, ...]], draw: int, count: int, size: int
) -> tuple[Numbers, Numbers]:
    """Return the images of a draw of `count` patients, and of the others of its `size`.

    The patients are in nested order, so that successive ones have about the class shares of all;
    every third one, say, may be of one class.
    """
    first = draw * size
    real = np.array([*chain(*order[first : first + count])])
    return real, np.array([*chain(*order[first + count : first + size])])


def train_on_draw(
    settings: Settings,
    draw: int,
    arm: Parameters,
    context: RunContext,
    everyone: ImageSet,
    real: Numbers,
    extra: Numbers,
    scored: ImageSet,
) -> Results:
    """Train an arm on a draw of `everyone`, and return its results on the scored images, [n, C].

    Each draw has its own seed, as each replicate of a confirmation has.
    """
    seed = derive_seed(settings.seed, "headroom", draw) % 2**31
    steps = settings.budget.steps_per_epoch or max(8, -(-len(real) // 32))
    budget = settings.budget.model_copy(update={"steps_per_epoch": steps})
    settings = settings.model_copy(update={"budget": budget, "seed": seed})
    trial = Experiment(settings=settings, parameters=arm)
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
        return training.results(scored)
