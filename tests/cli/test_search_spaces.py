"""The search space files of the project: each is valid, and its first trials run."""

from pathlib import Path

import optuna
import pytest

from tests.docs.commands import TINY, TINY_PAIRS, used_by
from tests.in_process import CPU, command, one_thread, said
from tests.pair_files import draw_xrays
from xraytune.base.errors import ConfigError
from xraytune.base.records import EpochRecord
from xraytune.data.phantom import paint_phantoms
from xraytune.data.prepare import RunContext, prepare
from xraytune.space.load import load_space
from xraytune.space.rules import space_warnings
from xraytune.space.settings import Experiment
from xraytune.space.space import Space
from xraytune.trial.run import run_trial

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"
FILES = sorted(
    file for folder in (".", "commands", "studies") for file in (SPACES / folder).glob("*.yaml")
)


@pytest.fixture(scope="module")
def phantoms(module_path: Path) -> Path:
    draw_xrays(module_path, patients=40, seed=3, image_size_px=48)
    paint_phantoms(module_path / "pairs", patients=40, seed=3, image_size_px=48, pairs=True)
    paint_phantoms(module_path / "findings", patients=120, seed=3, image_size_px=48, findings=True)
    return module_path


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_space_file_is_valid_and_named_like_its_study(file: Path) -> None:
    space = load_space(file)

    assert space.settings.name == file.stem.replace("_", "-")
    assert [*space_warnings(space)] == []


def test_a_shipped_space_is_found_by_name_unless_a_file_has_that_name(here: Path) -> None:
    """A folder of that name does not matter."""
    (here / "gan_ratio").mkdir()
    for name in ("gan_ratio", "gan_ratio.yaml", "search_spaces/gan_ratio.yaml"):
        checked = command(f"space check {name} --data xrays")
        assert checked.stdout.startswith("space: shipped gan_ratio; ")
    (here / "gan_ratio").rmdir()
    (here / "gan_ratio").write_text(
        (SPACES / "gan_ratio.yaml").read_text().replace("name: gan-ratio", "name: mine")
    )

    assert load_space(Path("gan_ratio")).settings.name == "mine"
    with pytest.raises(ConfigError, match="no such file"):
        load_space(Path("nothing"))


def test_shipped_spaces_are_listed_with_their_purpose_and_copied_once(here: Path) -> None:
    purposes = said("space list")
    copied, again = (command("space copy imbalance") for _ in range(2))

    assert purposes.keys() == {file.stem for file in SPACES.glob("*.yaml")}
    assert len({*purposes.values()}) == len(purposes)
    assert purposes["imbalance"].startswith("Can GAN images balance the classes?")
    assert copied.stdout == "imbalance.yaml\n"
    assert (
        load_space(here / "imbalance.yaml").searched
        == load_space(SPACES / "imbalance.yaml").searched
    )
    assert "this path already exists" in again.stderr


def first_trials(space: Space) -> list[Experiment]:
    """Return the `points_to_evaluate` and one sampled trial, if they need no inputs."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    points = space.points_to_evaluate
    for point in points:
        study.enqueue_trial(point)
    suggested = [space.suggest(study.ask()) for _ in range(max(1, len(points)) + 1)]
    return [
        Experiment(settings=space.settings, parameters=parameters)
        for parameters in suggested
        if not (
            parameters.generator
            or parameters.folder
            or (parameters.gan and parameters.gan.start_from)
        )
    ]


@pytest.mark.nightly
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_first_trials_of_every_space_run(file: Path, phantoms: Path, tmp_path: Path) -> None:
    data, tiny = {
        "classification": ("xrays", TINY),
        "findings": (
            "findings/data.yaml",
            (*TINY, "data.split.val_a=0.35", "data.split.val_b=0.35"),
        ),
        "segmentation": ("pairs", TINY_PAIRS),
    }[load_space(file).settings.task]
    overrides = [*used_by(file, tiny), "budget.trials=6"]
    if file.stem == "same_hospital":  # its statistics are of features, which fit no small CNN
        overrides.remove("labels=class")
        overrides += ["source={values: [none, duplicate]}", "points_to_evaluate=[]", "final=null"]
    space = load_space(file, overrides, data=phantoms / data)
    prepared, _ = prepare(space.settings, phantoms / "cache")

    for number, experiment in enumerate(first_trials(space)):
        epochs = list[EpochRecord]()
        with one_thread():
            result = run_trial(
                experiment,
                RunContext(prepared=prepared, cache=phantoms / "cache", compute=CPU),
                trial_dir=tmp_path / f"{number}",
                on_epoch=epochs.append,
            )

        assert result is not None
        assert [record.steps for record in epochs] == [2, 4]
        assert 0 <= (result.val_b_score or -1) <= 1
