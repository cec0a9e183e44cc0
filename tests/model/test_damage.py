"""Bundles and generators of trials: their records, and files that were damaged or changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from tests.in_process import command, one_thread
from tests.model.conftest import Lab, change_record, seal
from tests.trial.conftest import block_of
from xraytune.base.errors import ArtifactError, StudyError
from xraytune.base.files import read_json, read_jsonl
from xraytune.data.prepare import RunContext
from xraytune.model.export import export
from xraytune.model.generator_folder import generator_sample, generator_train
from xraytune.model.train import train
from xraytune.nets.compute import choose_compute
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder
from xraytune.trial.saved_model import open_bundle

FILES = ["bundle.json", "config.yaml", "split.json", "epochs.jsonl", "model.safetensors"]


def test_a_bundle_records_what_it_was_made_from(lab: Lab) -> None:
    bundle = open_bundle(lab.model)

    experiment = load_space(lab.model / "config.yaml").experiment()
    assert experiment == load_space(lab.best).experiment()
    assert bundle.record.arm == experiment.parameters.arm
    assert bundle.study == lab.study
    assert bundle.prepared().test_fingerprint == bundle.record.test_fingerprint
    assert str(lab.path) not in "".join((lab.model / name).read_text() for name in FILES[:-1])
    assert len({(lab.model / name).stat().st_mode for name in FILES}) == 1


def test_missing_files_and_an_invalid_record_are_named(lab: Lab, tmp_path: Path) -> None:
    model = shutil.copytree(lab.model, tmp_path / "model")
    change_record(model, version=2)
    with pytest.raises(ArtifactError, match=r"bundle\.json: not valid .*version"):
        open_bundle(model)
    (model / "config.yaml").unlink()
    (model / "split.json").unlink()

    with pytest.raises(ArtifactError, match=r"(?s)config\.yaml: .*missing.*split\.json: .*missing"):
        open_bundle(model)
    for damaged in ('{"files": {"bund', "", "[]", "{}", '{"files": []}', '{"files": {}}'):
        (model / "manifest.json").write_text(damaged)
        with pytest.raises(ArtifactError, match=r"manifest\.json: the file is damaged"):
            open_bundle(model)


def test_a_network_whose_output_is_not_finite_is_refused_instead_of_scored(
    private: Lab,
) -> None:
    """NaN sorts last, so its AUROC could be 1."""
    weights = safetensors.torch.load_file(private.model / "model.safetensors")
    weights = {
        name: one * float("nan") if one.is_floating_point() else one
        for name, one in weights.items()
    }
    safetensors.torch.save_file(weights, private.model / "model.safetensors")
    seal(private.model / "model.safetensors")
    test = private.xrays / "test"

    for arguments in (
        ("evaluate", private.model, "--data", test, "--json"),
        ("predict", private.model, test, "-o", private.path / "table.csv"),
    ):
        result = command(*arguments)

        assert result.exit_code == 5, result.output
        assert "output is NaN or infinite for" in result.stderr
        assert result.stdout == ""
    assert not (private.path / "table.csv").exists()
    (access,) = read_jsonl(private.study / "test_access.jsonl", is_chained=True)
    assert access["command"] == "predict", "it is logged before, an evaluation with its scores"


def test_a_damaged_verdict_is_refused_before_anything_is_trained(private: Lab) -> None:
    """`train --config` records it in the bundle."""
    verdict = private.study / "confirm/verdict.json"
    exported = export(private.study, out=private.path / "gan.yaml", trial=0)
    verdict.parent.mkdir()
    verdict.write_text("{")
    cache = private.path / "cache"

    with pytest.raises(StudyError, match=r"verdict\.json"):
        train(config=exported.path, out=private.path / "new", cache=cache, on_epoch=no_epoch)


def no_epoch(*_: object) -> None:
    raise AssertionError("it trains")


def no_training(what: str, done: int, total: int) -> None:
    assert "training" not in what, f"{what} {done} of {total}"


def test_images_of_a_trials_gan_are_those_that_it_trained_on(private: Lab) -> None:
    study = StudyFolder(private.study)
    cache = private.path / "cache"
    compute = choose_compute(gpus=0, threads=1)  # as `generator train` computes on this machine
    context = RunContext(prepared=study.prepared(), cache=cache, compute=compute)
    with one_thread():
        pool = block_of(study.experiment(0), context, 1).read()

    exported = export(private.study, out=private.path / "trial.yaml", trial=0, exact=True)
    generator_train(exported.path, out=private.path / "gan", cache=cache, on_progress=no_training)
    drawn = generator_sample(private.path / "gan", count=4, out=private.path / "images")

    files = sorted((private.path / "images/PNEUMONIA").glob("*.png"))
    assert drawn.counts["PNEUMONIA"] == len(files) > 0
    assert [np.asarray(Image.open(file)).tolist() for file in files] == pool[: len(files)].tolist()
    provenance = read_json(private.path / "images/provenance.json")
    assert provenance["train_fingerprint"] == study.prepared().train_fingerprint
