"""What synthetic images must beat: augmentation of a network that is trained as a whole (docs/studies/opponents.md).

    make bench ONLY=opponents DATA=chest_xray WEIGHTS=weights HOSPITAL_A=hospital_a PICTURES=docs/studies

Hospitals and draws of patients are those of `benchmarks/other_hospital.py`; nothing of A's is used.

Plan, committed before the first run:

- B has 100 patients (or `PATIENTS`), in five draws (or `DRAWS`), and is scored on its other patients.
- All layers of a MobileNetV2 at 96 px from ImageNet weights (lr .0003), 216 steps with 32 images, the
  epoch that is best on val-A.
- Arms: nothing; flips; `affine` with 10 degrees; `trivial`; `mixup` of .2; `cutmix` of 1; `trivial` with
  `mixup`. All views are drawn from eight of each image.
- Read-out: mean gain in AUROC over nothing, and its standard error over draws.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, figure
from benchmarks.other_hospital import ALONE, gain, score_arms
from xraytune.base.drawing import COLOURS, new_figure
from xraytune.base.files import read_json, write_json
from xraytune.confirm.arms import Arm
from xraytune.space.domains import Value
from xraytune.space.fields import parameters_from

NEEDS = ("DATA", "WEIGHTS", "HOSPITAL_A", "PICTURES")
PATIENTS = int(os.environ.get("PATIENTS", "100"))
DRAWS = int(os.environ.get("DRAWS", "5"))
NETWORK: Mapping[str, Value] = {"backbone": "mobilenet_v2", "lr": 3e-4}
RIVALS: Mapping[str, Mapping[str, Value]] = {
    ALONE: {},
    "flips": {"augmentation": "flip"},
    "affine": {"augmentation": "affine"},
    "trivial": {"augmentation": "trivial"},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "trivial, mixup": {"augmentation": "trivial", "mixup": 0.2},
}


def measure() -> Iterator[Figure]:
    """Train the arms, write the scores beside the picture, draw it, and yield each gain."""
    pictures = Path(os.environ["PICTURES"])
    kept = pictures / ("opponents.json" if PATIENTS == 100 else f"opponents_{PATIENTS}.json")
    scores: dict[str, list[float]] = read_json(kept)["scores"] if kept.exists() else {}
    for name, rival in RIVALS.items():
        chosen = {ALONE: RIVALS[ALONE], name: rival}
        scores = score_arms(
            "as A's",
            PATIENTS,
            DRAWS,
            lambda _, chosen=chosen: {each: _arm(each, one) for each, one in chosen.items()},  # type: ignore[misc]
            scores,
            ["data.image_size=96", "final=null"],
        )
        write_json(kept, {"scores": scores})
    _draw(scores, kept.with_suffix(".svg"))
    for name in scores.keys() - {ALONE}:
        mean, _ = gain(scores, name)
        yield figure(f"opponents: {PATIENTS} patients, {name}", mean, "AUROC", "")


def _arm(name: str, rival: Mapping[str, Value]) -> Arm:
    parameters = parameters_from({**NETWORK, **rival})
    return Arm(name=name, role="finalist", trial="#0", parameters=parameters)


def _draw(scores: dict[str, list[float]], picture: Path) -> None:
    """Draw the gain of each rival, and twice its standard error."""
    names = [name for name in RIVALS if name in scores and name != ALONE]
    gains = [gain(scores, name) for name in names]
    with new_figure((picture,), 2.6) as drawing:
        axes = drawing.subplots()
        axes.axvline(0, color="#444444", linewidth=0.6)
        places = np.arange(len(names))[::-1]
        means = [mean for mean, _ in gains]
        errors = [2 * error for _, error in gains]
        axes.errorbar(means, places, xerr=errors, fmt="o", color=COLOURS[0], capsize=3)
        axes.set_yticks(places, names)
        axes.set_xlabel(f"gain in AUROC over B alone ({np.mean(scores[ALONE]):.3f})")
