"""Check that `confirm` is right as often as it claims: simulated studies with a known truth.

Seeds are fixed; the standard error of a share of 2,000 studies is .005 at .95 and at .05.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from benchmarks.figures import Figure, figure
from benchmarks.simulated_studies import Arm, against_controls, simulate, simulate_outside
from xraytune.stats.placements import StructuralComponents
from xraytune.stats.verdict import (
    LEVEL,
    ControlKind,
    Evidence,
    Overall,
    judge_pair,
    overall_verdict,
    p_values,
)

_STUDIES = 2000
_ROPE = 0.01
_AUROC = 0.955
_SD = 0.006
"""Of a replicate's AUROC."""
_PATIENTS = 1500
"""Unused ones, as README's study scores."""
_TEST_FOLDER_PATIENTS = 428
"""In the official test folder."""
_CELLS = 1000
"""Studies in each cell of the coverage."""
_OVERLAPPING = 200
"""Studies in each cell with overlapping draws."""
_CONTROLS: tuple[ControlKind, ...] = ("none", "duplicate", "tuned", "tuned", "tuned")
_DONOR_CONTROLS: tuple[ControlKind, ...] = (*_CONTROLS, "donor", "donor_start")
_WORDS: tuple[Overall, ...] = ("helps", "hurts", "no_better", "undecided")


def measure() -> Iterator[Figure]:
    """Yield the figures of all cases."""
    yield from _coverage()
    yield from _outside()
    yield from _false_outside()
    yield from _power()
    yield from _near_the_ceiling()
    yield from _helps()
    yield from _no_better()
    yield from _hurts()
    yield from _equivalent()
    yield from _example()
    yield from _donors()


def _coverage() -> Iterator[Figure]:
    """Of a true difference of half a ROPE, by AUROC, test patients and spread of the replicates."""
    for replicates in (3, 5, 10):
        shares = []
        for auroc, patients, sd in product((0.985, 0.955, 0.9), (600, 2500), (0.002, 0.006, 0.01)):
            arms = [
                Arm(auroc=auroc, replicates_sd=sd),
                Arm(auroc=auroc - _ROPE / 2, replicates_sd=sd),
            ]
            studies = _studies(arms, patients, seed=2, replicates=replicates, count=_CELLS)
            shares.append(_covered(against_controls(studies), _ROPE / 2))
        for what, share in (
            ("lowest", min(shares)),
            ("highest", max(shares)),
            ("mean", float(np.mean(shares))),
        ):
            name = f"statistics: {what} coverage of {len(shares)} cells, {replicates} replicates"
            yield figure(name, share, "share", "0.93 to 0.97")


def _outside() -> Iterator[Figure]:
    """Ten replicates that are scored on all patients outside their draws, which overlap more and more."""
    covered = defaultdict(list)
    for sizes, auroc, sd in product(
        ((300, 120), (300, 60), (600, 90)), (0.985, 0.955, 0.9), (0.002, 0.01)
    ):
        patients, per_draw = sizes
        arms = [Arm(auroc=auroc, replicates_sd=sd), Arm(auroc=auroc - _ROPE / 2, replicates_sd=sd)]
        studies = simulate_outside(
            arms,
            patients=patients,
            per_draw=per_draw,
            replicates=10,
            studies=_OVERLAPPING,
            seed=31,
        )
        covered[sizes].append(_covered(against_controls([*studies]), _ROPE / 2))
    for (patients, per_draw), shares in covered.items():
        name = f"statistics: coverage outside draws of {per_draw} of {patients} patients, mean of six cells"
        yield figure(name, float(np.mean(shares)), "share", "0.93 to 0.97")
        yield figure(f"{name}, lowest", min(shares), "share")
        yield figure(f"{name}, highest", max(shares), "share")


def _false_outside() -> Iterator[Figure]:
    """False verdicts of 300 patients, where draws share up to two fifths of them."""
    equal, better, lower, worse = (
        Arm(auroc=_AUROC + gain, replicates_sd=_SD) for gain in (0.0, _ROPE, -_ROPE, -0.03)
    )
    cases: tuple[tuple[Overall, str, list[Arm]], ...] = (
        ("helps", "a control is equal", [equal, equal, *[worse] * 4]),
        ("no_better", "better than all five by one ROPE", [better, *[equal] * 5]),
        ("hurts", "equal to duplicate", [lower, equal, lower]),
    )
    for per_draw in (60, 120):
        for word, case, arms in cases:
            studies = simulate_outside(
                arms,
                patients=300,
                per_draw=per_draw,
                replicates=10,
                studies=_OVERLAPPING,
                seed=37,
            )
            name = (
                f"statistics: {word} although {case}, outside draws of {per_draw} of 300 patients"
            )
            yield figure(name, _verdicts([*studies])[word], "share", "<= 0.05")


def _power() -> Iterator[Figure]:
    """Of `helps` over five controls that are worse by one or two ROPE."""
    for gain, replicates in product((_ROPE, 2 * _ROPE), (5, 10)):
        for patients in (_TEST_FOLDER_PATIENTS, _PATIENTS):
            studies = _studies(
                _finalist_and_controls(_AUROC, gain), patients, seed=17, replicates=replicates
            )
            name = f"statistics: helps at a true gain of {gain:g}, {replicates} replicates, {patients} patients"
            bar = ">= 0.8" if (gain, patients) == (2 * _ROPE, _PATIENTS) else ""
            yield figure(name, _verdicts(studies)["helps"], "share", bar)


def _near_the_ceiling() -> Iterator[Figure]:
    """Few patients, and arms that differ by 1.5 ROPE."""
    coverage, equivalent = [], []
    for better in (0.99, 0.995, _AUROC):
        worse = better - 1.5 * _ROPE
        for patients in (20, 40, 60, 144):
            arms = [Arm(auroc=better, replicates_sd=_SD), Arm(auroc=worse, replicates_sd=_SD)]
            evidence = against_controls(_studies(arms, patients, seed=11))
            coverage.append(_covered(evidence, better - worse))
            equivalent.append(_equivalents(evidence))
    yield figure(
        "statistics: coverage near the ceiling, worst of twelve cells",
        min(coverage),
        "share",
        ">= 0.92",
    )
    yield figure(
        "statistics: false equivalent in these cells, worst", max(equivalent), "share", "<= 0.05"
    )


def _helps() -> Iterator[Figure]:
    """One control equals the finalist, four are worse by .03."""
    for sd in (0.002, _SD, 0.01):
        equal, worse = (Arm(auroc=auroc, replicates_sd=sd) for auroc in (_AUROC, _AUROC - 0.03))
        for patients in (_TEST_FOLDER_PATIENTS, _PATIENTS):
            share = _verdicts(_studies([equal, equal, *[worse] * 4], patients, seed=1))["helps"]
            name = f"statistics: helps although a control is equal, {patients} patients, sd {sd:g}"
            yield figure(name, share, "share", "<= 0.05")


def _no_better() -> Iterator[Figure]:
    """Five equal controls, and a finalist that is better than all of them by one ROPE or not at all."""
    for difference, bar in ((_ROPE, "<= 0.05"), (0.0, "")):
        for patients in (144, _TEST_FOLDER_PATIENTS, _PATIENTS):
            share = _verdicts(
                _studies(_finalist_and_controls(_AUROC, difference), patients, seed=13)
            )["no_better"]
            case = f"better than all five by {difference / _ROPE:g} ROPE, {patients} patients"
            yield figure(f"statistics: no_better when {case}", share, "share", bar)


def _hurts() -> Iterator[Figure]:
    """`none` beats the finalist; `duplicate` equals the finalist (more images per step hurt) or `none` (the images do)."""
    for none, duplicate, bar in ((0.01, 0.0, "<= 0.05"), (0.03, 0.03, "")):
        for patients in (144, _TEST_FOLDER_PATIENTS, _PATIENTS):
            arms = [
                Arm(auroc=_AUROC - 0.01 + more, replicates_sd=_SD)
                for more in (0.0, none, duplicate)
            ]
            share = _verdicts(_studies(arms, patients, seed=14))["hurts"]
            case = (
                f"{none} below none and duplicate"
                if duplicate
                else f"{none} below none, equal to duplicate"
            )
            yield figure(f"statistics: hurts when {case}, {patients} patients", share, "share", bar)


def _equivalent() -> Iterator[Figure]:
    """Many patients and similar seeds, so that equivalence can be shown."""
    for difference, bar in ((0.0, ""), (_ROPE, ""), (1.5 * _ROPE, "<= 0.05")):
        arms = [Arm(auroc=_AUROC + sign * difference / 2, replicates_sd=0.003) for sign in (1, -1)]
        evidence = against_controls(_studies(arms, 1500, seed=5))
        case = f"a true difference of {difference / _ROPE:g} ROPE, 1500 patients"
        yield figure(f"statistics: equivalent at {case}", _equivalents(evidence), "share", bar)


def _example() -> Iterator[Figure]:
    """The design of other_hospital_cpu: ten replicates, 1,500 patients, and two spreads between replicates."""
    auroc = 0.97
    for sd in (0.004, 0.007):
        equal = Arm(auroc=auroc, replicates_sd=sd)
        better = Arm(auroc=auroc + _ROPE, replicates_sd=sd)
        worse = Arm(auroc=auroc - 0.015, replicates_sd=sd)
        slightly_worse = Arm(auroc=auroc - 0.002, replicates_sd=sd)
        cases: tuple[tuple[str, list[Arm], Overall, str], ...] = (
            ("helps although a control is equal", [equal, equal, *[worse] * 4], "helps", "<= 0.05"),
            (
                "no_better although better than all five by one ROPE",
                [better, *[equal] * 5],
                "no_better",
                "<= 0.05",
            ),
            (
                "hurts although equal to duplicate",
                [equal, better, *[equal] * 4],
                "hurts",
                "<= 0.05",
            ),
            ("undecided against five equal controls", [equal] * 6, "undecided", ""),
            ("undecided if .002 below all five", [slightly_worse, *[equal] * 5], "undecided", ""),
        )
        for case, arms, verdict, bar in cases:
            studies = _studies(arms, 1500, seed=19, replicates=10)
            yield figure(
                f"statistics: example, sd {sd:g}, {case}", _verdicts(studies)[verdict], "share", bar
            )
            if verdict == "no_better":
                covered = _covered(against_controls(studies), _ROPE)
                yield figure(f"statistics: example, sd {sd:g}, coverage", covered, "share")


def _donors() -> Iterator[Figure]:
    """A donor's classifier and a start at it beside five controls; the classifier is one network in all replicates."""
    replicates_sd = 0.004
    equal = Arm(auroc=0.97, replicates_sd=replicates_sd)
    better = Arm(auroc=0.97 + _ROPE, replicates_sd=replicates_sd)
    worse = Arm(auroc=0.94, replicates_sd=replicates_sd)
    donor = Arm(auroc=0.97, replicates_sd=0.0, is_one_network=True)
    worse_donor = Arm(auroc=0.94, replicates_sd=0.0, is_one_network=True)
    cases: tuple[tuple[str, list[Arm], Overall], ...] = (
        ("helps although the classifier is equal", [equal, *[worse] * 5, donor, worse], "helps"),
        ("helps although the start is equal", [equal, *[worse] * 5, worse_donor, equal], "helps"),
        (
            "no_better although better than all seven by one ROPE",
            [better, *[equal] * 5, donor, equal],
            "no_better",
        ),
        (
            "hurts although equal to duplicate",
            [equal, better, *[equal] * 4, donor, equal],
            "hurts",
        ),
    )
    for case, arms, verdict in cases:
        studies = _studies(arms, 1500, seed=23, replicates=10)
        share = _verdicts(studies, _DONOR_CONTROLS)[verdict]
        yield figure(f"statistics: donor's controls, {case}", share, "share", "<= 0.05")
    for auroc in (0.985, 0.97, 0.955):
        finalist = Arm(auroc=auroc, replicates_sd=replicates_sd)
        single = Arm(auroc=auroc, replicates_sd=0.0, is_one_network=True)
        studies = _studies([finalist, single], 1500, seed=29, replicates=10)
        covered = _covered(against_controls(studies), 0.0)
        name = f"statistics: coverage against a donor's classifier, AUROC {auroc:g}"
        yield figure(name, covered, "share", "0.93 to 0.97")


def _finalist_and_controls(auroc: float, difference: float) -> list[Arm]:
    """Return a finalist that is better by `difference` than five equal controls of this AUROC."""
    return [
        Arm(auroc=auroc + more, replicates_sd=_SD) for more in (difference, *[0.0] * len(_CONTROLS))
    ]


def _studies(
    arms: Sequence[Arm], patients: int, *, seed: int, replicates: int = 5, count: int = _STUDIES
) -> list[StructuralComponents]:
    return list(simulate(arms, patients=patients, replicates=replicates, studies=count, seed=seed))


def _verdicts(
    studies: Sequence[StructuralComponents], kinds: Sequence[ControlKind] = _CONTROLS
) -> dict[Overall, float]:
    """Return the share of each verdict."""
    counts = Counter[Overall]()
    for row in against_controls(studies):
        controls = [
            judge_pair(evidence, rope=_ROPE, control=f"{place}", kind=kinds[place])
            for place, evidence in enumerate(row)
        ]
        word, _ = overall_verdict(controls)
        counts[word] += 1
    return {word: counts[word] / len(studies) for word in _WORDS}


def _equivalents(evidence: Sequence[Sequence[Evidence]]) -> float:
    """Return the share of studies whose first pair is called equivalent."""
    pairs = [judge_pair(row[0], rope=_ROPE) for row in evidence]
    return float(np.mean(["equivalent" in pair.verdict for pair in pairs]))


def _covered(evidence: Sequence[Sequence[Evidence]], truth: float) -> float:
    """Return the share of studies whose 95 % interval of the first pair covers the truth."""
    return float(
        np.mean([min(map(float, p_values(row[0], truth))) >= LEVEL / 2 for row in evidence])
    )
