"""Whether `worth` is right where it is known: extra images that are real ones of new patients are worth these patients.

Each data set has its own phantoms. As in known_answers, confirm's own functions train all arms, score the test folder and
place the finalist on the curve; only the search before it and Ray are left out. The finalist draws as many extra images as
real ones, so that it sees the images of all patients equally often, like the real-only arm with the same patients. Fixed
seeds, one process, one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, figure
from benchmarks.known_answers import COMPUTE, IMAGE_SIZE_PX, class_of, phantoms, train, write_image
from xraytune.compute import pin
from xraytune.config.settings import Parameters, Settings
from xraytune.confirm.analysis import Worth, worth_of_images
from xraytune.confirm.plan import FinishedTrial, Plan, finalist_arm, worth_arms
from xraytune.confirm.scoring import TEST, arm_scores, evaluation_set, find_test, load_test_images, score
from xraytune.data.index import read_index
from xraytune.pipeline.prepare import Prepared, prepare_index, write_prepared
from xraytune.pipeline.task import CLASSIFICATION
from xraytune.search.study import StudyFolder
from xraytune.seeding import derive_seed

_DATA_SETS = 20
_PATIENTS, _TEST_PATIENTS = 340, 300
"""In the training folder, of which a quarter is for validation; and in the test folder."""
_TRAIN_PATIENTS, _CURVE = 40, (60, 120, 240)
_GAN_SEEDS, _CLASSIFIER_SEEDS = 5, 1


def measure() -> Iterator[Figure]:
    """How many intervals cover the number of new patients, and how many curves do not rise enough to tell."""
    pin(COMPUTE)
    covered, told, errors, started = 0, 0, list[float](), time.perf_counter()
    for number in range(_DATA_SETS):
        found, new = answer(derive_seed(5, "worth", number) % 2**31)
        is_covered = found.rises and _is_at_least(new, found.low) and _is_at_least(-new, found.high, -1)
        covered, told = covered + is_covered, told + found.rises
        errors += [] if found.worth is None else [found.worth - new]
        curve = ", ".join(f"{one.patients}: {one.score:.3f}" for one in found.curve)
        seconds = time.perf_counter() - started
        what = f"{number + 1}/{_DATA_SETS}: {new} new; {found.sentence} {found.score:.3f} ({curve}); {seconds:.0f} s"
        print(what, file=sys.stderr, flush=True)
    yield figure(f"worth: interval covers the new patients, of {_DATA_SETS}", covered, "data sets", ">= 17")
    yield figure(f"worth: curve rises, of {_DATA_SETS}", told, "data sets")
    yield figure("worth: median error", float(np.median(errors)), "patients")


def _is_at_least(new: int, end: int | None, sign: int = 1) -> bool:
    return end is None or new >= sign * end


def answer(seed: int) -> tuple[Worth, int]:
    """One data set, from its phantoms to its worth; also the number of new patients."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = Settings.model_validate_json(
            f"""{{"name": "worth", "seed": {seed},
                "data": {{"path": "{folder / "xrays"}", "image_size": {IMAGE_SIZE_PX}, "train_patients": {_TRAIN_PATIENTS},
                          "split": {{"val_a": 0.15, "val_b": 0.1}}}},
                "budget": {{"max_epochs": 3, "steps_per_epoch": 40}},
                "confirm": {{"worth": {[*_CURVE]}}}}}"""
        )
        return _placed(folder, settings)


def _placed(folder: Path, settings: Settings) -> tuple[Worth, int]:
    cache, root, runs = folder / "cache", settings.data.path, StudyFolder(folder / "confirm")
    every = range(_PATIENTS + _TEST_PATIENTS)
    for part, patients in (("train", every[:_PATIENTS]), ("test", every[_PATIENTS:])):
        for image in phantoms(settings.seed, patients):
            write_image(image.pixels, root / part / class_of(image) / f"{image.stem}.png")
    index, splits = read_index(settings.data), {}
    for count in (_TRAIN_PATIENTS, *_CURVE):
        splits[count], _ = prepare_index(index, settings.data.model_copy(update={"train_patients": count}), cache)
        write_prepared(splits[count], runs.split_path(None if count == _TRAIN_PATIENTS else count))
    prepared, extra = splits[_TRAIN_PATIENTS], folder / "extra"
    new = _draw_new_patients(prepared, extra, settings.seed)
    plan = _plan(extra)
    train(plan, runs, settings, prepared, cache)
    sealed = find_test(settings, splits[max(splits)], None)
    group = load_test_images(sealed, prepared, settings.data, cache)
    for number in range(len(plan.runs)):
        score(runs, number, TEST, group, compute=COMPUTE, cache=cache)
    images = evaluation_set(sealed, prepared, CLASSIFICATION)
    found = worth_of_images(arm_scores(runs, plan, TEST, images), patients=_TRAIN_PATIENTS)
    assert found is not None, "the plan has a curve"
    return found, new


def _draw_new_patients(prepared: Prepared, out: Path, seed: int) -> int:
    """Draw as many images of each class as the train side has, and return of how many patients they are."""
    missing = dict(zip(prepared.class_names, prepared.train_counts, strict=True))
    used, patient = set[int](), _PATIENTS + _TEST_PATIENTS
    while any(missing.values()):
        for image in phantoms(seed, range(patient, patient + 1)):
            name = class_of(image)
            if missing[name]:
                write_image(image.pixels, out / name / f"{image.stem}.png")
                missing[name] -= 1
                used.add(patient)
        patient += 1
    return len(used)


def _plan(extra: Path) -> Plan:
    """The finalist that a search would have given, and the curve."""
    parameters = Parameters.model_validate(
        {
            "source": "folder",
            "folder": {"path": extra},
            "synthetic_ratio": 1.0,
            "backbone": "small_cnn",
            "weights": "none",
            "batch_size": 8,
            "lr": 3e-3,
            "schedule": "cosine",
        }
    )
    finalist = finalist_arm(FinishedTrial(name="#0", parameters=parameters, val_b_score=0.5), None)
    return Plan().grown([finalist, *worth_arms(finalist, _CURVE)], _GAN_SEEDS, _CLASSIFIER_SEEDS)
