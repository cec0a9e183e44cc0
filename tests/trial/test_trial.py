"""One trial: every arm runs, numbers repeat to the bit, and nothing is trained twice."""

import json
import shutil
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.in_process import CPU
from tests.trial.conftest import ARMS, Bench, flip_a_bit, gan
from xraytune.base.errors import TrialError
from xraytune.base.files import read_jsonl, write_text
from xraytune.base.records import EpochRecord
from xraytune.base.tensors import load_content, save_content
from xraytune.data.prepare import prepare
from xraytune.nets.checkpoint import load_best
from xraytune.space.settings import Experiment
from xraytune.stats.classification import auroc
from xraytune.synth.generator_inputs import GAN_STAGE, lineage_to_train
from xraytune.synth.sources.gan import trained_generator
from xraytune.trial.run import run_trial, trial_epochs
from xraytune.trial.training import TrialTraining


def run(
    bench: Bench, experiment: Experiment, trial_dir: Path, stop_after: int | None = None
) -> list[EpochRecord]:
    """The epochs that a run reports; with `stop_after` it is stopped then."""
    epochs = trial_epochs(experiment, bench.context, trial_dir)
    with closing(epochs):
        return [*islice(epochs, stop_after)]


def assert_logged(folder: Path, records: list[EpochRecord]) -> None:
    rows = read_jsonl(folder / "epochs.jsonl")
    logged = [(row["epoch"], row["val_score"]) for row in rows]
    assert logged == [(record.epoch, record.val_score) for record in records]


def untimed(records: list[EpochRecord]) -> list[EpochRecord]:
    return [replace(record, seconds=0) for record in records]


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_the_same_steps_and_resumes_identically(
    bench: Bench, tmp_path: Path, arm: str
) -> None:
    experiment = bench.experiment(**ARMS[arm])

    records = run(bench, experiment, tmp_path)

    assert [record.steps for record in records] == [4, 8, 12]
    assert np.isfinite([(record.train_loss, record.val_loss) for record in records]).all()
    assert_logged(tmp_path, records)
    if arm in ("augmented", "gan", "gan, pretrained"):
        assert len(run(bench, experiment, tmp_path / "resumed", stop_after=2)) == 2
        both = run(bench, experiment, tmp_path / "resumed")
        assert untimed(both) == untimed(records), "finished epochs are reported again"
        assert_logged(tmp_path / "resumed", records)


def test_two_trials_that_need_one_gan_train_it_once(bench: Bench, tmp_path: Path) -> None:
    settings = gan(seed=11)
    assert lineage_to_train(settings, None, 32, bench.prepared, CPU, bench.cache) is not None
    progress: list[tuple[str, int, int]] = []

    for number, ratio in enumerate((0.5, 1.0)):
        run_trial(
            bench.experiment(source="gan", gan=settings, synthetic_ratio=ratio),
            replace(bench.context, on_progress=lambda *said: progress.append(said)),
            trial_dir=tmp_path / str(number),
        )

    assert [entry[1:] for entry in progress if entry[0] == "training the GAN (steps)"] == [
        (0, 4),
        (4, 4),
    ]
    assert lineage_to_train(settings, None, 32, bench.prepared, CPU, bench.cache) is None


def test_longer_gan_continues_shorter_one_bit_identically(bench: Bench, tmp_path: Path) -> None:
    done = list[int]()

    def train(cache: Path, steps: int) -> dict[str, Tensor]:
        prepared, _ = prepare(bench.settings, cache)
        context = replace(
            bench.context,
            prepared=prepared,
            cache=cache,
            on_progress=lambda _, step, __: done.append(step),
        )
        path = trained_generator(gan(seed=12, steps=steps), context)
        return load_file(path / "generator.safetensors")

    train(tmp_path / "one", 26)
    continued = train(tmp_path / "one", 51)
    straight = train(tmp_path / "other", 51)

    assert all(torch.equal(continued[name], straight[name]) for name in straight)
    assert done == [0, 25, 26, 50, 51, 0, 25, 50, 51], "the longer run starts from the shorter one"
    work = tmp_path / "one" / f"{GAN_STAGE}.work"
    assert not list(work.iterdir()), "the work folder of a finished GAN is removed"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def test_trial_with_damaged_checkpoint_or_best_network_is_trained_again_with_same_results(
    bench: Bench, tmp_path: Path
) -> None:
    experiment = bench.experiment(source="none")
    files = tmp_path / "checkpoint"
    first = run(bench, experiment, tmp_path)
    for damage in (flip_a_bit, cut, empty):
        damage(files / "checkpoint.pt")

        assert untimed(run(bench, experiment, tmp_path)) == untimed(first)
        assert [row["epoch"] for row in read_jsonl(tmp_path / "epochs.jsonl")] == [1, 2, 3]

    best = (files / "best.safetensors").read_bytes()
    (files / "best.safetensors").write_bytes(b"damaged")
    assert untimed(run(bench, experiment, tmp_path)) == untimed(first)
    assert (files / "best.safetensors").read_bytes() == best
    content = load_content(files / "checkpoint.pt")
    for tensor in content["best"].values():
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    save_content(content, files / "checkpoint.pt")
    with pytest.raises(TrialError, match="output is NaN or infinite for"):
        run(bench, experiment, tmp_path)


def test_trial_without_checkpoint_restarts_its_log(bench: Bench, tmp_path: Path) -> None:
    """Another GPU rounds differently: log, best epoch and result are of the last training."""
    experiment = bench.experiment(source="none")
    log = tmp_path / "epochs.jsonl"
    run(bench, experiment, tmp_path, stop_after=2)
    elsewhere = [row | {"val_score": 0.123, "best_val_score": 0.123} for row in read_jsonl(log)]
    write_text(log, "".join(f"{json.dumps(row)}\n" for row in elsewhere))
    shutil.rmtree(
        tmp_path / "checkpoint", ignore_errors=True
    )  # there is none if the epochs took less than five seconds

    seen = list[EpochRecord]()
    result = run_trial(experiment, bench.context, trial_dir=tmp_path, on_epoch=seen.append)

    assert_logged(tmp_path, seen)
    assert (
        seen[result.best_epoch - 1].val_score
        == result.value
        == max(record.val_score for record in seen)
    )
    assert 0 < (result.threshold or -1) < 1
    inputs = TrialTraining(experiment, bench.context)
    load_best(tmp_path / "checkpoint", inputs.trained)
    of_val_b = inputs.results(inputs.val_b)
    assert np.array_equal(np.load(tmp_path / "val_b.npy"), of_val_b)
    assert result.val_b_score == auroc(
        inputs.val_b.labels, of_val_b, positive=bench.context.prepared.positive
    )
