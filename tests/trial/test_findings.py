"""A study of findings, from phantoms with a table to trained networks."""

from pathlib import Path

import numpy as np
import pytest

from tests.in_process import save_backbone
from tests.trial.conftest import Bench, batch_of, gan
from xraytune.base.errors import DataError
from xraytune.space.load import load_space
from xraytune.stats.classification import auroc, rarest_findings
from xraytune.trial.preflight import prepare_space
from xraytune.trial.run import run_trial
from xraytune.trial.training import TrialTraining
from xraytune.trial.training_set import build_training_set


def test_findings_follow_their_images_to_every_batch(findings_bench: Bench) -> None:
    """Also those of repeated images; unknown ones are -1."""
    experiment = findings_bench.experiment(source="duplicate")
    chosen = build_training_set(experiment, findings_bench.context)
    train = findings_bench.prepared.side("train")
    written = np.array([["0?1".index(sign) for sign in image.findings] for image in train])
    assert (chosen.targets == np.array([0, -1, 1])[written]).all()
    assert (chosen.targets == -1).any()
    inputs = TrialTraining(experiment, findings_bench.context, chosen)
    _, targets = batch_of(inputs.batches, 0)
    assert targets.shape == (16, 3)


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_a_trial_learns_findings_and_is_scored_by_their_mean_auroc(
    findings_bench: Bench, tmp_path: Path, trainable: str
) -> None:
    save_backbone(tmp_path / "net.safetensors")
    weights = str(tmp_path / "net.safetensors")
    experiment = findings_bench.experiment(
        trainable=trainable, weights=weights, imbalance="weighted", source="duplicate"
    )
    result = run_trial(experiment, findings_bench.context, trial_dir=tmp_path)
    results = np.load(tmp_path / "val_b.npy")
    side = findings_bench.prepared.side("val_b")
    assert results.shape == (len(side.labels), 3)
    assert not np.allclose(results.sum(axis=1), 1), "each finding has its own probability"
    assert result.val_b_score == auroc(side.targets, results, positive=0)


def test_sides_without_a_finding_that_can_be_scored_are_refused(findings_bench: Bench) -> None:
    root = findings_bench.settings.data.path.parent
    space = load_space(
        root / "space.yaml", ["data.split.val_a=0.02"], data=root / "xrays/data.yaml"
    )
    with pytest.raises(DataError, match="no finding has 10 positive"):
        prepare_space(space, findings_bench.cache)


@pytest.mark.parametrize("architecture", ["pca", "dcgan"])
def test_a_gan_draws_images_for_the_findings_of_training_images(
    findings_bench: Bench, tmp_path: Path, architecture: str
) -> None:
    """Each vector once before any is repeated; unknown findings stay unknown."""
    experiment = findings_bench.ungated.experiment(
        source="gan", synthetic_ratio=0.5, gan=gan(architecture=architecture)
    )
    result = run_trial(experiment, findings_bench.context, trial_dir=tmp_path)
    assert result.val_b_score is not None
    chosen = build_training_set(experiment, findings_bench.context)
    side = findings_bench.prepared.side("train")
    drawn = chosen.image_sets[1].targets
    assert drawn.shape == (256, 3)
    first = [*map(tuple, drawn[: len(side.targets)].tolist())]
    assert sorted(first) == sorted(map(tuple, side.targets.tolist()))
    assert (chosen.targets[chosen.extra] == drawn[: len(chosen.extra)]).all()


def test_equal_balance_levels_the_rarest_findings(findings_bench: Bench) -> None:
    """So extra images have rare findings, and those of a smaller ratio come first."""
    real = findings_bench.prepared.side("train").targets
    extra = []
    for ratio in (0.2, 2.0):
        experiment = findings_bench.ungated.experiment(
            source="gan", synthetic_ratio=ratio, balance="equal", gan=gan()
        )
        chosen = build_training_set(experiment, findings_bench.context)
        extra.append(chosen.targets[chosen.extra])
    assert (extra[0] == extra[1][: len(extra[0])]).all()
    before, after = (
        np.bincount(rarest_findings(rows == 1)) for rows in (real, np.concatenate([real, extra[1]]))
    )
    assert before.max() > 2 * before.min()
    assert after.max() - after.min() <= 1
