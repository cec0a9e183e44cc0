"""Further hospitals: the networks of a confirmation, scored on other test images as well.

Nothing is trained for further hospitals, and they do not change the verdict. The results of each
hospital are kept in a file of their own, like the results for the verdict. `plan.json` records the
hospitals whose images were opened.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from xraytune.base.errors import StudyError
from xraytune.confirm.arms import UNUSED_KINDS, OpenedHospital, Plan, write_plan
from xraytune.confirm.compare import judge_finalists, unscored_findings
from xraytune.confirm.plan import earlier_access, why_exploratory
from xraytune.confirm.record import Confirmation, Hospital, write_verdict
from xraytune.confirm.run_list import OpenStudy
from xraytune.confirm.score import held_out_set, open_images, score_opened
from xraytune.confirm.sealed import (
    SealedTest,
    choose_test,
    decode_unbroken,
    name_of_hospital,
    read_unchanged,
    refuse_copies,
    refuse_patients_of_folders,
    refuse_patients_of_study,
    refuse_too_few,
)
from xraytune.data.images import content_fingerprint
from xraytune.data.index import LabelledImages, read_labelled
from xraytune.data.prepare import patients_seen, unseen_test
from xraytune.data.sides import too_few_tested
from xraytune.space.parameters import Parameters
from xraytune.study.access_log import accesses
from xraytune.synth.sources.registry import seen_by


def choose_tests(
    study: OpenStudy,
    *,
    replicates: int,
    mixes: Sequence[Parameters],
    folders: Sequence[Path],
) -> tuple[SealedTest | None, list[SealedTest]]:
    """Choose and check the images of the verdict, and those of further hospitals in `folders`.

    If the study has no images for the verdict, it is scored on the first folder. Later calls find
    this folder among `folders` by its content. If it is not given again, the first result is None.

    Raises:
        DataError: As for `choose_test`, or images are broken.
        StudyError: The study's images changed, or those of a hospital that was scored.
    """
    settings = study.settings
    prepared = study.prepared
    plan = study.earlier_plan
    index = read_unchanged(settings, prepared, study.callbacks.on_progress)
    seen_sha256 = seen_by(mixes)
    labelled_by_fingerprint = _read_folders(study, folders, seen_sha256)

    planned_kind = plan.test if plan else None
    can_score_study = planned_kind in UNUSED_KINDS or not too_few_tested(
        unseen_test(index, seen_sha256), prepared.outputs
    )
    scored_folder = None
    if not can_score_study:
        opened = plan.ordered_fingerprint if plan else ""
        first = next(iter(labelled_by_fingerprint), "")
        scored_folder = labelled_by_fingerprint.get(opened or first)

    sealed = None
    if can_score_study or scored_folder or not folders:
        sealed = choose_test(
            settings,
            prepared,
            replicates=replicates,
            mixes=mixes,
            planned_kind=planned_kind,
            test=scored_folder,
            index=index,
        )
    study_images = LabelledImages(data=settings.data, images=index.images)
    if scored_folder:
        refuse_copies(scored_folder, study_images, settings.data, study.cache)

    scored_sets = [sealed] if sealed and sealed.kind not in UNUSED_KINDS else []
    hospitals: list[SealedTest] = []
    for labelled in labelled_by_fingerprint.values():
        if labelled is scored_folder and scored_sets:
            continue
        hospital = SealedTest(
            data=labelled.data,
            images=labelled.images,
            kind="folder",
            name=name_of_hospital(labelled.data.path),
            prepared=sealed.prepared if sealed else prepared,
        )
        refuse_patients_of_study(hospital, index, settings, seen_sha256)
        refuse_copies(hospital, study_images, settings.data, study.cache)
        refuse_patients_of_folders(hospital, index, settings, mixes, prepared)
        _refuse_changed(study, hospital)
        for scored in (*scored_sets, *hospitals):
            refuse_copies(hospital, scored, settings.data, study.cache)
        refuse_too_few(hospital, prepared)
        hospitals.append(hospital)
    return sealed, hospitals


def _read_folders(
    study: OpenStudy, folders: Sequence[Path], seen_sha256: Collection[str]
) -> dict[str, LabelledImages]:
    """Return the images of folders, none of them broken, by the fingerprint of what may be scored.

    Images of patients with images in `seen_sha256` do not count for the fingerprint.
    """
    settings = study.settings
    on_progress = study.callbacks.on_progress
    labelled_by_fingerprint: dict[str, LabelledImages] = {}
    for folder in folders:
        labelled = read_labelled(
            folder,
            study.prepared.outputs,
            settings.task,
            group_regex=settings.data.split.group_regex,
            on_progress=on_progress,
        )
        decode_unbroken(labelled, settings.data, study.cache, on_progress=on_progress)
        seen_patients = patients_seen(labelled.images, seen_sha256)
        unseen_images = labelled.images.without(seen_patients)
        labelled_by_fingerprint[content_fingerprint(unseen_images, in_order=True)] = labelled
    return labelled_by_fingerprint


def _refuse_changed(study: OpenStudy, hospital: SealedTest) -> None:
    """Refuse (StudyError) a hospital with images that this confirmation scored in another set.

    Usually, its folder has changed since then.
    """
    plan = study.earlier_plan
    if not plan:
        return
    opened = {plan.ordered_fingerprint, *(record.ordered_fingerprint for record in plan.hospitals)}
    if hospital.ordered_fingerprint in opened:
        return
    rows = accesses(study.study_folder.path, hospital.contents)
    if any(row.get("order") in opened for row in rows):
        raise StudyError(
            "images of this folder were scored by this confirmation, together with others, or "
            "under other names of files or patients",
            hospital.data.path,
            "restore the folder as it was scored, or remove these images from it",
        )


def judge_hospitals(
    study: OpenStudy,
    plan: Plan,
    hospitals: Iterable[SealedTest],
    confirmation: Confirmation,
) -> Confirmation:
    """Return a confirmation with the verdicts at hospitals, and write it after each of them.

    Of the earlier verdicts, those of as many replicates are kept.
    """
    folder = study.runs_folder.path
    earlier = study.earlier_verdict
    verdicts = {
        verdict.name: verdict
        for verdict in (earlier.hospitals if earlier else ())
        if verdict.replicates == plan.replicates
    }
    confirmation = replace(
        confirmation, study=study.study_folder.path, hospitals=tuple(verdicts.values())
    )
    write_verdict(folder, confirmation)
    for hospital in hospitals:
        plan, verdict = judge_hospital(study, plan, hospital)
        verdicts[verdict.name] = verdict
        confirmation = replace(confirmation, hospitals=tuple(verdicts.values()))
        write_verdict(folder, confirmation)
    for record in plan.hospitals:
        if record.name not in verdicts:
            what = f"{record.name} was opened, and its verdict is not recorded"
            study.callbacks.note(f"{what}: give its folder again (--test)")
    return confirmation


def _new_record(study: OpenStudy, plan: Plan, hospital: SealedTest) -> OpenedHospital:
    """Return the record of a hospital that is about to be opened."""
    name = hospital.name
    fingerprint = hospital.ordered_fingerprint
    if name in {record.name for record in plan.hospitals}:
        name += f" {fingerprint[:6]}"
    exploratory = earlier_access(study.study_folder.path, hospital)
    return OpenedHospital(name=name, ordered_fingerprint=fingerprint, exploratory=exploratory)


def judge_hospital(study: OpenStudy, plan: Plan, hospital: SealedTest) -> tuple[Plan, Hospital]:
    """Score all runs on a hospital's images, unless they are scored, and judge the first finalist.

    The access is logged before the images are scored.

    Returns:
        The plan, with the hospital added, and the verdict at the hospital.
    """
    fingerprint = hospital.ordered_fingerprint
    scores_file = f"test-{fingerprint}.npy"
    records = {record.ordered_fingerprint: record for record in plan.hospitals}
    record = records.get(fingerprint) or _new_record(study, plan, hospital)
    if not record.access_id:
        record = record.with_values({"access_id": open_images(study, scores_file)})
        records[fingerprint] = record
        plan = plan.with_values({"hospitals": tuple(records.values())})
        write_plan(plan, study.runs_folder.path)
    # Every replicate is a network for this hospital, whatever site it left out.
    hospital_plan = plan.with_values({"exploratory": record.exploratory, "sites": ()})
    scores = score_opened(study, hospital_plan, hospital, scores_file, access_id=record.access_id)
    return plan, Hospital(
        name=record.name,
        exploratory=why_exploratory(hospital_plan, hospital.data.set),
        test=held_out_set(hospital, record.name),
        finalist=judge_finalists(scores, rope=study.settings.confirm.rope)[0],
        notes=unscored_findings(scores, study.prepared.findings),
    )
