"""Whole confirmations of every kind of test, with arms of every role."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.confirm.labs import Lab, draw_hospital, sides_of
from tests.in_process import CPU, TINY_GAN, confirm_in_process, save_backbone
from tests.pair_files import draw_xrays
from xraytune.base.errors import DataError, StudyError
from xraytune.confirm.arms import TestKind
from xraytune.confirm.record import paragraph
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import RunContext
from xraytune.model.generator_folder import generator_sample, generator_train
from xraytune.study.folder import StudyFolder
from xraytune.trial.training_set import build_training_set

SPACE = """\
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.15, val_b: 0.15}}
parameters:
  source: {values: [none, duplicate, folder, generator, gan]}
  gan: {when: {source: gan},
         parameters: {image_size: {value: 32}, width: {value: 4}, steps: {value: 2}}}
  generator: {when: {source: generator}, parameters: {path: {value: hospital}}}
  folder: {when: {source: folder}, parameters: {path: {value: sampled}}}
  synthetic_ratio: {values: [0.5, 1.0], when: {source: [duplicate, folder, generator, gan]}}
  augmentation: {values: [none, flip]}
  backbone: {value: small_cnn}
  weights: {value: net.safetensors}
  trainable: {value: head}
  batch_size: {value: 8}
budget: {trials: 6, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
quality: {allow_memorised: true}
confirm: {finalists: 3, replicates: 2}
points_to_evaluate:
  - {source: none, augmentation: none}
  - {source: none, augmentation: flip}
  - {source: duplicate, synthetic_ratio: 0.5, augmentation: none}
  - {source: folder, synthetic_ratio: 0.5, augmentation: none}
  - {source: generator, synthetic_ratio: 0.5, augmentation: none}
  - {source: gan, synthetic_ratio: 0.5, augmentation: none}
"""


@pytest.fixture(scope="module")
def clinic(module_path: Path) -> Path:
    """X-rays, those of another hospital as a generator, and images of that."""
    draw_xrays(module_path, patients=220, seed=4)
    paint_phantoms(module_path / "others", patients=150, seed=5, image_size_px=32)
    save_backbone(module_path / "net.safetensors")
    (module_path / "space.yaml").write_text(SPACE)
    generator_train(
        module_path / "space.yaml",
        out=module_path / "hospital",
        data=module_path / "others",
        overrides=TINY_GAN,
        cache=module_path / "cache",
    )
    generator_sample(module_path / "hospital", out=module_path / "sampled", count=200)
    return module_path


@pytest.mark.parametrize(
    ("kind", "patients", "test"),
    [("outside", "16", "unused"), ("draws", "42", "folder"), ("folder", "null", "auto")],
)
def test_every_arm_is_trained_on_its_own_patients_and_judged(
    clinic: Path, tmp_path: Path, kind: TestKind, patients: str, test: str
) -> None:
    """With `draws` of 42 patients, nearly all of 128 are on a draw."""
    root = shutil.copytree(clinic, tmp_path / "clinic")
    hospital = draw_hospital(root / "hospital_b", seed=11)
    known = draw_hospital(root / "others_b", seed=5)  # images that the generator has seen
    lab = Lab(root).search(f"data.train_patients={patients}", f"confirm.test={test}")

    with confirm_in_process():
        result = lab.confirm()
        with pytest.raises(StudyError, match="has 3 finalists, and 2 were asked for"):
            lab.confirm(finalists=2)
        assert lab.confirm(finalists=7) == result, "the search has no more"
        there = lab.confirm(hospital)
        with pytest.raises(DataError, match="used for training or validation"):
            lab.confirm(known)
        own_test = root / "xrays/test"
        if kind == "outside":  # its test folder was not scored
            assert len(lab.confirm(own_test).hospitals) == 2
        else:
            with pytest.raises(DataError, match="copies of images in"):
                lab.confirm(own_test)
    assert replace(there, hospitals=()) == result
    ((name, finalist_there),) = [(each.name, each.finalist) for each in there.hospitals]
    compared = [comparison.control for comparison in finalist_there.comparisons]
    assert name == "hospital_b"
    assert "GAN of principal components (32 px, trained for 2 steps)" in result.to_json()["methods"]
    assert compared == [comparison.control for comparison in result.finalists[0].comparisons]

    plan = lab.plan
    unknown = "it is not known which images the weights were trained on: net.safetensors"
    of_folder = (
        "the verdict on folder #3 is on the images in sampled/, and not on others of the same "
        "generator"
    )
    assert (plan.test, result.test.kind, result.notes) == (kind, kind, (unknown, of_folder))
    has_draws = kind != "folder"
    assert Counter(arm.role for arm in plan.arms) == {
        "finalist": 3,
        "matched": 6,
        "tuned": 3,
        "donor": 3,
        **({"perfect": 3} if has_draws else {}),
    }
    for finalist in result.finalists:
        by_kind = {comparison.kind: comparison for comparison in finalist.comparisons}
        theirs = {"generator": {"donor", "donor_start"}, "folder": {"synthetic_only"}}
        source = finalist.arm.partition(" ")[0]
        assert by_kind.keys() == {"none", "duplicate", "tuned"} | theirs.get(source, set())
        assert (finalist.headroom is not None) == has_draws
        answer = paragraph(
            "answer", replace(result, finalists=(replace(finalist, verdict="undecided"),))
        )
        if source == "generator":
            assert by_kind["donor"].control == "classifier of hospital"
            assert by_kind["donor"].control_score != by_kind["donor_start"].control_score
            assert len(finalist.donor_scores) == 3
            assert f"{next(iter(finalist.donor_scores))} was worth most" in answer

    folder = StudyFolder(lab.folder)
    networks = [*(folder.path / "trials").glob("*/checkpoint/best.safetensors")]
    same = len({file.read_bytes() for file in networks})
    assert same == len(networks) - 1, "the donor's classifier is the same in each replicate"
    everyone = lab.confirmed
    patients_of = sides_of(everyone)
    patients_of |= {f"draw_{number}": {*draw} for number, draw in enumerate(everyone.draws)}
    patient_of_row = {image.row: image.patient for image in everyone.images}
    for arm in plan.arms:
        for replicate, number in enumerate(plan.run_numbers(arm)):
            experiment = folder.experiment(number)
            draw = replicate if has_draws else None
            own = f"draw_{replicate}" if has_draws else "train"
            assert experiment.draw == draw
            context = RunContext(prepared=everyone.of_draw(draw), cache=lab.cache, compute=CPU)
            images = build_training_set(experiment, context)
            real = {patient_of_row[row] for row in images.image_sets[0].rows.tolist()}
            assert real == patients_of[own]
            if arm.role == "perfect":
                matched = [other.parameters for other in plan.arms if other.role == "matched"]
                assert arm.parameters in matched, "it is trained like the duplicates"
                others = {patient_of_row[row] for row in images.image_sets[1].rows.tolist()}
                used = images.image_sets[1].rows[images.extra - len(images.real)].tolist()
                assert len({*used}) == len(images.extra), "no image twice"
                lenders = [patients_of["train"]]
                if kind == "draws":
                    lenders += [patients_of[f"draw_{1 - replicate}"], patients_of["others"]]
                assert others <= set().union(*lenders)
                assert all(others & patients for patients in lenders[:2])
