"""What synthetic images must beat: augmentation of a network that is trained as a whole (docs/studies/opponents.md).

    make bench ONLY=opponents DATA=chest_xray WEIGHTS=weights HOSPITAL_A=hospital_a PICTURES=docs/studies

Hospitals and draws of patients are those of `benchmarks/other_hospital.py`. Nothing of A's is used, so
with 400 patients, A's patients join B's: otherwise, there would be too few.

Plan, committed before the first run:

- B has 50, 100 or 400 patients, in five draws (three of 400), and is scored on its other patients.
- All layers of a MobileNetV2 at 96 px from ImageNet weights (lr .0003), 27 epochs of at least 8 steps with
  32 images, the epoch that is best on val-A.
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
from xraytune.base.figures import COLOURS, new_figure
from xraytune.base.files import read_json, write_json
from xraytune.confirm.arms import Arm
from xraytune.space.domains import Value
from xraytune.space.fields import parameters_from

NEEDS = ("DATA", "WEIGHTS", "HOSPITAL_A", "PICTURES")
DRAWS = {50: 5, 100: 5, 400: 3}
"""Disjoint draws of so many patients."""
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
Scores = dict[str, dict[str, list[float]]]


def measure() -> Iterator[Figure]:
    """Train the arms, write the scores beside the picture, draw it, and yield each gain.

    An arm is not trained again if its scores are there.
    """
    pictures = Path(os.environ["PICTURES"])
    kept = pictures / "opponents.json"
    scores: Scores = read_json(kept)["scores"] if kept.exists() else {}
    for patients, draws in DRAWS.items():
        by_rival = scores.get(str(patients), {})
        for name in RIVALS:
            chosen = {each: _arm(each, RIVALS[each]) for each in (ALONE, name)}
            by_rival = score_arms(
                "as A's",
                patients,
                draws,
                lambda _, chosen=chosen: chosen,  # type: ignore[misc]
                by_rival,
                ["data.image_size=96", "final=null"],
                with_patients_of_a=patients > 100,
            )
            scores[str(patients)] = by_rival
            write_json(kept, {"scores": scores})
    _plot(scores, pictures / "opponents.svg")
    for text, by_rival in scores.items():
        for name in by_rival.keys() - {ALONE}:
            mean, _ = gain(by_rival, name)
            yield figure(f"opponents: {text} patients, {name}", mean, "AUROC", "")


def _arm(name: str, rival: Mapping[str, Value]) -> Arm:
    parameters = parameters_from({**NETWORK, **rival})
    return Arm(name=name, role="finalist", trial_label="#0", parameters=parameters)


def _plot(scores: Scores, picture: Path) -> None:
    """Draw the gain of each rival and twice its standard error, a panel for a number of patients."""
    names = [name for name in RIVALS if name != ALONE]
    places = np.arange(len(names))[::-1]
    with new_figure((picture,), 2.8) as drawing:
        panels = np.atleast_1d(drawing.subplots(1, len(scores), sharex=True, sharey=True))
        for axes, (patients, by_rival) in zip(panels, scores.items(), strict=True):
            gains = [gain(by_rival, name) for name in names]
            means = [mean for mean, _ in gains]
            errors = [2 * error for _, error in gains]
            axes.axvline(0, color="#444444", linewidth=0.6)
            axes.errorbar(means, places, xerr=errors, fmt="o", color=COLOURS[0], capsize=3)
            axes.set_yticks(places, names)
            axes.set_title(f"{patients} patients; alone {np.mean(by_rival[ALONE]):.3f}", size=9)
        drawing.supxlabel("gain in AUROC over no augmentation", fontsize=9)
