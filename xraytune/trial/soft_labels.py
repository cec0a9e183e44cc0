"""`labels: donor`: an extra image is labelled with what its hospital's classifier predicts.

A generator may rank its classes correctly and still put both on one side of a classifier's
threshold. Then the class that an image was made for is a wrong label, and the probabilities that
the hospital's own classifier predicts are better ones (docs/studies/other_hospital.md).

The classifier is the whole network of the donor's folder or, without one, the head of `donor.json`
(synth/donor.py). It sees images at its own size and with its own pixel constants. Its probabilities
are an artifact, computed once for each block of images.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from xraytune.base.arrays import Float32Array
from xraytune.base.artifacts import build_once, releases
from xraytune.base.errors import ConfigError, DataError, MachineError, join_names
from xraytune.base.files import sha256_of, write_array
from xraytune.base.seeding import numpy_generator
from xraytune.data.image_set import ImageSet
from xraytune.data.prepare import RunContext, side_image_set
from xraytune.nets.backbones import find_weights
from xraytune.space.domains import Value
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.parameters import Parameters
from xraytune.space.paths import PATHS
from xraytune.space.settings import Experiment, Settings
from xraytune.space.space import Space
from xraytune.space.task_settings import CLASS_TASKS
from xraytune.stats.classification import LEAST_FIT, auroc
from xraytune.synth.donor import (
    DONOR_FILE,
    HOW_TO_DONATE,
    donor_records_sha256,
    donor_tensors,
    feature_parameters,
    feature_values,
    model_folder,
    read_donor,
)
from xraytune.synth.sources.source import subset
from xraytune.trial.network import TrialNetwork
from xraytune.trial.saved_model import Bundle, open_bundle

_STAGE = "soft-labels-1"
_BATCH = 64
_FIT_IMAGES = 200


def label_images(images: ImageSet, experiment: Experiment, context: RunContext) -> Float32Array:
    """Return the probabilities of classes or findings that a donor's classifier predicts, [n, C].

    Classes that the study lacks are left out. The errors are those of `require_labeller`.
    """
    folder = experiment.parameters.donor
    assert folder is not None, "a rule requires a donor"
    compute = context.compute
    inputs = {
        "images": images.inputs,
        "donor": donor_records_sha256(folder),
        "outputs": list(context.prepared.outputs),
        "compute": asdict(compute),
        "releases": releases("torch", "torchvision"),
    }

    def build(work: Path) -> None:
        model = model_folder(folder)
        predict = _predict_by_model if model else _predict_by_head
        write_array(work / "labels.npy", predict(model or folder, images, experiment, context))

    path = build_once(context.cache, _STAGE, inputs, build)
    return np.asarray(np.load(path / "labels.npy"))


def donor_mixes(space: Space) -> list[Parameters]:
    """Return a space's possible mixes with a donor, with the networks of its classifiers."""
    names = ("source", "labels", *feature_parameters(space), *PATHS)
    return [mix for mix in space.extreme_parameters(*names) if mix.donor]


def misfit_warnings(
    mixes: Iterable[Parameters], settings: Settings, context: RunContext
) -> Iterator[str]:
    """Yield a warning about each donor whose classifier is at chance on the training images.

    Nothing is trained, and about 200 images are read, of each class as many as of others. There is
    no warning about a donor that sent no classifier for the study's classes or findings, where too
    few images tell, or about masks.
    """
    if settings.task == "segmentation":
        return
    prepared = context.prepared
    train = side_image_set("train", prepared, context.cache)
    order = numpy_generator(settings.seed, "donor's fit").permutation(len(train.rows))
    classes = range(len(prepared.class_names))
    count = math.ceil(_FIT_IMAGES / len(classes))
    in_order = train.labels[order]
    chosen = np.concatenate([order[in_order == label][:count] for label in classes])
    images = subset(train, chosen)
    donors = {mix.donor: mix for mix in mixes if mix.donor}
    for donor, mix in donors.items():
        try:
            labels = label_images(images, Experiment(settings=settings, parameters=mix), context)
            results = labels.astype(np.float64)
            fit = auroc(images.targets, results, positive=prepared.positive)
        except DataError:
            continue
        if fit < LEAST_FIT:
            yield (
                f"{donor.name}: its classifier has AUROC {fit:.2f} on your training "
                "patients, which is chance: what this hospital sent does not fit your patients, "
                "and may do harm"
            )


def require_labeller(parameters: Parameters, settings: Settings, outputs: tuple[str, ...]) -> None:
    """Check that a donor's classifier can label extra images with the study's classes or findings.

    Raises:
        ArtifactError: A file of the donor is damaged.
        DataError: There is no classifier, or it predicts other classes, or the weights of its
            backbone are not here.
    """
    folder = parameters.donor
    assert folder is not None, "a rule requires a donor"
    if model := model_folder(folder):
        _columns(open_bundle(model), settings, outputs)
    elif not (folder / DONOR_FILE).is_file():
        raise DataError(
            f"labels: donor, but there is no classifier here: neither {DONOR_FILE} nor a model",
            folder,
            "ask the hospital for a model of `xraytune train`, as model/, or write labels: class",
        )
    else:
        _head_of(folder, settings, parameters, outputs)


def donor_start(parameters: Parameters, settings: Settings, outputs: tuple[str, ...]) -> Parameters:
    """Return the parameters of a training without extra images that starts at a donor's classifier.

    If the study's backbone is frozen, or the donor sent no whole network, training starts at the
    head of `donor.json`. Otherwise, or if this head does not fit, it starts at the donor's whole
    network.

    Raises:
        ArtifactError: A file of the donor is damaged.
        DataError: There is no classifier for the study's network, or it predicts other classes.
    """
    folder = parameters.donor
    assert folder is not None, "the images are of a donor"
    values = flat_values(parameters) | {"source": "none"}
    model = model_folder(folder)
    if parameters.trainable == "head" or model is None:
        start = parameters_from(values | {"head": "linear", "loss": "cross_entropy"})
        try:
            donor_tensors(folder, outputs, start, settings)
        except DataError:
            if model is None:
                raise
        else:
            return start
    bundle = open_bundle(model)
    if _columns(bundle, settings, outputs) != [*range(len(bundle.record.class_names))]:
        raise DataError(
            f"this model has an output for each of {join_names(bundle.record.class_names)}",
            model,
            f"give one for exactly {join_names(outputs)}, in this order",
        )
    network = bundle.network_values
    network |= {"weights": "none", "trainable": "all", "pixel_mean": None, "pixel_std": None}
    # The images have the size of the finalist's, which may be due to the finalist's weights.
    network["input_size"] = parameters.size_px(settings.data)
    of_backbone = f"{parameters.backbone}."
    others = {name: value for name, value in values.items() if not name.startswith(of_backbone)}
    return parameters_from(others | network)


def _predict_by_model(
    folder: Path, images: ImageSet, experiment: Experiment, context: RunContext
) -> Float32Array:
    bundle = open_bundle(folder)
    columns = _columns(bundle, experiment.settings, context.prepared.outputs)
    run = bundle.predictor(context.compute).run
    starts = range(0, len(images.rows), _BATCH)
    batches = [run(images.read(slice(start, start + _BATCH))) for start in starts]
    probabilities = np.concatenate(batches)[:, columns]
    if experiment.settings.task in CLASS_TASKS:
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32)


def _columns(bundle: Bundle, settings: Settings, outputs: tuple[str, ...]) -> list[int]:
    """Return the index of the network's output for each of the study's classes or findings."""
    record = bundle.record
    unknown = [name for name in outputs if name not in record.class_names]
    if record.task != settings.task or unknown:
        raise DataError(
            f"this model is for {record.task} of {join_names(record.class_names)}",
            bundle.path,
            f"give one for {settings.task} of {join_names(outputs)}",
        )
    return [record.class_names.index(name) for name in outputs]


def _predict_by_head(
    folder: Path, images: ImageSet, experiment: Experiment, context: RunContext
) -> Float32Array:
    outputs = context.prepared.outputs
    classifier = _head_of(folder, experiment.settings, experiment.parameters, outputs)
    tensors = donor_tensors(folder, outputs, classifier.parameters, classifier.settings)
    features = torch.from_numpy(TrialNetwork(classifier, context).plain_features(images))
    logits = features.double() @ tensors["weight"].double().T + tensors["bias"].double()
    return np.asarray(logits.softmax(dim=1).float().numpy())


def _head_of(
    folder: Path, settings: Settings, parameters: Parameters, outputs: tuple[str, ...]
) -> Experiment:
    """Return an experiment with the frozen backbone that a donor's head was trained on."""
    network = read_donor(folder).network
    settings = settings.with_values({"task": "classification", "data.resize": network["resize"]})
    name = str(network["backbone"]).partition(" of ")[0]  # the rest is where its code is from
    weights = [file for file in (parameters.weights, "imagenet") if file != "none"]
    candidates: list[dict[str, Value]] = [{"backbone": name, "weights": file} for file in weights]
    if parameters.backbone == name and parameters.weights != "none":
        candidates.insert(0, feature_values(parameters))
    for values in candidates:
        values |= {
            "input_channels": network["input_channels"],
            "input_size": network["image_size"],
            "trainable": "head",
        }
        try:
            frozen = parameters_from(values)
        except ValidationError:  # code of the other hospital
            continue
        if _weights_hash(frozen, settings) == network["weights"]:
            donor_tensors(folder, outputs, frozen, settings)
            return Experiment(settings=settings, parameters=frozen)
    raise DataError(
        f"the classifier here needs {network['backbone']} with weights of SHA-256 "
        f"{str(network['weights'])[:8]}..., but neither the trial's weights nor the official ones "
        "here are these",
        folder,
        HOW_TO_DONATE,
    )


def _weights_hash(parameters: Parameters, settings: Settings) -> str | None:
    """Return the SHA-256 of a backbone's weights, or None if the weights are not here."""
    try:
        file = find_weights(parameters.backbone, parameters.weights, settings.weights_dir)
    except (ConfigError, MachineError):
        return None
    return sha256_of(file) if file else None
