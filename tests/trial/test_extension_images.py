"""Images of an extension: trained once, resumed after a kill, and blamed by line."""

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.extension_files import write_blend
from tests.in_process import CPU
from tests.trial.conftest import Bench
from xraytune.base.errors import FileLine, TrialError
from xraytune.data.prepare import RunContext
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.settings import Experiment
from xraytune.study.trial import ProgressFile, TakenOverError, attempt
from xraytune.synth.generator_inputs import lineage_to_train, training_of
from xraytune.synth.sources.registry import source_of
from xraytune.trial.training_set import build_training_set


def blend(bench: Bench, **settings: Any) -> Experiment:
    return bench.ungated.experiment(source="blend", blend=settings)


def train(experiment: Experiment, context: RunContext) -> Path:
    return source_of(experiment.parameters).trained(experiment.settings, context)


def test_a_longer_training_starts_from_the_folder_of_a_shorter_one(
    bench: Bench, tmp_path: Path
) -> None:
    EXTENSIONS.register([write_blend(tmp_path)])
    steps: list[int] = []
    context = replace(bench.context, on_progress=lambda _, done, __: steps.append(done))

    short, again = (train(blend(bench, steps=3), context) for _ in range(2))
    long = train(blend(bench, steps=5), context)
    other = train(blend(bench, steps=2, noise=1.0), context)

    assert short == again
    assert steps == [1, 2, 3, 4, 5, 1, 2]
    assert (long / "steps.txt").read_text().split() == ["0", "1", "2", "3", "4"]
    assert (short / "steps.txt").read_text().split() == ["0", "1", "2"]
    assert other.name not in (short.name, long.name)
    assert not [*(bench.cache / "extension-1.work").iterdir()]


def test_trials_wait_for_one_training_of_a_lineage(bench: Bench, tmp_path: Path) -> None:
    EXTENSIONS.register([write_blend(tmp_path)])

    def need(steps: int) -> str | None:
        training = training_of(blend(bench, steps=steps, noise=3.0))
        return lineage_to_train(training, None, 32, bench.prepared, CPU, bench.cache)

    assert need(1) is not None
    assert need(1) == need(2)
    train(blend(bench, steps=1, noise=3.0), bench.context)
    assert need(1) is None
    assert need(2) is not None


def test_images_depend_on_the_seed_and_enter_the_training_set(bench: Bench, tmp_path: Path) -> None:
    EXTENSIONS.register([write_blend(tmp_path)])
    experiment = blend(bench)
    source = source_of(experiment.parameters)

    block = source.block(experiment.settings, bench.context, 1, 0)
    reseeded = experiment.settings.with_values({"seed": 1})
    other = source.block(reseeded, bench.context, 1, 0)
    training_set = build_training_set(experiment, bench.context)

    assert block.pixels.shape == (256, 32, 32)
    assert not np.array_equal(block.pixels, other.pixels)
    assert (block.targets == 1).all()
    assert len(training_set.extra) == len(training_set.real)
    assert source.seen_images_sha256() == frozenset()


def test_an_extension_that_declares_nothing_may_have_seen_everybody(
    bench: Bench, tmp_path: Path
) -> None:
    EXTENSIONS.register([write_blend(tmp_path, "    pretrained_on = ()\n")])

    assert source_of(blend(bench).parameters).seen_images_sha256() is None


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("np.save(", "np.save_z(", "np.save_z("),
        ("settings.noise)", "settings.noises)", "settings.noises"),
    ],
)
def test_an_error_of_the_code_of_an_extension_names_its_line(
    bench: Bench, tmp_path: Path, old: str, new: str, line: str
) -> None:
    EXTENSIONS.register([write_blend(tmp_path, old, new)])
    experiment = blend(bench)

    with pytest.raises(TrialError) as caught:
        source_of(experiment.parameters).block(experiment.settings, bench.context, 0, 0)

    (problem,) = caught.value.problems
    assert isinstance(problem.where, FileLine)
    assert problem.where.path == tmp_path / "blend.py"
    assert line in problem.where.text
    assert "AttributeError" in problem.what
    assert "blend.py" in "".join(traceback.format_exception(caught.value))


def test_an_error_of_xraytune_is_not_blamed_on_the_extension(bench: Bench, tmp_path: Path) -> None:
    """Such as that of a trial that another process has taken over."""
    EXTENSIONS.register([write_blend(tmp_path)])
    trial = tmp_path / "trial"
    context = replace(bench.context, on_progress=ProgressFile(trial))

    with attempt(trial):
        (trial / ".owner").write_text("a later attempt")
        with pytest.raises(TakenOverError):
            train(blend(bench, noise=2.5), context)


def test_images_may_be_read_only(bench: Bench, tmp_path: Path) -> None:
    """As those of JAX are."""
    images = "np.stack(mixes).clip(0, 255).astype(np.uint8)"
    EXTENSIONS.register([write_blend(tmp_path)])
    experiment = blend(bench, noise=4.0)
    source = source_of(experiment.parameters)
    expected = source.block(experiment.settings, bench.context, 1, 0)
    read_only = f"np.broadcast_to({images}, np.shape(mixes))"
    EXTENSIONS.register([write_blend(tmp_path, images, read_only)])

    block = source.block(experiment.settings, bench.context, 1, 0)

    assert np.array_equal(block.pixels, expected.pixels)


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        ("np.stack(mixes) / 255", r"float64 \[256, 32, 32\]"),
        ("np.stack(mixes)[:1].astype(np.uint8)", r"uint8 \[1, 32, 32\]"),
        ("np.stack(mixes)[:, 1:].astype(np.uint8)", r"uint8 \[256, 31, 32\]"),
        ("None", r"object \[\]"),
    ],
)
def test_what_is_no_block_of_images_is_refused(
    bench: Bench, tmp_path: Path, returned: str, what: str
) -> None:
    changed = "np.stack(mixes).clip(0, 255).astype(np.uint8)"
    EXTENSIONS.register([write_blend(tmp_path, changed, returned)])
    experiment = blend(bench)

    with pytest.raises(TrialError, match=f"sample of blend returned {what}"):
        source_of(experiment.parameters).block(experiment.settings, bench.context, 0, 0)
