"""Opening a bundle verifies all its files."""

from __future__ import annotations

import pytest

from tests.model.conftest import CopyLab, Lab
from xraytune.base.errors import ArtifactError
from xraytune.model.load import open_bundle
from xraytune.space.load import load_space

pytestmark = pytest.mark.slow

FILES = ["bundle.json", "config.yaml", "split.json", "epochs.jsonl", "model.safetensors"]


def test_every_missing_file_is_named(copy_lab: CopyLab) -> None:
    model = copy_lab().model
    (model / "config.yaml").unlink()
    (model / "split.json").unlink()

    with pytest.raises(ArtifactError, match=r"(?s)config\.yaml: the file is missing.*split\.json: the file is missing"):
        open_bundle(model)


def test_a_bundle_records_what_it_was_made_from(lab: Lab) -> None:
    bundle = open_bundle(lab.model)

    experiment = load_space(lab.model / "config.yaml").experiment()
    assert experiment == load_space(lab.best).experiment()
    assert bundle.record.arm == experiment.parameters.arm
    assert bundle.study == lab.study
    assert bundle.prepared().test_fingerprint == bundle.record.test_fingerprint
    assert str(lab.path) not in "".join((lab.model / name).read_text("utf-8") for name in FILES[:-1])


def test_a_bundle_records_the_scores_that_set_its_threshold(lab: Lab) -> None:
    bundle = open_bundle(lab.model)
    used = [image for image in bundle.prepared().images if image.side != "train"]

    validation = bundle.record.validation

    assert validation is not None
    assert [*validation] == ["NORMAL", "PNEUMONIA"]
    assert sum(one.images for one in validation.values()) == len(used)
    assert sum(one.patients for one in validation.values()) == len({image.patient for image in used})
    assert all([*one.scores] == sorted(one.scores) for one in validation.values())


def test_bundle_files_have_equal_permissions(lab: Lab) -> None:
    assert len({(lab.model / name).stat().st_mode for name in FILES}) == 1
