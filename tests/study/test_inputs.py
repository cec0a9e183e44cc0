"""Extra images and weights: none from the test folder, and the same at each start."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.confirm.labs import draw_hospital
from tests.in_process import confirm_in_process, save_backbone
from tests.pair_files import draw_xrays
from tests.study.studies import ended_trials
from xraytune.base.errors import DataError, StudyError
from xraytune.confirm.run import confirm
from xraytune.data.pixels import PIXELS_STAGE
from xraytune.data.prepare import prepare
from xraytune.model.train import train
from xraytune.search.run import search
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder
from xraytune.study.start import OFFICIAL, inputs_of_space, require_same_inputs, write_inputs

pytestmark = pytest.mark.slow

SPACE = """\
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {value: folder}
  synthetic_ratio: {value: 0.2}
  folder: {parameters: {path: {value: extra}}}
  backbone: {value: small_cnn}
  weights: {value: own.safetensors}
budget: {trials: 2, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
"""


def write_weights(root: Path, seed: int) -> None:
    save_backbone(root / "own.safetensors", seed=seed)


@pytest.fixture(scope="module")
def drawn(module_path: Path) -> Path:
    """A folder with X-rays, weights, a space file and decoded pixels."""
    draw_xrays(module_path, patients=60)
    write_weights(module_path, 1)
    (module_path / "small.yaml").write_text(SPACE)
    prepare(load_space(module_path / "small.yaml").settings, module_path / "cache")
    return module_path


@pytest.fixture
def lab(drawn: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it; trials run in this process."""
    with confirm_in_process():
        yield Path(shutil.copytree(drawn, tmp_path / "lab"))


def search_lab(lab: Path, *overrides: str, trials: int = 1) -> StudyFolder:
    changes = [f"budget.trials={trials}", *overrides]
    search(lab / "small.yaml", studies=lab / "studies", overrides=changes)
    return StudyFolder(lab / "studies/small")


def test_sealed_test_folder_as_extra_images_is_refused_unopened(lab: Path) -> None:
    with pytest.raises(DataError, match=r"\d+ held-out test images .* extra images: test/NORMAL"):
        search_lab(lab, f"folder.path={lab}/xrays/test")

    assert not (lab / "studies/small").exists()
    assert len(list((lab / "cache" / PIXELS_STAGE).glob("[!.]*"))) == 1, (
        "the training images, and no others"
    )


def test_extra_images_inside_the_data_folder_are_refused(lab: Path) -> None:
    """They would count as real; only folders that are called like generated ones are left out."""
    draw_hospital(lab / "xrays/train/more", seed=2)

    with pytest.raises(DataError, match=r"are among the images of .*xrays: NORMAL/more-"):
        search_lab(lab, f"folder.path={lab}/xrays/train/more")


@pytest.mark.parametrize("by", ["patient", "file"])
def test_one_patient_of_the_sealed_test_folder_among_the_extra_images_is_refused(
    lab: Path, by: str
) -> None:
    shutil.copytree(lab / "xrays/train", lab / "extra")
    known = next((lab / "xrays/test/PNEUMONIA").iterdir())
    stranger = next((lab / "extra/PNEUMONIA").iterdir())
    if by == "patient":
        stranger.rename(stranger.with_name(known.name))
    else:
        shutil.copy(known, stranger.with_name("drawn1.jpeg"))

    with pytest.raises(DataError, match=f"patients of these extra images: .*{known.name}"):
        search_lab(lab)


def test_a_study_without_its_record_of_inputs_is_refused(lab: Path) -> None:
    draw_hospital(lab / "extra", seed=2)
    study = search_lab(lab)
    (study.path / "inputs.json").unlink()

    refusal = r"inputs\.json: a file of the study is missing"
    with pytest.raises(StudyError, match=refusal):
        search_lab(lab, trials=2)
    with pytest.raises(StudyError, match=refusal):
        confirm(study.path)


def test_other_weights_are_refused_by_train_too_and_restored_ones_are_accepted(lab: Path) -> None:
    draw_hospital(lab / "extra", seed=2)
    study = search_lab(lab)
    write_weights(lab, 3)

    with pytest.raises(StudyError, match=r"own\.safetensors: this input changed"):
        train(study.path, out=lab / "model", cache=lab / "cache")
    write_weights(lab, 1)

    search_lab(lab, trials=2)
    assert len(ended_trials(study)) == 2


@pytest.mark.parametrize(
    "parameters",
    [
        "backbone: {value: mobilenet_v2}",
        "source: {value: gan}, weights: {value: none}, "
        "gan: {parameters: {features: {value: imagenet}}}",
    ],
)
def test_official_weights_stay_those_of_the_first_start(tmp_path: Path, parameters: str) -> None:
    """Another `--weights-dir` may have another version of `imagenet`."""
    (tmp_path / "space.yaml").write_text(
        f"name: x\ndata: {{path: xrays}}\nparameters: {{{parameters}}}\n"
    )
    inputs = inputs_of_space(load_space(tmp_path / "space.yaml"))
    write_inputs(tmp_path, tmp_path, {(OFFICIAL, Path(name)): "first" for _, name in inputs})

    second = {(OFFICIAL, Path(name)): "second" for _, name in inputs}

    assert inputs == {(OFFICIAL, "mobilenet_v2 imagenet")}
    with pytest.raises(StudyError, match="mobilenet_v2 imagenet: this input changed"):
        require_same_inputs(StudyFolder(tmp_path), second)
