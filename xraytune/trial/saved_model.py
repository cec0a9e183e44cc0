"""A model bundle: a folder with everything needed to use a trained network, and to reproduce it.

    bundle.json         outputs, input format, threshold, validation metrics, origin, versions of
                        packages
    config.yaml         the experiment, for `xraytune train`
    split.json          which image was on which side of the split
    epochs.jsonl        metrics of each epoch
    model.safetensors   the whole network, including pretrained layers; with `--members 3`, the
                        others are in model_2.safetensors and model_3.safetensors
    manifest.json       SHA-256 of these files
    README.md           the model card, from `templates/card.md`

No file contains a time or duration, so two trainings of one experiment write the same bytes.
"""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from xraytune.base.arrays import AnyArray, UInt8Array
from xraytune.base.cores import cpu_count
from xraytune.base.errors import ArtifactError, Problem
from xraytune.base.files import read_json, sha256_of
from xraytune.base.records import Compute, frozen
from xraytune.base.tensors import load_tensors
from xraytune.data.prepare import SplitData, read_prepared
from xraytune.nets.backbones import fold_batch_norms
from xraytune.nets.compute import compute_like, configure_torch
from xraytune.nets.inputs import normalise, to_unit
from xraytune.space.domains import Value
from xraytune.space.encoders import MODEL_FILE, RECORD_FILE
from xraytune.space.fields import parameters_from
from xraytune.space.load import load_space
from xraytune.space.paths import absolute_path
from xraytune.space.recorded import declare_recorded, require_same_code
from xraytune.space.settings import Experiment
from xraytune.synth.donor import MANIFEST_FILE, SPLIT_FILE
from xraytune.tasks import TASKS
from xraytune.tasks.bundle_record import BundleRecord, read_record
from xraytune.tasks.ensemble import average_networks
from xraytune.tasks.prediction import Predictor

CONFIG_FILE = "config.yaml"
EPOCHS_FILE = "epochs.jsonl"
NETWORK_PARAMETERS = {"backbone", "input_channels", "head", "loss"}
"""The parameters that a network is built from."""
_FIX = "train the model again, or copy the whole folder again"


@frozen
class Bundle:
    """A bundle whose checksums match."""

    path: Path
    record: BundleRecord

    @property
    def network_values(self) -> dict[str, Value]:
        """The parameters that the network was built from, by dotted name."""
        record = self.record
        values: dict[str, Value] = record.model_dump(include=NETWORK_PARAMETERS)
        settings = record.backbone_settings
        return values | {f"{record.backbone}.{name}": settings[name] for name in settings}

    @property
    def study(self) -> Path | None:
        """The path of the study, if the study has not been moved since.

        It is None if the configuration was not exported from a study.
        """
        study = self.record.study
        return None if study is None else Path(absolute_path(study, self.path))

    def experiment(self) -> Experiment:
        """Return the experiment that was trained."""
        return load_space(self.path / CONFIG_FILE).experiment()

    def prepared(self) -> SplitData:
        """Return the images of the training and validation sides."""
        return read_prepared(self.path / SPLIT_FILE)

    def network(self, compute: Compute) -> nn.Module:
        """Return the trained network, on the device and in evaluation mode.

        If the bundle has several networks, the returned network averages them. The code of its
        backbone, if that is an extension, has to be given before.
        """
        record = self.record
        task = TASKS[record.task]
        require_same_code(self.path, [record.backbone])
        parameters = parameters_from({**self.network_values, "weights": "none"})
        networks = []
        for name in model_files(record.members):
            network = task.build_network(parameters, len(record.class_names), weights=None, seed=0)
            load_tensors(network, safetensors.torch.load_file(self.path / name))
            networks.append(network)
        return average_networks(task, networks).to(compute.device).eval().requires_grad_(False)

    def predictor(self, compute: Compute | None = None) -> Predictor:
        """Return a predictor that computes with `compute` or, by default, as the training did.

        By default, this process is also pinned to the training's compute settings.
        """
        if compute is None:
            compute = compute_like(self.record.compute, threads=cpu_count())
            configure_torch(compute)
        network = fold_batch_norms(self.network(compute))
        input_format = self.record.input_format
        task = TASKS[self.record.task]

        def run(pixels: UInt8Array) -> AnyArray:
            inputs = normalise(
                to_unit(torch.from_numpy(pixels).to(compute.device), input_format), input_format
            )
            return task.predict_probabilities(network, [inputs], compute=compute, where=self.path)

        return Predictor(record=self.record, run=run)


def model_files(members: int) -> list[str]:
    """Return the names of the files of a bundle's networks."""
    return [MODEL_FILE, *(f"model_{number}.safetensors" for number in range(2, members + 1))]


def open_bundle(path: Path) -> Bundle:
    """Open a bundle and verify its checksums.

    Raises:
        ArtifactError: This is not a bundle, or some of its files are missing or damaged.
    """
    if not (path / MANIFEST_FILE).exists():
        raise ArtifactError(
            f"not a model bundle: {MANIFEST_FILE} is missing",
            path,
            "give a folder created by `xraytune train`",
        )
    try:
        expected = {**read_json(path / MANIFEST_FILE)["files"]}
        needed = {CONFIG_FILE, SPLIT_FILE, EPOCHS_FILE, MODEL_FILE, RECORD_FILE}
        if not needed <= expected.keys():
            raise ValueError("it does not list all files")
    except (ValueError, LookupError, TypeError) as error:
        raise ArtifactError("the file is damaged", path / MANIFEST_FILE, _FIX) from error
    what = "the file is missing, or damaged: its SHA-256 differs from the manifest"
    problems = [
        Problem(what, path / name, _FIX)
        for name, sha256 in expected.items()
        if not (path / name).exists() or sha256_of(path / name) != sha256
    ]
    if problems:
        raise ArtifactError(*problems)
    declare_recorded(path)
    return Bundle(path=path, record=read_record(path / RECORD_FILE))
