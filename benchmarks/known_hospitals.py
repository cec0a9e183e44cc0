"""Whether the interval at a further hospital covers the true difference there, where it is known.

Each study has its own patients, a finalist with images of new patients, and the same without them.
Every replicate trains on its own draw of 20 patients; then the kept networks are scored at a
further hospital, whose scanner is another: brighter, with less contrast, and noise. All by
confirm's own functions; only the search before it and Ray are left out.

An interval claims to cover the mean difference over patients of that hospital and over replicates,
each with its seeds and training patients. All studies share it, since one epoch leaves nothing to
validation and the extra images are the same. For each study, it is estimated by the mean of the
others, with 19 times as many replicates and patients; its error widens the deviations by 2.6 %.

Seeds are fixed; one process, one thread; about five minutes on one core.
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
from xraytune.base.seeding import derive_seed, numpy_generator
from xraytune.confirm.arms import Plan, compared_arms
from xraytune.confirm.hospitals import choose_tests, judge_hospital
from xraytune.confirm.record import ControlVerdict
from xraytune.confirm.run_list import OpenStudy
from xraytune.data.prepare import prepare, write_prepared
from xraytune.nets.compute import configure_torch
from xraytune.search.callbacks import NO_CALLBACKS
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Settings
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow

_STUDIES, _REPLICATES, _TESTED = 20, 5, 150
_TRAIN_PATIENTS = 20
_NEW_PATIENTS = 100
_RATIO = 1.25
_GAMMA, _NOISE = 0.6, 0.03


def measure() -> Iterator[Figure]:
    """Yield the mean difference at the hospital, and how many intervals cover the others' mean."""
    configure_torch(COMPUTE)
    started = time.perf_counter()
    found: list[ControlVerdict] = []
    with TemporaryDirectory() as name:
        extra = Path(name) / "extra"
        _paint(extra, derive_seed(17, "new"), _NEW_PATIENTS, prefix="new")
        for number in range(_STUDIES):
            found.append(difference_there(extra, derive_seed(17, "study", number)))
            _tell(number, found[-1], time.perf_counter() - started)
    differences = np.array([each.difference for each in found])
    means_of_others = (differences.sum() - differences) / (len(found) - 1)
    covered = sum(
        each.low <= truth <= each.high for each, truth in zip(found, means_of_others, strict=True)
    )
    widths = [each.high - each.low for each in found]
    yield figure("known_hospitals: mean difference", float(differences.mean()), "AUROC")
    yield figure("known_hospitals: mean width of an interval", float(np.mean(widths)), "AUROC")
    yield figure(
        "known_hospitals: intervals that cover it", int(covered), f"of {_STUDIES}", ">= 19"
    )


def difference_there(extra: Path, seed: int) -> ControlVerdict:
    """Confirm a study of new patients, and compare its finalist at the further hospital."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        patients = round((_REPLICATES + 2) * _TRAIN_PATIENTS / 0.75)
        _paint(folder / "xrays" / "train", seed, patients, prefix="own")
        _paint(
            folder / "hospital", derive_seed(seed, "there"), _TESTED, prefix="b", is_shifted=True
        )
        settings = Settings.model_validate_json(
            f"""{{"name": "known", "seed": {seed % 2**31},
                "data": {{"path": "{folder / "xrays"}", "image_size": {IMAGE_SIZE_PX},
                          "train_patients": {_TRAIN_PATIENTS},
                          "split": {{"val_a": 0.1, "val_b": 0.1}}}},
                "budget": {{"max_epochs": 1, "steps_per_epoch": 20}},
                "confirm": {{"controls": {{"matched": ["none"], "tuned": []}},
                             "replicates": {_REPLICATES}, "test": "unused"}}}}"""
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
    opened = SimpleNamespace(
        settings=settings,
        folder=study,
        runs_folder=runs,
        prepared=prepared,
        cache=cache,
        compute=COMPUTE,
        callbacks=NO_CALLBACKS,
        earlier_plan=None,
        reason="",
    )
    sealed, (hospital,) = choose_tests(
        cast(OpenStudy, opened),
        replicates=settings.confirm.replicates,
        mixes=[],
        folders=[folder / "hospital"],
    )
    assert sealed, "unused patients are the verdict's own"
    opened.prepared = sealed.prepared
    write_prepared(sealed.prepared, runs.path / "split.json")
    finalist = TrialRow(number=0, status="complete", parameters=parameters, val_b_score=0.5)
    arms = [
        arm
        for arm in compared_arms([finalist], settings, sealed.kind)
        if arm.role in ("finalist", "matched")
    ]
    plan = Plan(test=sealed.kind, replicates=settings.confirm.replicates, arms=tuple(arms))
    train(plan, runs, settings, sealed.prepared, cache)
    _, there = judge_hospital(cast(OpenStudy, opened), plan, hospital)
    return against(there.finalist, "none")


def _paint(root: Path, seed: int, patients: int, *, prefix: str, is_shifted: bool = False) -> None:
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


def _tell(number: int, found: ControlVerdict, seconds: float) -> None:
    interval = f"{found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
    print(f"known_hospitals {number + 1}: {interval}; {seconds:.0f} s", file=sys.stderr, flush=True)
