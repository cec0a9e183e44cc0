"""Whether confirm answers rightly where the answer is known: studies of phantoms with extra images in a folder.

Images of new patients truly help, copies of training images do nothing that `duplicate` does not,
and wrongly labelled ones truly hurt; the same goes for images with several findings, where the
wrong ones are those of other images. A GAN of other patients truly helps; one of the study's own
patients adds no information. Each study has its own patients, trains a finalist and its two matched
controls with fresh seeds, opens its test folder and judges, all by confirm's own functions; only
the search before it and Ray are left out.

Ratios and ROPE were chosen on pilots with other patients. Seeds are fixed; one process, one thread;
about an hour and a half on one core.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from types import SimpleNamespace
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.figures import Figure, figure
from xraytune.base.files import write_json
from xraytune.base.records import Compute
from xraytune.base.seeding import derive_seed, numpy_generator
from xraytune.confirm.arms import Plan, compared_arms, replicate
from xraytune.confirm.compare import judge_finalists
from xraytune.confirm.record import ControlVerdict, FinalistVerdict
from xraytune.confirm.run_list import OpenStudy
from xraytune.confirm.score import read_scores, score_runs
from xraytune.confirm.sealed import choose_test
from xraytune.data.phantom import PhantomImage, paint_patient, paint_phantoms
from xraytune.data.prepare import RunContext, SplitData, prepare, write_prepared
from xraytune.model.generator_folder import generator_train
from xraytune.nets.compute import configure_torch
from xraytune.search.callbacks import NO_CALLBACKS
from xraytune.space.load import data_settings
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Settings
from xraytune.study.folder import StudyFolder
from xraytune.study.row import TrialRow
from xraytune.trial.run import run_trial

Extra = Literal["new patients", "copies", "wrong labels", "GAN of others", "own GAN"]

COMPUTE = Compute(device="cpu", threads=1, precision="float32")
IMAGE_SIZE_PX = 32
_DIFFICULTY = 0.0
_PATIENTS = 70
"""Of the training folder: about 21 for val-A, 7 for val-B."""
_TRAIN_PATIENTS = 30
"""Few, so that there is room to improve: they give an AUROC of about .75."""
_MOST_NEW_PATIENTS = 1000
_PATIENTS_WITH_FINDINGS, _NEW_PATIENTS_WITH_FINDINGS = 1000, 150
"""Of a study, a fifth of them in the test folder; and of a folder of extra images."""
_OTHERS = 400
"""Patients of the GAN of others; as many steps per image for both GANs would make copies of the study's own."""
_GAN = {"image_size": IMAGE_SIZE_PX, "width": 16}
_STEPS = {"GAN of others": 3000, "own GAN": 500}
_CLASSES = ("NORMAL", "PNEUMONIA")
_ROPE = 0.05
"""Five times the default: with so few training images the seeds differ by more than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a study of one kind asks, and the answer that is known.

    Attributes:
        extra: The images in the folder.
        ratio: Extra images per real one.
        right: The true verdict; "" if any but the contrary one will do.
        opposite: The verdicts that say the contrary.
        test_patients: In the test folder.
        replicates: Of each arm.
        studies: Of this kind.
        findings: Whether images have findings instead of a class.
    """

    extra: Extra
    ratio: float
    right: str
    opposite: tuple[str, ...]
    test_patients: int = 400
    replicates: int = 10
    studies: int = 20
    findings: bool = False

    @property
    def name(self) -> str:
        """Its name among the figures."""
        return f"{self.extra} with findings" if self.findings else self.extra


QUESTIONS = (
    Question(extra="new patients", ratio=1.25, right="helps", opposite=("hurts",)),
    Question(extra="copies", ratio=0.5, right="no_better", opposite=("helps", "hurts")),
    Question(extra="wrong labels", ratio=0.25, right="hurts", opposite=("helps",)),
    Question(
        extra="GAN of others", ratio=4, right="helps", opposite=("hurts",), replicates=5, studies=10
    ),
    Question(extra="own GAN", ratio=4, right="", opposite=("helps",), replicates=5, studies=10),
    Question(
        extra="new patients",
        ratio=1.25,
        right="helps",
        opposite=("hurts",),
        studies=10,
        findings=True,
    ),
    Question(
        extra="copies",
        ratio=0.5,
        right="no_better",
        opposite=("helps", "hurts"),
        studies=10,
        findings=True,
    ),
    Question(
        extra="wrong labels", ratio=2, right="hurts", opposite=("helps",), studies=10, findings=True
    ),
)


def measure() -> Iterator[Figure]:
    """The right answers of each kind, their mean differences, and the contrary answers of all."""
    configure_torch(COMPUTE)
    contrary, started = 0, time.perf_counter()
    for question in QUESTIONS:
        found = []
        for number in range(question.studies):
            found.append(answer(question, derive_seed(3, question.name, number)))
            _tell(question, number, found[-1], time.perf_counter() - started)
        right = sum(is_right(question, one) for one in found)
        yield figure(
            f"known_answers: {question.name}, right of {question.studies}",
            right,
            "studies",
            f">= {question.studies - 1}",
        )
        for source in ("none", "duplicate"):
            differences = [against(one, source).difference for one in found]
            name = f"known_answers: {question.name}, mean difference from {source}"
            yield figure(name, float(np.mean(differences)), "AUROC")
        contrary += sum(one.verdict in question.opposite for one in found)
    total = sum(question.studies for question in QUESTIONS)
    yield figure(f"known_answers: wrong the other way, of {total}", contrary, "studies", "<= 1")


def is_right(question: Question, found: FinalistVerdict) -> bool:
    """Whether the true verdict was given; of copies, because they are equivalent to `duplicate`.

    That they equal `none` is no known answer: twice the images in a step may do something.
    """
    if not question.right:
        return found.verdict not in question.opposite
    if found.verdict != question.right:
        return False
    return question.extra != "copies" or "equivalent" in against(found, "duplicate").verdict


def answer(question: Question, seed: int) -> FinalistVerdict:
    """One study, from its phantoms to its verdict."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _draw_study(question, folder / "xrays", seed)
        return _confirmed(question, folder, _settings(question, folder, seed))


def _settings(question: Question, folder: Path, seed: int) -> Settings:
    settings = Settings.model_validate_json(
        f"""{{"name": "known", "seed": {seed % 2**31},
            "data": {{"path": "{folder / "xrays"}", "image_size": {IMAGE_SIZE_PX}, "train_patients": {_TRAIN_PATIENTS},
                      "split": {{"val_a": 0.3, "val_b": 0.1}}}},
            "budget": {{"max_epochs": 3, "steps_per_epoch": 15}},
            "confirm": {{"controls": {{"tuned": []}}, "replicates": {question.replicates},
                         "test": "folder", "rope": {_ROPE}}}}}"""
    )
    if not question.findings:
        return settings
    data = data_settings(settings.data.path / "data.yaml", settings.data)
    return settings.model_copy(update={"task": "findings", "data": data})


def _draw_study(question: Question, root: Path, seed: int) -> None:
    if question.findings:
        _draw_findings(root, _PATIENTS_WITH_FINDINGS, seed)
        return
    for part, patients in (
        ("train", range(_PATIENTS)),
        ("test", range(_PATIENTS, _PATIENTS + question.test_patients)),
    ):
        for image in phantoms(seed, patients):
            write_image(image.pixels, root / part / class_of(image) / f"{image.stem}.png")


def _draw_findings(out: Path, patients: int, seed: int) -> None:
    paint_phantoms(
        out,
        patients=patients,
        seed=seed,
        image_size_px=IMAGE_SIZE_PX,
        difficulty=_DIFFICULTY,
        findings=True,
    )


def _confirmed(question: Question, folder: Path, settings: Settings) -> FinalistVerdict:
    cache, root, seed = folder / "cache", settings.data.path, settings.seed
    prepared, _ = prepare(settings, cache)
    extra = folder / "extra"
    match question.extra:
        case _ if question.findings:
            extra = _extra_with_findings(question, root, prepared, extra, seed)
        case "copies":
            _copy_training_images(root, prepared, extra)
        case "GAN of others":
            _train_gan_of_others(folder, extra, settings)
        case "own GAN":
            pass
        case _:
            _draw_new_patients(question, prepared, extra, seed)
    plan, runs = _plan(question, extra, settings), StudyFolder(folder / "confirm")
    write_prepared(prepared, runs.path / "split.json")
    train(plan, runs, settings, prepared, cache)
    sealed = choose_test(settings, prepared, replicates=plan.replicates)
    study = SimpleNamespace(
        settings=settings, runs_folder=runs, cache=cache, compute=COMPUTE, callbacks=NO_CALLBACKS
    )
    score_runs(cast(OpenStudy, study), plan, sealed)
    scores = read_scores(runs, plan, sealed)
    (found,) = judge_finalists(scores, rope=settings.confirm.rope)
    return found


def _plan(question: Question, extra: Path, settings: Settings) -> Plan:
    """The finalist that a search would have given, and its matched controls."""
    source: dict[str, object] = {"source": "folder", "folder": {"path": extra}}
    if question.extra == "GAN of others":
        source = {"source": "generator", "generator": {"path": extra}}
    elif question.extra == "own GAN":
        source = {"source": "gan", "gan": _GAN | {"steps": _STEPS[question.extra]}}
    parameters = Parameters.model_validate(
        source
        | {
            "synthetic_ratio": question.ratio,
            "backbone": "small_cnn",
            "weights": "none",
            "batch_size": 8,
            "lr": 3e-3,
            "schedule": "cosine",
        }
    )
    finalist = TrialRow(number=0, status="complete", parameters=parameters, val_b_score=0.5)
    arms = compared_arms([finalist], settings, "folder")
    return Plan(test="folder", replicates=settings.confirm.replicates, arms=tuple(arms))


def train(
    plan: Plan, runs: StudyFolder, settings: Settings, prepared: SplitData, cache: Path
) -> None:
    """Train all runs of a plan."""
    pairs = [
        (replicate_number, arm)
        for replicate_number in range(plan.replicates)
        for arm in plan.trainings
    ]
    for number, (replicate_number, arm) in enumerate(pairs):
        experiment = replicate(arm, settings, replicate_number, plan.test)
        trial = runs.trial_path(number)
        write_json(trial / "config.json", experiment.model_dump(mode="json", context=trial))
        drawn = prepared.of_draw(experiment.draw)
        context = RunContext(prepared=drawn, cache=cache, compute=COMPUTE)
        run_trial(experiment, context, trial_dir=trial)


def _extra_with_findings(
    question: Question, root: Path, prepared: SplitData, out: Path, seed: int
) -> Path:
    """Write images of new patients or copies, a grey level darker, with a table of findings; return its data file."""
    source, first = root, {image.file for image in prepared.images if image.side == "train"}
    if question.extra != "copies":
        source = out.parent / "others"
        _draw_findings(source, _NEW_PATIENTS_WITH_FINDINGS, derive_seed(seed, "others") % 2**31)
    header, *rows = [line.split(",") for line in (source / "labels.csv").read_text().splitlines()]
    rows = [row for row in rows if question.extra != "copies" or row[0] in first]
    findings = [row[3:] for row in rows]
    if question.extra == "wrong labels":
        findings = [
            findings[place] for place in numpy_generator(seed, "wrong").permutation(len(findings))
        ]
    for row in rows:
        pixels = np.asarray(Image.open(source / row[0]))
        write_image(
            pixels - (pixels > 0) if question.extra == "copies" else pixels, out / f"{row[0]}.png"
        )
    table = [
        header,
        *([f"{row[0]}.png", *row[1:3], *own] for row, own in zip(rows, findings, strict=True)),
    ]
    (out / "labels.csv").write_text("\n".join(map(",".join, table)))
    copyfile(source / "data.yaml", out / "data.yaml")
    return out / "data.yaml"


def _copy_training_images(root: Path, prepared: SplitData, out: Path) -> None:
    """Each a grey level darker, so that no hash tells the copy; its name still tells the patient."""
    for image in prepared.images:
        if image.side == "train":
            pixels = np.asarray(Image.open(root / image.file))
            write_image(
                pixels - (pixels > 0),
                out / prepared.class_names[image.label] / Path(image.file).name,
            )


def _train_gan_of_others(folder: Path, out: Path, settings: Settings) -> None:
    first = _PATIENTS + QUESTIONS[0].test_patients
    for image in phantoms(settings.seed, range(first, first + _OTHERS)):
        write_image(
            image.pixels, folder / "others" / "train" / class_of(image) / f"{image.stem}.png"
        )
    gan = ", ".join(
        f"{name}: {{value: {value}}}"
        for name, value in (_GAN | {"steps": _STEPS["GAN of others"]}).items()
    )
    space = f"""
        name: others
        data: {{path: others, image_size: {IMAGE_SIZE_PX}}}
        parameters: {{source: {{value: gan}}, gan: {{parameters: {{{gan}}}}},
                      backbone: {{value: small_cnn}}, weights: {{value: none}}}}"""
    (folder / "others.yaml").write_text(space, encoding="utf-8")
    generator_train(folder / "others.yaml", out=out, cache=folder / "cache")
    configure_torch(COMPUTE)


def _draw_new_patients(question: Question, prepared: SplitData, out: Path, seed: int) -> None:
    """As many images of each class as the mix takes, or a few more; with the classes swapped where labels are wrong."""
    missing = dict.fromkeys(_CLASSES, 0.0)
    for image in prepared.images:
        if image.side == "train":
            missing[prepared.class_names[image.label]] += question.ratio
    first = _PATIENTS + question.test_patients
    for phantom in phantoms(seed, range(first, first + _MOST_NEW_PATIENTS)):
        name = class_of(phantom)
        if question.extra == "wrong labels":
            name = _CLASSES[1 - _CLASSES.index(name)]
        write_image(phantom.pixels, out / name / f"{phantom.stem}.png")
        missing[name] -= 1
        if max(missing.values()) < 0:
            return


def phantoms(seed: int, patients: range) -> Iterator[PhantomImage]:
    """The images of these patients, one after the other."""
    for patient in patients:
        yield from paint_patient(seed, patient, IMAGE_SIZE_PX, _DIFFICULTY)


def class_of(image: PhantomImage) -> str:
    """The folder of an image."""
    return _CLASSES[image.diagnosis != "normal"]


def write_image(pixels: NDArray[np.uint8], file: Path) -> None:
    """Write an image and the folder that it is in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def against(found: FinalistVerdict, source: str) -> ControlVerdict:
    """The comparison with the matched control of a source."""
    return next(result for result in found.comparisons if result.kind == source)


def _tell(question: Question, number: int, found: FinalistVerdict, seconds: float) -> None:
    differences = ", ".join(
        f"{result.kind} {result.difference:+.3f}" for result in found.comparisons
    )
    mark = "right" if is_right(question, found) else "not right"
    what = f"{question.name} {number + 1}/{question.studies}: {found.verdict} ({mark}); less {differences}; {seconds:.0f} s"
    print(what, file=sys.stderr, flush=True)
