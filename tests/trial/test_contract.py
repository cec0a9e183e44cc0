"""What a space accepts can be trained, and does what it says; what it refuses has a fix that works.

Each sample is a space file with one point, of any task, source, mixing, GAN, head and loss. Either
`load_space`, `check_images` or what a search checks next refuses it, with fixes that lead to a
space that is accepted. Or a training step is finite, shows the declared numbers of real and extra
images, and another value of a parameter changes the trained network.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.in_process import CPU, one_thread, save_backbone
from tests.pair_files import write_discs
from tests.space.conftest import space_with, with_fixes
from xraytune.base.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    MachineError,
    TrialError,
)
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import RunContext
from xraytune.model.generator_folder import generator_train
from xraytune.space.document import write_yaml
from xraytune.space.load import load_space
from xraytune.space.space import Space
from xraytune.study.start import inputs_of_space, read_inputs
from xraytune.synth.sources.registry import mixes_of
from xraytune.trial.preflight import prepare_space, require_inputs
from xraytune.trial.training import TrialTraining

PARAMETERS: Mapping[str, tuple[Any, ...]] = {
    "source": ("none", "duplicate", "folder", "generator", "gan", "statistics"),
    "synthetic_ratio": (1.0, 0.0, 0.05, 0.5, 2.0),
    "pool_size": (None, 1, 9),
    "synthetic_weight": (1.0, 0.3),
    "balance": ("natural", "equal"),
    "labels": ("class", "donor"),
    "mixing": ("additive", "pretrain"),
    "gan.architecture": ("pca", "dcgan"),
    "gan.z_dim": (4, 5),
    "gan.steps": (2, 0, 3),
    "gan.image_size": (32, 64),
    "gan.features": ("", "features"),
    "gan.start_from": ("", "generator"),
    "folder.path": ("", "folder"),
    "folder.donor": ("", "generator"),
    "generator.path": ("", "generator"),
    "statistics.path": ("", "generator"),
    "augmentation": ("none", "flip", "affine", "trivial"),
    "degrees": (10.0, 20.0),
    "with_flips": (False, True),
    "views": (3, 1),
    "mixup": (0.0, 0.4),
    "cutmix": (0.0, 1.0),
    "backbone": ("small_cnn", "mobilenet_v2"),
    "weights": ("none", "imagenet", "file"),
    "pixel_mean": (None, 0.4, 0.3),
    "pixel_std": (None, 0.2, 0.3),
    "input_channels": (1, 3),
    "input_size": (None, 96),
    "trainable": ("all", "head", "last_stage"),
    "head": ("linear", "vgg16_two_class"),
    "loss": ("cross_entropy", "bce"),
    "imbalance": ("none", "weighted", "oversample", "focal"),
    "dropout": (0.0, 0.3),
    "lr": (0.01, 0.001),
    "optimizer": ("adam", "sgd"),
    "weight_decay": (0.0, 0.1),
    "batch_size": (4, 1, 8),
    "schedule": ("constant", "cosine"),
    "early_stop_epochs": (None, 1, 9),
}
"""Values of each parameter. Words such as `folder` stand for paths of the task; "" for none."""
SETTINGS: Mapping[str, tuple[Any, ...]] = {
    "data.image_size": (32, 64),
    "data.classes": ("binary", "three"),
    "data.shift.contrast": (1.0, 0.0),
    "data.split.val_a": (0.3, 0.7),
    "objective.metric": ("val_auroc", "val_sensitivity", "val_dice"),
    "scheduler.name": ("asha", "none"),
    "scheduler.grace": (1, 2),
    "sampler.name": ("tpe", "random", "grid"),
    "sampler.startup_trials": (10, 2),
    "confirm.test": ("auto", "unused"),
    "final.trainable": (None, "head"),
    "final.image_size": (None, 32),
}
SHOWN_ELSEWHERE = {"early_stop_epochs", "folder.donor"}
"""They show it only in a longer training (tests/trial/test_epochs.py), and in the controls of a
confirmation or with `labels: donor` (tests/trial/test_soft_labels.py)."""
MOST_FIXES = 12
REFUSALS = (ArtifactError, ConfigError, DataError, MachineError)


@dataclass(frozen=True)
class Ward:
    """The images of a task, and what its sources can be given."""

    task: str
    data: Path
    paths: Mapping[str, Path]


@pytest.fixture(scope="module")
def wards(module_path: Path) -> dict[str, Ward]:
    with one_thread():
        return {
            task: make_ward(module_path / task, task)
            for task in ("classification", "findings", "segmentation")
        }


def make_ward(root: Path, task: str) -> Ward:
    """Draw images, and those of another hospital with its generator and statistics."""
    data = {}
    for name, seed in (("real", 3), ("other", 4)):
        if task == "segmentation":
            data[name] = write_discs(root / name, seed)
        else:
            has_findings = task == "findings"
            patients = 120 if has_findings or name == "other" else 40
            paint_phantoms(
                root / name, patients=patients, seed=seed, image_size_px=32, findings=has_findings
            )
            data[name] = root / name / "data.yaml" if has_findings else root / name / "train"
        if task == "classification":
            for file in [*(root / "other").rglob("*.*")]:
                file.rename(file.with_name(f"of_another_hospital_{file.name}"))
    weights = {name: root / f"{name}.safetensors" for name in ("small_cnn", "mobilenet_v2")}
    for name, file in weights.items():
        save_backbone(file, name)
    paths = {
        **weights,
        "folder": data["other"],
        "generator": root / "generator",
        "statistics": root / "generator",
        "features": weights["mobilenet_v2"],
    }
    ward = Ward(task, data["real"], paths)
    frozen = {"weights": "file", "trainable": "head"} if task == "classification" else {}
    point = with_paths({"source": "gan", "gan.steps": STEPS[task], **frozen}, ward)
    space = write_space(root, ward, point)
    generator_train(space, out=root / "generator", data=data["other"], cache=root / "donor")
    return ward


STEPS = {"classification": 2, "findings": 2, "segmentation": 150}
"""Of a generator; masks are plausible only after some training."""


def write_space(root: Path, ward: Ward, point: Mapping[str, Any]) -> Path:
    """Write the space of a point, with other values at their defaults or small ones."""
    small: dict[str, Any] = {"backbone": "small_cnn", "weights": "none", "batch_size": 4}
    small |= {"data.image_size": 32}
    if ward.task == "segmentation":
        small |= {"backbone": "mobilenet_v2"}
    if point.get("source") == "gan":
        small |= {"gan.image_size": 32, "gan.width": 4, "gan.batch_size": 4, "gan.z_dim": 4}
        small |= {"gan.steps": 2}
    if point.get("source") == "gan" and ward.task == "segmentation":
        small |= {
            "gan.width": 8,
            "gan.batch_size": 8,
            "gan.z_dim": 8,
            "gan.steps": STEPS[ward.task],
        }
        small |= {"gan.lr_g": 2e-3, "gan.lr_d": 2e-3}
    content = space_with(
        {**small, **point},
        name="sample",
        task=ward.task,
        data={"split": {"val_a": 0.3, "val_b": 0.3}},
        budget={"max_epochs": 2, "steps_per_epoch": 2},
        quality={"allow_memorised": True},
    )
    file = root / "space.yaml"
    file.write_text(write_yaml(content))
    return file


@st.composite
def points(draw: st.DrawFn) -> dict[str, Any]:
    """A task, and values of a few parameters and settings, most of which decide about others."""
    names = draw(st.sets(st.sampled_from([*PARAMETERS, *SETTINGS]), max_size=9))
    choices = {**PARAMETERS, **SETTINGS}
    point = {name: draw(st.sampled_from(choices[name])) for name in sorted({*names, "source"})}
    return {"task": draw(st.sampled_from(["classification", "findings", "segmentation"])), **point}


def with_paths(point: Mapping[str, Any], ward: Ward) -> dict[str, Any]:
    """Return a point with the paths that its words stand for, without those of none."""
    backbone = point.get("backbone", "small_cnn")
    words = {**ward.paths, "file": ward.paths.get(backbone)}
    given: dict[str, Any] = {}
    for name, value in point.items():
        is_path = name == "weights" or ("." in name and isinstance(value, str))
        if value != "":
            given[name] = str(words[value]) if is_path and value in words else value
    return given


def apply_fixes(point: dict[str, Any], error: ConfigError, ward: Ward) -> dict[str, Any]:
    """Return a point with what the messages of an error say to write."""
    fixed = with_fixes(point, error.problems)
    assert fixed != point, f"the fixes change nothing: {error}"
    for name, value in fixed.items():
        if value == "PATH":
            block = fixed.get("backbone", "small_cnn") if name == "weights" else name.split(".")[0]
            fixed[name] = str(ward.paths[block])
    return fixed


def prepared_as_by_search(root: Path, ward: Ward, point: Mapping[str, Any]) -> Any:
    """Return the space of a point and its images, after all that a search checks first."""
    cache = root.parent / "cache"
    space = load_space(write_space(root, ward, point), data=ward.data)
    inputs = inputs_of_space(space)
    require_inputs(space.settings, space.networks(), inputs)
    prepared, index = prepare_space(space, cache)
    read_inputs(inputs, space.settings, prepared, cache, index=index, mixes=mixes_of(space))
    return space, RunContext(prepared=prepared, cache=cache, compute=CPU)


def accepted(
    root: Path, ward: Ward, point: dict[str, Any]
) -> tuple[dict[str, Any], Space, RunContext]:
    """Return the point, with fixes if it is refused, and what a search has before its trials."""
    for _ in range(MOST_FIXES):
        try:
            return point, *prepared_as_by_search(root, ward, point)
        except ConfigError as error:
            point = apply_fixes(point, error, ward)
        except MachineError:  # official weights that are not on this machine
            point = {**point, "weights": "none"}
    pytest.fail(f"still refused after {MOST_FIXES} fixes: {point}")


def trained(space: Space, context: RunContext) -> dict[str, Any]:
    """Train a trial, and return what it has learned and reported."""
    training = TrialTraining(space.experiment(), context)
    require_declared_images(training)
    with TemporaryDirectory() as folder:
        records = [*training.epochs(Path(folder))]
    assert all(math.isfinite(record.train_loss) for record in records)
    assert all(bool(torch.isfinite(each).all()) for each in training.trained.state_dict().values())
    return {
        "records": [(record.train_loss, record.val_loss, record.lr) for record in records],
        "size": sum(each.numel() for each in training.whole_network().state_dict().values()),
    }


def require_declared_images(training: TrialTraining) -> None:
    """Check the numbers of real and extra images in the first and the last step."""
    parameters = training.parameters
    extra = parameters.extra_per_step if parameters.source != "none" else 0
    real = set(training.images.real.tolist())
    total = training.max_epochs * training.steps_per_epoch
    for step in (0, total - 1):
        numbers, _ = training.batches.images_of_step(step)
        is_pretraining = parameters.mixing == "pretrain" and step == 0
        of_real = 0 if is_pretraining else parameters.batch_size
        of_extra = extra if is_pretraining or parameters.mixing == "additive" else 0
        assert len(numbers) == of_real + of_extra
        assert set(numbers[:of_real].tolist()) <= real
        if parameters.source != "duplicate":
            assert not set(numbers[of_real:].tolist()) & real


def other_values(space: Space, name: str, ward: Ward, point: Mapping[str, Any]) -> Iterator[Any]:
    """Yield other values of a parameter."""
    (current,) = (spec.values[0] for spec in space.specs if spec.name == name)
    for value in PARAMETERS[name]:
        other = with_paths({**point, name: value}, ward).get(name)
        if other is not None and other != current:
            yield other


def hold_or_fail(wards: Mapping[str, Ward], point: dict[str, Any], choice: int) -> None:
    """Hold a point to the contract, unless its trial fails, which is said.

    Its GAN is too little trained for plausible masks, or SGD diverges on batches of a few images.
    """
    reasons = ["masks are plausible"]
    if point.get("optimizer") == "sgd":
        reasons.append("network is not finite")
    try:
        hold(wards, point, choice)
    except TrialError as error:
        assert any(reason in str(error) for reason in reasons), str(error)  # noqa: PT017


def hold(wards: Mapping[str, Ward], point: dict[str, Any], choice: int) -> None:
    ward = wards[point.pop("task")]
    with TemporaryDirectory(dir=ward.paths["generator"].parent) as folder:
        root = Path(folder)
        try:
            point, space, context = accepted(root, ward, with_paths(point, ward))
        except REFUSALS as error:  # such as of a generator of other classes
            assert all(problem.fix for problem in error.problems)  # noqa: PT017
            return
        learned = trained(space, context)
        active = [spec.name for spec in space.specs if spec.name in PARAMETERS]
        changeable = [name for name in active if name not in SHOWN_ELSEWHERE]
        name = changeable[choice % len(changeable)]
        for value in other_values(space, name, ward, point):
            try:
                changed, context = prepared_as_by_search(root, ward, {**point, name: value})
            except REFUSALS:
                continue
            assert trained(changed, context) != learned, f"{name}: {value} changes nothing"
            return


@pytest.mark.nightly
@settings(max_examples=2000, phases=[Phase.generate], suppress_health_check=[*HealthCheck])
@given(point=points(), choice=st.integers(0, 99))
def test_any_space_is_refused_with_a_fix_or_trains_what_it_says(
    wards: dict[str, Ward], point: dict[str, Any], choice: int
) -> None:
    hold_or_fail(wards, point, choice)


@settings(
    max_examples=16,
    derandomize=True,
    phases=[Phase.generate],  # to shrink a sample takes minutes
    suppress_health_check=[*HealthCheck],
)
@given(point=points(), choice=st.integers(0, 99))
def test_a_few_spaces_are_refused_with_a_fix_or_train_what_they_say(
    wards: dict[str, Ward], point: dict[str, Any], choice: int
) -> None:
    hold_or_fail(wards, point, choice)
