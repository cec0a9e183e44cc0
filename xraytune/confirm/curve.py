"""Learning curves: how much more patients, or another hospital's images or models, would help.

    arms -> nested samples of patients -> train -> score -> compare, in units of patients

Curves are measured before a search. The baseline of a space is trained on five samples of n
patients, for several n: on their images alone, on repetitions of them, with real images of other
patients in place of perfect synthetic images, and with each gift, which is what another hospital
has sent. Steps, seeds and real images are the same in all arms. All networks are scored on the same
patients of the training folder, who are in no sample. The test folder stays sealed.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from xraytune.base.artifacts import build_once, releases
from xraytune.base.errors import ConfigError, DataError
from xraytune.base.figures import COLOURS, figure_text, new_figure
from xraytune.base.files import (
    StrPath,
    new_folder,
    optional_path,
    require_new,
    write_array,
    write_json,
)
from xraytune.base.records import Note, Progress, frozen, ignore_note, ignore_progress, to_json
from xraytune.confirm.arms import Arm, Role, replicate
from xraytune.confirm.division import Division, Samples, divide, require_usable
from xraytune.confirm.plan import donor_controls, sample_control, trainable_arm
from xraytune.confirm.unused import TEST, patients_in_order
from xraytune.data.index import find_class_names
from xraytune.data.prepare import RunContext, patients_seen, side_image_set
from xraytune.nets.compute import compute_alone, configure_torch, in_one_thread
from xraytune.space.domains import Value
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.parameters import Parameters, identities_of
from xraytune.space.settings import Experiment, Settings
from xraytune.space.space import Space
from xraytune.stats.between import Estimate, mean_score, worth_between
from xraytune.stats.placements import (
    StructuralComponents,
    scorable_labels,
    structural_components,
)
from xraytune.stats.verdict import Interval, compare
from xraytune.study.start import inputs_of_trials, read_inputs
from xraytune.synth.donor import donor_records_sha256, donor_tensors
from xraytune.synth.mix import mix_label
from xraytune.synth.saved_generator import GENERATOR_FILE
from xraytune.synth.sources.registry import seen_by, source_of
from xraytune.synth.sources.source import StudyImages
from xraytune.tasks import task_of
from xraytune.tasks.task import Results
from xraytune.trial.network import TrialNetwork
from xraytune.trial.preflight import open_space, prepare_space, require_inputs
from xraytune.trial.soft_labels import misfit_warnings
from xraytune.trial.training import TrialTraining

_STAGE = "curve-1"
_HALF: dict[str, Value] = {"synthetic_ratio": 4.0, "synthetic_weight": 0.25}
"""Settings with which gifts and repeated images have half of the weight in the loss."""
_POOL = 1000
"""At most this many different images of a gift are used."""


@frozen
class _Cell:
    """An arm at a number of patients; `contents` has the content of each input of the arm."""

    arm: Arm
    patients: int
    contents: Sequence[str]


@frozen
class CurvePoint:
    """The scores of an arm at one number of patients.

    All intervals account for the variation over samples of patients and over scored patients.

    Attributes:
        role: `perfect` with real images of other patients, `donor` with a gift, else `matched`.
        ratio: Number of extra images per image of the patients.
        patients: Number of patients in each sample.
        scores: Score of each sample's network.
        score: Mean of `scores`, with its interval.
        gain: Difference in score from training without extra images.
        worth: Number of additional patients that would gain as much, limited to the range of the
            curve.
    """

    arm: str
    role: Role
    ratio: float
    patients: int
    scores: tuple[float, ...]
    score: Estimate
    gain: Interval
    worth: Estimate


@frozen
class Curve:
    """What arms are worth by number of patients.

    Attributes:
        name: Name of the space.
        metric: Name of the scores, such as AUROC.
        margin: The smallest gain that matters: `confirm.rope`.
        patients: The number of patients that `sentence` is about: the largest of `numbers`, without
            the last, that does not exceed `data.train_patients`.
        numbers: All numbers of patients that are compared.
        test_patients: Number of scored patients.
        baseline: The arm that is trained, such as `real_only`.
        points: Scores by arm and number of patients, the arm without extra images first.
    """

    name: str
    metric: str
    margin: float
    patients: int
    numbers: tuple[int, ...]
    test_patients: int
    baseline: str
    points: tuple[CurvePoint, ...]

    @property
    def sentence(self) -> str:
        """What the largest gain from real images says about the gain from synthetic images."""
        perfect_points = [
            point
            for point in self.points
            if point.role == "perfect" and point.patients == self.patients
        ]
        condition = f"At {self.patients:,} patients"
        if not perfect_points:
            too_few = "too few other patients are left to stand in for perfect synthetic images"
            return f"{condition}, {too_few}."
        best = max(perfect_points, key=lambda point: point.gain.difference)
        difference, low, high = best.gain.difference, best.gain.low, best.gain.high
        largest = max(point.gain.high for point in perfect_points)
        ratios = f"at ratios up to {perfect_points[-1].ratio:g}"
        if largest < self.margin:
            meaning = f"less than the margin of {self.margin:g}: no generator can help {ratios}"
        elif largest >= 2 * self.margin and (low < 0 or difference < 2 * self.margin):
            meaning = (
                f"too uncertain to compare with the margin of {self.margin:g}: more patients are "
                "needed to tell"
            )
        elif difference < 2 * self.margin:
            meaning = (
                f"less than twice the margin of {self.margin:g}: only a nearly perfect generator "
                f"could help {ratios}"
            )
        else:
            meaning = (
                f"{difference / self.margin:.1f} times the margin of {self.margin:g}: a good "
                "generator can help"
            )
        gain = f"{difference:.3f} {self.metric} ({low:.3f} to {high:.3f}) at ratio {best.ratio:g}"
        return f"{condition}, even perfect images gain {gain}, {meaning}."

    def worth_of(self, point: CurvePoint, unit: str = "") -> str:
        """Return how many patients an arm is worth, such as `11 (4 to more than 300)`."""
        least, most = (self.numbers[end] - point.patients for end in (0, -1))
        texts = []
        for count in (point.worth.value, point.worth.low, point.worth.high):
            text = f"more than {most:,}" if count >= most else f"{count:,.0f}"
            texts.append(text if count > least else f"less than {least:,}")
        value, low, high = texts
        return f"{value}{unit}" + (f" ({low} to {high})" if low != high else "")


def curve(
    space: StrPath,
    *,
    data: StrPath | None = None,
    weights_dir: StrPath | None = None,
    overrides: Sequence[str] = (),
    patients: Sequence[int] = (),
    donor: StrPath | None = None,
    folder: StrPath | None = None,
    out: StrPath | None = None,
    cache: StrPath | None = None,
    skip_broken: bool = False,
    extensions: Sequence[str | type] = (),
    on_progress: Progress = ignore_progress,
    note: Note = ignore_note,
) -> Curve:
    """Measure, before a search, what further patients and gifts are worth.

    With a frozen backbone, features are computed only once, and the curve takes minutes. Otherwise,
    whole networks are trained. Every training is cached: the same call resumes after an
    interruption.

    Args:
        space: Search space (YAML).
        data: Image folder, or data file (YAML); overrides `data` of the space.
        weights_dir: Folder of official weight files, for machines without network access.
        overrides: `key=value` settings that override those of the space.
        patients: Numbers of patients, at least two; by default 25, 50, 100 and so on, as many as
            leave a quarter of the patients to score.
        donor: A folder from `xraytune generator train`, whose generator, statistics and classifier
            are compared.
        folder: A folder of extra images, with class folders.
        out: Folder to create, with `curve.json`, `curve.png` and `curve.svg`.
        cache: Artifact cache.
        skip_broken: Leave out broken images.
        extensions: Your own code that the space names: `FILE.py:CLASS`, or the class itself.
        on_progress: Called with progress.
        note: Called with messages for the user.

    Raises:
        ConfigError: The space is invalid, or has no arm without extra images; `out` exists.
        DataError: The images or gifts are invalid, or there are too few patients.
        ArtifactError: A gift is damaged.
        MachineError: Weights or disk space are missing.
        TrialError: A loss is not finite.
    """
    out = optional_path(out)
    EXTENSIONS.register(extensions)
    loaded_space = open_space(space, overrides, data=data, weights_dir=weights_dir, note=note)
    data_settings = loaded_space.settings.data
    if out:
        require_new(out, outside=data_settings.path)
    base_space = _baseline_space(loaded_space)
    trial = base_space.experiment()
    settings = trial.settings
    baseline = trial.parameters
    ratios = _ratios(loaded_space)

    # Patients whose images a gift was made from are neither trained on nor scored.
    gifts = _gifts(settings, baseline, optional_path(donor), optional_path(folder))
    seen_sha256 = seen_by([baseline, *(gift.parameters for gift in gifts)])
    cache = Path(cache or "cache").resolve()
    require_inputs(settings, base_space.networks())
    prepared, index = prepare_space(
        base_space,
        cache,
        seen_sha256=seen_sha256,
        skip_broken=skip_broken,
        note=note,
        on_progress=on_progress,
    )
    seen_patients = patients_seen(index.images, seen_sha256)
    ordered_patients = patients_in_order(prepared.side("train"), data_settings.split.seed)
    usable_patients = [name for name in ordered_patients if name not in seen_patients]
    division = divide(usable_patients, patients, max(ratios), seen_count=len(seen_patients))
    samples = division.samples(prepared)
    require_usable(samples, data_settings.path)

    # The last checks before a training: whether all arms can be trained on all samples.
    study = StudyImages(settings.data, samples[division.numbers[0]][0], cache, index)
    notes: list[str] = []
    arms = [*_own_arms(baseline, ratios), *(_halve(gift, study, notes) for gift in gifts)]
    if donor:
        controls = donor_controls(settings, prepared.outputs, gifts[0], notes)
        arms += [control for control in controls if control.control == "donor"]
    cells = [*_cells(arms, samples, settings, study, notes)]
    compute = compute_alone(settings)
    configure_torch(compute)
    context = RunContext(prepared=prepared, cache=cache, compute=compute, on_progress=on_progress)
    largest_sample = samples[division.numbers[-1]][0]
    mixes = [gift.parameters for gift in gifts]
    notes += misfit_warnings(mixes, settings, replace(context, prepared=largest_sample))
    for text in notes:
        note(text)

    _compute_features(trial, context, division)
    components = _measure(cells, samples, settings, context)
    result = Curve(
        name=settings.name,
        metric=task_of(settings).metric,
        margin=settings.confirm.rope,
        patients=_main_number(division.numbers, data_settings.train_patients),
        numbers=division.numbers,
        test_patients=len(division.scored),
        baseline=mix_label(baseline),
        points=_points(cells, components, division.numbers),
    )
    if out:
        with new_folder(out) as new:
            write_json(new / "curve.json", to_json(result))
            _plot(result, [new / "curve.png", new / "curve.svg"])
    return result


def _main_number(numbers: Sequence[int], train_patients: int | None) -> int:
    """Return the number of patients that `Curve.sentence` is about."""
    *smaller_numbers, _ = numbers
    limit = train_patients or smaller_numbers[-1]
    possible_numbers = (number for number in smaller_numbers if number <= limit)
    return max(possible_numbers, default=smaller_numbers[0])


def _baseline_space(space: Space) -> Space:
    """Return the space of the baseline alone, with all patients and without early stopping."""
    settings = space.settings.with_values({"data.train_patients": None})
    values = {**flat_values(_without_extra(space)), "early_stop_epochs": None}
    return replace(space, settings=settings).at(values)


def _ratios(space: Space) -> list[float]:
    """Return the ratios of a space, of a range its two ends; 1 if there are none."""
    trials = space.extreme_parameters("source", "synthetic_ratio")
    return sorted({trial.synthetic_ratio for trial in trials if trial.synthetic_ratio}) or [1.0]


def _own_arms(baseline: Parameters, ratios: Sequence[float]) -> list[Arm]:
    """Return the arms without a gift; real images of other patients are as many as `ratios` say."""
    arms = [
        _arm("none", "matched", baseline),
        _arm("duplicate", "matched", baseline, source="duplicate", **_HALF),
    ]
    for ratio in ratios:
        extra: dict[str, Value] = {"synthetic_ratio": ratio, "synthetic_weight": 1.0}
        name = f"other patients x{ratio:g}"
        arms.append(_arm(name, "perfect", baseline, source="duplicate", **extra))
    return arms


def _cells(
    arms: Sequence[Arm],
    samples: Samples,
    settings: Settings,
    study: StudyImages,
    notes: list[str],
) -> Iterator[_Cell]:
    """Yield the cells that have enough extra images; a note says which gifts do not."""
    for arm in arms:
        inputs = inputs_of_trials([arm.parameters])
        found = read_inputs(inputs, settings, study.prepared, study.cache, index=study.data_index)
        for number, splits in samples.items():
            training_sets = [replace(study, prepared=split) for split in splits]
            trainable = trainable_arm(arm, training_sets, notes if arm.role == "donor" else [])
            if trainable:
                yield _Cell(arm=trainable, patients=number, contents=[*found.values()])


def _compute_features(trial: Experiment, context: RunContext, division: Division) -> None:
    """Compute the features of a frozen backbone for all images that are trained on or scored.

    This is done once for all, since otherwise each training would load the backbone.
    """
    network = TrialNetwork(trial, context)
    if network.has_cached_features and trial.parameters.augmentation == "none":
        used_patients = {*division.scored}.union(*division.blocks)
        patients = context.prepared.side("train").patients
        indices = [index for index, patient in enumerate(patients) if patient in used_patients]
        images = side_image_set("train", context.prepared, context.cache)
        network.features(images, np.array(indices))


def _measure(
    cells: Sequence[_Cell], samples: Samples, settings: Settings, context: RunContext
) -> StructuralComponents:
    """Return the scores of C cells on K samples, [C, K]."""
    results: list[Results] = []
    total = sum(len(samples[cell.patients]) for cell in cells)
    for cell in cells:
        for number, sample in enumerate(samples[cell.patients]):
            experiment = replicate(cell.arm, settings, number, "unused")
            results.append(
                _train_once(experiment, replace(context, prepared=sample), cell.contents)
            )
            context.on_progress("training on samples of patients (networks)", len(results), total)
    first_sample = next(iter(samples.values()))[0]  # all samples are scored on the same images
    test_images = first_sample.side(TEST)
    patients = test_images.patients
    labels = scorable_labels(test_images.targets, np.stack(results), patients)
    components = structural_components(labels, np.stack(results), patients, first_sample.positive)
    return components.by_arm(len(cells))


def _points(
    cells: Sequence[_Cell], components: StructuralComponents, numbers: Sequence[int]
) -> tuple[CurvePoint, ...]:
    """Return a point for each cell; the first ones are without extra images, on `numbers`."""
    return tuple(
        CurvePoint(
            arm=cell.arm.name,
            role=cell.arm.role,
            ratio=cell.arm.parameters.synthetic_ratio,
            patients=cell.patients,
            scores=tuple(components.scores[index].tolist()),
            score=mean_score(components, index),
            gain=compare(components.pair(index, numbers.index(cell.patients))),
            worth=worth_between(components, index, numbers, cell.patients),
        )
        for index, cell in enumerate(cells)
    )


def _without_extra(space: Space) -> Parameters:
    """Return the first trial without extra images in `points_to_evaluate`, else a random one."""
    for start in space.points_to_evaluate:
        with suppress(ConfigError):  # it leaves other parameters open
            trial = replace(space, points_to_evaluate=(start,)).experiment()
            if trial.parameters.source == "none":
                return trial.parameters
    for control in ("real_only", "augmented"):
        for parameters in sample_control(space, control, 1, ()):
            return parameters
    raise ConfigError(
        "the space has no arm without extra images", space.settings.name, "add source: none"
    )


def _arm(name: str, role: Role, baseline: Parameters, **changes: Value) -> Arm:
    """Return an arm: the baseline with other values of some parameters."""
    parameters = parameters_from({**flat_values(baseline), **changes})
    return Arm(name=name, role=role, trial_label=name, parameters=parameters)


def _gifts(
    settings: Settings, baseline: Parameters, donor: Path | None, folder: Path | None
) -> list[Arm]:
    """Return the arms with a donor's generator and statistics, and with the images of a folder.

    Raises DataError if the donor has no generator and its statistics do not suit the network.
    """
    gift_paths: dict[str, Path] = {}
    if donor:
        if (donor / GENERATOR_FILE).is_file():
            gift_paths["generator"] = donor
        try:
            donor_tensors(donor, find_class_names(settings.data), baseline, settings)
            gift_paths["statistics"] = donor
        except DataError:
            if not gift_paths:
                raise
    if folder:
        gift_paths["folder"] = folder
    gifts = []
    for source, path in gift_paths.items():
        mix = {**_HALF, "source": source, f"{source}.path": str(path.resolve()), "pool_size": _POOL}
        gifts.append(_arm(f"{source} of {path.name}", "donor", baseline, **mix))
    return gifts


def _halve(gift: Arm, study: StudyImages, notes: list[str]) -> Arm:
    """Return a gift that uses at most half of its images, if their number is known.

    The class shares of a sample differ from those of a folder.
    """
    source = source_of(gift.parameters)
    if source.seen_images_sha256() is None:
        notes.append(
            f"{gift.name}: it is not known which images these were made from; if some show "
            "patients of this study, their worth is overestimated"
        )
    counts = source.count_available(study)
    if counts is not None:
        pool = min(_POOL, max(1, sum(counts) // 2))
        gift = gift.with_values({"parameters.pool_size": pool})
    return gift


def _train_once(experiment: Experiment, context: RunContext, contents: Sequence[str]) -> Results:
    """Return the results of a network on the test side, [N, C]; train it unless they are cached.

    `contents` has the content of each input of the experiment, which must not change.
    """
    prepared = context.prepared
    inputs = {
        "experiment": experiment.identity(),
        "images": [prepared.fingerprint, prepared.pixels_sha256],
        "contents": contents,
        "donor": donor_records_sha256(experiment.donor) if experiment.donor else "",
        "extensions": identities_of(experiment.parameters),
        "compute": asdict(context.compute),
        "releases": releases(*task_of(experiment.settings).packages),
    }

    def build(folder: Path) -> None:
        training = TrialTraining(experiment, context)
        training.on_progress = ignore_progress
        with in_one_thread() if training.network.has_cached_features else nullcontext():
            training.train_at_once()
            test_images = side_image_set(TEST, prepared, context.cache)
            write_array(folder / "results.npy", training.results(test_images))

    results: Results = np.load(build_once(context.cache, _STAGE, inputs, build) / "results.npy")
    return results


def _plot(curve: Curve, files: Sequence[Path]) -> None:
    """Plot the scores by number of patients, with what each arm is worth in the legend."""
    gift_colours = iter(COLOURS)
    with new_figure(files, 4.2) as figure:
        axes = figure.subplots()
        for name in dict.fromkeys(point.arm for point in curve.points):
            points = [point for point in curve.points if point.arm == name]
            numbers = [point.patients for point in points]
            style: dict[str, Any] = {"color": "#999999", "linestyle": "--"}
            if name == "none":
                style = {"color": "#000000", "linewidth": 2.5}
                ends = np.array([(point.score.low, point.score.high) for point in points])
                axes.fill_between(numbers, *ends.T, color="#000000", alpha=0.1, linewidth=0)
                axes.set_ylim(ends.min(), max(point.score.high for point in curve.points))
            elif points[0].role == "donor":
                style = {"color": next(gift_colours)}
            means = [point.score.value for point in points]
            if points[0].role == "perfect":
                axes.text(numbers[-1], means[-1], f"  x{points[0].ratio:g}", va="center", size=8)
            worths = [curve.worth_of(point) for point in points if point.patients == curve.patients]
            label = "\n".join([figure_text(name), *worths])
            axes.plot(numbers, means, marker="o", markersize=4, label=label, **style)
        axes.set_xscale("log")
        axes.set_xticks(curve.numbers, [f"{number:,}" for number in curve.numbers])
        axes.minorticks_off()
        axes.set_xlabel("patients")
        axes.set_ylabel(curve.metric)
        title = f"worth in patients, at {curve.patients:,}"
        figure.legend(title=title, frameon=False, loc="outside right center")
