"""The final model of a search on a subset: its images, its threshold and what it says of itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.in_process import command, one_core, search_in_process
from xraytune.base.errors import DataError
from xraytune.base.files import read_jsonl
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import Prepared, prepare
from xraytune.model.best import export
from xraytune.model.load import Bundle, open_bundle
from xraytune.model.train import train
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder
from xraytune.tasks.bundle_record import TrainedOn

pytestmark = pytest.mark.slow

SPACE = """\
name: subset
data: {path: xrays, image_size: 32, train_patients: 8, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {value: gan}
  synthetic_ratio: {value: 0.5}
  gan: {parameters: {image_size: {value: 32}, steps: {value: 4}, batch_size: {value: 8}, width: {value: 4}}}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
  schedule: {value: cosine}
  batch_size: {value: 8}
budget: {trials: 1, max_epochs: 3, steps_per_epoch: 2}
scheduler: {name: none}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """X-rays, a study of one trial on eight patients, and its cache."""
    root = tmp_path_factory.mktemp("final")
    draw_phantoms(root / "xrays", patients=40, seed=6, image_size_px=48, difficulty=0.0)
    (root / "space.yaml").write_text(SPACE, encoding="utf-8")
    search_in_process(load_space(root / "space.yaml"), root)
    return root


@pytest.fixture(scope="module")
def study(root: Path) -> StudyFolder:
    return StudyFolder(root / "studies" / "subset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The final model of the study, its training data and its card."""

    bundle: Bundle

    @property
    def data(self) -> TrainedOn:
        return self.bundle.record.trained_on

    @property
    def card(self) -> str:
        return (self.bundle.path / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def final(study: StudyFolder, tmp_path_factory: pytest.TempPathFactory) -> Final:
    folder = tmp_path_factory.mktemp("model")
    with one_core():
        exported = command("export", study.path, "-o", folder / "best.yaml")
        trained = command("train", "--config", folder / "best.yaml", "-o", folder / "model")
    assert (exported.exit_code, trained.exit_code) == (0, 0), trained.stderr
    return Final(bundle=open_bundle(folder / "model"))


@pytest.fixture(autouse=True)
def pinned() -> Iterator[None]:
    """A final training uses all cores."""
    with one_core():
        yield


@pytest.fixture(scope="module")
def everything(root: Path) -> Prepared:
    """All images on the sides of the study's split."""
    settings = load_space(root / "space.yaml").settings
    whole = settings.model_copy(
        update={"data": settings.data.model_copy(update={"train_patients": None})}
    )
    prepared, _ = prepare(whole, root / "cache")
    return prepared


def sides(prepared: Prepared) -> dict[str, str]:
    return {image.sha256: image.side for image in prepared.images}


def test_the_final_model_trains_on_all_others(
    study: StudyFolder, everything: Prepared, final: Final
) -> None:
    used = everything.side("train")
    searched = sides(study.prepared())
    assert sides(final.bundle.prepared()) == sides(everything)
    assert {key for key, side in sides(everything).items() if side != "train"} == {
        key for key, side in searched.items() if side != "train"
    }
    assert (final.data.images, final.data.patients) == (len(used.rows), len({*used.patients}))
    assert final.data.of_images == len(everything.images)


def test_the_mix_keeps_its_ratio_an_epoch_its_passes(
    study: StudyFolder, everything: Prepared, final: Final
) -> None:
    before, now = len(study.prepared().side("train").rows), len(everything.side("train").rows)
    steps = [row["steps"] for row in read_jsonl(final.bundle.path / "epochs.jsonl")]
    assert steps[0] == -(-2 * now // before)
    changes = "\n".join(final.data.changes)
    assert (
        f"training images: {now} of {final.data.patients} patients (trial: {before} images)"
        in changes
    )
    assert f"extra images: {int(now / 2 + 0.5)} (trial: {int(before / 2 + 0.5)})" in changes
    assert "GAN: trained anew" in changes
    assert changes in "\n".join(final.card.split("\n- "))


def test_a_folder_too_small_for_all_patients_is_refused_before_the_training(
    study: StudyFolder, tmp_path: Path
) -> None:
    draw_phantoms(tmp_path / "others", patients=12, seed=9, image_size_px=48)
    export(study.path, out=tmp_path / "best.yaml")
    folder = (
        "source=folder",
        f"folder.path={tmp_path / 'others' / 'train'}",
        "synthetic_ratio=1.0",
    )
    notes: list[str] = []

    with pytest.raises(DataError, match=r"but the mix needs"):
        train(tmp_path / "best.yaml", out=tmp_path / "model", overrides=folder, note=notes.append)

    assert not any(note.startswith("training:") for note in notes)


def test_the_model_card_names_data_metrics_and_limits(final: Final) -> None:
    record = final.bundle.record
    assert final.card.startswith("# subset: NORMAL or PNEUMONIA\n")
    for text in (
        f"| trained on | {final.data.images} images of {final.data.patients} patients |",
        f"{record.threshold:.3f}",
        "| sensitivity (PNEUMONIA) |",
        "no verdict on this model",
        "is not confirmed: xraytune confirm has not compared",
        "## Intended use",
        "not a medical device",
        f"| fingerprint of training images | `{record.train_fingerprint}` |",
        "by patient, seed 0; images: ",
        "xraytune predict MODEL",
    ):
        assert text in final.card
    assert str(final.bundle.path.parent) not in final.card


def test_a_study_is_exported_and_trained_by_one_command_with_its_final_settings(
    root: Path, tmp_path: Path
) -> None:
    final = "final: {image_size: 64, max_epochs: 2, lr: 0.003, optimizer: sgd}"
    changed = SPACE.replace("name: subset", "name: finished").replace(
        "parameters:", f"{final}\nparameters:", 1
    )
    (root / "finished.yaml").write_text(changed, encoding="utf-8")
    search_in_process(load_space(root / "finished.yaml"), root)
    study, model = root / "studies" / "finished", tmp_path / "model"

    command("train", study, "-o", model)

    experiment, trial = open_bundle(model).experiment(), StudyFolder(study).experiment(0)
    assert experiment.settings.data.image_size == 64
    assert experiment.settings.budget.max_epochs == len(read_jsonl(model / "epochs.jsonl")) == 2
    assert (experiment.parameters.lr, experiment.parameters.optimizer) == (0.003, "sgd")
    assert experiment.parameters.synthetic_ratio == trial.parameters.synthetic_ratio
    generator = experiment.parameters.gan
    assert generator is not None
    assert generator.image_size == 64, "the GAN is trained at the size of the network"
    changes = "\n".join(open_bundle(model).record.trained_on.changes)
    assert "data.image_size: 64 (trial: 32)" in changes
    assert "optimizer: sgd (trial: adam)" in changes
