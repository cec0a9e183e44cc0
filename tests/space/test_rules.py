"""The rules of spaces: each refuses what it names, and what it says to write is accepted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.extension_files import write_noise
from tests.space.conftest import space_with, with_fixes
from xraytune.base.errors import ConfigError, Problem
from xraytune.space.data_settings import DataSettings
from xraytune.space.domains import ParameterSpec
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.load import load_space
from xraytune.space.rules import check_images, space_warnings
from xraytune.space.settings import RULES, Settings
from xraytune.space.space import Space


@pytest.fixture(autouse=True)
def _own_extensions(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("code")
    (folder / "of_program.yaml").write_text("fit: [train]\nsample: [make]\n")
    (folder / "of_net.py").write_text("class Net:\n    def forward(self): ...\n")
    of_net = f"{folder / 'of_net.py'}:Net"
    EXTENSIONS.register([write_noise(folder), str(folder / "of_program.yaml"), of_net])


SETTINGS = Settings(name="small", data=DataSettings(path=Path("images")))


def space_of(ratios: list[float]) -> Space:
    """A space with these ratios of a GAN; without any, a real-only one."""
    source = ParameterSpec(name="source", values=("gan" if ratios else "none",))
    ratio = ParameterSpec(name="synthetic_ratio", values=tuple(ratios))
    return Space(settings=SETTINGS, specs=(source, ratio) if ratios else (source,))


@pytest.mark.parametrize(
    ("ratios", "is_valid"),
    [([], True), ([0.01], True), ([0.01, 2.0], True), ([0.0099], False), ([2.0, 0.0099], False)],
)
def test_a_ratio_that_adds_less_than_half_an_image_is_an_error(
    ratios: list[float], is_valid: bool
) -> None:
    if is_valid:
        check_images(space_of(ratios), training_images=50)
        return
    with pytest.raises(ConfigError) as error:
        check_images(space_of(ratios), training_images=50)

    (problem,) = error.value.problems
    assert problem.what.startswith("synthetic_ratio: 0.0099, source: gan, 50 training images: ")
    assert problem.fix.startswith("write synthetic_ratio: 0.02")


@pytest.mark.parametrize(
    ("low", "distribution", "is_rarely_small"),
    [
        (1e-5, "uniform", True),
        (1e-5, "log_uniform_values", False),
        (0.0, "uniform", False),
        (1e-5, None, False),
    ],
)
def test_a_uniform_range_over_orders_of_magnitude_gives_a_warning(
    low: float, distribution: str | None, is_rarely_small: bool
) -> None:
    lr = ParameterSpec(name="lr", values=(low, 0.1), distribution=distribution)

    warnings = [*space_warnings(Space(settings=SETTINGS, specs=(lr,)))]

    assert [warning.partition(";")[0] for warning in warnings] == [
        "lr: 1e-05 to 0.1 is drawn uniformly: nine of ten values are above 0.01"
    ] * is_rarely_small


REFUSED = """\
data.split.val_a=.5 data.split.val_b=.4
data.split.group_regex=person
data.split.group_regex=(person
data.split.site=(site
data.split.site=(site)([0-9])/
data.shift.contrast=0
data.classes=three data.positive=viral
data.findings=auto
objective.metric=val_dice
objective.metric=val_sensitivity data.classes=three
source=gan gan.steps=0
source=gan gan.architecture=dcgan gan.features=mobilenet.pth
source=gan gan.z_dim=5 gan.features=mobilenet.pth
source=gan gan.image_size=256
source=folder
source=generator
source=statistics trainable=head
source=statistics trainable=head statistics.path=there task=segmentation backbone=resnet18
source=statistics statistics.path=there
source=statistics statistics.path=there trainable=head weights=none
task=findings data.table={file:t,image:i} source=folder folder.path=x balance=equal
source=folder folder.path=x labels=donor
source=generator generator.path=x labels=donor task=segmentation backbone=resnet18
task=findings
task=findings data.findings=auto
source=duplicate synthetic_ratio=0
source=duplicate synthetic_ratio=.01
source=duplicate synthetic_ratio=.05 mixing=pretrain budget.max_epochs=2 budget.steps_per_epoch=4
source=duplicate synthetic_ratio=100 mixing=pretrain budget.max_epochs=2 budget.steps_per_epoch=4
source=duplicate synthetic_weight=.5 mixing=pretrain
backbone=small_cnn
trainable=head weights=none
trainable=last_stage backbone=of_net weights=there
task=segmentation backbone=swin_t
pixel_mean=.5 pixel_std=.1
pixel_mean=.5 weights=there
source=gan gan.image_size=64 input_size=32
backbone=rad_dino
backbone=xrv_densenet121_all input_channels=1
mixup=.2 batch_size=1
cutmix=1 trainable=head
loss=bce data.classes=three
early_stop_epochs=27
resources.gpus_per_trial=2
confirm.controls={matched:[],tuned:[]}
confirm.test=unused
confirm.leave_out=site data.train_patients=20 confirm.test=folder
confirm.leave_out=site
confirm.leave_out=site data.train_patients=20 confirm.replicates=4
data.classes=three task=segmentation backbone=resnet18
data.positive=ill task=segmentation backbone=resnet18
data.uncertain=ones
data.empty=zeros
scheduler.name=none scheduler.grace=3
scheduler.name=none scheduler.reduction=2
scheduler.name=none scheduler.within=all
sampler.name=random sampler.startup_trials=3
sampler.name=grid sampler.seed=3
sampler.name=random sampler.options={population_size:3}
final.trainable=head weights=none
augmentation=noise task=segmentation backbone=resnet18
source=of_program task=segmentation backbone=resnet18
final.image_size=96 source=gan gan.image_size=128
""".splitlines()


def point_of(case: str) -> dict[str, Any]:
    """Return what a line of `REFUSED` writes."""
    pairs = (word.split("=", 1) for word in case.split(" "))
    return {name: yaml.safe_load(value.replace(":", ": ")) for name, value in pairs}


def problems_of(path: Path, point: dict[str, Any]) -> Sequence[Problem]:
    """Return why a space with these settings and values is refused, if it is."""
    path.write_text(yaml.safe_dump(space_with(point, name="small")))
    try:
        load_space(path, data=Path("images"))
    except ConfigError as error:
        return error.problems
    return ()


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_refusal_says_to_write_is_accepted(tmp_path: Path, case: str) -> None:
    """A fix may lead to another refusal; three fixes are enough."""
    point = point_of(case)
    problems = problems_of(tmp_path / "space.yaml", point)
    assert problems

    for _ in range(3):
        point = with_fixes(point, problems)
        problems = problems_of(tmp_path / "space.yaml", point)

    assert not problems


def test_every_rule_refuses_a_case_unless_it_needs_the_training_images(tmp_path: Path) -> None:
    said = ""
    for case in REFUSED:
        for problem in problems_of(tmp_path / "space.yaml", point_of(case)):
            said += problem.what

    checked = [rule for rule in RULES if "training_images" not in rule.names]
    assert [rule.names for rule in checked if rule.why[1:].removesuffix(".") not in said] == []
