"""`generator sample --study STUDY --trial N`: images of the GAN of a trial."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.in_process import CPU
from tests.model.conftest import PRUNED, CopyLab, Lab
from xraytune.base.errors import ArtifactError, ConfigError, StudyError
from xraytune.base.files import read_json
from xraytune.data.prepare import RunContext
from xraytune.model.trial_generator import sample_trial_generator
from xraytune.study.folder import StudyFolder
from xraytune.synth.sources import pool_block
from xraytune.synth.synthesize import GAN_STAGE

pytestmark = pytest.mark.slow


def test_images_of_a_trials_gan_are_those_that_it_trained_on(lab: Lab, tmp_path: Path) -> None:
    study = StudyFolder(lab.study)
    gan = study.experiment(0).parameters.gan
    assert gan is not None
    pool = pool_block(gan, RunContext(prepared=study.prepared(), cache=lab.path / "cache", compute=CPU), 1, 0).read()

    drawn = sample_trial_generator(lab.study, 0, count=4, out=tmp_path / "images", class_name="PNEUMONIA")

    files = sorted((tmp_path / "images" / "PNEUMONIA").glob("*.png"))
    assert drawn.counts == {"PNEUMONIA": 4}
    assert [np.asarray(Image.open(file)).tolist() for file in files] == np.asarray(pool[np.arange(4)]).tolist()
    provenance = read_json(tmp_path / "images" / "provenance.json")
    assert provenance["train_fingerprint"] == study.prepared().train_fingerprint


def test_a_trial_without_a_gan_is_refused_with_those_that_have_one(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trial 2 has no generator\n.*give one that has: 0"):
        sample_trial_generator(lab.study, PRUNED, count=1, out=tmp_path / "images")
    with pytest.raises(StudyError, match="no trial 9"):
        sample_trial_generator(lab.study, 9, count=1, out=tmp_path / "images")

    assert not (tmp_path / "images").exists()


def test_a_gan_that_the_cache_has_lost_is_named_with_what_trains_it_again(copy_lab: CopyLab, tmp_path: Path) -> None:
    lab = copy_lab()
    shutil.rmtree(lab.path / "cache" / GAN_STAGE)

    with pytest.raises(
        ArtifactError, match=r"the GAN of trial 0 is not in the cache(.|\n)*export the trial \(--trial 0\)"
    ):
        sample_trial_generator(lab.study, 0, count=1, out=tmp_path / "images")
