"""The final model of a search on a subset: its images, its threshold and what it says of itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.confirm.labs import search_space
from tests.in_process import command, one_core
from tests.pair_files import draw_xrays
from xraytune.base.files import read_jsonl
from xraytune.data.prepare import SplitData, prepare
from xraytune.model.export import export
from xraytune.present.page import write_report
from xraytune.study.folder import StudyFolder
from xraytune.trial.saved_model import Bundle, open_bundle

SPACE = """\
name: subset
data: {path: xrays, image_size: 32, train_patients: 8, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {value: gan}
  synthetic_ratio: {value: 0.5}
  gan:
    parameters:
      image_size: {value: 32}
      steps: {value: 4}
      batch_size: {value: 8}
      width: {value: 4}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
  schedule: {value: cosine}
  batch_size: {value: 8}
budget: {trials: 1, max_epochs: 3, steps_per_epoch: 2}
scheduler: {name: none}
"""


@pytest.fixture(scope="module")
def root(module_path: Path) -> Path:
    """Return a folder with X-rays, a study of one trial on eight patients, and its cache."""
    draw_xrays(module_path, patients=40, seed=6, image_size_px=48, difficulty=0.0)
    search_space(module_path, SPACE)
    return module_path


@pytest.fixture(scope="module")
def study(root: Path) -> StudyFolder:
    return StudyFolder(root / "studies/subset")


@pytest.fixture(scope="module")
def final(root: Path, study: StudyFolder) -> Bundle:
    with one_core():
        exported = command(f"export {study.path} -o {root}/best.yaml")
        trained = command(f"train --config {root}/best.yaml -o {root}/model")
    assert (exported.exit_code, trained.exit_code) == (0, 0), trained.stderr
    return open_bundle(root / "model")


@pytest.fixture(autouse=True)
def pinned() -> Iterator[None]:
    """Run on one core, since a final training uses all that it gets."""
    with one_core():
        yield


@pytest.fixture(scope="module")
def everything(root: Path, study: StudyFolder) -> SplitData:
    """Return all images, on the sides of the study's split."""
    settings = study.space().settings
    whole = settings.model_copy(
        update={"data": settings.data.model_copy(update={"train_patients": None})}
    )
    prepared, _ = prepare(whole, root / "cache")
    return prepared


def sides(prepared: SplitData) -> dict[str, str]:
    return {image.sha256: image.side for image in prepared.images}


def test_the_final_model_trains_on_all_others_with_the_same_ratio_and_passes(
    study: StudyFolder, everything: SplitData, final: Bundle
) -> None:
    """Its card says so, too."""
    used = final.record.trained_on
    before = len(study.prepared().side("train"))
    now = len(everything.side("train"))
    assert sides(final.prepared()) == sides(everything)
    searched = sides(study.prepared())
    assert all(searched[key] == side for key, side in sides(everything).items() if side != "train")
    assert (used.images, used.of_images) == (now, len(everything.images))
    steps = [row["steps"] for row in read_jsonl(final.path / "epochs.jsonl")]
    assert steps[0] == -(-2 * now // before)
    changes = "\n".join(used.changes)
    assert f"extra images: {int(now / 2 + 0.5)} (trial: {int(before / 2 + 0.5)})" in changes
    card = (final.path / "README.md").read_text()
    assert changes in "\n".join(card.split("\n- "))
    for text in (
        f"| trained on | {now} images of {used.patients} patients |",
        f"{final.record.threshold:.3f}",
        "| sensitivity (PNEUMONIA) |",
        "by patient, seed 0, in 1 fold",
    ):
        assert text in card
    assert str(final.path.parent) not in card


def test_a_study_is_exported_and_trained_by_one_command_with_its_final_settings(
    root: Path, tmp_path: Path
) -> None:
    """The trial's own learning rate is too small to learn anything."""
    final = "final: {image_size: 64, max_epochs: 9, lr: 0.003}"
    searched = "lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}"
    changed = SPACE.replace("name: subset", "name: finished")
    changed = changed.replace(searched, "lr: {value: 1e-12}")
    changed = changed.replace("parameters:", f"{final}\nparameters:", 1)
    study = search_space(root, changed)
    model = tmp_path / "model"

    printed = " ".join(command(f"train {study} -o {model}").stdout.split())
    best = export(study, out=tmp_path / "best.yaml").path.read_text()
    page = write_report(study, cache=root / "cache").read_text()

    settings = "image_size: 64, max_epochs: 9, lr: 0.003"
    assert f"`train` compares the trial's settings with those of `final`: {settings}." in best
    assert f"compares them with those of <code>final</code>: {settings}." in page
    experiment = open_bundle(model).experiment()
    trial = StudyFolder(study).experiment(0)
    assert experiment.settings.data.image_size == 64
    assert experiment.settings.budget.max_epochs == len(read_jsonl(model / "epochs.jsonl")) == 9
    assert experiment.parameters.lr == 0.003
    assert experiment.parameters.synthetic_ratio == trial.parameters.synthetic_ratio
    generator = experiment.parameters.gan
    assert generator is not None
    assert generator.image_size == 64, "the GAN is trained at the size of the network"
    record = open_bundle(model).record
    interval = record.metrics[0].interval
    assert interval
    assert "({:.3f} to {:.3f})".format(*interval) in printed, "what to expect is no bare number"
    changes = record.trained_on.changes
    assert {"data.image_size: 64 (trial: 32)", "lr: 0.003 (trial: 1e-12)"} <= {*changes}
