"""Whether `judge` is right on trainings that xraytune did not run, how fast it is, and what it loads.

400 studies of phantoms at 16 x 16 px, with logistic regressions of scikit-learn: each has its own
120 patients to score, and five replicates with 40 training patients of their own, all drawn from
one pool. Every training is on a resample of its images, so it has a seed.

- *equal*: the finalist differs from its two controls only in the seed, so the truth is 0.
- *better*: it has the images of 60 further patients. Its truth is the mean of the other studies.

With STUDIES=FOLDER, the predictions of all confirmations below it are judged again; the words and
intervals should be those of `confirm`, to 1e-9. Seeds are fixed; about ten minutes on one core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.figures import Figure, figure
from benchmarks.known_answers import class_of, phantoms
from xraytune.base.errors import XraytuneError
from xraytune.base.seeding import numpy_generator
from xraytune.judge import judge

_PATIENTS, _SCORED, _TRAINED, _MORE = 2000, 120, 40, 60
_STUDIES, _REPLICATES = 400, 5
_ARMS = ("finalist", "none", "duplicate")
_LARGE = 50, 2000
"""Replicates and images of the table that is timed."""
_COMPARED = ("difference", "low", "high", "low_90", "high_90", "p_value")
_TIMED = """
import sys
from pathlib import Path
from xraytune.judge import judge
judge(Path(sys.argv[1]), finalist="finalist", none="none", duplicate="duplicate", out=Path(sys.argv[2]))
print(len({"torch", "ray", "optuna"} & {*sys.modules}))
"""


def measure() -> Iterator[Figure]:
    """Yield coverage and false `helps`, seconds and modules, and the recorded studies that agree."""
    pool = _paint()
    for name, more in (("equal", 0), ("better", _MORE)):
        yield from _judge_studies(name, pool, more)
    yield from _time()
    if folder := os.environ.get("STUDIES"):
        yield from _judge_again(Path(folder))


def _paint() -> pd.DataFrame:
    """Return an image per row, with `patient`, `label` and 256 grey levels."""
    rows = []
    for image in phantoms(117, range(_PATIENTS)):
        greys = image.pixels.reshape(16, 2, 16, 2).mean(axis=(1, 3)) / 255
        patient = image.stem.split("_")[0].removesuffix("-0001")
        rows.append((patient, class_of(image), greys.ravel()))
    return pd.DataFrame(rows, columns=["patient", "label", "greys"])


def _judge_studies(name: str, pool: pd.DataFrame, more: int) -> Iterator[Figure]:
    differences, lows, highs, verdicts = [], [], [], []
    with TemporaryDirectory() as folder:
        for number in range(_STUDIES):
            predictions = _train(pool, more, numpy_generator(117, name, number))
            found = judge(
                predictions,
                finalist="finalist",
                none="none",
                duplicate="duplicate",
                positive="PNEUMONIA",
                out=Path(folder) / str(number),
            )
            (finalist,) = found.finalists
            verdicts.append(finalist.verdict)
            differences.append([pair.difference for pair in finalist.comparisons])
            lows.append([pair.low for pair in finalist.comparisons])
            highs.append([pair.high for pair in finalist.comparisons])
            if number % 50 == 49:
                print(f"{name}: {number + 1} of {_STUDIES} studies", file=sys.stderr)
    found_gains = np.array(differences)
    truth = (found_gains.sum(axis=0) - found_gains) / (_STUDIES - 1) if more else 0.0
    covered = (np.array(lows) <= truth) & (truth <= np.array(highs))
    yield figure(f"judge: {name}, mean gain", float(found_gains.mean()), "AUROC")
    yield figure(f"judge: {name}, intervals that cover", float(covered.mean()), "", "0.93 to 1")
    helps = np.mean([verdict == "helps" for verdict in verdicts])
    bar = "" if more else "<= 0.05"
    yield figure(f"judge: {name}, verdicts helps", float(helps), "", bar)


def _train(pool: pd.DataFrame, more: int, random: np.random.Generator) -> pd.DataFrame:
    """Return the predictions of the replicates of each arm."""
    patients = random.permutation(pool["patient"].unique())
    scored = pool[pool["patient"].isin(patients[:_SCORED])]
    tables = []
    for replicate in range(_REPLICATES):
        others = random.permutation(patients[_SCORED:])
        for arm in _ARMS:
            count = _TRAINED + (more if arm == "finalist" else 0)
            trained = pool[pool["patient"].isin(others[:count])]
            trained = trained.iloc[random.integers(len(trained), size=len(trained))]
            network = LogisticRegression(C=0.01, max_iter=200)
            network.fit(_greys(trained), trained["label"])
            chances = network.predict_proba(_greys(scored))
            tables.append(
                pd.DataFrame(
                    {
                        "arm": arm,
                        "replicate": replicate + 1,
                        "file": scored.index.astype(str),
                        "patient": scored["patient"],
                        "label": scored["label"],
                        "p_NORMAL": chances[:, 0],
                        "p_PNEUMONIA": chances[:, 1],
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


def _greys(images: pd.DataFrame) -> NDArray[np.float64]:
    return np.stack([*images["greys"]])


def _time() -> Iterator[Figure]:
    """Judge a large table in a process of its own."""
    replicates, images = _LARGE
    random = numpy_generator(117, "large")
    labels = np.where(np.arange(images) % 2, "PNEUMONIA", "NORMAL")
    tables = []
    for arm in _ARMS:
        for replicate in range(replicates):
            chances = 1 / (1 + np.exp(random.normal(size=images) - (labels == "PNEUMONIA")))
            tables.append(
                pd.DataFrame(
                    {
                        "arm": arm,
                        "replicate": replicate + 1,
                        "file": np.arange(images),
                        "patient": np.arange(images) // 2,
                        "label": labels,
                        "p_NORMAL": 1 - chances,
                        "p_PNEUMONIA": chances,
                    }
                )
            )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.csv"
        pd.concat(tables).to_csv(file, index=False)
        started = time.perf_counter()
        out = Path(folder) / "judged"
        done = subprocess.run(
            [sys.executable, "-c", _TIMED, str(file), str(out)],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - started
    yield figure("judge: 50 replicates of 2,000 images", seconds, "s", "<= 2")
    yield figure("judge: torch, Ray and Optuna loaded", float(done.stdout), "", "<= 0")


def _judge_again(folder: Path) -> Iterator[Figure]:
    """Judge the predictions of recorded confirmations, and compare the verdicts with theirs."""
    equal, differing, known = 0, [], set()
    for file in sorted(folder.rglob("confirm/verdict.json")):
        predictions = file.with_name("predictions.csv")
        content = file.read_text("utf-8")
        if not predictions.exists() or predictions.read_bytes() in known:
            continue
        known.add(predictions.read_bytes())
        for recorded in json.loads(content)["finalists"]:
            try:
                agrees = _agrees(predictions, recorded, json.loads(content))
            except XraytuneError as error:
                agrees = False
                print(error, file=sys.stderr)
            equal += agrees
            if not agrees:
                differing.append(f"{predictions}: {recorded['arm']}")
    print(*differing, sep="\n", file=sys.stderr)
    yield figure("judge: finalists of recorded studies", equal + len(differing), "")
    yield figure("judge: other than confirm's", len(differing), "", "<= 0")


def _agrees(predictions: Path, recorded: dict[str, Any], verdict: dict[str, Any]) -> bool:
    """Return whether judge finds what confirm has recorded of a finalist."""
    kinds = {pair["kind"]: pair["control"] for pair in recorded["comparisons"]}
    tuned = [pair["control"] for pair in recorded["comparisons"] if pair["kind"] == "tuned"]
    kinds.pop("tuned", None)
    with TemporaryDirectory() as folder:
        found = judge(
            predictions,
            finalist=recorded["arm"],
            tuned=tuned,
            positive=verdict["test"]["positive"],
            rope=verdict["rope"],
            leave_out_site=bool(verdict["sites"]),
            out=Path(folder) / "judged",
            **kinds,
        )
    (finalist,) = found.finalists
    pairs = {pair.control: pair for pair in finalist.comparisons}
    # Only a study has a second finalist, and images that could be copies.
    has_words = recorded["verdict"] not in ("not_tested", "invalid")
    if has_words and finalist.verdict != recorded["verdict"]:
        return False
    return all(
        [*pairs[other["control"]].verdict] == other["verdict"]
        and all(
            abs(getattr(pairs[other["control"]], name) - other[name]) < 1e-9 for name in _COMPARED
        )
        for other in recorded["comparisons"]
    )
