"""The figure of an evaluation: what it says, for two classes, three, and many."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from xraytune.base.drawing import figure_files
from xraytune.base.seeding import numpy_generator
from xraytune.model.evaluation_figure import DrawnClass, draw_evaluation
from xraytune.stats.breakdown import ClassMetrics
from xraytune.stats.curves import class_curves

pytestmark = pytest.mark.slow


def drawn(seed: int) -> DrawnClass:
    generator = numpy_generator(seed, "figure")
    is_class = np.arange(60) % 3 == 0
    scores = np.clip(generator.normal(0.4 + 0.2 * is_class, 0.2), 0, 1)
    curves = class_curves(is_class, scores, [str(number) for number in range(60)], replicates=5, seed=0)
    metrics = ClassMetrics(
        images=20,
        metrics={"auroc": seed / 10 + 0.011, "auprc": seed / 10 + 0.022, "sensitivity": 0.91, "specificity": 0.82},
        intervals={},
    )
    return DrawnClass(curves=curves, metrics=metrics, brier=f"0.{seed}33", prevalence=1 / 3)


def draw(folder: Path, classes: list[str], *, shown: list[str], threshold: float | None = None) -> set[str]:
    """Draw, and return the texts of the SVG."""
    confusion = np.arange(len(classes) ** 2).reshape(len(classes), -1) + 100
    curves = {name: drawn(seed) for seed, name in enumerate(shown)}
    files = figure_files(folder, "evaluation")
    draw_evaluation(curves, confusion, classes, files, threshold=threshold, note="60 images")
    _, svg = files
    found = ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")
    return {"".join(one.itertext()) for one in found}


def test_with_two_classes_every_axis_names_the_positive_class(tmp_path: Path) -> None:
    texts = draw(tmp_path, ["NORMAL", "PNEUMONIA"], shown=["PNEUMONIA"], threshold=0.4)

    for what in ("sensitivity", "1 - specificity", "recall", "precision", "predicted probability", "observed share"):
        assert f"{what} (PNEUMONIA)" in texts
    assert {"AUROC  0.011", "AUPRC  0.022", "Brier score  0.033", "prevalence 33%", "60 images"} <= texts
    assert {"threshold 0.400", "sensitivity 0.910", "specificity 0.820"} <= texts
    assert {"100", "101", "102", "103", "50%"} <= texts


def test_with_three_classes_every_curve_has_its_class(tmp_path: Path) -> None:
    names = ["normal", "bacterial", "viral"]

    texts = draw(tmp_path, names, shown=names)

    assert {"normal  0.011", "bacterial  0.111", "viral  0.211", "viral  0.222", "viral  0.233"} <= texts
    assert "predicted class (most probable)" in texts
    assert not any("threshold" in text for text in texts)


def test_twenty_classes_are_drawn_and_the_uncoloured_ones_counted(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(20)]

    texts = draw(tmp_path, names, shown=names)

    assert "AUROC (grey: 13 other classes)" in texts
    assert "class 19" in texts
