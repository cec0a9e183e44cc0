"""Forecast a study before it starts: what search and confirmation take, and whether the study can answer its question.

No score is known yet, so the probability of each verdict rests on assumptions, which are reported with it. Of the test
folder, only names and hashes are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from xraytune.config.load import load_space
from xraytune.config.settings import Confirm, Parameters
from xraytune.config.space import require_extensions
from xraytune.confirm.analysis import MORE_GAN_SEEDS
from xraytune.confirm.forecast import Design, Spread, VerdictChances, verdict_chances
from xraytune.confirm.plan import FinishedTrial, belongs_to_control, compared_arms, missing_trials
from xraytune.confirm.verdict import ControlKind
from xraytune.errors import ConfigError, Problem
from xraytune.files import require_writable
from xraytune.metrics.placements import AUROC
from xraytune.pipeline.model import require_two_classes
from xraytune.pipeline.prepare import prepare_index, require_patients
from xraytune.pipeline.sides import SideSize, sizes_of_index
from xraytune.pipeline.task import task_of
from xraytune.records import Progress, ignore_progress
from xraytune.search.forecast import Forecaster, SearchForecast, Work
from xraytune.search.run import machine_of, require_weights

_STUDIES = 5
_MORE_PATIENTS = (1.5, 2, 3, 5, 7, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyForecast:
    """The forecast of a study.

    Attributes:
        replicates: Number of replicates of the confirmation, without top-up trials; 0 if there is nothing to confirm.
        confirm_seconds: Wall time of the confirmation, if no top-up trial is pruned.
        patients: Patients that the verdict is forecast for: those of the test folder.
        chances: Probabilities of the verdicts at true differences of 0, one and two ROPE; empty if unknown.
        assumed: What they assume.
        remedies: Designs that could answer, if this one probably stays `undecided` even at two ROPE; else None.
    """

    name: str
    search: SearchForecast
    replicates: int = 0
    confirm_seconds: float = 0.0
    patients: int = 0
    chances: tuple[VerdictChances, ...] = ()
    assumed: str = ""
    remedies: tuple[str, ...] | None = None
    notes: tuple[str, ...]


def forecast(
    space: Path,
    *,
    data: Path | None = None,
    weights_dir: Path | None = None,
    overrides: Sequence[str] = (),
    cache: Path | None = None,
    score: float = 0.955,
    replicate_sd: float = 0.006,
    on_progress: Progress = ignore_progress,
) -> StudyForecast:
    """Forecast a study on this machine: hours, GPU-hours, disk, and the probability of each verdict.

    Writes only to the cache: decoded images, which the search uses, and the speed of this machine, which takes seconds to
    measure for each kind of generator and network.

    Args:
        space: The YAML file.
        data: A data folder or a data file (YAML) instead of the file's.
        weights_dir: A folder of official weight files, for machines without a network.
        overrides: `key=value` lines that replace the file's.
        cache: The artifact cache; by default `cache` in the current folder, next to `studies`.
        score: AUROC to assume on the test images.
        replicate_sd: Standard deviation to assume between replicates of an arm.
        on_progress: Called with the progress of reading, decoding and measuring.

    Raises:
        ConfigError: The file or an assumption is invalid.
        DataError: The images cannot be used.
        MachineError: Weights, GPUs or disk space are missing.
    """
    if not (0.5 < score < 1 and 0 < replicate_sd < 0.1):
        fix = "--score must lie between 0.5 and 1, --replicate-sd between 0 and 0.1"
        raise ConfigError(Problem(f"impossible assumptions: AUROC {score:g}, deviation {replicate_sd:g}", fix=fix))
    loaded = load_space(space, overrides, data=data, weights_dir=weights_dir)
    require_extensions(loaded)
    settings, cache = loaded.settings, (cache or Path("cache")).resolve()
    require_writable(cache)
    machine = machine_of(settings)
    require_two_classes(loaded)
    index = task_of(settings).read_index(settings.data, on_progress=on_progress)
    require_patients(index, settings)
    require_weights(loaded)
    prepared, _ = prepare_index(index, settings.data, cache, on_progress=on_progress)
    forecaster = Forecaster(loaded, prepared, machine, cache)
    forecaster.measure(on_progress=on_progress)
    search = forecaster.forecast()
    studies = list(islice(forecaster.studies(), _STUDIES))
    trials = [one for study in studies for one in study]
    found = StudyForecast(name=settings.name, search=search, notes=search.notes)
    if settings.objective.is_of_generator or not _synthetic(trials):
        return replace(found, notes=(*found.notes, "no network is trained on synthetic images: nothing to confirm"))
    confirmations = [_confirmation(forecaster, one, settings.confirm) for one in studies if _synthetic(one)]
    seconds = [forecaster.simulate(works, is_search=False).wall for _, works in confirmations]
    found = replace(
        found, replicates=max(count for count, _ in confirmations), confirm_seconds=float(np.median(seconds))
    )
    if settings.task == "segmentation":
        note = "the verdict cannot be forecast for Dice before the search; afterwards, use `xraytune confirm --quick`"
        return replace(found, notes=(*found.notes, note))
    sizes = {size.name: size for size in sizes_of_index(index, settings.data)}
    if "test" not in sizes:
        note = "without a test/ folder, the forecast assumes as many test patients as val-B has"
        found = replace(found, notes=(*found.notes, note))
    tested = sizes.get("test", sizes["val-B"])
    chances, remedies = chances_and_remedies(
        tested, settings.confirm, _controls(trials, settings.confirm), score, replicate_sd
    )
    assumed = f"AUROC {score:g}, a standard deviation of {replicate_sd:g} between replicates"
    return replace(found, patients=tested.patient_count, chances=chances, assumed=assumed, remedies=remedies)


def _controls(trials: Sequence[Parameters], settings: Confirm) -> list[ControlKind]:
    """Return the controls of a finalist; tuned ones only if the space has trials of their arm."""
    replaces = all(one.mixing == "replace" for one in trials if one.has_synthetic_images)
    kinds = list[ControlKind]()
    for name in settings.controls.matched:
        kinds.append("none_same_count" if replaces and name == "none" else name)
    return kinds + ["tuned" for name in settings.controls.tuned if any(belongs_to_control(one, name) for one in trials)]


def _confirmation(forecaster: Forecaster, trials: Sequence[Parameters], settings: Confirm) -> tuple[int, list[Work]]:
    """Return the number of replicates, and their work with that of top-up trials; random ones are the finalists."""
    chosen = _synthetic(trials)[-settings.finalists :]
    finalists = [FinishedTrial(name=f"{number}", parameters=one) for number, one in enumerate(chosen)]
    arms = compared_arms(finalists, forecaster.settings, forecaster.prepared.train_patients)
    compared, top_ups = [arm.content for arm in arms], list[Parameters]()
    for name in settings.controls.tuned:
        if own := [one for one in trials if belongs_to_control(one, name)]:
            compared.append((own[-1], None, None))
            top_ups += own[: missing_trials(trials, finalists, name)]
    works = [
        forecaster.replicate(parameters, gan_seed, classifier_seed)
        for gan_seed in range(settings.gan_seeds)
        for classifier_seed in range(settings.classifier_seeds)
        for parameters, *_ in dict.fromkeys(compared)
    ]
    replicates = len(compared) * settings.gan_seeds * settings.classifier_seeds
    return replicates, works + [forecaster.replicate(one, 0, 0) for one in top_ups]


def _synthetic(trials: Iterable[Parameters]) -> list[Parameters]:
    return list(dict.fromkeys(one for one in trials if one.has_synthetic_images))


def chances_and_remedies(
    test: SideSize, settings: Confirm, kinds: Sequence[ControlKind], score: float, replicate_sd: float
) -> tuple[tuple[VerdictChances, ...], tuple[str, ...] | None]:
    """Return the chances at 0, one and two ROPE; and what would decide, if two ROPE probably stay undecided."""
    spread = usual_spread(len(kinds), settings.classifier_seeds, replicate_sd)

    def chances(ropes: int, *, gan_seeds: int = settings.gan_seeds, times: float = 1.0) -> VerdictChances:
        design = Design(effective_patients=times * test.effective_patients, gan_seeds=gan_seeds, score=score)
        return verdict_chances(spread, design, kinds, rope=settings.rope, true_difference=ropes * settings.rope)

    def decides(one: VerdictChances) -> bool:
        return max(one.helps, one.hurts, one.no_better) >= 0.5

    def remedies() -> Iterator[str]:
        more_seeds = (one for one in MORE_GAN_SEEDS if one > settings.gan_seeds)
        if seeds := next((one for one in more_seeds if decides(chances(2, gan_seeds=one))), None):
            yield f"{seeds} GAN seeds (helps {chances(2, gan_seeds=seeds).helps:.0%})"
        if times := next((one for one in _MORE_PATIENTS if decides(chances(2, times=one))), None):
            patients = round(times * test.patient_count, -1)
            yield f"{patients:g} test patients (helps {chances(2, times=times).helps:.0%})"

    planned = tuple(chances(ropes) for ropes in (0, 1, 2))
    return planned, None if decides(planned[-1]) else tuple(remedies())


def usual_spread(controls: int, classifier_seeds: int, replicate_sd: float) -> Spread:
    """Return the variances of the simulated studies in docs/confirm.md (`make bench ONLY=designs`), at AUROC .955.

    30 % of a finalist's variance between replicates comes from its GAN, the rest from the classifier seed.
    """
    variance = replicate_sd**2
    of_patients = (0.05 + 0.1 / classifier_seeds) * 0.058
    return Spread(
        score=0.955,
        effective_patients=424.0,
        patients=0.0026 * (np.eye(controls) + np.ones((controls, controls))),
        seeds=(variance * (0.3 + 0.7 / classifier_seeds), variance / classifier_seeds),
        seeds_by_patients=(of_patients, of_patients),
        level=0.030,
        roughness=64.5,
        model=AUROC,
    )
