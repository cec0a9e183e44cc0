"""Suggestions lie in the declared domains, and written files are read back unchanged."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from tests.space.conftest import WriteSpace
from xraytune.base.errors import ConfigError
from xraytune.base.files import read_json, write_json
from xraytune.base.records import Json
from xraytune.space.document import write_yaml
from xraytune.space.domains import Value
from xraytune.space.fields import PARAMETERS, flat_values
from xraytune.space.load import experiment_to_yaml, load_space
from xraytune.space.parameters import Parameters
from xraytune.space.settings import Experiment
from xraytune.space.space import Space

Specs = dict[str, dict[str, Json]]

optuna.logging.set_verbosity(optuna.logging.ERROR)

_CHOICES: dict[str, list[Json]] = yaml.safe_load("""
source: [none, duplicate, gan, folder]
synthetic_ratio: [0.25, 0.5, 1.0, 2.0]
mixing: [additive, pretrain]
augmentation: [none, flip, affine, trivial]
backbone: [small_cnn, resnet18, resnet50]
weights: [imagenet, none, own/net.pth]
trainable: [head, last_stage, all]
optimizer: [adam, adamw, sgd]
early_stop_epochs: [null, 3, 5]
gan.steps: [100, 200, 300]
gan.architecture: [dcgan, pca]
gan.image_size: [32, 256]
""")
_RANGES: dict[str, list[dict[str, Json]]] = yaml.safe_load("""
lr:
  - {min: 1.0e-5, max: 1.0e-2, distribution: log_uniform_values}
  - {min: 1.0e-4, max: 1}
dropout: [{min: 0, max: 0.6}]
batch_size:
  - {min: 8, max: 64, distribution: log_uniform_values}
  - {min: 8, max: 32, distribution: int_uniform}
views: [{min: 1, max: 8}]
""")


def _some_of(values: list[Json]) -> st.SearchStrategy[list[Json]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=4, unique_by=json.dumps)


def _choice(name: str) -> st.SearchStrategy[dict[str, Json]]:
    return _some_of(_CHOICES[name]).map(
        lambda values: {"value": values[0]} if len(values) == 1 else {"values": values}
    )


def _condition(parent: str) -> st.SearchStrategy[dict[str, Json]]:
    in_ranges: dict[str, list[Json]] = {"batch_size": [8, 16, 64], "views": [1, 3, 8]}
    accepted = _some_of(in_ranges.get(parent) or _CHOICES[parent])
    return accepted.map(lambda condition: {parent: condition})


@st.composite
def space_contents(draw: st.DrawFn) -> dict[str, Any]:
    """The content of a space file, which may be invalid."""
    names = draw(
        st.lists(st.sampled_from([*_CHOICES, *_RANGES]), min_size=1, max_size=6, unique=True)
    )
    specs: Specs = {"folder.path": {"value": "extra"}}
    for name in names:
        ranges = _RANGES.get(name)
        spec = dict(draw(_choice(name)) if ranges is None else draw(st.sampled_from(ranges)))
        parents = specs.keys() - {"folder.path", "lr", "dropout", "weights"}
        is_conditional: bool = draw(st.booleans())
        if parents and is_conditional and name != "source":
            spec["when"] = draw(st.sampled_from(sorted(parents)).flatmap(_condition))
        specs[name] = spec
    return {
        "name": "any",
        "data": {"path": "images"},
        "budget": {"trials": 9, "hours": 1.5},
        "parameters": specs,
    }


def load(folder: Path, content: Mapping[str, Any]) -> Space:
    path = folder / "space.yaml"
    path.write_text(write_yaml(dict(content)))
    return load_space(path)


def load_if_valid(folder: Path, content: Mapping[str, Any]) -> Space:
    """Load a space, or discard the example if it is invalid."""
    try:
        return load(folder, content)
    except ConfigError:
        assume(False)
        raise


def ask(space: Space, seed: int, count: int) -> list[tuple[optuna.Trial, Parameters]]:
    """Sample trials of the space at random."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trials = [study.ask() for _ in range(count)]
    return [(trial, space.suggest(trial)) for trial in trials]


def holds(point: Mapping[str, Value], when: Mapping[str, Any], specs: Specs) -> bool:
    """An independent implementation of `when:`."""
    for parent, accepted in when.items():
        if parent not in point and "value" not in specs.get(parent, {}):
            return False
        value = point.get(parent, specs[parent].get("value"))
        if value not in accepted:
            return False
    return True


def as_written(value: Any) -> Any:
    """A searched value as the file writes it, with a relative path."""
    return "own/net.pth" if str(value).endswith("own/net.pth") else value


any_space = settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],  # shrinking and explaining take minutes
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.filter_too_much,
        HealthCheck.too_slow,
    ],
)


@any_space
@given(content=space_contents(), seed=st.integers(0, 10**6))
@pytest.mark.slow
def test_suggestions_lie_in_their_domains_and_can_be_replayed(
    tmp_path: Path, content: dict[str, Any], seed: int
) -> None:
    """Constants are not sampled, conditions hold, and every point of a valid space can run."""
    space = load_if_valid(tmp_path, content)
    specs: Specs = content["parameters"]

    for trial, suggested in ask(space, seed, 6):
        point = {name: as_written(value) for name, value in trial.params.items()}
        for name, value in point.items():
            spec: dict[str, Any] = specs[name]
            assert "value" not in spec
            assert (
                value in spec["values"] if "values" in spec else spec["min"] <= value <= spec["max"]
            )
            assert holds(point, spec.get("when", {}), specs)
        assert space.suggest(FixedTrial(trial.params)) == suggested
        assert set(trial.params) <= set(space.searched)
        assert {name: flat_values(suggested)[name] for name in trial.params} == trial.params


@any_space
@given(content=space_contents(), data=st.data(), seed=st.integers(0, 10**6))
@pytest.mark.slow
def test_a_space_and_an_experiment_survive_their_files(
    tmp_path: Path, content: dict[str, Any], data: st.DataObject, seed: int
) -> None:
    """In any folder and order of keys: `study.yaml`, `best.yaml` and a trial's `config.json`."""
    space = load_if_valid(tmp_path, content)
    ((_, parameters),) = ask(space, seed, 1)
    experiment = Experiment(settings=space.settings, parameters=parameters)
    elsewhere = tmp_path / "study"
    elsewhere.mkdir(exist_ok=True)
    resolved = elsewhere / "study.yaml"
    best = elsewhere / "best.yaml"
    config = elsewhere / "config.json"

    resolved.write_text(space.to_yaml(elsewhere))
    best.write_text(experiment_to_yaml(experiment, elsewhere, "trial 7\nof a study"))
    write_json(config, experiment.model_dump(mode="json", context=elsewhere))
    shuffled = {key: content[key] for key in data.draw(st.permutations(list(content)))}
    specs = content["parameters"]
    shuffled["parameters"] = {name: specs[name] for name in data.draw(st.permutations(list(specs)))}

    assert load_space(resolved) == space
    assert load_space(best).experiment() == experiment
    assert Experiment.model_validate(read_json(config), context=elsewhere) == experiment
    assert not any(str(tmp_path) in file.read_text() for file in (resolved, config))
    assert load(tmp_path, shuffled).identity() == space.identity()
    assert json.dumps(space.identity(), allow_nan=False)


def test_a_grid_lists_each_distinct_trial_once(write_space: WriteSpace) -> None:
    path = write_space(
        "source: {values: [none, duplicate, gan]}",
        "synthetic_ratio: {values: [0.5, 1]}",
        "gan.steps: {min: 1, max: 3}",
        "dropout: {values: [0, 0.3]}",
        after="sampler: {name: grid}\n",
    )
    space = load_space(path)

    points = list(space.grid())
    trials = {space.suggest(FixedTrial(point)) for point in points}

    assert len(points) == 2 * (1 + 2 + 2 * 3)
    assert len(trials) == len(points)
    assert points[0] == {"source": "none", "dropout": 0.0}


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        (
            "[{source: gan}, {source: none, augmentation: affine}]",
            {"source": "none", "augmentation": "none"},
        ),
        ("[{source: gan}, {source: none, augmentation: none, lr: 1e-2}]", {"source": "gan"}),
        ("[{source: gan}, {source: none}]", {"source": "none", "augmentation": "none"}),
        ("[]", {"source": "none", "augmentation": "none"}),
    ],
)
def test_a_search_begins_with_plain_real_images_unless_they_are_listed(
    write_space: WriteSpace, listed: str, first: dict[str, Any]
) -> None:
    """A default that is none of the values is replaced by the first one."""
    path = write_space(
        "source: {values: [gan, none]}",
        "augmentation: {values: [affine, none]}",
        "lr: {min: 1e-3, max: 1e-2}",
        after=f"points_to_evaluate: {listed}\n",
    )
    space = load_space(path)

    points = space.points()

    assert points[0].items() >= first.items()
    assert tuple(points[len(points) - len(space.points_to_evaluate) :]) == space.points_to_evaluate
    assert space.baseline() == {"source": "none", "augmentation": "none", "lr": 1e-3}


def test_networks_differ_only_in_what_their_weights_and_features_depend_on(
    write_space: WriteSpace,
) -> None:
    path = write_space(
        "backbone: {values: [small_cnn, resnet18]}",
        "weights: {value: none}",
        "lr: {min: 1e-5, max: 1e-2}",
        "dropout: {values: [0.1, 0.3, 0.5]}",
    )

    space = load_space(path)

    assert [trial.backbone for trial in space.networks()] == ["small_cnn", "resnet18"]
    assert {trial.dropout for trial in space.networks()} == {0.0}
    assert space.backbone_settings() == []


@pytest.mark.parametrize(
    "only",
    [
        "source: {values: [gan, duplicate]}",
        "augmentation: {values: [flip, affine]}",
        "mixup: {min: 0.1, max: 1}",
    ],
)
def test_a_space_without_plain_real_images_has_no_baseline(
    write_space: WriteSpace, only: str
) -> None:
    space = load_space(write_space(only))

    assert space.baseline() is None
    assert space.points() == ()


def test_identity_ignores_what_may_change_when_a_study_resumes(write_space: WriteSpace) -> None:
    path = write_space("lr: {values: [1e-3, 1e-4]}")
    space = load_space(path)

    same = ["budget.trials=3", "budget.hours=2", "resources.cpus_per_trial=4", "data.path=moved"]
    other = [
        "budget.max_epochs=3",
        "seed=1",
        "lr={values: [1e-4, 1e-3]}",
        "batch_size=4",
        "data.image_size=64",
    ]

    for override in same:
        assert load_space(path, [override]).identity() == space.identity()
    for override in other:
        assert load_space(path, [override]).identity() != space.identity()


def test_ranges_reach_optuna_as_declared(write_space: WriteSpace) -> None:
    path = write_space(
        "batch_size: {min: 8, max: 32}",
        "gan.steps: {min: 100, max: 900, distribution: log_uniform_values}",
        "lr: {min: 1e-5, max: 1e-2, distribution: log_uniform_values}",
        "source: {value: gan}",
        "weight_decay: {min: 0, max: 1}",
    )

    ((trial, _),) = ask(load_space(path), 0, 1)

    assert trial.distributions == {
        "batch_size": IntDistribution(8, 32),
        "gan.steps": IntDistribution(100, 900, log=True),
        "lr": FloatDistribution(1e-5, 1e-2, log=True),
        "weight_decay": FloatDistribution(0.0, 1.0),
    }


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_range_is_refused_or_each_of_its_values_is_a_trial_of_decoded_images(
    write_space: WriteSpace, name: str
) -> None:
    common = ("source: {value: gan}", "augmentation: {value: affine}")
    for low, high in (("false", "true"), (0.2, 0.9), (2, 7), (70, 200)):
        path = write_space(*common, f"{name}: {{min: {low}, max: {high}}}")
        with suppress(ConfigError):
            space = load_space(path)
            for _, parameters in ask(space, 0, 20):
                assert parameters.size_px(space.settings.data) in space.sizes_px()
