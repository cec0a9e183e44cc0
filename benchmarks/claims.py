"""Three live claims, from the scores of one confirmation (docs/studies/plan.md).

Prints the tests of each claim and draws its picture into PICTURES. A contrast compares two weighted means of arms, with the
interval of `confirm`: the weights of each side add up to one.

    make bench ONLY=claims STUDY=studies/live-claims PICTURES=docs/studies
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, figure
from xraytune.base.drawing import COLOURS, new_figure
from xraytune.base.records import ignore_progress
from xraytune.confirm.arms import CONFIRM_FOLDER, Arm, Role, read_plan
from xraytune.confirm.score import ArmScores, arm_scores
from xraytune.confirm.sealed import choose_test
from xraytune.stats.verdict import Comparison, compare, p_values
from xraytune.study.folder import StudyFolder
from xraytune.trial.task import task_of

NEEDS = ("STUDY", "PICTURES")
_LEVEL = 0.025
"""One-sided, over the members of a family (Holm)."""
_KINDS = {"GAN images": COLOURS[1], "repeated real images": COLOURS[0], "real images of other patients": COLOURS[2]}

Weights = Mapping[str, float]
"""By the name of an arm."""
Comparisons = dict[str, Comparison]


class Claims:
    """The arms of the confirmation, by what they are, and contrasts between them."""

    def __init__(self, scores: ArmScores, rope: float) -> None:
        self._scores, self.plan, self.rope = scores, scores.plan, rope
        self.finalists = {_label(arm): arm for arm in self.plan.finalists}
        self.by_ratio = {
            arm.parameters.synthetic_ratio: arm for name, arm in self.finalists.items() if name.startswith("frozen")
        }

    def beside(self, finalist: Arm, role: Role, source: str) -> Arm | None:
        """Return the arm that differs from a finalist only in its source, if there is one."""
        arms = (arm for arm in self.plan.arms if (arm.trial, arm.role) == (finalist.trial, role))
        return next((arm for arm in arms if arm.parameters.source == source), None)

    def none(self, finalist: Arm) -> Arm:
        """Return the matched control without extra images."""
        arm = self.beside(finalist, "matched", "none")
        assert arm is not None, "every finalist has one"
        return arm

    def contrast(self, first: Weights, second: Weights) -> Comparison:
        """Compare two weighted means of arms."""
        arms = {arm.name: arm for arm in self.plan.arms}
        names = sorted({*first, *second})
        measured = self._scores.measure(*(arms[name] for name in names))
        weights = np.array([[side.get(name, 0.0) for name in names] for side in (first, second)])
        components = np.einsum("sa,akp->skp", weights, measured.components)
        return compare(replace(measured, scores=weights @ measured.scores, components=components))

    def minus(self, first: Arm, second: Arm) -> Comparison:
        """Compare two arms."""
        return self.contrast({first.name: 1.0}, {second.name: 1.0})

    def minus_repeated(self) -> Comparisons:
        """Compare each finalist with repeated real images; with `replace`, they would be no extra images."""
        pairs = ((name, arm, self.beside(arm, "matched", "duplicate")) for name, arm in self.finalists.items())
        return {name: self.minus(arm, repeated) for name, arm, repeated in pairs if repeated}

    def slope(self) -> tuple[float, float, float]:
        """Return the least-squares slope in log2(1 + ratio), per doubling of the images, with its interval."""
        arms = [self.none(self.by_ratio[1.0]), *(arm for _, arm in sorted(self.by_ratio.items()))]
        doublings = np.log2(1 + np.array([0.0, *sorted(self.by_ratio)]))
        centred = doublings - doublings.mean()
        rising = centred[centred > 0].sum()
        above, below = (
            {arm.name: float(weight) for arm, weight in zip(arms, side, strict=True) if weight > 0}
            for side in (centred / rising, -centred / rising)
        )
        interval, scale = self.contrast(above, below).interval, rising / (centred**2).sum()
        return scale * interval.difference, scale * interval.low, scale * interval.high


def measure() -> Iterator[Figure]:
    """Test the claims, draw their pictures, and yield the half-width of each main interval."""
    claims = read(StudyFolder(Path(os.environ["STUDY"]).resolve()))
    pictures = Path(os.environ["PICTURES"])
    yield from _repeated_images(claims, pictures / "repeated_images.svg")
    yield from _pretraining(claims, pictures / "pretraining.svg")
    yield from _best_ratio(claims, pictures / "best_ratio.svg")


def read(study: StudyFolder) -> Claims:
    """Return the test scores of the study's confirmation."""
    runs, settings = StudyFolder(study.path / CONFIRM_FOLDER), study.space().settings
    plan = read_plan(runs.path)
    assert plan is not None, "the study is confirmed"
    choice = choose_test(
        settings,
        study.prepared(),
        study.default_cache,
        replicates=plan.replicates,
        compared=[arm.parameters for arm in plan.finalists],
        planned=plan.test,
        test=None,
        on_progress=ignore_progress,
    )
    return Claims(arm_scores(runs, plan, choice.sealed, task_of(settings)), settings.confirm.rope)


def _repeated_images(claims: Claims, picture: Path) -> Iterator[Figure]:
    compared = claims.minus_repeated()
    _show("1. GAN minus repeated real images", compared)
    better = {name: float(p_values(result.evidence, 0.0)[0]) for name, result in compared.items()}
    ruled_out = {name: float(p_values(result.evidence, claims.rope)[1]) for name, result in compared.items()}
    print("better:", _holm(better) or "none")
    print(f"a gain of {claims.rope:g} ruled out:", _holm(ruled_out) or "none")
    _draw_rows(picture, compared, "AUROC, GAN minus repeated real images", claims.rope)
    for name in ("frozen, ratio 1", "frozen, ratio 10"):
        yield half_width(f"GAN minus repeated, {name}", compared[name])


def _pretraining(claims: Claims, picture: Path) -> Iterator[Figure]:
    mixed = {arm.parameters.mixing: arm for name, arm in claims.finalists.items() if name.startswith("last stage")}
    first = mixed["pretrain"]
    compared = {f"pretrain - {other}": claims.minus(first, mixed[other]) for other in ("additive", "replace")}
    for mixing, arm in mixed.items():
        compared[f"{mixing} - no extra images"] = claims.minus(arm, claims.none(arm))
        if repeated := claims.beside(arm, "matched", "duplicate"):
            compared[f"{mixing} - repeated real"] = claims.minus(arm, repeated)
    _show("2. Pretraining and mixing, last stage trained", compared)
    print("scores:", {mixing: round(claims.minus(arm, first).scores[0], 4) for mixing, arm in mixed.items()})
    _draw_rows(picture, compared, "AUROC, first minus second", claims.rope)
    for name in ("pretrain - additive", "pretrain - replace"):
        yield half_width(name, compared[name])


def _best_ratio(claims: Claims, picture: Path) -> Iterator[Figure]:
    last = max(claims.by_ratio)
    gains = dict[str, Comparisons]()
    better, ruled_out = dict[str, float](), dict[str, float]()
    for ratio, arm in sorted(claims.by_ratio.items()):
        none = claims.none(arm)
        sources = claims.beside(arm, "matched", "duplicate"), claims.beside(arm, "perfect", "duplicate")
        for kind, other in zip(_KINDS, (arm, *sources), strict=True):
            if other:
                gains.setdefault(kind, {})[f"{ratio:g}"] = claims.minus(other, none)
        if ratio < last:
            ends = claims.minus(arm, none), claims.minus(arm, claims.by_ratio[last])
            better[f"{ratio:g}"] = max(float(p_values(end.evidence, 0.0)[0]) for end in ends)
            ruled_out[f"{ratio:g}"] = min(1.0, 2 * min(float(p_values(end.evidence, claims.rope)[1]) for end in ends))
        yield half_width(f"ratio {ratio:g} minus 0", claims.minus(arm, none))
    for kind, compared in gains.items():
        _show(f"3. {kind} minus no extra images, frozen, by ratio", compared)
    print("score without extra images:", round(claims.minus(claims.by_ratio[1.0], none).scores[1], 4))
    print("slope per doubling of the images: {:+.4f} ({:+.4f} to {:+.4f})".format(*claims.slope()))
    print(f"better than both 0 and {last:g}:", _holm(better) or "none")
    print(
        f"a gain of {claims.rope:g} over one of them ruled out:", [name for name, p in ruled_out.items() if p < _LEVEL]
    )
    with new_figure((picture,), 3.6) as drawing:
        axes = drawing.add_subplot()
        axes.axhspan(-claims.rope, claims.rope, color="#000000", alpha=0.08, linewidth=0, label="margin")
        axes.axhline(0, color="#444444", linewidth=0.6)
        for number, (kind, compared) in enumerate(gains.items()):
            places = np.log2(1 + np.array([float(ratio) for ratio in compared])) + 0.03 * (number - 1)
            axes.errorbar(
                places,
                [result.interval.difference for result in compared.values()],
                np.transpose([errors(result) for result in compared.values()]),
                label=kind,
                color=_KINDS[kind],
                marker="o",
                markersize=4,
                capsize=2,
            )
        axes.set_xticks(np.log2(1 + np.array([0.0, *sorted(claims.by_ratio)])), ["0", *gains["GAN images"]])
        axes.set_xlabel("extra images per real image")
        axes.set_ylabel("gain in AUROC")
        axes.legend(frameon=False)


def _draw_rows(picture: Path, compared: Comparisons, label: str, rope: float) -> None:
    with new_figure((picture,), 0.9 + 0.3 * len(compared)) as drawing:
        axes = drawing.add_subplot()
        axes.axvspan(-rope, rope, color="#000000", alpha=0.08, linewidth=0)
        axes.axvline(0, color="#444444", linewidth=0.6)
        rows = np.arange(len(compared))[::-1]
        values = [result.interval.difference for result in compared.values()]
        errors = np.transpose([errors(result) for result in compared.values()])
        axes.errorbar(values, rows, xerr=errors, fmt="o", color=COLOURS[0], markersize=5, capsize=2)
        axes.set_yticks(rows, [*compared])
        axes.set_xlabel(f"{label}; shaded: the margin of {rope:g}")


def errors(result: Comparison) -> tuple[float, float]:
    """Return how far the interval reaches below and above the difference."""
    interval = result.interval
    return interval.difference - interval.low, interval.high - interval.difference


def _show(title: str, compared: Comparisons) -> None:
    print(title)
    for name, result in compared.items():
        interval = result.interval
        print(f"  {name:34} {interval.difference:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})")


def _holm(by_name: Mapping[str, float]) -> list[str]:
    """Return the rejected members of a family of one-sided hypotheses."""
    rejected: list[str] = []
    for place, name in enumerate(sorted(by_name, key=by_name.__getitem__)):
        if by_name[name] >= _LEVEL / (len(by_name) - place):
            break
        rejected.append(name)
    return rejected


def _label(arm: Arm) -> str:
    parameters = arm.parameters
    trained = "frozen" if parameters.trainable == "head" else "last stage"
    mixing = "" if parameters.trainable == "head" else f", {parameters.mixing}"
    return f"{trained}, ratio {parameters.synthetic_ratio:g}{mixing}"


def half_width(name: str, result: Comparison) -> Figure:
    """Return half of the width of an interval, as a figure with its bar."""
    interval = result.interval
    return figure(f"claims: half-width, {name}", (interval.high - interval.low) / 2, "AUROC", "<= 0.005")
