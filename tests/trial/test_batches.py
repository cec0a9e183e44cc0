"""The batches of a step: real images, extra ones, and the features of a frozen network."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.in_process import CPU
from tests.trial.conftest import Bench, batch_of, frozen, gan
from xraytune.base.arrays import Float32Array, Int64Array
from xraytune.base.errors import TrialError
from xraytune.base.tensors import save_state
from xraytune.data.prepare import side_image_set
from xraytune.nets.feature_store import FEATURES_FILE, FEATURES_STAGE
from xraytune.nets.inputs import view_table
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment
from xraytune.space.task_settings import TaskName
from xraytune.tasks import TASKS
from xraytune.trial.batches import Batches
from xraytune.trial.network import TrialNetwork
from xraytune.trial.training import TrialTraining
from xraytune.trial.training_set import TrainingSet, build_training_set

ARMS: tuple[dict[str, Any], ...] = (
    {"source": "none"},
    {"source": "duplicate", "synthetic_ratio": 1.0},
    {"source": "gan", "gan": gan(), "synthetic_ratio": 0.5},
)


def batches_of(bench: Bench, **parameters: Any) -> Batches:
    experiment = bench.experiment(augmentation="affine", **parameters)
    return TrialTraining(experiment, bench.context).batches


def test_two_arms_see_the_same_real_images_in_the_same_order(bench: Bench) -> None:
    """The first images of each step are the real ones, to the last pixel, augmentation included."""
    arms = [batches_of(bench, **arm) for arm in ARMS]
    alone, duplicated, synthetic = [[batch_of(arm, step) for step in range(12)] for arm in arms]
    for step in range(12):
        real, labels = alone[step]
        for other in (duplicated, synthetic):
            assert torch.equal(other[step][0][: len(real)], real)
            assert torch.equal(other[step][1][: len(real)], labels)
        assert len(duplicated[step][0]) == 2 * len(real)


@pytest.mark.parametrize("trainable", ["all", "head"])
@pytest.mark.parametrize("source", ["gan", "duplicate"])
def test_images_too_large_for_the_device_are_brought_in_parts(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainable: str, source: str
) -> None:
    """A few steps at a time, and for the batch norms.

    In a pretraining, the first steps have no real images.
    """
    mixing = "pretrain" if trainable == "all" else "additive"
    mix = {"source": source, "gan": gan(), "mixing": mixing, "augmentation": "affine"}
    experiment = frozen(bench, tmp_path, trainable=trainable, **mix)
    monkeypatch.setattr("xraytune.trial.batches._TRANSFER_BYTES", 0)
    in_parts = TrialTraining(experiment, bench.context).batches
    monkeypatch.setattr("xraytune.trial.batches._room_bytes", lambda _: np.inf)
    at_once = TrialTraining(experiment, bench.context).batches

    steps = range(12)
    for whole, part in zip(at_once.step_inputs(steps), in_parts.step_inputs(steps), strict=True):
        assert all(
            torch.equal(*pair)
            for pair in zip(at_once.load(whole), in_parts.load(part), strict=True)
        )
    norms = zip(at_once.norm_batches(), in_parts.norm_batches(), strict=True)
    assert all(torch.equal(*inputs) for inputs in norms)


@pytest.mark.parametrize("task", [*TASKS])
def test_extra_images_have_their_weight_in_the_loss(task: TaskName) -> None:
    """At .25, four extra images beside four real ones have a fifth of the loss; at 1, half."""
    loss = TASKS[task].loss
    shape = (8, 1, 4, 4) if task == "segmentation" else (8, 2)
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(8) % 2 if task == "classification" else (outputs > 0.1).float()

    for weight, share in ((0.25, 0.2), (1.0, 0.5)):
        mix = Parameters(source="duplicate", batch_size=4, synthetic_weight=weight)
        weighed = TASKS[task].loss_of(mix, np.zeros(0, dtype=np.int64), "cpu")(outputs, targets)
        of_real = loss(outputs[:4], targets[:4])
        of_extra = loss(outputs[4:], targets[4:])
        torch.testing.assert_close(weighed, (1 - share) * of_real + share * of_extra)


def test_pretraining_shows_the_extra_images_first_and_then_the_real_ones_of_every_arm(
    bench: Bench,
) -> None:
    """Steps with real images show the first ones of an arm without extra images, no others."""
    for source in ("gan", "duplicate"):
        mix = {"source": source, "gan": gan(), "synthetic_ratio": 0.5}
        alone = batches_of(bench)
        pretrained = batches_of(bench, mixing="pretrain", **mix)
        added = batches_of(bench, **mix)
        batches = [batch_of(pretrained, step) for step in range(12)]

        for step, (images, labels) in enumerate(batches[4:]):
            assert torch.equal(images, batch_of(alone, step)[0])
            assert torch.equal(labels, batch_of(alone, step)[1])
        assert all(len(images) == 8 for images, _ in batches)
        norms = zip(pretrained.norm_batches(), alone.norm_batches(), strict=True)
        assert all(torch.equal(*inputs) for inputs in norms), "statistics of the last steps"
        if (
            source == "gan"
        ):  # extra images in the order of other arms: steps of 8 there, of 4 in the additive arm
            extra = [batch_of(added, step)[0][8:] for step in range(8)]
            assert torch.equal(torch.cat(extra), torch.cat([images for images, _ in batches[:4]]))


def test_the_extra_images_of_a_training_set(bench: Bench) -> None:
    """Duplicates are real ones; those of a GAN begin with those of a smaller ratio."""

    def built(source: str, ratio: float, **parameters: Any) -> TrainingSet:
        experiment = bench.experiment(source=source, synthetic_ratio=ratio, **parameters)
        return build_training_set(experiment, bench.context)

    duplicated = built("duplicate", 2.0)
    assert len(duplicated.image_sets) == 1
    assert sorted(duplicated.extra.tolist()) == sorted([*range(len(duplicated.real))] * 2)
    small, large = (built("gan", ratio, gan=gan()) for ratio in (0.5, 1.0))
    assert small.extra.tolist() == large.extra[: len(small.extra)].tolist()
    assert (small.targets[small.extra] == large.targets[large.extra][: len(small.extra)]).all()


def test_the_features_of_an_image_do_not_depend_on_others_or_on_threads(
    bench: Bench, tmp_path: Path
) -> None:
    """Of a MobileNetV2, the features of a batch of 3 are others in the last bits."""
    experiment = frozen(bench, tmp_path, backbone="mobilenet_v2")
    side = side_image_set("train", bench.prepared, bench.cache)
    views = view_table(
        0, image_count=len(side.rows), parameters=Parameters(augmentation="affine", views=1)
    )[:, 0]
    everywhere = np.arange(len(side.rows))

    def computed(places: Int64Array, threads: int, cache: str) -> Float32Array:
        copy = shutil.copytree(bench.cache / "pixels-1", tmp_path / cache / "pixels-1").parent
        compute = replace(CPU, threads=threads)
        context = replace(bench.context, cache=copy, compute=compute)
        features, rows = TrialNetwork(experiment, context).features(side, places, views[places])
        return features[rows]

    together = computed(everywhere, 1, "together")
    in_threads = computed(everywhere, 3, "in threads")
    few = computed(everywhere[[7, 20, 3]], 1, "few")

    assert np.array_equal(in_threads, together)
    assert np.array_equal(few, together[[7, 20, 3]])


def test_only_the_images_that_a_step_shows_pass_the_network(bench: Bench, tmp_path: Path) -> None:
    """In the views that it shows; arms of a study and studies share them."""
    cache = shutil.copytree(bench.cache / "pixels-1", tmp_path / "cache/pixels-1").parent
    context = replace(bench.context, cache=cache)
    kept = len(bench.prepared.side("val_a"))
    shown: set[tuple[int, float]] = set()

    for mix, new_images in (
        ({"source": "none", "batch_size": 1}, True),
        ({"source": "duplicate", "batch_size": 1, "synthetic_ratio": 0.5}, True),
        ({"source": "none", "batch_size": 1}, False),
    ):
        experiment = frozen(bench, tmp_path, augmentation="flip", **mix)
        training = TrialTraining(experiment, context)
        before = len(shown)
        source = training.images.image_sets[0]
        table = training.network.views(source)
        for step in range(12):
            numbers, views = training.batches.images_of_step(step)
            shown |= {*zip(numbers.tolist(), table[numbers, views, 0].tolist(), strict=True)}
        (file,) = cache.glob(f"{FEATURES_STAGE}/*/{FEATURES_FILE}")
        assert file.stat().st_size == (kept + len(shown)) * (24 + 4 * 96)
        assert (len(shown) > before) == new_images
    assert len(shown) < len(source.rows) * 2


def with_parameters(experiment: Experiment, **changes: Any) -> Experiment:
    return experiment.model_copy(
        update={"parameters": experiment.parameters.model_copy(update=changes)}
    )


@pytest.mark.parametrize("augmentation", ["flip", "affine"])
def test_cached_features_are_what_the_frozen_network_computes(
    bench: Bench, tmp_path: Path, augmentation: str
) -> None:
    experiment = frozen(
        bench, tmp_path, augmentation=augmentation, source="duplicate", synthetic_ratio=0.5
    )
    cached = TrialTraining(experiment, bench.context)
    # The same views, but the whole network in the loop: what `trainable: head` means.
    whole = with_parameters(experiment, trainable="all")
    straight = TrialTraining(whole, bench.context)
    backbone = straight.whole_network().eval().get_submodule("backbone")

    for step in range(6):
        features, labels = batch_of(cached.batches, step)
        images, same_labels = batch_of(straight.batches, step)
        with torch.no_grad():
            expected = backbone(images)
        assert torch.equal(labels, same_labels)
        assert torch.allclose(features, expected, atol=1e-5)
    (val,) = cached.network.batches(cached.val_a)
    images = torch.cat(list(straight.network.batches(straight.val_a)))
    with torch.no_grad():
        assert torch.allclose(val, backbone(images), atol=1e-5)


def test_features_that_hardly_differ_are_refused_unless_pixels_get_their_range(
    bench: Bench, tmp_path: Path
) -> None:
    """The first batch norm of this backbone knows pixels that are 10,000 times as large."""
    experiment = frozen(bench, tmp_path)
    file = tmp_path / "backbone.safetensors"
    state = load_file(file)
    state["0.1.running_mean"] = torch.randn(16)
    state["0.0.weight"] *= 1e-4
    save_state(state, file)
    pixels = {"pixel_mean": 0.5, "pixel_std": 5e-5}
    parameters = experiment.parameters.model_copy(update=pixels)

    with pytest.raises(TrialError, match=r"nearly equal(.|\n)*set pixel_mean"):
        TrialTraining(experiment, bench.context)
    TrialTraining(experiment.model_copy(update={"parameters": parameters}), bench.context)
