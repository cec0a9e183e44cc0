"""Whether `confirm --by` shows a gain in the group that has it, and not elsewhere, where it is known.

Half of the patients of each study have X-rays of scanner `a`, the others negatives, of scanner `b`.
The finalist's extra images are of new patients with scanner `a` alone. So a network learns more
about these, and nothing about the others.

Shown means that the interval of the group lies above 0. Every replicate trains on its own draw of
30 patients. All by confirm's own functions; only the search before it and Ray are left out.

Seeds are fixed; one process, one thread; about fifteen minutes on one core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import cast

from benchmarks.figures import Figure, figure
from benchmarks.known_answers import (
    COMPUTE,
    IMAGE_SIZE_PX,
    class_of,
    phantoms,
    train,
    write_image,
)
from xraytune.base.seeding import derive_seed
from xraytune.confirm.arms import Plan, compared_arms
from xraytune.confirm.compare import judge_finalists
from xraytune.confirm.outcomes import compare_in_groups
from xraytune.confirm.run_list import OpenStudy
from xraytune.confirm.score import read_scores, score_runs
from xraytune.confirm.sealed import choose_test
from xraytune.data.columns import subgroup_columns
from xraytune.data.prepare import prepare, write_prepared
from xraytune.nets.compute import configure_torch
from xraytune.search.callbacks import NO_CALLBACKS
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Settings
from xraytune.stats.verdict import Interval
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow

_STUDIES, _REPLICATES, _TESTED = 20, 10, 400
_TRAIN_PATIENTS = 30
_NEW_PATIENTS = 300
_RATIO = 4.0


def measure() -> Iterator[Figure]:
    """Yield in how many studies a gain is shown with scanner `a`, and with the other."""
    configure_torch(COMPUTE)
    started = time.perf_counter()
    shown = {"a": 0, "b": 0}
    with TemporaryDirectory() as name:
        extra = Path(name) / "extra"
        _paint(extra, derive_seed(19, "new"), _NEW_PATIENTS, prefix="new", scanners="a")
        for number in range(_STUDIES):
            by_group = differences_of_groups(extra, derive_seed(19, "study", number))
            texts = []
            for group, found in by_group.items():
                shown[group] += found.low > 0
                texts.append(
                    f"{group} {found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
                )
            seconds = time.perf_counter() - started
            what = f"known_groups {number + 1}: {', '.join(texts)}; {seconds:.0f} s"
            print(what, file=sys.stderr, flush=True)
    name = "known_groups: gain shown in the group that has it"
    yield figure(name, shown["a"], f"of {_STUDIES}", ">= 18")
    yield figure("known_groups: gain shown elsewhere", shown["b"], f"of {_STUDIES}", "<= 1")


def differences_of_groups(extra: Path, seed: int) -> Mapping[str, Interval]:
    """Confirm a study of new patients, and compare its finalist by scanner."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        patients = round((_REPLICATES + 1) * _TRAIN_PATIENTS / 0.8) + _TESTED
        _paint(folder / "xrays", seed, patients, prefix="own", scanners="ab")
        settings = Settings.model_validate_json(
            f"""{{"name": "known", "seed": {seed % 2**31},
                "data": {{"path": "{folder / "xrays"}", "image_size": {IMAGE_SIZE_PX},
                          "train_patients": {_TRAIN_PATIENTS},
                          "split": {{"val_a": 0.1, "val_b": 0.1}}}},
                "budget": {{"max_epochs": 1, "steps_per_epoch": 60}},
                "confirm": {{"controls": {{"matched": ["none"], "tuned": []}},
                             "replicates": {_REPLICATES}, "test": "unused"}}}}"""
        )
        return _by_group(settings, folder, extra)


def _by_group(settings: Settings, folder: Path, extra: Path) -> Mapping[str, Interval]:
    cache = folder / "cache"
    runs = StudyFolder(folder / "studies" / "known" / "confirm")
    prepared, _ = prepare(settings, cache)
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
    sealed = choose_test(settings, prepared, replicates=settings.confirm.replicates)
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
        settings=settings, runs_folder=runs, cache=cache, compute=COMPUTE, callbacks=NO_CALLBACKS
    )
    score_runs(cast(OpenStudy, opened), plan, sealed)
    scores = read_scores(runs, plan, sealed)
    (verdict,) = judge_finalists(scores, rope=settings.confirm.rope)
    columns = subgroup_columns(sealed.images, ["scanner"], sealed.data.path)
    groups = compare_in_groups(scores, verdict, columns)
    return {group.value: group.difference for group in groups if group.difference}


def _paint(root: Path, seed: int, patients: int, *, prefix: str, scanners: str) -> None:
    """Draw patients, with each of the scanners in turn, into class folders with their IDs."""
    rows = ["file,patient,scanner"]
    for patient in range(patients):
        scanner = scanners[patient % len(scanners)]
        for image in phantoms(seed, range(patient, patient + 1)):
            file = Path(class_of(image)) / f"{prefix}-{seed}-{image.stem}.png"
            pixels = 255 - image.pixels if scanner == "b" else image.pixels
            write_image(pixels, root / file)
            rows.append(f"{file.as_posix()},{prefix}-{seed}-{patient},{scanner}")
    (root / "patients.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
