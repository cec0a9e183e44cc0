"""From the networks of all runs to the result of a confirmation.

The sealed images are opened once, after all training. The results of all runs are class
probabilities, or the Dice of each image. They are computed together on one machine and kept in one
file (`test.npy`, float64 [R, N, C]), so that all scores that are compared come from the same kind
of device and the same release of torch. Verdicts follow the rules of `stats/verdict.py`.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraytune.base.errors import Problem, StudyError, join_names
from xraytune.base.files import read_json, require_recorded, sha256_of, write_array, write_json
from xraytune.base.records import frozen
from xraytune.confirm.arms import Arm, Plan, write_plan
from xraytune.confirm.copies import find_scored_copies
from xraytune.confirm.plan import earlier_access, why_exploratory
from xraytune.confirm.record import (
    Confirmation,
    ControlVerdict,
    FinalistVerdict,
    HeadroomReached,
    HeldOutSet,
    Searched,
)
from xraytune.confirm.run_list import OpenStudy
from xraytune.confirm.sealed import SealedTest, load_test_image_set
from xraytune.data.prepare import ImageSet, RunContext
from xraytune.nets.backbones import fold_batch_norms
from xraytune.nets.checkpoint import load_best
from xraytune.nets.compute import compute_like, pin
from xraytune.space.settings import Parameters
from xraytune.space.sources import SOURCES
from xraytune.stats.between import place_between
from xraytune.stats.classification import (
    FEWEST_LABELS,
    Floats,
    Labels,
    require_finite_outputs,
    scored_findings,
)
from xraytune.stats.placements import (
    StructuralComponents,
    mean_overlap,
    outside_components,
    sample_of_sites,
    scorable_labels,
    structural_components,
)
from xraytune.stats.verdict import (
    compare,
    gather,
    judge_pair,
    overall_verdict,
    score_interval,
    variance_components,
)
from xraytune.study.folder import StudyFolder, damage_explained
from xraytune.study.row import append_run, ended_runs
from xraytune.study.test_access import CONFIRM, folders_with_logs, log_test_access
from xraytune.study.trial import read_pool_report
from xraytune.synth.generator_quality import PoolReport, Quality
from xraytune.tasks import task_of
from xraytune.trial.network import Network

SCORES_FILE = "test.npy"
_LEAST_AGREEMENT = 0.75
"""Share of a class's synthetic images that a classifier of real images should assign to the class;
below it, the answer has a caveat. Real images at a generator's resolution have about this share."""
_GAN_NAMES = {"dcgan": "DCGAN", "pca": "GAN of principal components"}


@frozen
class ArmScores:
    """The results of all runs of a plan on a set of test images.

    Attributes:
        results: Results of R runs on N images, [R, N, C]; NaN where a run trained on the patient.
        labels: Label, [N], or findings, [N, C], of each image.
        patients: Patient of each image, [N].
        positive: Number of the positive class.
        sites: Site of each image, [N]; used if each replicate leaves a site out.
        copied: The files of images that a finalist's synthetic images copy, by name of the arm.
        overlap: As in `StructuralComponents`.
    """

    plan: Plan
    results: Floats
    labels: Labels
    patients: tuple[str, ...]
    positive: int
    sites: tuple[str, ...] = ()
    copied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overlap: float = 0.0

    def measure(self, *arms: Arm) -> StructuralComponents:
        """Return the scores [A, K] and structural components [A, K, P] of A arms.

        If each replicate leaves a site out, the scores are within these sites (`sample_of_sites`).
        """
        if self.plan.sites:
            by_site = [self.measure_at(site, *arms).scores for site in self.plan.sites]
            return sample_of_sites(np.stack(by_site, axis=1))
        results = np.concatenate([self.results[self.plan.numbers(arm)] for arm in arms])
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
        numbers = [self.plan.numbers(arm)[replicate] for arm in arms]
        results = site_scores.results[numbers]
        return structural_components(
            site_scores.labels, results, site_scores.patients, self.positive
        )

    def at_site(self, site: str) -> ArmScores:
        """Return the results on the images of a site."""
        return self.on_images(np.asarray(self.sites) == site)

    def on_images(self, selection: NDArray[np.bool_]) -> ArmScores:
        """Return the results on the chosen images, [N], without their sites."""
        results = self.results[:, selection]
        return replace(
            self,
            results=results,
            labels=scorable_labels(self.labels[selection], results),
            patients=tuple(np.asarray(self.patients)[selection].tolist()),
            sites=(),
        )


def score_sealed(study: OpenStudy, plan: Plan, sealed: SealedTest) -> ArmScores:
    """Score all runs on sealed images, unless they are scored already.

    The access to the images is logged before they are scored.
    """
    if not plan.is_opened:
        access = open_images(study, SCORES_FILE)
        path = study.study_folder.path
        exploratory = plan.exploratory or earlier_access(path, sealed, before=CONFIRM)
        opened = {"order": sealed.order, "test_name": plan.test_name or sealed.name}
        plan = plan.with_values({**opened, "access": access, "exploratory": exploratory})
        write_plan(plan, study.runs_folder.path)
    return score_opened(study, plan, sealed, SCORES_FILE, access=plan.access)


def open_images(study: OpenStudy, scores_file: str) -> str:
    """Ask before test images are opened, and remove the scores of an earlier, smaller plan.

    Returns the `id` under which the access is to be logged.
    """
    require_trained_networks(study.runs_folder)
    study.before_test()
    for file in (scores_file, copies_file(scores_file)):
        (study.runs_folder.path / file).unlink(missing_ok=True)
    return uuid.uuid4().hex


def score_opened(
    study: OpenStudy, plan: Plan, sealed: SealedTest, scores_file: str, *, access: str
) -> ArmScores:
    """Log the access to opened images and score all runs, each unless it is done already."""
    folder = study.runs_folder
    if not (folder.path / scores_file).exists():
        require_trained_networks(folder)
        path = study.study_folder.path
        log_test_access(
            *folders_with_logs(path),
            command=CONFIRM,
            study=path.name,
            reason=study.reason,
            fingerprint=sealed.fingerprint,
            order=sealed.order,
            contents=sealed.contents,
            id=access,
        )
        score_runs(study, plan, sealed, scores_file)
    if not (folder.path / copies_file(scores_file)).exists():
        copied = find_scored_copies(study, plan, sealed)
        write_json(folder.path / copies_file(scores_file), copied, is_recorded=True)
    return read_scores(folder, plan, sealed, scores_file)


def copies_file(scores_file: str) -> str:
    """Return the name of the file with the scored images that synthetic images copy."""
    return scores_file.replace("test", "copies", 1).replace(".npy", ".json")


def score_runs(
    study: OpenStudy, plan: Plan, sealed: SealedTest, scores_file: str = SCORES_FILE
) -> None:
    """Predict the test images with each run's best network on val-A, and write the results.

    The results on images of patients that a run was trained on are NaN.
    """
    folder = study.runs_folder
    compute = compute_like(study.compute, threads=study.compute.threads)
    pin(compute)
    on_progress = study.callbacks.on_progress
    image_sets: dict[int, ImageSet] = {}
    results: list[Floats] = []
    count = plan.replicates * len(plan.trainings)
    for number in range(count):
        trial_folder = folder.trial_path(number)
        experiment = folder.experiment(number)
        data = experiment.settings.data
        if data.image_size not in image_sets:
            images = load_test_image_set(sealed, data, study.cache, on_progress=on_progress)
            image_sets[data.image_size] = images
        images = image_sets[data.image_size]
        prepared = folder.prepared(experiment)
        context = RunContext(prepared=prepared, cache=study.cache, compute=compute)
        network = Network(experiment, context)
        module = network.untrained(images)
        load_best(trial_folder / "checkpoint", module)
        module = fold_batch_norms(module)
        batches = network.batches(images)
        _, scores, outputs = network.task.predict(module, batches, images, compute)
        require_finite_outputs(outputs, StudyError, trial_folder)
        if sealed.kind == "outside":
            scores[np.isin(sealed.images.patients, prepared.side("train").patients)] = np.nan
        results.append(scores)
        on_progress(f"scoring {images.name} (replicates)", len(results), count)
    write_array(folder.path / scores_file, np.stack(results), is_recorded=True)


def read_scores(
    study_folder: StudyFolder, plan: Plan, sealed: SealedTest, scores_file: str = SCORES_FILE
) -> ArmScores:
    """Return the results of all runs; raise StudyError if the file is not as it was written."""
    fix = "remove it, and run the same command again"
    with damage_explained(study_folder.path / copies_file(scores_file), fix) as file:
        require_recorded(file)
        copied = {name: tuple(files) for name, files in read_json(file).items()}
    with damage_explained(study_folder.path / scores_file, fix) as file:
        require_recorded(file)
        results = np.load(file)
        draws = sealed.prepared.draws
        return ArmScores(
            plan=plan,
            results=results,
            labels=scorable_labels(sealed.images.targets, results),
            patients=sealed.images.patients,
            positive=sealed.prepared.positive,
            sites=tuple(image.site for image in sealed.images),
            copied=copied,
            overlap=mean_overlap(draws) if draws else 0.0,
        )


def require_trained_networks(study_folder: StudyFolder) -> None:
    """Raise StudyError if the network of a run is not the one that was trained.

    Such runs are recorded as failed, so that the next call trains them again.
    """
    problems = []
    for row in ended_runs(study_folder).values():
        network = study_folder.network_path(row.number)
        trained_sha256 = row.network_sha256
        if trained_sha256 and not (network.exists() and sha256_of(network) == trained_sha256):
            what = "this is not the network that was trained"
            problems.append(Problem(what, network, "run the same command again"))
            append_run(study_folder, row.with_values({"status": "failed", "reason": what}))
    if problems:
        raise StudyError(*problems)


def judge(study: OpenStudy, test: ArmScores, sealed: SealedTest) -> Confirmation:
    """Judge the finalists by their scores on the `sealed` images."""
    plan = test.plan
    prepared = study.prepared
    rope = study.settings.confirm.rope
    notes = [*plan.notes, *unscored_findings(test, prepared.findings)]
    finalists = []
    for arm, verdict in zip(plan.finalists, judge_finalists(test, rope=rope), strict=True):
        reports = _read_reports(study.runs_folder, plan.numbers(arm))
        copies = sum(bool(report.copies) for report in reports)
        if copies:
            notes.append(
                f"the synthetic images of {copies} of {plan.replicates} replicates of {arm.name} "
                "copy training images"
            )
        if folder := arm.parameters.folder:
            notes.append(
                f"the verdict on {arm.name} is on the images in {folder.path.name}/, and not on "
                "others of the same generator"
            )
        if not arm.parameters.trains_generator:  # the search has measured the same images
            trial_numbers = [row.number for row in study.searched if row.label == arm.trial]
            reports = _read_reports(study.study_folder, trial_numbers)
        caveat = quality_caveat(reports, rope, arm.parameters)
        finalists.append(replace(verdict, caveat=caveat))
    task = task_of(study.settings)
    return Confirmation(
        study=study.study_folder.path,
        metric=task.metric,
        objective=study.settings.metric,
        network=task.network,
        exploratory=why_exploratory(plan, study.settings.data.set, sealed.data.set),
        rope=rope,
        replicates=plan.replicates,
        train_images=len(prepared.side("train")),
        train_patients=prepared.train_patient_count,
        test=held_out_set(sealed, plan.test_name),
        finalists=tuple(finalists),
        notes=tuple(notes),
        searched=_describe_search(study, plan),
        sites=plan.sites,
    )


def held_out_set(sealed: SealedTest, name: str) -> HeldOutSet:
    """Return a description of the scored images, with the name that was recorded for them."""
    names = sealed.prepared.class_names
    return HeldOutSet(
        kind=sealed.kind,
        name=name,
        images=len(sealed.images),
        patients=len({*sealed.images.patients}),
        fingerprint=sealed.fingerprint,
        positive=names[sealed.prepared.positive] if len(names) == 2 else "",
    )


def unscored_findings(test: ArmScores, findings: Sequence[str]) -> tuple[str, ...]:
    """Return a note that names the findings that are too rare for the mean, if there are any."""
    scored_numbers = scored_findings(test.labels) if findings else []
    unscored_names = [name for number, name in enumerate(findings) if number not in scored_numbers]
    if not unscored_names:
        return ()
    shortage = f"fewer than {FEWEST_LABELS} positive or negative test images"
    return (f"findings with {shortage} are not in the mean: {join_names(unscored_names, 20)}",)


def _describe_search(study: OpenStudy, plan: Plan) -> Searched:
    finalists = [arm.parameters for arm in plan.finalists]
    networks = (
        f"{trial.backbone} ({Path(trial.weights).name} weights, trainable: {trial.trainable})"
        for trial in finalists
    )
    generators = filter(None, map(_describe_generator, finalists))
    packages = study.runs_folder.environment()["packages"]
    return Searched(
        trials=len(study.searched),
        pruned=sum(trial.status == "pruned" for trial in study.searched),
        sampler=study.settings.sampler.name,
        image_size_px=finalists[0].size_px(study.settings.data),
        networks=tuple(dict.fromkeys(networks)),
        generators=tuple(dict.fromkeys(generators)),
        packages={name: packages[name] for name in ("xraytune", "torch")},
    )


def _kind_of_generator(parameters: Parameters) -> str:
    """Return what each replicate trained, as in "GANs"; "" if it trained no generator."""
    if parameters.gan:
        return "GAN"
    return f"{parameters.source} generator" if parameters.trains_generator else ""


def _describe_generator(parameters: Parameters) -> str:
    """Return what generator a trial trains, in words; "" if it trains none."""
    if gan := parameters.gan:
        name = _GAN_NAMES[gan.architecture]
        return f"{name} ({gan.image_size} px, trained for {gan.steps:,} steps)"
    if not parameters.trains_generator:
        return ""
    settings = parameters.extension_settings.items()
    with_settings = ", ".join(f"{name} {value}" for name, value in settings)
    what = f"generator {SOURCES.declared[parameters.source]}"
    return f"{what} with {with_settings}" if with_settings else what


def _read_reports(study_folder: StudyFolder, numbers: Sequence[int]) -> list[PoolReport]:
    reports = (read_pool_report(study_folder.trial_path(number)) for number in numbers)
    return [report for report in reports if report]


def quality_caveat(reports: Sequence[PoolReport], rope: float, parameters: Parameters) -> str:
    """Return what synthetic images lack in the features of the network that uses them, in words."""
    qualities = [report.quality for report in reports if report.quality]
    faults = [_gan_train_caveat(qualities, rope)]
    if parameters.labels == "class":
        faults.insert(0, _agreement_caveat(qualities, parameters))
    return " ".join(fault for fault in faults if fault)


def _agreement_caveat(qualities: Sequence[Quality], parameters: Parameters) -> str:
    """Return a caveat if a classifier of real images misclassifies many synthetic images."""
    shares = defaultdict[str, list[float]](list)
    for quality in qualities:
        for name, figures in quality.classes.items():
            if figures.agreement is not None:
                shares[name].append(figures.agreement)
    means = {name: float(np.mean(class_shares)) for name, class_shares in shares.items()}
    if not means or min(means.values()) >= _LEAST_AGREEMENT:
        return ""
    name = min(means, key=means.__getitem__)
    labels = "Labels of the hospital's own classifier (labels: donor) or a"
    return (
        f"In the features of this network, the synthetic images of {name} do not lie where real "
        f"ones do: a linear classifier of the real images calls only {means[name]:.0%} of them "
        f"{name}. {labels if parameters.generator else 'A'} network that is trained as a whole "
        "(trainable: all) may mend this."
    )


def _gan_train_caveat(qualities: Sequence[Quality], rope: float) -> str:
    """Return a caveat if a classifier trained on synthetic images is worse than on real ones."""
    pairs = [
        (quality.gan_train, quality.real_train)
        for quality in qualities
        if quality.gan_train and quality.real_train
    ]
    if not pairs:
        return ""
    synthetic_auroc, real_auroc = np.mean(pairs, axis=0)
    if synthetic_auroc > real_auroc - rope:
        return ""
    return (
        f"The synthetic images do not show all that separates the classes: a classifier of them "
        f"alone reached an AUROC of {synthetic_auroc:.3f} on val-A, and one of the real images "
        f"{real_auroc:.3f}."
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
            evidence = gather(pair)
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
                trial=finalist.trial,
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


def headroom_reached(test: ArmScores, finalist: Arm) -> HeadroomReached | None:
    """Compare the gain from a finalist's synthetic images with the gain from real images.

    Both gains are over training without extra images. The real images are of other patients.
    Returns None if the plan lacks the arm with real images or the arm without extra images.
    """
    trial_arms = [arm for arm in test.plan.arms if arm.trial == finalist.trial]
    perfect_arms = [arm for arm in trial_arms if arm.role == "perfect"]
    plain_arms = [arm for arm in trial_arms if arm.role == "matched" and arm.kind == "none"]
    if not (perfect_arms and plain_arms):
        return None
    components = test.measure(plain_arms[0], perfect_arms[0], finalist)
    real_gain = compare(components.pair(1, 0))
    headroom = HeadroomReached(
        gain=real_gain.difference, low=real_gain.low, high=real_gain.high, share=None
    )
    if real_gain.low > 0:
        share = place_between(components, 2, range(2), (0.0, 1.0))
        headroom = replace(headroom, share=share.value, share_low=share.low, share_high=share.high)
    return headroom
