"""A study of findings, from phantoms with a table to trained networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.in_process import CPU
from xraytune.base.errors import DataError
from xraytune.data.phantom import draw_phantoms
from xraytune.data.prepare import RunContext, prepare, read_prepared, write_prepared
from xraytune.nets.backbones import build_backbone
from xraytune.space.load import load_space
from xraytune.space.settings import Experiment, Parameters
from xraytune.stats.classification import auroc
from xraytune.trial.inputs import TrialInputs
from xraytune.trial.prepare import prepare_space
from xraytune.trial.run import run_trial
from xraytune.trial.training_set import build_training_set

SPACE = """
version: 1
name: findings
task: findings
data: {path: xrays, image_size: 32, split: {val_a: 0.3, val_b: 0.3}}
parameters: {backbone: {value: small_cnn}, weights: {value: none}, lr: {value: 0.003}}
budget: {max_epochs: 2, steps_per_epoch: 6}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, RunContext]:
    root = tmp_path_factory.mktemp("findings")
    draw_phantoms(root / "xrays", patients=120, seed=3, image_size_px=48, findings=True)
    (root / "space.yaml").write_text(SPACE)
    space = load_space(root / "space.yaml", data=root / "xrays/data.yaml")
    prepared, _ = prepare(space.settings, root / "cache")
    context = RunContext(prepared=prepared, cache=root / "cache", compute=CPU)
    return Experiment(settings=space.settings, parameters=Parameters(backbone="small_cnn", weights="none")), context


def with_parameters(experiment: Experiment, **parameters: Any) -> Experiment:
    base = {"backbone": "small_cnn", "weights": "none", "lr": 3e-3, "batch_size": 8}
    return experiment.model_copy(update={"parameters": Parameters.model_validate(base | parameters)})


def test_findings_follow_their_images_to_every_batch(study: tuple[Experiment, RunContext]) -> None:
    """Also those of repeated images; unknown ones are -1."""
    experiment, context = study
    experiment = with_parameters(experiment, source="duplicate")
    chosen = build_training_set(experiment, context)
    by_file = {image.sha256: image.findings for image in context.prepared.images if image.side == "train"}
    rows = [image for image in context.prepared.images if image.side == "train"]
    written = np.array([["0?1".index(s) - 0 for s in by_file[image.sha256]] for image in rows])
    assert (chosen.targets == np.array([0, -1, 1])[written]).all()
    assert (chosen.targets == -1).any()
    inputs = TrialInputs(experiment, context, chosen)
    _, targets = inputs.batch(0)
    assert targets.shape == (16, 3)


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["all", "head"])
def test_a_trial_learns_findings_and_is_scored_by_their_mean_auroc(
    study: tuple[Experiment, RunContext], tmp_path: Path, trainable: str
) -> None:
    experiment, context = study
    torch.manual_seed(0)
    save_file(build_backbone("small_cnn")[0].state_dict(), tmp_path / "net.safetensors")
    weights = str(tmp_path / "net.safetensors")
    experiment = with_parameters(
        experiment, trainable=trainable, weights=weights, pos_weight="balanced", source="duplicate"
    )
    result = run_trial(experiment, context, trial_dir=tmp_path, on_epoch=lambda _: None)
    results, side = np.load(tmp_path / "val_b.npy"), context.prepared.side("val_b")
    assert results.shape == (len(side.labels), 3)
    assert not np.allclose(results.sum(axis=1), 1), "each finding has its own probability"
    assert result.val_b_score == auroc(side.targets, results, positive=0)


def test_the_split_is_written_with_findings_and_read_again(
    study: tuple[Experiment, RunContext], tmp_path: Path
) -> None:
    _, context = study
    write_prepared(context.prepared, tmp_path / "split.json")
    assert read_prepared(tmp_path / "split.json") == context.prepared


def test_sides_without_a_finding_that_can_be_scored_are_refused(study: tuple[Experiment, RunContext]) -> None:
    experiment, context = study
    root = experiment.settings.data.path.parent
    space = load_space(root / "space.yaml", ["data.split.val_a=0.02"], data=root / "xrays/data.yaml")
    with pytest.raises(DataError, match="no finding has 10 positive and 10 negative images on val-A"):
        prepare_space(space, context.cache, skip_broken=False, note=lambda _: None, on_progress=lambda *_: None)
