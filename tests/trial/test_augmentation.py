"""An augmentation of a user: its views are equal in all arms and after a kill, and it is blamed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.extension_files import write_noise
from tests.trial.conftest import Bench, batch_of, frozen, gan
from xraytune.base.errors import FileLine, TrialError
from xraytune.data.prepare import side_image_set
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.settings import Experiment
from xraytune.trial.batches import Batches
from xraytune.trial.run import run_trial, trial_epochs
from xraytune.trial.training import TrialTraining


def noisy(bench: Bench, **parameters: Any) -> Experiment:
    return bench.ungated.experiment(augmentation="noise", **parameters)


def batches_of(bench: Bench, experiment: Experiment) -> Batches:
    return TrialTraining(experiment, bench.context).batches


def test_real_images_have_the_same_views_in_all_arms_and_with_all_batch_sizes(
    bench: Bench, tmp_path: Path
) -> None:
    """Images of a smaller generator are enlarged first."""
    EXTENSIONS.register([write_noise(tmp_path)])
    alone = batches_of(bench, noisy(bench))
    mixed = batches_of(bench, noisy(bench, source="gan", gan=gan(), synthetic_ratio=1.0))
    small = batches_of(bench, noisy(bench, batch_size=4))

    for step in range(6):
        images, labels = batch_of(alone, step)
        others, labels_of_others = batch_of(mixed, step)
        assert torch.equal(others[:8], images)
        assert torch.equal(labels_of_others[:8], labels)
        assert not torch.equal(others[8:], batch_of(mixed, step + 1)[0][8:])
        assert torch.equal(batch_of(small, 2 * step)[0], images[:4])


def test_an_image_has_so_many_views_and_each_is_what_the_code_returns(
    bench: Bench, tmp_path: Path
) -> None:
    EXTENSIONS.register([write_noise(tmp_path, name="negative")])
    batches = batches_of(bench, noisy(bench, views=2))
    input_format = TrialTraining(noisy(bench), bench.context).network.input_format
    pixels = side_image_set("train", bench.prepared, bench.cache).read()
    expected = {image.tobytes() for image in np.concatenate([pixels, 255 - pixels])}

    shown = torch.cat([batch_of(batches, step)[0] for step in range(40)])
    grey = (
        ((shown[:, 0] * input_format.std[0] + input_format.mean[0]) * 255)
        .round()
        .to(torch.uint8)
        .numpy()
    )

    seen = {image.tobytes() for image in grey}
    assert seen <= expected
    assert len(pixels) < len(seen) < 2 * len(pixels), "some images have two equal seeds' parities"


def test_a_frozen_backbone_sees_the_views_and_settings_change_them(
    bench: Bench, tmp_path: Path
) -> None:
    EXTENSIONS.register([write_noise(tmp_path)])
    plain, weak, again, strong = (
        batch_of(batches_of(bench, frozen(bench, tmp_path, **values)), 0)[0]
        for values in (
            {},
            {"augmentation": "noise", "noise": {"strength": 1.0}},
            {"augmentation": "noise", "noise": {"strength": 1.0}},
            {"augmentation": "noise"},
        )
    )

    assert torch.equal(weak, again)
    assert 0 < (weak - plain).abs().mean() < (strong - plain).abs().mean()


@pytest.mark.parametrize(("place", "name"), [(0, "augment"), (1, "Augment")])
def test_the_examples_of_its_page_run(bench: Bench, tmp_path: Path, place: int, name: str) -> None:
    page = Path(__file__).resolve().parents[2] / "docs/your_augmentation.md"
    code = page.read_text().split("```python\n")[1 + place].partition("```")[0]
    (tmp_path / "my_aug.py").write_text(code)
    EXTENSIONS.register([f"{tmp_path / 'my_aug.py'}:{name}"])
    experiment = bench.experiment(augmentation="my_aug")

    first, plain = (
        batch_of(batches_of(bench, each), 0)[0] for each in (experiment, bench.experiment())
    )

    assert not torch.equal(first, plain)


def test_a_trial_that_is_killed_resumes_equally(bench: Bench, tmp_path: Path) -> None:
    EXTENSIONS.register([write_noise(tmp_path)])
    experiment = noisy(bench, dropout=0.3)

    straight = run_trial(experiment, bench.context, trial_dir=tmp_path / "straight")
    killed = trial_epochs(experiment, bench.context, tmp_path / "killed")
    next(killed)
    killed.close()
    resumed = run_trial(experiment, bench.context, trial_dir=tmp_path / "killed")

    assert resumed == straight
    plain = bench.experiment(dropout=0.3)
    other = run_trial(plain, bench.context, trial_dir=tmp_path / "plain")
    assert other.value != straight.value or other.val_b_score != straight.val_b_score


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("default_rng(seed)", "default_rng()", "equal seeds give different images"),
        (".astype(np.uint8)", "", r"float64 \[32, 32\]"),
        ("(image + noise)", "(image + noise)[1:]", r"uint8 \[31, 32\]"),
        ("image.shape", "image.shapes", "AttributeError"),
    ],
)
def test_what_is_no_augmentation_is_refused_and_names_its_file(
    bench: Bench, tmp_path: Path, old: str, new: str, what: str
) -> None:
    EXTENSIONS.register([write_noise(tmp_path, old, new)])

    with pytest.raises(TrialError, match=what) as caught:
        batches_of(bench, noisy(bench))

    (problem,) = caught.value.problems
    assert "noise.py" in str(problem.where)
    if what == "AttributeError":
        assert isinstance(problem.where, FileLine)
        assert "image.shapes" in problem.where.text
