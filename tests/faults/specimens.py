"""Small whole files of every kind, to be damaged: a study with ended trials, a bundle, checkpoints, images."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.confirm.test_plan import GAN, NONE
from tests.confirm.verdicts import write_verdict
from tests.data.test_dicom import dicom
from tests.study.studies import CPU, epoch, two_images, write_space
from xraytune.base.files import append_jsonl, write_json
from xraytune.confirm.arms import Plan, write_plan
from xraytune.data.decoding import InputFormat
from xraytune.model.bundle import write_bundle
from xraytune.model.bundle_record import TrainedOn
from xraytune.model.final import FinalTraining
from xraytune.nets.checkpoint import save_best, save_checkpoint
from xraytune.nets.classifier import Classifier, build_classifier
from xraytune.nets.optimizer import Optimizer, optimizer_of
from xraytune.space.load import experiment_to_json
from xraytune.space.settings import DataSettings, Experiment, GanSettings, Parameters, Settings
from xraytune.study.folder import StudyFolder
from xraytune.study.inputs import record_inputs
from xraytune.study.journal import Journal
from xraytune.study.row import Status, write_trials
from xraytune.study.start import create_study
from xraytune.synth.checkpoint import save_checkpoint as save_gan
from xraytune.synth.checkpoint import save_generator
from xraytune.synth.gan import new_training
from xraytune.trial.run import Validated

EPOCH = epoch(1, 0.9).record
SMALL = Parameters(backbone="small_cnn", weights="none", input_channels=1)
TINY_GAN = GanSettings(image_size=32, width=4, batch_size=8, z_dim=8, steps=6)
STILL_RUNNING = 4
"""The number of a trial that has not ended."""


def make_study(root: Path) -> StudyFolder:
    """Four trials that ended in every way, one that runs, and a confirmation with a plan, runs and a verdict."""
    folder = StudyFolder(root / "studies" / "small")
    create_study(folder, write_space(root), two_images(), CPU)
    space = folder.space()
    journal = Journal(folder.journal_path, space, writable=True)
    ends: tuple[Status, ...] = ("complete", "complete", "pruned", "failed")
    for number in range(STILL_RUNNING + 1):
        asked = journal.ask(())
        trial = folder.trial_path(asked.number)
        experiment = Experiment(settings=space.settings, parameters=asked.parameters)
        write_json(trial / "config.json", experiment_to_json(experiment, trial))
        if number < STILL_RUNNING:
            journal.report(number, 1, 0.9 - number / 10)
    for number, end in enumerate(ends):
        outcome = {"seconds": 1.0, "reason": "no weights", "val_b_score": 0.8 if end == "complete" else None}
        journal.tell(number, end, 0.9 - number / 10 if end == "complete" else None, outcome)
    write_trials(folder, journal.rows())
    record_inputs(folder, {root / "drawn": "0" * 32, root / "own.safetensors": "1" * 64})
    write_json(folder.path / "wall.json", {"version": 1, "seconds": 60.0})
    progress = {"what": "training the GAN (steps)", "done": 1, "total": 2, "seconds_left": 3.5}
    write_json(folder.trial_path(STILL_RUNNING) / "progress.json", progress)
    write_plan(Plan(test="folder", replicates=2, arms=(GAN, NONE)), folder.path / "confirm")
    run = {"version": 1, "label": "gan #1", "status": "complete", "value": 0.9, "val_b_score": 0.8, "seconds": 1.0}
    for number in range(3):
        append_jsonl(StudyFolder(folder.path / "confirm").runs_path, {**run, "number": number})
    write_verdict(folder.path, {1: "helps"})
    return folder


def network() -> Classifier:
    """Small, with random weights, and always the same."""
    return build_classifier(SMALL, 2, weights=None, seed=0)


def used_optimizer(classifier: Classifier) -> Optimizer:
    """With state, as after a step."""
    optimizer = optimizer_of(SMALL, classifier)
    sum(parameter.sum() for parameter in classifier.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    return optimizer


def make_checkpoints(folder: Path) -> None:
    """`checkpoint.pt` and `best.safetensors` of a classifier."""
    classifier = network()
    save_checkpoint(folder, classifier, used_optimizer(classifier), [EPOCH])
    save_best(folder, classifier.state_dict())


def make_gan(folder: Path) -> None:
    """`checkpoint.pt` and `generator.safetensors` of a GAN."""
    training = new_training(TINY_GAN, 2, CPU)
    save_gan(training, folder)
    save_generator(training.ema_generator, folder / "generator.safetensors")


def make_bundle(folder: Path) -> None:
    """A bundle of an untrained network."""
    folder.mkdir(parents=True)
    settings = Settings(name="small", data=DataSettings(path=folder.parent / "xrays"))
    results = np.array([[0.9, 0.1], [0.2, 0.8]])
    training = FinalTraining(
        network=network(),
        input_format=InputFormat(image_size_px=32, resolution_px=None, mean=(0.5,), std=(0.2,)),
        prepared=two_images(),
        epochs=[EPOCH],
        val_score=0.9,
        val_b_score=0.8,
        threshold=0.5,
        best_epoch=1,
        validated=Validated(labels=np.array([0, 1]), results=results, patients=("a", "b")),
    )
    counts = dict.fromkeys(("images", "patients", "kept_images", "kept_patients", "of_images", "of_patients"), 1)
    write_bundle(
        folder,
        folder,
        experiment=Experiment(settings=settings, parameters=SMALL),
        overrides=(),
        training=training,
        trained_on=TrainedOn(**counts, changes=()),
        compute=CPU,
    )


def seal(bundle: Path) -> None:
    """Make the manifest agree with the files, as somebody would who means harm."""
    manifest = bundle / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    for name in content["files"]:
        content["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content), encoding="utf-8")


def make_images() -> dict[str, bytes]:
    """One image in every format that is read, and in some that are not."""

    def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return stream.getvalue()

    levels = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8) * 4
    deep = levels.astype(np.uint16) * 200
    grey, grey16 = Image.fromarray(levels), Image.fromarray(deep)
    colour, clear, table = grey.convert("RGB"), grey.convert("RGBA"), grey.convert("P")
    turned = Image.Exif()
    turned[274] = 6
    return {
        "JPEG": encoded(grey, "JPEG", exif=turned),
        "JPEG in colour, progressive": encoded(colour, "JPEG", progressive=True),
        "JPEG CMYK": encoded(grey.convert("CMYK"), "JPEG"),
        "PNG": encoded(grey, "PNG", exif=turned),
        "PNG 16": encoded(grey16, "PNG"),
        "PNG with alpha": encoded(clear, "PNG"),
        "PNG with a palette": encoded(table, "PNG", transparency=b"\0\x80"),
        "TIFF": encoded(grey, "TIFF"),
        "TIFF 16": encoded(grey16, "TIFF"),
        "TIFF LZW": encoded(colour, "TIFF", compression="tiff_lzw"),
        "TIFF zipped": encoded(grey, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF JPEG": encoded(colour, "TIFF", compression="jpeg"),
        "TIFF of two pages": encoded(grey, "TIFF", save_all=True, append_images=[grey]),
        "DICOM": dicom(deep, PatientID="somebody", WindowCenter=9000, WindowWidth=18000),
        "DICOM in colour": dicom(np.stack([levels] * 3, axis=-1), bits=8),
        "BMP": encoded(grey, "BMP"),
    }
