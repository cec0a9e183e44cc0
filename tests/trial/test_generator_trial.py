"""A trial of a search for the generator: epochs are shares of its steps, and the value is its lowest KID."""

from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from tests.trial.conftest import Bench, make_bench
from xraytune.base.artifacts import artifacts_of
from xraytune.base.errors import DataError
from xraytune.base.files import read_jsonl
from xraytune.base.records import EpochRecord, TrialResult
from xraytune.space.settings import Budget, Experiment, Objective, Parameters
from xraytune.synth.quality import require_measurable
from xraytune.synth.sources import POOL_STAGE
from xraytune.synth.synthesize import GAN_STAGE
from xraytune.trial.run import run_trial, trial_epochs

pytestmark = pytest.mark.slow
GAN = {"image_size": 32, "steps": 6, "width": 4, "z_dim": 8, "batch_size": 8, "lr_g": 1e-2}


@pytest.fixture(scope="module")
def many(clinic: Bench) -> Bench:
    """A study that searches for a generator, in four epochs."""
    changes = {"objective": Objective(metric="gan_kid"), "budget": Budget(max_epochs=4)}
    return replace(clinic, settings=clinic.settings.model_copy(update=changes))


def experiment_of(bench: Bench) -> Experiment:
    return Experiment(settings=bench.settings, parameters=Parameters.model_validate({"source": "gan", "gan": GAN}))


def run(bench: Bench, folder: Path) -> tuple[list[EpochRecord], TrialResult]:
    seen: list[EpochRecord] = []
    result = run_trial(experiment_of(bench), bench.context, trial_dir=folder / "trial", on_epoch=seen.append)
    return [replace(record, seconds=0) for record in seen], result


def test_a_resumed_trial_reports_the_same_kids_and_keeps_two_generators(many: Bench, tmp_path: Path) -> None:
    straight = replace(many, cache=tmp_path / "cache")
    (tmp_path / "cache").symlink_to(many.cache, target_is_directory=True)
    with closing(trial_epochs(experiment_of(many), straight.context, tmp_path / "trial")) as epochs:
        first = [replace(record, seconds=0) for record in islice(epochs, 2)]
    resumed, result = run(straight, tmp_path)

    assert resumed[:2] == first
    assert [record.steps for record in resumed] == [2, 3, 4, 6], "a quarter of the steps each, rounded half to even"
    assert result.value == min(record.val_score for record in resumed) == resumed[-1].best_val_score
    assert resumed[result.best_epoch - 1].val_score == result.value
    assert len(read_jsonl(tmp_path / "trial" / "epochs.jsonl")) == 4

    for path in (tmp_path / "trial").iterdir():
        path.unlink()
    kept = {inputs["settings"]["steps"] for _, inputs in artifacts_of(many.cache, GAN_STAGE)}
    assert kept >= {6, resumed[result.best_epoch - 1].steps}
    again, _ = run(straight, tmp_path)

    assert again == resumed, "generators that were removed are trained again, to the bit"
    gans = {path.name: inputs["settings"]["steps"] for path, inputs in artifacts_of(many.cache, GAN_STAGE)}
    pools = {inputs["generator"] for _, inputs in artifacts_of(many.cache, POOL_STAGE)}
    assert pools <= gans.keys(), "no pool outlives its GAN"
    assert {*gans.values()} == kept


def test_epochs_of_another_release_are_trained_again(many: Bench, tmp_path: Path) -> None:
    straight, _ = run(many, tmp_path)
    log = tmp_path / "trial" / "epochs.jsonl"
    log.write_text(log.read_text(encoding="utf-8").replace('"networks": ["', '"networks": ["0'), encoding="utf-8")

    again, _ = run(many, tmp_path)

    assert again == straight
    assert [row["epoch"] for row in read_jsonl(log)] == [1, 2, 3, 4]
    assert not any(row["networks"][0].startswith("0" * 33) for row in read_jsonl(log))


def test_validation_sides_that_are_too_small_for_a_kid_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"too few images for a KID in val-A \(NORMAL "):
        require_measurable(make_bench(tmp_path).prepared)
