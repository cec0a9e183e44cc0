"""Compare the arms of a confirmation by the results of all their runs.

The verdicts follow the rules of `stats/verdict.py`. Nothing here trains or predicts, and neither
torch nor Ray is loaded, so that also results from elsewhere can be judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, replace

import numpy as np

from xraytune.base.arrays import BoolArray
from xraytune.base.errors import join_names
from xraytune.base.records import frozen
from xraytune.confirm.arms import Arm, Plan
from xraytune.confirm.record import ControlVerdict, FinalistVerdict, HeadroomReached
from xraytune.space.parameters import Parameters
from xraytune.stats.between import place_between
from xraytune.stats.classification import FEWEST_LABELS, Floats, Labels, scored_findings
from xraytune.stats.placements import (
    StructuralComponents,
    outside_components,
    sample_of_sites,
    scorable_labels,
    structural_components,
)
from xraytune.stats.verdict import (
    compare,
    estimate_evidence,
    judge_pair,
    overall_verdict,
    score_interval,
    variance_components,
)


@frozen
class ArmScores:
    """The results of all runs of a plan on a set of test images.

    Attributes:
        results: Results of R runs on N images, [R, N, C]; NaN where a run trained on the patient.
        labels: Label, [N], or findings, [N, C], of each image.
        patients: Patient of each image, [N].
        positive: Number of the positive class.
        sites: Site of each image, [N]; used if each replicate leaves a site out.
        files: File of each image, [N]; used for subgroups.
        thresholds: The positive class's threshold of each run, chosen on validation images; empty
            unless there are two classes.
        copied: The files of images that a finalist's synthetic images copy, by name of the arm.
        overlap: As in `StructuralComponents`.
    """

    plan: Plan
    results: Floats
    labels: Labels
    patients: tuple[str, ...]
    positive: int
    sites: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    thresholds: Mapping[int, float] = field(default_factory=dict)
    copied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overlap: float = 0.0

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes."""
        return self.labels.ndim == 1 and self.results.shape[2] == 2

    def measure(self, *arms: Arm) -> StructuralComponents:
        """Return the scores [A, K] and structural components [A, K, P] of A arms.

        If each replicate leaves a site out, the scores are within these sites (`sample_of_sites`).
        """
        if self.plan.sites:
            by_site = [self.measure_at(site, *arms).scores for site in self.plan.sites]
            return sample_of_sites(np.stack(by_site, axis=1))
        results = np.concatenate([self.results[self.plan.run_numbers(arm)] for arm in arms])
        components = outside_components(
            self.labels, results, self.patients, self.positive, self.overlap
        )
        return components.by_arm(len(arms))

    def measure_at(self, site: str, *arms: Arm) -> StructuralComponents:
        """Return scores [A] and structural components [A, P] on the images of a site.

        For each of A arms, the replicate that leaves the site out is scored.
        """
        site_scores = self.at_site(site)
        replicate = self.plan.sites.index(site)
        runs = [self.plan.run_numbers(arm)[replicate] for arm in arms]
        results = site_scores.results[runs]
        return structural_components(
            site_scores.labels, results, site_scores.patients, self.positive
        )

    def at_site(self, site: str) -> ArmScores:
        """Return the results on the images of a site."""
        return self.on_images(np.asarray(self.sites) == site)

    def on_images(self, selection: BoolArray) -> ArmScores:
        """Return the results on the chosen images, [N], without their sites and files."""
        results = self.results[:, selection]
        patients = tuple(np.asarray(self.patients)[selection].tolist())
        return replace(
            self,
            results=results,
            labels=scorable_labels(self.labels[selection], results, patients),
            patients=patients,
            sites=(),
            files=(),
        )


def judge_finalists(test: ArmScores, *, rope: float) -> list[FinalistVerdict]:
    """Compare all finalists with all of their controls.

    Verdicts are given in the order of val-B, up to the first finalist that does not help; all later
    finalists are `not_tested`. A finalist with copies of scored images is `invalid`.

    Origin of this fixed sequence: Maurer, Hothorn & Lehmacher 1995; Westfall & Krishen 2001,
    "Optimally weighted, fixed sequence and gatekeeper multiple testing procedures".
    """
    verdicts: list[FinalistVerdict] = []
    for finalist in test.plan.finalists:
        comparisons = []
        for control in test.plan.controls(finalist):
            pair = test.measure(finalist, control)
            evidence = estimate_evidence(pair)
            pair_verdict = judge_pair(evidence, rope=rope, control=control.name, kind=control.kind)
            comparisons.append(
                ControlVerdict(
                    **asdict(score_interval(evidence)),
                    **asdict(pair_verdict),
                    arm=control.parameters.arm,
                    backbone=control.parameters.backbone,
                    control_score=float(pair.scores[1].mean()),
                    variance_components=variance_components(pair),
                )
            )
        overall, controls = overall_verdict(comparisons)
        copied_files = test.copied.get(finalist.name, ())
        if copied_files:
            overall, controls = "invalid", ()
        is_tested = all(earlier_verdict.verdict == "helps" for earlier_verdict in verdicts)
        scores = test.measure(finalist).scores[0]
        verdicts.append(
            FinalistVerdict(
                arm=finalist.name,
                trial=finalist.trial_label,
                backbone=finalist.parameters.backbone,
                generator=_kind_of_generator(finalist.parameters),
                mixing=finalist.parameters.mixing,
                score=float(scores.mean()),
                replicate_scores=tuple(scores.tolist()),
                headroom=headroom_reached(test, finalist),
                verdict=overall if is_tested else "not_tested",
                because_of=controls if is_tested else (),
                copied_files=copied_files,
                comparisons=tuple(comparisons),
            )
        )
    return verdicts


def _kind_of_generator(parameters: Parameters) -> str:
    """Return what each replicate trained, as in "GANs"; "" if it trained no generator."""
    if parameters.gan:
        return "GAN"
    return f"{parameters.source} generator" if parameters.trains_generator else ""


def headroom_reached(test: ArmScores, finalist: Arm) -> HeadroomReached | None:
    """Compare the gain from a finalist's synthetic images with the gain from real images.

    Both gains are over training without extra images. The real images are of other patients.
    Returns None if the plan lacks the arm with real images or the arm without extra images.
    """
    trial_arms = [arm for arm in test.plan.arms if arm.trial_label == finalist.trial_label]
    real_arms = [arm for arm in trial_arms if arm.has_real_extra]
    plain_arms = [arm for arm in trial_arms if arm.role == "matched" and arm.kind == "none"]
    if not (real_arms and plain_arms):
        return None
    components = test.measure(plain_arms[0], real_arms[0], finalist)
    real_gain = compare(components.pair(1, 0))
    headroom = HeadroomReached(
        gain=real_gain.difference, low=real_gain.low, high=real_gain.high, share=None
    )
    if real_gain.low > 0:
        share = place_between(components, 2, range(2), (0.0, 1.0))
        headroom = replace(headroom, share=share.value, share_low=share.low, share_high=share.high)
    return headroom


def unscored_findings(test: ArmScores, findings: Sequence[str]) -> tuple[str, ...]:
    """Return a note that names the findings that are too rare for the mean, if there are any."""
    scored = scored_findings(test.labels) if findings else []
    unscored_names = [name for index, name in enumerate(findings) if index not in scored]
    if not unscored_names:
        return ()
    shortage = f"fewer than {FEWEST_LABELS} positive or negative test images"
    return (
        f"findings with {shortage}, or with those of a single patient, are not in the mean: "
        f"{join_names(unscored_names, 20)}",
    )
