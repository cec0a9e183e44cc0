"""From the networks of all runs to the result of a confirmation.

The sealed images are opened once, after all training. The results of all runs are class
probabilities, or the Dice of each image. They are computed together on one machine and kept in one
file (`test.npy`, float64 [R, N, C]), so that all scores that are compared come from the same kind
of device and the same release of torch. Verdicts follow the rules of `stats/verdict.py`.
"""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xraytune.base.cores import cpu_count
from xraytune.base.errors import Problem, StudyError
from xraytune.base.files import read_json, require_recorded, sha256_of, write_array, write_json
from xraytune.base.seeding import derive_seed
from xraytune.confirm.arms import Plan, write_plan
from xraytune.confirm.compare import ArmScores, judge_finalists, unscored_findings
from xraytune.confirm.copies import find_scored_copies
from xraytune.confirm.outcomes import (
    add_secondary,
    compare_in_groups,
    compare_sites,
    read_thresholds,
    write_predictions,
)
from xraytune.confirm.plan import earlier_access, why_exploratory
from xraytune.confirm.record import (
    Confirmation,
    HeldOutSet,
    Searched,
)
from xraytune.confirm.run_list import OpenStudy
from xraytune.confirm.sealed import SealedTest, load_test_image_set
from xraytune.data.image_set import ImageSet
from xraytune.data.prepare import RunContext
from xraytune.nets.backbones import fold_batch_norms
from xraytune.nets.checkpoint import load_best
from xraytune.nets.compute import compute_like, configure_torch
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.parameters import Parameters
from xraytune.stats.classification import (
    Floats,
    require_finite_outputs,
)
from xraytune.stats.placements import (
    mean_overlap,
    scorable_labels,
)
from xraytune.study.access_log import CONFIRM, folders_with_logs, log_test_access
from xraytune.study.folder import StudyFolder, explain_damage, require_sole_owner
from xraytune.study.row import append_run, ended_runs
from xraytune.study.trial import read_pool_report
from xraytune.synth.generator_quality import PoolReport, Quality
from xraytune.tasks import task_of
from xraytune.trial.network import TrialNetwork

SCORES_FILE = "test.npy"
_LEAST_AGREEMENT = 0.75
"""Share of a class's synthetic images that a classifier of real images should assign to the class;
below it, the answer has a caveat. Real images at a generator's resolution have about this share."""
_GAN_NAMES = {"dcgan": "DCGAN", "pca": "GAN of principal components"}


def score_sealed(study: OpenStudy, plan: Plan, sealed: SealedTest) -> ArmScores:
    """Score all runs on sealed images, unless they are scored already.

    The access to the images is logged before they are scored.
    """
    if not plan.access_id:
        earlier = earlier_access(study.study_folder.path, sealed, before=CONFIRM)
        opened = {
            "access_id": open_images(study, SCORES_FILE),
            "ordered_fingerprint": sealed.ordered_fingerprint,
            "test_name": plan.test_name or sealed.name,
            "exploratory": plan.exploratory or earlier,
        }
        plan = plan.with_values(opened)
        write_plan(plan, study.runs_folder.path)
    return score_opened(study, plan, sealed, SCORES_FILE, access_id=plan.access_id)


def open_images(study: OpenStudy, scores_file: str) -> str:
    """Ask before test images are opened, and remove the scores of an earlier, smaller plan.

    Returns the `id` under which the access is to be logged.
    """
    require_trained_networks(study.runs_folder)
    study.callbacks.before_test()
    require_sole_owner(study.study_folder)
    for file in (scores_file, copies_file(scores_file)):
        (study.runs_folder.path / file).unlink(missing_ok=True)
    return uuid.uuid4().hex


def score_opened(
    study: OpenStudy, plan: Plan, sealed: SealedTest, scores_file: str, *, access_id: str
) -> ArmScores:
    """Log the access to opened images and score all runs, each unless it is done already."""
    runs_folder = study.runs_folder
    if not (runs_folder.path / scores_file).exists():
        require_trained_networks(runs_folder)
        path = study.study_folder.path
        log_test_access(
            *folders_with_logs(path),
            command=CONFIRM,
            study=path.name,
            reason=study.reason,
            fingerprint=sealed.fingerprint,
            order=sealed.ordered_fingerprint,
            contents=sealed.contents,
            id=access_id,
        )
        score_runs(study, plan, sealed, scores_file)
    if not (runs_folder.path / copies_file(scores_file)).exists():
        copied = find_scored_copies(study, plan, sealed)
        write_json(runs_folder.path / copies_file(scores_file), copied, is_recorded=True)
    return read_scores(runs_folder, plan, sealed, scores_file)


def copies_file(scores_file: str) -> str:
    """Return the name of the file with the scored images that synthetic images copy."""
    return scores_file.replace("test", "copies", 1).replace(".npy", ".json")


def score_runs(
    study: OpenStudy, plan: Plan, sealed: SealedTest, scores_file: str = SCORES_FILE
) -> None:
    """Predict the test images with each run's best network on val-A, and write the results.

    The results on images of patients that a run was trained on are NaN.
    """
    runs_folder = study.runs_folder
    compute = compute_like(study.compute, threads=study.compute.threads)
    configure_torch(compute)
    # Features are equal for any number of threads.
    for_features = replace(compute, threads=cpu_count())
    on_progress = study.callbacks.on_progress
    image_sets: dict[int, ImageSet] = {}
    results: list[Floats] = []
    count = plan.replicates * len(plan.trainings)
    for number in range(count):
        trial_folder = runs_folder.trial_path(number)
        experiment = study.experiment(number)
        data = experiment.settings.data
        if data.image_size not in image_sets:
            images = load_test_image_set(sealed, data, study.cache, on_progress=on_progress)
            image_sets[data.image_size] = images
        images = image_sets[data.image_size]
        prepared = runs_folder.prepared(experiment)
        context = RunContext(prepared=prepared, cache=study.cache, compute=for_features)
        network = TrialNetwork(experiment, context)
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
    write_array(runs_folder.path / scores_file, np.stack(results), is_recorded=True)


def read_scores(
    study_folder: StudyFolder, plan: Plan, sealed: SealedTest, scores_file: str = SCORES_FILE
) -> ArmScores:
    """Return the results of all runs; raise StudyError if the file is not as it was written."""
    fix = "remove it, and run the same command again"
    with explain_damage(study_folder.path / copies_file(scores_file), fix) as file:
        require_recorded(file)
        copied = {name: tuple(files) for name, files in read_json(file).items()}
    with explain_damage(study_folder.path / scores_file, fix) as file:
        require_recorded(file)
        results = np.load(file)
        draws = sealed.prepared.draws
        return ArmScores(
            plan=plan,
            results=results,
            labels=scorable_labels(sealed.images.targets, results, sealed.images.patients),
            patients=sealed.images.patients,
            positive=sealed.prepared.positive,
            sites=tuple(image.site for image in sealed.images),
            files=tuple(image.file for image in sealed.images),
            thresholds=read_thresholds(study_folder),
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


def judge_study(study: OpenStudy, test: ArmScores, sealed: SealedTest) -> Confirmation:
    """Judge the finalists by their scores on the `sealed` images."""
    plan = test.plan
    prepared = study.prepared
    rope = study.settings.confirm.rope
    notes = [*plan.notes, *unscored_findings(test, prepared.findings)]
    finalists = []
    for arm, verdict in zip(plan.finalists, judge_finalists(test, rope=rope), strict=True):
        reports = _read_reports(study.runs_folder, plan.run_numbers(arm))
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
            trial_numbers = [row.number for row in study.searched if row.label == arm.trial_label]
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


def _describe_search(study: OpenStudy, plan: Plan) -> Searched:
    finalists = [arm.parameters for arm in plan.finalists]
    networks = (
        f"{trial.backbone} ({Path(trial.weights).name} weights, trainable: {trial.trainable})"
        for trial in finalists
    )
    generators = filter(None, map(_describe_generator, finalists))
    packages = study.runs_folder.environment()["packages"]
    trials = len(study.searched)
    pruned = sum(trial.status == "pruned" for trial in study.searched)
    earlier = study.earlier_verdict and study.earlier_verdict.searched
    if earlier:  # the search may have gone on since its finalists were chosen
        trials, pruned = earlier.trials, earlier.pruned
    return Searched(
        trials=trials,
        pruned=pruned,
        sampler=study.settings.sampler.name,
        image_size_px=finalists[0].size_px(study.settings.data),
        networks=tuple(dict.fromkeys(networks)),
        generators=tuple(dict.fromkeys(generators)),
        packages={name: packages[name] for name in ("xraytune", "torch")},
    )


def _describe_generator(parameters: Parameters) -> str:
    """Return what generator a trial trains, in words; "" if it trains none."""
    if gan := parameters.gan:
        name = _GAN_NAMES[gan.architecture]
        return f"{name} ({gan.image_size} px, trained for {gan.steps:,} steps)"
    if not parameters.trains_generator:
        return ""
    settings = parameters.settings_of(parameters.source).items()
    with_settings = ", ".join(f"{name} {value}" for name, value in settings)
    what = f"generator {EXTENSIONS.declared[parameters.source]}"
    return f"{what} with {with_settings}" if with_settings else what


def _read_reports(study_folder: StudyFolder, numbers: Sequence[int]) -> list[PoolReport]:
    reports = (read_pool_report(study_folder.trial_path(number)) for number in numbers)
    return [*filter(None, reports)]


def quality_caveat(reports: Sequence[PoolReport], rope: float, parameters: Parameters) -> str:
    """Return what synthetic images lack in the features of the network that uses them, in words."""
    qualities = [report.quality for report in reports if report.quality]
    caveats = [_gan_train_caveat(qualities, rope)]
    if parameters.labels == "class":
        caveats.insert(0, _agreement_caveat(qualities, parameters))
    return " ".join(filter(None, caveats))


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


def with_outcomes(
    confirmation: Confirmation,
    study: OpenStudy,
    test: ArmScores,
    sealed: SealedTest,
    columns: Mapping[str, Mapping[str, str]],
) -> Confirmation:
    """Return a verdict with secondary outcomes and subgroups, and write `predictions.csv`.

    `columns` are as for `compare_in_groups`; without them, the subgroups are the sites that the
    replicates left out.
    """
    seed = derive_seed(study.settings.seed, "secondary")
    finalists = add_secondary(confirmation.finalists, test, seed=seed)
    if columns:
        groups = compare_in_groups(test, finalists[0], columns)
    else:
        groups = compare_sites(test, finalists[0])
    prepared = sealed.prepared
    folder = study.runs_folder.path
    write_predictions(folder, test, sealed.images, prepared.outputs, prepared.findings)
    return replace(confirmation, finalists=finalists, subgroups=groups)
