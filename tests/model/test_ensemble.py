"""Networks whose probabilities are averaged."""

from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from tests.model.conftest import Lab, read_rows
from xraytune.base.files import read_jsonl
from xraytune.base.records import EpochRecord
from xraytune.model.predict import predict
from xraytune.model.train import train
from xraytune.space.settings import TaskName
from xraytune.tasks import TASKS
from xraytune.tasks.ensemble import average_networks
from xraytune.trial.saved_model import open_bundle

pytestmark = pytest.mark.slow


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


def test_members_are_trained_one_after_the_other_and_predict_their_mean(
    private: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is killed in the second; each is the network that its seed alone gives."""
    monkeypatch.setattr("xraytune.trial.training._CHECKPOINT_SECONDS", -1.0)
    out = private.path / "both"
    notes = list[str]()

    def interrupt(_: EpochRecord) -> None:
        if "network 2 of 2 (seed 1)" in notes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(private.best, out=out, members=2, on_epoch=interrupt, note=notes.append)
    record = train(private.best, out=out, members=2).record
    train(private.best, out=private.path / "second", overrides=["seed=1"])

    alone = {"model.safetensors": private.model, "model_2.safetensors": private.path / "second"}
    for name, model in alone.items():
        assert (out / name).read_bytes() == (model / "model.safetensors").read_bytes()
    first, second, both = (
        probabilities(model, private.xrays / "train") for model in (*alone.values(), out)
    )
    mean = {file: (first[file] + second[file]) / 2 for file in first}
    assert both == pytest.approx(mean, rel=1e-5)
    val_b = [image for image in open_bundle(out).prepared().images if image.side == "val_b"]
    means = [mean[image.file.removeprefix("train/")] for image in val_b]
    assert record.val_b_score == pytest.approx(roc_auc_score([i.label for i in val_b], means))
    assert record.members == 2
    assert "| networks | 2, " in (out / "README.md").read_text()
    assert [row["network"] for row in read_jsonl(out / "epochs.jsonl")] == [1, 1, 1, 2, 2, 2]
