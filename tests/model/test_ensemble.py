"""Networks whose probabilities are averaged."""

import shutil
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from tests.model.conftest import Lab, change_record, read_rows, seal
from xraytune.base.errors import ConfigError
from xraytune.base.files import read_jsonl
from xraytune.base.records import EpochRecord
from xraytune.data.split import split_into_folds
from xraytune.model.predict import predict
from xraytune.model.train import train
from xraytune.space.task_settings import TaskName
from xraytune.tasks import TASKS
from xraytune.tasks.ensemble import average_networks
from xraytune.trial.saved_model import open_bundle


class Gives(nn.Module):
    """A network that gives these logits for any inputs."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, _: Tensor) -> Tensor:
        return self.logits


@pytest.mark.parametrize(
    ("name", "shape"),
    [("classification", (6, 3)), ("findings", (6, 4)), ("segmentation", (6, 1, 8, 8))],
)
def test_the_probabilities_of_an_ensemble_are_the_means_of_its_members(
    name: TaskName, shape: tuple[int, ...]
) -> None:
    """This holds for probabilities close to 0, too."""
    task = TASKS[name]
    logits = 20 * torch.randn((3, *shape), generator=torch.Generator().manual_seed(0))
    ensemble = average_networks(task, [Gives(of_member) for of_member in logits])

    averaged = task.probabilities(ensemble(torch.empty(0)).numpy())

    members = torch.stack(
        [torch.from_numpy(task.probabilities(of_member.numpy())) for of_member in logits]
    )
    torch.testing.assert_close(torch.from_numpy(averaged), members.mean(dim=0), rtol=1e-4, atol=0)


def probabilities(model: Path, images: Path) -> dict[str, float]:
    """Return the prediction of each image."""
    table = model.with_name(f"{model.name}.csv")
    predict(model, images, out=table)
    return {row["file"]: float(row["probability_PNEUMONIA"]) for row in read_rows(table)}


def test_members_leave_out_different_patients_and_predict_their_mean(
    private: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is killed in the second; resuming gives the same files."""
    monkeypatch.setattr("xraytune.trial.training._CHECKPOINT_SECONDS", -1.0)
    out = private.path / "both"
    notes = list[str]()

    def interrupt(_: EpochRecord) -> None:
        if "network 2 of 2 (seed 1)" in notes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(private.best, out=out, members=2, on_epoch=interrupt, note=notes.append)
    record = train(private.best, out=out, members=2).record
    train(private.best, out=private.path / "straight", members=2)

    alone = []
    for name in ("model.safetensors", "model_2.safetensors"):
        assert (out / name).read_bytes() == (private.path / "straight" / name).read_bytes()
        member = shutil.copytree(out, private.path / name.partition(".")[0] / "one")
        shutil.copy(out / name, member / "model.safetensors")
        seal(member / "model.safetensors")
        change_record(member, members=1)
        alone.append(probabilities(member, private.xrays / "train"))
    both = probabilities(out, private.xrays / "train")
    assert both == pytest.approx({file: (alone[0][file] + alone[1][file]) / 2 for file in both})
    images = open_bundle(out).prepared().images
    scores = []
    for sides, of_member in zip(split_into_folds(images, 2, 0), alone, strict=True):
        val_b = [image for image, side in zip(images, sides, strict=True) if side == "val_b"]
        predicted = [of_member[image.file.removeprefix("train/")] for image in val_b]
        scores.append(roc_auc_score([image.label for image in val_b], predicted))
    assert record.val_b_score == pytest.approx(sum(scores) / 2)
    assert record.trained_on.patients == record.trained_on.validated_patients == 32
    assert record.members == 2
    assert "| networks | 2, " in (out / "README.md").read_text()
    assert [row["network"] for row in read_jsonl(out / "epochs.jsonl")] == [1, 1, 1, 2, 2, 2]


def test_too_few_patients_for_the_members_are_refused(lab: Lab, tmp_path: Path) -> None:
    """Each member needs patients of each class on val-A and on val-B."""
    with pytest.raises(ConfigError, match="too few patients for 11 networks"):
        train(lab.best, out=tmp_path / "model", members=11)
