"""What another hospital sends: a head on a frozen backbone, and statistics of features."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.in_process import save_backbone
from tests.pair_files import draw_xrays
from tests.trial.conftest import DONORS_SPACE
from xraytune.base.errors import ArtifactError, ConfigError, DataError
from xraytune.data.prepare import RunContext, prepare, side_image_set
from xraytune.model.generator_folder import generator_train
from xraytune.nets.compute import choose_compute
from xraytune.space.load import load_space
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment
from xraytune.stats.classification import auroc
from xraytune.synth.donor import donor_tensors, read_donor
from xraytune.synth.saved_generator import GENERATOR_FILE
from xraytune.trial.donate import find_donor_experiment
from xraytune.trial.network import TrialNetwork
from xraytune.trial.run import run_trial
from xraytune.trial.training_set import build_training_set


@pytest.fixture(scope="module")
def hospital(module_path: Path) -> Path:
    """A folder with a space, its images, and what it sends."""
    draw_xrays(module_path, patients=80, seed=3)
    save_backbone(module_path / "net.safetensors")
    (module_path / "space.yaml").write_text(DONORS_SPACE)
    sent = generator_train(
        module_path / "space.yaml", out=module_path / "sent", cache=module_path / "cache"
    )
    assert sent.donor is not None
    return module_path


def trained_on(hospital: Path) -> tuple[Experiment, RunContext]:
    settings = load_space(hospital / "space.yaml", ["source=none"]).settings
    network = {"backbone": "small_cnn", "weights": str(hospital / "net.safetensors")}
    parameters = Parameters.model_validate({**network, "trainable": "head"})
    prepared, _ = prepare(settings, hospital / "cache")
    compute = choose_compute(gpus=0, threads=1)  # as `generator train` has it
    context = RunContext(prepared=prepared, cache=hospital / "cache", compute=compute)
    return Experiment(settings=settings, parameters=parameters), context


def test_the_head_that_is_sent_is_linear_whatever_head_the_trials_have() -> None:
    """Its weights are those of the features, which another hospital computes."""
    space = load_space("vgg16_two_class")

    experiment = find_donor_experiment(space)

    assert {trial.head for trial in space.extreme_parameters("head")} == {"vgg16_two_class"}
    assert experiment is not None
    assert (experiment.parameters.head, experiment.parameters.batch_size) == ("linear", 32)


def test_a_head_and_the_statistics_of_its_features_are_sent(hospital: Path) -> None:
    """The head scores as its record says; the means are those of the classes, in their order."""
    experiment, context = trained_on(hospital)
    sent = read_donor(hospital / "sent")

    tensors = donor_tensors(
        hospital / "sent", ("PNEUMONIA", "NORMAL"), experiment.parameters, experiment.settings
    )

    network = TrialNetwork(experiment, context)
    train = side_image_set("train", context.prepared, context.cache)
    val_a = side_image_set("val_a", context.prepared, context.cache)
    scores = network.plain_features(val_a) @ tensors["weight"].numpy().T + tensors["bias"].numpy()
    probabilities = torch.from_numpy(scores[:, ::-1].copy()).softmax(dim=1).numpy()
    assert auroc(val_a.labels, probabilities, positive=1) == pytest.approx(sent.val_auroc, abs=1e-3)
    assert sent.val_auroc > 0.6
    of_pneumonia = network.plain_features(train)[train.labels == 1]
    np.testing.assert_allclose(tensors["means"][0], of_pneumonia.mean(axis=0), rtol=1e-4)
    covariance = tensors["covariances"][0].numpy()
    assert np.linalg.eigvalsh(covariance).min() > -1e-6
    np.testing.assert_allclose(np.trace(covariance), of_pneumonia.var(axis=0).sum(), rtol=1e-3)
    assert sent.patients == context.prepared.train_patient_count


def test_without_a_generator_nothing_of_it_is_sent(hospital: Path, tmp_path: Path) -> None:
    """Nor the images beside it; the card names each file that is sent."""
    generator_train(
        hospital / "space.yaml",
        out=tmp_path / "sent",
        cache=hospital / "cache",
        without_generator=True,
    )

    names = {file.name for file in (tmp_path / "sent").iterdir()}
    assert names == {"donor.json", "donor.safetensors", "card.md"}
    card = (hospital / "sent/card.md").read_text()
    assert all(name in card for name in ("donor.safetensors", GENERATOR_FILE, "samples.png"))
    with pytest.raises(ConfigError, match="no frozen, pretrained backbone"):
        generator_train(
            hospital / "space.yaml",
            out=tmp_path / "none",
            overrides=["trainable=all"],
            without_generator=True,
        )


@pytest.mark.parametrize("augmentation", ["none", "flip"])
def test_statistics_are_a_source_of_features(
    hospital: Path, tmp_path: Path, augmentation: str
) -> None:
    """Of each class; a smaller ratio has the first of them. Another seed draws others."""
    experiment, context = trained_on(hospital)
    drawn = []
    for ratio, seed in ((4.0, 0), (8.0, 0), (4.0, 1)):
        mix = {"source": "statistics", "statistics": {"path": hospital / "sent"}}
        values = {**experiment.parameters.model_dump(exclude={"folder", "gan", "generator"}), **mix}
        values |= {"synthetic_ratio": ratio, "synthetic_weight": 0.5, "augmentation": augmentation}
        settings = experiment.settings.model_copy(update={"seed": seed})
        trial = Experiment(settings=settings, parameters=Parameters.model_validate(values))
        chosen = build_training_set(trial, context)
        assert len(chosen.extra) == ratio * len(chosen.real)
        drawn.append(np.asarray(chosen.image_sets[1].features))
    result = run_trial(trial, context, trial_dir=tmp_path)

    first, again, other = drawn
    assert result.value > 0.6
    assert (first == again).all()
    assert (first != other).any()
    sent = donor_tensors(
        hospital / "sent", ("NORMAL", "PNEUMONIA"), experiment.parameters, experiment.settings
    )
    error = np.sqrt(np.diag(sent["covariances"][0]) / len(first))
    assert (np.abs(first.mean(axis=0) - sent["means"][0].numpy()) < 5 * error + 1e-6).all()


def test_what_was_sent_for_another_network_is_refused(hospital: Path, tmp_path: Path) -> None:
    experiment, _ = trained_on(hospital)
    parameters = experiment.parameters
    settings = experiment.settings
    data = settings.data.model_copy(update={"image_size": 64})
    names = ("NORMAL", "PNEUMONIA")

    for given, message in (
        ((names, parameters, settings.model_copy(update={"data": data})), "image_size 32, not 64"),
        (
            (names, parameters.model_copy(update={"trainable": "all"}), settings),
            "trainable head, not all",
        ),
        ((("NORMAL", "TB"), parameters, settings), "other classes than TB"),
    ):
        with pytest.raises(DataError, match=message):
            donor_tensors(hospital / "sent", *given)
    # A DataError is no obstacle for `confirm`, which then says that this control is missing.
    with pytest.raises(DataError, match=r"there is no donor\.json here"):
        donor_tensors(tmp_path, names, parameters, settings)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "donor.json").write_bytes((hospital / "sent/donor.json").read_bytes())
    with pytest.raises(ArtifactError, match="missing or damaged"):
        read_donor(copy)
