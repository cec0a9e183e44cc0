"""`labels: donor`: extra images have the probabilities of the classifier that came with them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.in_process import CPU, one_core, one_thread, save_backbone
from tests.trial.conftest import DONORS_SPACE, Bench, batch_of
from xraytune.base.errors import DataError, StudyError
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import RunContext, prepare, side_image_set
from xraytune.model.generator_folder import generator_train
from xraytune.model.train import train
from xraytune.space.fields import parameters_from
from xraytune.space.load import load_space
from xraytune.space.settings import Experiment
from xraytune.study.folder import StudyFolder
from xraytune.study.start import read_inputs, require_same_inputs, write_inputs
from xraytune.synth.sources.registry import seen_by
from xraytune.trial.donate import find_donor_experiment
from xraytune.trial.preflight import prepare_space
from xraytune.trial.run import run_trial
from xraytune.trial.saved_model import open_bundle
from xraytune.trial.soft_labels import (
    donor_start,
    label_images,
    misfit_warnings,
    require_labeller,
)
from xraytune.trial.training import TrialTraining

SPACE = DONORS_SPACE + "quality: {allow_memorised: true}\n"


@pytest.fixture(scope="module")
def root(module_path: Path) -> Path:
    """A study's images, those of hospital A and the same in swapped class folders, what A sends."""
    save_backbone(module_path / "net.safetensors")
    (module_path / "space.yaml").write_text(SPACE)
    for name, patients, seed in (("xrays", 60, 3), ("of_a", 200, 4)):
        paint_phantoms(module_path / name, patients=patients, seed=seed, image_size_px=32)
    for file in [*(module_path / "of_a").rglob("*.*")]:
        file.rename(file.with_name(f"of_a_{file.name}"))
    for name, other in (("NORMAL", "PNEUMONIA"), ("PNEUMONIA", "NORMAL")):
        shutil.copytree(module_path / "of_a/train" / name, module_path / "swapped" / other)
    with one_thread():
        generator_train(
            module_path / "space.yaml",
            out=module_path / "sent",
            data=module_path / "of_a",
            cache=module_path / "cache",
        )
        train(
            module_path / "space.yaml",
            out=module_path / "model",
            data=module_path / "of_a",
            cache=module_path / "cache",
            overrides=["source=none", "trainable=all", "weights=none", "lr=0.01"],
        )
    return module_path


def study(
    root: Path, donor: str, labels: str = "donor", **values: Any
) -> tuple[Experiment, RunContext]:
    """A trial on the swapped folders, which come with what the donor sent."""
    settings = load_space(root / "space.yaml", ["source=none"]).settings
    parameters = parameters_from(
        {
            "backbone": "small_cnn",
            "weights": str(root / "net.safetensors"),
            "trainable": "head",
            "batch_size": 4,
            "lr": 0.01,
            "source": "folder",
            "folder.path": str(root / "swapped"),
            "folder.donor": str(root / donor),
            "labels": labels,
            "synthetic_ratio": 2.0,
            **values,
        }
    )
    prepared, _ = prepare(settings, root / "cache", seen_sha256=seen_by([parameters]))
    context = RunContext(prepared=prepared, cache=root / "cache", compute=CPU)
    return Experiment(settings=settings, parameters=parameters), context


@pytest.mark.parametrize("donor", ["sent", "model"])
def test_an_extra_image_has_the_probabilities_of_the_donors_classifier(
    root: Path, donor: str
) -> None:
    """A real one has its class, and the loss is the cross-entropy of both."""
    experiment, context = study(root, donor)
    training = TrialTraining(experiment, context)
    extra = training.images.image_sets[1]
    expected = label_images(extra, experiment, context)
    inputs, targets = batch_of(training.batches, 0)
    outputs = training.trained(inputs).float()

    assert targets.shape == (12, 2)
    np.testing.assert_allclose(targets.sum(dim=1), 1, rtol=1e-6)
    numbers, _ = training.batches.images_of_step(0)
    real = side_image_set("train", context.prepared, context.cache)
    assert (targets[:4].argmax(dim=1).numpy() == real.labels[numbers[:4]]).all()
    assert ((targets[:4] == 0) | (targets[:4] == 1)).all()
    places = numbers[4:] - len(real.labels)
    assert (targets[4:].numpy() == expected[places]).all()
    assert training.loss(outputs, targets) == cross_entropy(outputs, targets)
    # All images are in the folder of the other class, and the classifier knows most of them.
    assert ((expected.argmax(axis=1) != extra.labels).mean()) > 0.6


@pytest.mark.parametrize("donor", ["sent", "model"])
def test_a_donor_whose_classifier_is_at_chance_on_the_training_patients_is_named(
    root: Path, donor: str
) -> None:
    """With swapped classes, its classifier is wrong; one without a classifier says nothing."""
    experiment, context = study(root, donor)
    of_swapped = load_space(root / "space.yaml", ["source=none"], data=root / "swapped").settings
    swapped, _ = prepare(of_swapped, root / "cache")
    swapped_context = RunContext(prepared=swapped, cache=root / "cache", compute=CPU)
    mixes = [experiment.parameters, experiment.parameters]

    assert [*misfit_warnings(mixes, experiment.settings, context)] == []
    (warning,) = misfit_warnings(mixes, of_swapped, swapped_context)
    assert warning.startswith(f"{donor}: its classifier has AUROC 0.")
    assert "does not fit" in warning
    other_objective = of_swapped.with_values({"objective.metric": "val_sensitivity"})
    assert [*misfit_warnings(mixes, other_objective, swapped_context)] == [warning]
    images = experiment.parameters.with_values({"folder.donor": root / "swapped"})
    assert [*misfit_warnings([images], of_swapped, swapped_context)] == []


def test_a_model_labels_images_as_it_predicts_them(root: Path) -> None:
    experiment, context = study(root, "model")
    extra = TrialTraining(experiment, context).images.image_sets[1]
    labels = label_images(extra, experiment, context)
    predicted = open_bundle(root / "model").predictor(CPU).run(extra.read())

    np.testing.assert_allclose(labels, predicted, atol=1e-6)


def test_labels_of_the_donor_mend_wrong_classes(root: Path, tmp_path: Path) -> None:
    """On val-A: val-B has so few patients here that wrong classes may rank them well by chance."""
    scores = {}
    for labels in ("class", "donor"):
        experiment, context = study(root, "model", labels, trainable="all")
        folder = tmp_path / labels
        folder.mkdir()
        scores[labels] = run_trial(experiment, context, trial_dir=folder).value

    assert scores["donor"] > 0.85
    assert scores["donor"] > scores["class"] + 0.1


def test_patients_of_the_donors_classifier_are_on_no_other_side(root: Path) -> None:
    experiment, _ = study(root, "model")
    of_a = open_bundle(root / "model").prepared()
    assert {image.sha256 for image in of_a.images} <= seen_by([experiment.parameters])


def test_a_folder_without_a_classifier_of_these_classes_is_refused(
    root: Path, tmp_path: Path
) -> None:
    experiment, _ = study(root, "model")
    outputs = ("NORMAL", "TB")
    with pytest.raises(DataError, match="classification of NORMAL, PNEUMONIA"):
        require_labeller(experiment.parameters, experiment.settings, outputs)
    messages = {tmp_path: "there is no classifier here", root / "sent": "other classes"}
    for donor, message in messages.items():
        other, _ = study(root, str(donor))
        with pytest.raises(DataError, match=message):
            require_labeller(other.parameters, other.settings, outputs)


def test_a_head_on_weights_that_are_not_here_is_refused(root: Path) -> None:
    experiment, _ = study(root, "sent", weights="none", trainable="all")

    with pytest.raises(DataError, match="needs small_cnn with weights of SHA"):
        require_labeller(experiment.parameters, experiment.settings, ("NORMAL", "PNEUMONIA"))


@pytest.mark.parametrize("control", ["donor", "donor_start"])
def test_a_donors_whole_network_is_a_control(root: Path, tmp_path: Path, control: Any) -> None:
    """Untrained, it predicts what the model predicts; training it further changes that."""
    finalist, context = study(root, "model", trainable="all")
    start = donor_start(finalist.parameters, finalist.settings, ("NORMAL", "PNEUMONIA"))
    experiment = Experiment(
        settings=finalist.settings,
        parameters=start,
        control=control,
        donor=finalist.parameters.donor,
    )
    training = TrialTraining(experiment, context)
    predicted = open_bundle(root / "model").predictor(CPU).run(training.val_b.read())
    at_first = training.results(training.val_b)
    for _ in training.epochs(tmp_path):
        pass
    in_the_end = training.results(training.val_b)

    assert (start.source, start.weights, start.trainable) == ("none", "none", "all")
    np.testing.assert_allclose(at_first, predicted, atol=1e-5)
    assert (np.allclose(in_the_end, predicted, atol=1e-5)) == (control == "donor")


def test_what_a_space_sends_fits_the_same_space(root: Path, tmp_path: Path) -> None:
    """With the pixel constants of its weights, and whatever the search maximises."""
    file = tmp_path / "space.yaml"
    weights = root / "net.safetensors"
    text = SPACE.replace("net.safetensors", str(weights)) + "objective: {metric: val_auprc}\n"
    file.write_text(text)
    options = ["pixel_mean=0.4", "pixel_std=0.2"]
    with one_thread():
        generator_train(
            file,
            overrides=options,
            out=tmp_path / "sent",
            data=root / "of_a",
            cache=root / "cache",
        )
    of_sent = ["source=generator", f"generator.path={tmp_path / 'sent'}", "labels=donor"]
    space = load_space(file, [*options, *of_sent], data=root / "xrays")
    experiment = space.experiment()
    names = ("NORMAL", "PNEUMONIA")

    prepare_space(space, tmp_path / "cache")
    start = donor_start(experiment.parameters, experiment.settings, names)
    assert (start.trainable, start.pixel_mean) == ("head", 0.4)
    space = load_space(file, options, data=root / "xrays")
    sent = find_donor_experiment(space)
    assert sent
    assert sent.settings.objective.metric == "val_auroc", "the record is of AUROC"


def test_a_generator_and_the_statistics_of_one_folder_are_inputs_of_their_own(
    root: Path, tmp_path: Path
) -> None:
    experiment, context = study(root, "sent")
    sent = str(root / "sent")

    def read(*names: str) -> dict[tuple[str, Path], str]:
        inputs = {(name, sent) for name in names}
        return read_inputs(inputs, experiment.settings, context.prepared, root / "cache")

    write_inputs(tmp_path, tmp_path, read("generator.path", "statistics.path"))

    for name in ("generator.path", "statistics.path"):
        require_same_inputs(StudyFolder(tmp_path), read(name))
        changed = {key: f"{content} changed" for key, content in read(name).items()}
        with pytest.raises(StudyError, match="sent: this input changed"):
            require_same_inputs(StudyFolder(tmp_path), changed)


def test_a_start_is_of_the_network_that_is_frozen_or_else_a_whole_one(root: Path) -> None:
    frozen, _ = study(root, "sent")
    names = ("NORMAL", "PNEUMONIA")
    assert donor_start(frozen.parameters, frozen.settings, names).trainable == "head"
    whole = frozen.parameters.model_copy(update={"trainable": "all"})
    with pytest.raises(DataError, match="trainable head, not all"):
        donor_start(whole, frozen.settings, names)


def test_findings_are_labelled_with_the_probability_of_each(
    findings_bench: Bench, tmp_path: Path
) -> None:
    root = findings_bench.cache.parent
    data = root / "xrays/data.yaml"
    with one_core():
        train(
            root / "space.yaml",
            out=tmp_path / "model",
            data=data,
            overrides=["budget.max_epochs=1"],
            cache=findings_bench.cache,
        )
    folder = {"path": data, "donor": tmp_path / "model"}
    labelled = findings_bench.experiment(source="folder", labels="donor", folder=folder)
    images = side_image_set("val_b", findings_bench.prepared, findings_bench.cache)

    labels = label_images(images, labelled, findings_bench.context)
    training = TrialTraining(findings_bench.experiment(labels="donor"), findings_bench.context)
    loss = training.loss(torch.zeros(labels.shape), torch.from_numpy(labels))

    predicted = open_bundle(tmp_path / "model").predictor(CPU).run(images.read())
    np.testing.assert_allclose(labels, predicted, atol=1e-6)
    assert float(loss) == pytest.approx(np.log(2), abs=1e-6)
