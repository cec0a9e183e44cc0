"""Whether the interval at a further hospital covers the true difference there, where it is known.

Each study has its own patients, a finalist with images of new patients, and the same without them.
Every replicate trains on its own draw of 30 patients; then the kept networks are scored at a
further hospital, whose scanner is another: brighter, with less contrast, and noise. All by
confirm's own functions; only the search before it and Ray are left out.

An interval claims to cover the mean difference over patients of that hospital and over replicates,
each with its seeds and training patients. All studies share it, since one epoch leaves nothing to
validation and the extra images are the same: it is the mean over many replicates on other patients.

Seeds are fixed; one process, one thread; about 15 minutes on one core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, figure
from benchmarks.known_answers import (
    COMPUTE,
    IMAGE_SIZE_PX,
    against,
    class_of,
    phantoms,
    train,
    write_image,
)
from xraytune.base.records import ignore_progress
from xraytune.base.seeding import derive_seed, numpy_generator
from xraytune.confirm.arms import Plan, compared_arms
from xraytune.confirm.hospitals import choose_tests, judge_hospital
from xraytune.confirm.record import ControlVerdict
from xraytune.confirm.run_list import OpenStudy
from xraytune.data.prepare import prepare, write_prepared
from xraytune.nets.compute import pin
from xraytune.search.callbacks import NO_CALLBACKS
from xraytune.space.settings import Parameters, Settings
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow

_STUDIES, _REPLICATES, _TESTED = 20, 5, 200
_MANY_REPLICATES, _MANY_TESTED = 60, 1500
"""Of the true difference: its own standard error is a tenth of an interval's half width."""
_TRAIN_PATIENTS = 30
_NEW_PATIENTS = 100
_RATIO = 1.25
_GAMMA, _NOISE = 0.6, 0.03


def measure() -> Iterator[Figure]:
    """Yield the true difference at the hospital, and how many intervals cover it."""
    pin(COMPUTE)
    started = time.perf_counter()
    with TemporaryDirectory() as name:
        extra = Path(name) / "extra"
        _draw(extra, derive_seed(17, "new"), _NEW_PATIENTS, prefix="new")
        truth = difference_there(extra, derive_seed(17, "true"), _MANY_REPLICATES, _MANY_TESTED)
        _tell(f"true difference {truth.difference:+.4f} ± {truth.standard_error:.4f}", started)
        found = []
        for number in range(_STUDIES):
            seed = derive_seed(17, "study", number)
            found.append(difference_there(extra, seed, _REPLICATES, _TESTED))
            _tell(f"{number + 1}: {found[-1].low:+.4f} to {found[-1].high:+.4f}", started)
    covered = sum(each.low <= truth.difference <= each.high for each in found)
    widths = [each.high - each.low for each in found]
    yield figure("known_hospitals: true difference", truth.difference, "AUROC")
    yield figure("known_hospitals: standard error of it", truth.standard_error, "AUROC")
    yield figure("known_hospitals: mean width of an interval", float(np.mean(widths)), "AUROC")
    yield figure("known_hospitals: intervals that cover it", covered, f"of {_STUDIES}", ">= 19")


def difference_there(extra: Path, seed: int, replicates: int, tested: int) -> ControlVerdict:
    """Confirm a study of new patients, and compare its finalist at the further hospital."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        patients = round((replicates + 2) * _TRAIN_PATIENTS / 0.75)
        _draw(folder / "xrays" / "train", seed, patients, prefix="own")
        _draw(folder / "hospital", derive_seed(seed, "there"), tested, prefix="b", is_shifted=True)
        settings = Settings.model_validate_json(
            f"""{{"name": "known", "seed": {seed % 2**31},
                "data": {{"path": "{folder / "xrays"}", "image_size": {IMAGE_SIZE_PX},
                          "train_patients": {_TRAIN_PATIENTS},
                          "split": {{"val_a": 0.1, "val_b": 0.1}}}},
                "budget": {{"max_epochs": 1, "steps_per_epoch": 30}},
                "confirm": {{"controls": {{"matched": ["none"], "tuned": []}},
                             "replicates": {replicates}, "test": "unused"}}}}"""
        )
        return _confirmed(settings, folder, extra)


def _confirmed(settings: Settings, folder: Path, extra: Path) -> ControlVerdict:
    cache = folder / "cache"
    study = StudyFolder(folder / "studies" / "known")
    runs = StudyFolder(study.path / "confirm")
    prepared, _ = prepare(settings, cache)
    write_prepared(prepared, study.path / "split.json")
    parameters = Parameters.model_validate(
        {
            "source": "folder",
            "folder": {"path": extra},
            "synthetic_ratio": _RATIO,
            "backbone": "small_cnn",
            "weights": "none",
            "batch_size": 8,
            "lr": 3e-3,
        }
    )
    sealed, (hospital,) = choose_tests(
        settings,
        study,
        cache,
        replicates=settings.confirm.replicates,
        compared=[],
        plan=None,
        folders=[folder / "hospital"],
        on_progress=ignore_progress,
    )
    assert sealed, "unused patients are the verdict's own"
    write_prepared(sealed.prepared, runs.path / "split.json")
    finalist = TrialRow(number=0, status="complete", parameters=parameters, val_b_score=0.5)
    arms = [
        arm
        for arm in compared_arms([finalist], settings, sealed.kind)
        if arm.role in ("finalist", "matched")
    ]
    plan = Plan(test=sealed.kind, replicates=settings.confirm.replicates, arms=tuple(arms))
    train(plan, runs, settings, sealed.prepared, cache)
    opened = SimpleNamespace(
        settings=settings,
        folder=study,
        runs_folder=runs,
        prepared=sealed.prepared,
        cache=cache,
        compute=COMPUTE,
        callbacks=NO_CALLBACKS,
    )
    _, there = judge_hospital(
        cast(OpenStudy, opened), plan, hospital, before_test=lambda: None, reason=""
    )
    return against(there.finalist, "none")


def _draw(root: Path, seed: int, patients: int, *, prefix: str, is_shifted: bool = False) -> None:
    """Draw patients into class folders, with their IDs."""
    rows = ["file,patient"]
    noise = numpy_generator(seed, "noise")
    for patient in range(patients):
        for image in phantoms(seed, range(patient, patient + 1)):
            file = Path(class_of(image)) / f"{prefix}-{seed}-{image.stem}.png"
            pixels = shifted(image.pixels, noise) if is_shifted else image.pixels
            write_image(pixels, root / file)
            rows.append(f"{file.as_posix()},{prefix}-{seed}-{patient}")
    (root / "patients.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def shifted(pixels: NDArray[np.uint8], noise: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image as another scanner shows it: brighter, with less contrast, and noise."""
    grey = (pixels / 255) ** _GAMMA
    noisy = grey + _NOISE * noise.normal(size=grey.shape)
    return (255 * noisy.clip(0, 1)).round().astype(np.uint8)


def _tell(what: str, started: float) -> None:
    seconds = time.perf_counter() - started
    print(f"known_hospitals {what}; {seconds:.0f} s", file=sys.stderr, flush=True)
