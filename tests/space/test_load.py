"""Loading space files: domains, error messages, command-line overrides and paths."""

from pathlib import Path
from typing import Any

import pytest

from tests.space.conftest import Complaints, WriteSpace
from xraytune.base.errors import ConfigError
from xraytune.space.load import load_space, refuse_unused
from xraytune.space.parameters import Parameters
from xraytune.space.source_settings import GanSettings


def test_all_problems_are_reported_at_once_in_file_order(
    write_space: WriteSpace, complaints: Complaints
) -> None:
    path = write_space(
        "backbone: {values: [resnet5O, resnet18]}",
        "lr: {min: 1e-2, max: 1e-4, distribution: log_uniform_values}",
        "gan:",
        "  when: {sourc: gan}",
        "  parameters: {steps: {value: 1.5}}",
        after="budget: {trials: 0}\nsead: 3\n",
    )

    message = complaints(path, "data.train_patients=few")

    places = [line.partition(": ")[0] for line in message.splitlines() if not line.startswith("  ")]
    assert places == [
        *(f"space.yaml:{line}" for line in (4, 5, 7, 8, 9, 10)),
        "--set data.train_patients=few",
    ]
    assert message.count("\n  fix: ") == len(places)
    assert message.startswith(
        "space.yaml:4: backbone: unknown value 'resnet5O'\n"
        "  4 | backbone: {values: [resnet5O, resnet18]}\n"
        "  fix: did you mean 'resnet50'?\n"
    )


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        # Names: the nearest known one is proposed, also that of another program.
        ("learning_rate: {value: 1}", "'lr'?"),
        ("gan: {parameters: {step: {value: 1}}}", "'gan.steps'?"),
        ("arch: {value: vgg16}", "'backbone'?"),
        ("Base_LR: {value: 1}", "'lr'?"),
        ("image_size: {value: 96}", "'data.image_size'?"),
        ("num_epochs: {value: 9}", "'budget.max_epochs'?"),
        ("class_weight: {value: balanced}", "'imbalance'?"),
        ("pos_weight: {value: balanced}", "'imbalance'?"),
        ("classical: {value: 2}", "'augmentation'?"),
        ("backbone: {value: microsoft/rad-dino}", "timm/hf-hub:OWNER/NAME"),
        ("weights_dir: {value: 1}", "it is a setting"),
        # Declarations.
        ("lr: 1e-3", "0.001 is not a mapping"),
        ("lr: {value: 1, values: [2, 3]}", "has value and values"),
        ("lr: {min: 1, max: 2, distribution: unifrm}", "'uniform'?"),
        ("dropout: {min: 0, max: .5, distribution: log_uniform_values}", "logarithm"),
        ("batch_size: {values: []}", "at least 1"),
        ("gan.image_size: {min: 32, max: 64}", "order"),
        ("with_flips: {min: false, max: true}", "order"),
        ("input_size: {min: 64, max: 256}", "values: [64, 256]"),
        # Values.
        ("lr: {value: 1e-4x}", "number"),
        ("lr: {value: .nan}", "finite"),
        ("batch_size: {min: 1, max: 5000}", "less than or equal to 4096"),
        # Conditions, and values that exclude each other.
        ("lr: {value: 1, when: {source: [gann]}}", "'gan'?"),
        ("lr.when: {source: gan}", "unknown key 'lr.when'"),
        ("backbone: {values: [small_cnn, resnet18]}", "small_cnn: the backbone has no weights"),
        # Tasks.
        ("loss: {value: bce} | task: segmentation", "loss has no effect"),
        # Settings alone.
        (" | method: bayes", "'sampler'?"),
        (" | budget: {epochs: 30}", "'budget.max_epochs'?"),
        (" | lr: {value: 1e-3}", "'parameters.lr'?"),
        (" | scheduler: asha", "mapping"),
        (" | sampler: {name: [tpe]}", "a valid string"),
        (" | budget: {hours: 1:30}", "number"),
        (" | resources: {gpus_per_trial: -1}", "greater than"),
        (" | resources: {gpus_per_trial: 2}", "a trial trains on one GPU"),
        (" | task: findings", "write data.findings: auto"),
        (" | points_to_evaluate: {source: none}", "list"),
        (" | points_to_evaluate: [{gan: {steps: x}}]", "integer"),
        (" | points_to_evaluate: [{lr: 5}]", "5.0 is not in the space: it is 0.0001"),
    ],
)
def test_a_wrong_parameter_or_setting_is_reported_at_its_line(
    write_space: WriteSpace, complaints: Complaints, parameter: str, words: str
) -> None:
    parameter, _, setting = parameter.partition(" | ")
    lines = [parameter] if parameter else []

    message = complaints(write_space(*lines, after=f"{setting}\n"))

    assert message.startswith("space.yaml:4: ")
    assert words in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lr", "key=value"),
        ("lrr=1", "'lr'?"),
        ("views=[1", "YAML"),
        ("backbone=resnet5O", "'resnet50'?"),
        ("parameters.gan.parameters.steps.value=5", "--set source="),
        ("source=diffusion", "use one of: none, duplicate"),
        ("gan.steps=5", "--set source="),
        ("lr.when={source: gan}", "unknown key 'lr.when'"),
    ],
)
def test_a_wrong_override_is_reported(
    write_space: WriteSpace, complaints: Complaints, override: str, words: str
) -> None:
    message = complaints(write_space(), override)

    assert message.startswith(f"--set {override}: ")
    assert words in message


@pytest.mark.parametrize(
    "key", ["gan.steps", " gan.steps", "parameters.gan.parameters.steps.value"]
)
def test_an_override_that_a_command_does_not_use_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"gan\.steps: `train` does not use it"):
        refuse_unused(["lr=1e-4", f"{key}=5"], "train", ["gan"])


@pytest.mark.parametrize(
    ("declared", "values", "distribution"),
    [
        ("lr: {value: 1e-3}", (1e-3,), None),
        ("lr: {values: [1e-3, 1, 1.0]}", (1e-3, 1.0), None),
        ("lr: {min: 1e-3, max: 1}", (1e-3, 1.0), "uniform"),
        ("lr: {min: 2, max: 2}", (2.0,), None),
        ("batch_size: {min: 8, max: 32}", (8, 32), "int_uniform"),
        (
            "batch_size: {min: 1, max: 8, distribution: log_uniform_values}",
            (1, 8),
            "log_uniform_values",
        ),
    ],
)
def test_a_declaration_is_read_as_its_values(
    write_space: WriteSpace, declared: str, values: tuple[float, ...], distribution: str | None
) -> None:
    name = declared.partition(":")[0]

    (spec,) = [spec for spec in load_space(write_space(declared)).specs if spec.name == name]

    assert (spec.values, spec.distribution) == (values, distribution)


def test_missing_settings_are_named_with_what_to_write(
    tmp_path: Path, complaints: Complaints
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("seed: 3\n")

    message = complaints(path)

    assert "name: is missing" in message
    assert "or give --data FOLDER" in message


def test_a_data_file_in_place_of_a_space_is_called_one(
    tmp_path: Path, complaints: Complaints
) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("data: {path: xrays}\n")

    assert "this is a data file" in complaints(path)


def test_conditions_can_exclude_incompatible_values(write_space: WriteSpace) -> None:
    path = write_space(
        "backbone: {values: [small_cnn, resnet18]}",
        "weights: {value: none, when: {backbone: small_cnn}}",
        "trainable: {values: [head, all], when: {backbone: resnet18}}",
    )

    assert load_space(path).searched == ("backbone", "trainable")


@pytest.mark.parametrize(
    ("rows", "overrides", "points"),
    [
        (
            "[{source: gan, lr: 1e-3, augmentation: flip}]",
            ["augmentation=none"],
            [{"source": "gan", "lr": 1e-3}],
        ),
        (
            "[{lr: 1e-3, augmentation: none}, {lr: 1e-3, augmentation: flip}]",
            ["augmentation=flip"],
            [{"lr": 1e-3}],
        ),
        ("[{source: none, lr: 1e-3}, {source: gan, lr: 1e-4}]", ["source=gan"], [{"lr": 1e-4}]),
        ("[{lr: 1e-3}, {augmentation: flip}]", ["lr=1e-4"], [{"augmentation": "flip"}]),
    ],
    ids=["another value", "equal points", "excluded source", "all values fixed"],
)
def test_an_override_changes_initial_points_or_leaves_them_out(
    write_space: WriteSpace, rows: str, overrides: list[str], points: list[dict[str, Any]]
) -> None:
    path = write_space(
        "source: {values: [none, gan]}",
        "lr: {min: 1e-5, max: 1e-2}",
        "augmentation: {values: [none, flip]}",
        after=f"points_to_evaluate: {rows}\n",
    )

    assert [*load_space(path, overrides).points_to_evaluate] == points


def test_a_condition_of_a_parameter_adds_to_that_of_its_block(write_space: WriteSpace) -> None:
    path = write_space(
        "source: {values: [none, gan, generator]}",
        "augmentation: {values: [none, flip]}",
        "generator: {when: {source: generator}, parameters: {path: {value: given}}}",
        "gan:",
        "  when: {source: gan}",
        "  parameters: {steps: {values: [1, 2], when: {augmentation: flip}}, width: {value: 8}}",
    )

    conditions = {spec.name: spec.when for spec in load_space(path).specs}

    assert conditions["gan.steps"] == {"source": ("gan",), "augmentation": ("flip",)}
    assert conditions["gan.width"] == {"source": ("gan",)}


def test_a_complete_first_initial_point_is_an_experiment(write_space: WriteSpace) -> None:
    lines = ("source: {values: [none, gan]}", "lr: {min: 1e-5, max: 1e-3}")
    rows = "points_to_evaluate: [{source: none, lr: 1e-4}, {source: gan}]\n"

    parameters = load_space(write_space(*lines, after=rows)).experiment().parameters

    assert (parameters.source, parameters.lr) == ("none", 1e-4)
    with pytest.raises(ConfigError, match="still open: source, lr"):
        load_space(write_space(*lines)).experiment()


def test_an_override_fixes_a_parameter_replaces_a_domain_and_changes_settings(
    write_space: WriteSpace,
) -> None:
    path = write_space(
        "source: {values: [none, gan]}",
        "gan: {when: {source: gan}, parameters: {steps: {values: [100, 200]}}}",
        "lr: {value: 1e-3}",
    )
    lines = ["gan.steps=500", "lr={min: 1e-5, max: 1e-3}", "budget.trials=20"]

    space = load_space(path, lines)
    parameters = load_space(path, [*lines, "lr=1e-4", "source=gan"]).experiment().parameters

    assert (space.searched, space.settings.budget.trials) == (("source", "lr"), 20)
    assert parameters.gan is not None
    assert (parameters.lr, parameters.gan.steps) == (1e-4, 500)


def test_an_override_keeps_the_condition_of_the_file_unless_it_has_one(
    write_space: WriteSpace,
) -> None:
    path = write_space(
        "dropout: {values: [0.1, 0.2], when: {augmentation: flip}}",
        "augmentation: {values: [none, flip]}",
    )

    kept = load_space(path, ["dropout=.4"]).to_yaml(path.parent)
    replaced = load_space(path, ["dropout={value: .4, when: {augmentation: none}}"]).to_yaml(
        path.parent
    )

    assert "dropout: {value: 0.4, when: {augmentation: flip}}" in kept
    assert "dropout: {value: 0.4, when: {augmentation: none}}" in replaced


def test_a_condition_that_never_holds_is_refused_unless_an_option_made_it_so(
    write_space: WriteSpace, complaints: Complaints
) -> None:
    path = write_space(
        "source: {values: [none, gan]}", "synthetic_ratio: {values: [3, 4], when: {source: gan}}"
    )

    space = load_space(path, ["source=duplicate"])

    assert "no trial of this space uses it" in complaints(
        write_space("views: {value: 4, when: {augmentation: affine}}")
    )
    assert space.searched == ()
    assert space.experiment().parameters.synthetic_ratio == 1


def test_a_parameter_has_no_effect_where_what_it_depends_on_is_not_active(
    write_space: WriteSpace, complaints: Complaints
) -> None:
    """Without `augmentation`, whose default is none, different `views` would be equal trials."""
    augmentation = "augmentation: {value: affine, when: {source: gan}}"

    assert "views: no trial of this space uses it" in complaints(
        write_space(
            "source: {values: [none, gan]}",
            augmentation,
            "views: {values: [4, 16], when: {source: none}}",
        )
    )


@pytest.mark.parametrize(
    ("epochs", "left"),
    [
        ("{values: [3, 9]}", "[3, null]"),
        ("{values: [3, 9, 12]}", "[3, null]"),
        ("{min: 3, max: 40}", "[3, 4, null]"),
    ],
)
def test_what_an_option_has_made_useless_is_dropped(
    write_space: WriteSpace, tmp_path: Path, epochs: str, left: str
) -> None:
    """The space that a study records has no trace of it, so that it can be read again."""
    path = write_space(
        f"early_stop_epochs: {epochs}",
        after="scheduler: {grace: 4, within: all}\nsampler: {startup_trials: 3}\n",
    )
    options = ["scheduler.name=none", "sampler.name=random", "budget.max_epochs=5"]

    space = load_space(path, options)

    (tmp_path / "study").mkdir()
    recorded = tmp_path / "study/study.yaml"
    recorded.write_text(space.to_yaml(recorded.parent))
    assert load_space(recorded).identity() == space.identity()
    assert (space.settings.scheduler.grace, space.settings.sampler.startup_trials) == (1, 10)
    assert f"early_stop_epochs: {{values: {left}}}" in recorded.read_text()


def test_conditions_in_a_circle_are_refused(
    write_space: WriteSpace, complaints: Complaints
) -> None:
    path = write_space(
        "views: {values: [1, 2], when: {augmentation: flip}}",
        "augmentation: {values: [none, flip], when: {views: 1}}",
    )

    assert "augmentation -> views -> augmentation" in complaints(path)


def test_paths_are_relative_to_the_file_and_options_to_the_current_folder(
    tmp_path: Path, write_space: WriteSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_space(
        "source: {value: folder}",
        "folder: {parameters: {path: {value: extra}}}",
        "weights: {value: own/net.pth}",
        after="weights_dir: official\n",
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    in_file = load_space(path).experiment()
    options: Any = {"data": Path("set"), "weights_dir": Path("w")}
    by_option = load_space(path, ["folder.path=more"], **options).experiment()

    for experiment, folder, names in (
        (in_file, tmp_path, ("images", "official", "extra")),
        (by_option, elsewhere, ("set", "w", "more")),
    ):
        data, weights_dir, extra = (folder / name for name in names)
        assert experiment.settings.data.path == data
        assert experiment.settings.weights_dir == weights_dir
        assert experiment.parameters.folder is not None
        assert experiment.parameters.folder.path == extra
        assert experiment.parameters.weights == str(tmp_path / "own/net.pth")


def test_a_trial_keeps_the_block_of_its_own_source_alone() -> None:
    given = {"source": "gan", "gan": {"steps": 7}, "folder": {"path": "images"}}

    parameters = Parameters.model_validate(given)

    assert (parameters.folder, parameters.gan) == (None, GanSettings(steps=7))
    assert parameters.arm == "gan"
