"""What another hospital's generator is worth, by the number of patients (docs/studies/other_hospital.md).

Prints gains over no extra images and shares of the headroom, from a confirmation for each number of
patients, and draws the gains at one ratio into PICTURES.

    make bench ONLY=other_hospital STUDIES=studies/b-25,studies/b-50,studies/b-100,studies/b-200 PICTURES=docs/studies
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.contrasts import Comparisons, errors, half_width, read
from benchmarks.figures import Figure
from xraytune.base.drawing import COLOURS, new_figure
from xraytune.space.settings import Parameters
from xraytune.study.folder import StudyFolder

NEEDS = ("STUDIES", "PICTURES")
_REAL, _BEST = "real images of B's other patients", "A's GAN, features, 128 px"
_SOURCES = {
    ("generator", "a_features_128"): _BEST,
    ("generator", "a_features"): "A's GAN, features, 64 px",
    ("generator", "a_plain"): "A's GAN, 64 px",
    ("gan", "a_plain"): "A's GAN, continued on own patients",
    ("gan", ""): "GAN of own patients",
}
_DRAWN_RATIO = 2.0


def measure() -> Iterator[Figure]:
    """Compare the sources, draw the picture, and yield the half-width of the best generator's gain."""
    by_source: dict[float, dict[str, Comparisons]] = defaultdict(lambda: defaultdict(dict))
    for path in os.environ["STUDIES"].split(","):
        study = StudyFolder(Path(path).resolve())
        patients, contrasts = f"{study.space().settings.data.train_patients}", read(study)
        for arm in contrasts.plan.finalists:
            none, gains = contrasts.none(arm), by_source[arm.parameters.synthetic_ratio]
            others = {
                _REAL: contrasts.beside(arm, "perfect", "duplicate"),
                _source(arm.parameters): arm,
            }
            others["own images again"] = contrasts.beside(arm, "matched", "duplicate")
            for name, other in others.items():
                if other:
                    gains[name][patients] = contrasts.minus(other, none)
    for ratio, gains in sorted(by_source.items()):
        for name, compared in gains.items():
            for patients, result in compared.items():
                interval, real = result.interval, gains[_REAL].get(patients)
                share = (
                    interval.difference / real.interval.difference
                    if real and real.interval.low > 0
                    else None
                )
                text = f"{interval.difference:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"
                print(
                    f"ratio {ratio:g}, {patients} patients, {name}: {text}",
                    "" if share is None else f"{share:.2f}",
                )
                if name == _BEST:
                    yield half_width(f"{name}, ratio {ratio:g}, {patients} patients", result)
    _draw(by_source[_DRAWN_RATIO], Path(os.environ["PICTURES"]) / "other_hospital.svg")


def _source(parameters: Parameters) -> str:
    start = parameters.gan.start_from if parameters.gan else None
    path = parameters.generator.path if parameters.generator else start
    return _SOURCES[parameters.source, path.name if path else ""]


def _draw(gains: dict[str, Comparisons], picture: Path) -> None:
    sizes = sorted(gains[_REAL], key=int)
    with new_figure((picture,), 4.2) as drawing:
        axes = drawing.add_subplot()
        axes.axhline(0, color="#444444", linewidth=0.6)
        for number, name in enumerate((_REAL, *_SOURCES.values())):
            compared = gains[name]
            places = np.array([sizes.index(size) for size in compared]) + 0.05 * (number - 2.5)
            values = [result.interval.difference for result in compared.values()]
            bars = np.transpose([errors(result) for result in compared.values()])
            order = np.argsort(places)
            axes.errorbar(
                places[order],
                np.array(values)[order],
                bars[:, order],
                label=name,
                color=COLOURS[(2, 0, 5, 4, 3, 1)[number]],
                linestyle="--" if name == _REAL else "-",
                marker="o",
                capsize=2,
            )
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_xlabel("hospital B's training patients")
        axes.set_ylabel("gain in AUROC, two extra images per real one")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
