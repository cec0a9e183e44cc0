"""Loading space files: domains, error messages, command-line overrides and paths."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from xraytune.base.errors import ConfigError
from xraytune.space.domains import Choices, Domain, Range
from xraytune.space.load import experiment_from_json, load_space
from xraytune.space.settings import GanSettings, Parameters

WriteSpace = Callable[..., Path]
Complaints = Callable[..., str]

integers = partial(Range, is_integer=True)


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


def require_problem(path: Path, overrides: list[str], place: str, words: tuple[str, ...]) -> None:
    """Require that loading reports one problem, at this place and with a fix."""
    with pytest.raises(ConfigError) as refused:
        load_space(path, overrides)

    (problem,) = refused.value.problems
    assert str(problem.where) == place
    assert problem.fix
    for word in words:
        assert word in str(problem)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        # Names: the nearest known one is proposed, also that of another program.
        ("lrr: {value: 1e-3}", ("'lr'?",)),
        ("learning_rate: {value: 1}", ("'lr'?",)),
        ("gan: {parameters: {step: {value: 1}}}", ("'gan.steps'?",)),
        ("gan: {parameters: {}, wen: {source: gan}}", ("'when'?",)),
        # Declarations.
        ("lr: 1e-3", ("mapping", "{value: 0.001}")),
        ("lr: [1e-3, 1e-4]", ("a list", "values: [...]")),
        ("lr:", ("mapping", "{value: ")),
        ("lr: {values: [1, 2, 1.0]}", ("twice",)),
        ("lr: {value: 1, values: [2, 3]}", ("both value and values",)),
        ("lr: {min: 2, max: 1}", ("min 2", "max 1")),
        ("lr: {min: 1, max: 2, distribution: unifrm}", ("'uniform'?",)),
        ("dropout: {min: 0, max: .5, distribution: log_uniform_values}", ("logarithm",)),
        ("views: {values: []}", ("empty",)),
        ("gan.image_size: {min: 32, max: 64}", ("order",)),
        # Values.
        ("lr: {value: 1e-4x}", ("number",)),
        ("lr: {value: .nan}", ("finite",)),
        ("lr: {value: -1}", ("greater than 0",)),
        ("classical: {min: 0, max: 7}", ("less than or equal to 3",)),
        ("backbone: {value: vgg}", ("'vgg1",)),
        ("mixing: {values: [additive, replace]}", ("replace", "removed")),
        # Conditions.
        ("lr: {value: 1, when: {source: [gann]}}", ("'gan'?",)),
        ("lr: {value: 1, when: {steps: 500}}", ("'gan.steps'?",)),
        ("lr: {values: [1, 2], when: {views: 4}}", ("views is 4 is never true",)),
        # Values that exclude each other.
        ("backbone: {values: [small_cnn, resnet18]}", ("small_cnn", "weights")),
        ("source: {values: [none, folder]}", ("folder.path",)),
    ],
)
def test_a_wrong_parameter_is_reported_at_its_line(
    write_space: WriteSpace, line: str, words: tuple[str, ...]
) -> None:
    path = write_space(line)

    require_problem(path, [], f"{path}:4", words)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ("classical: {min: 0, max: 2}", "lr: {values: [1, 2], when: {classical: 3}}"),
            ("classical is 3 is never true",),
        ),
        (
            ("lr: {values: [1, 2], when: {views: 1}}", "views: {values: [1, 2], when: {lr: 1}}"),
            ("depends on itself",),
        ),
        (
            ("weights: {values: [none, imagenet]}", "trainable: {values: [head, all]}"),
            ("head", "none", "when:"),
        ),
        (
            ("source: {value: gan}", "gan.image_size: {values: [64, 256]}"),
            ("gan.image_size", "256"),
        ),
    ],
)
def test_a_parameter_that_does_not_fit_another_one_is_reported_at_its_line(
    write_space: WriteSpace, lines: tuple[str, str], words: tuple[str, ...]
) -> None:
    path = write_space(*lines)

    require_problem(path, [], f"{path}:5", words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("method: bayes", ("'sampler'?",)),
        ("budget: {epochs: 30}", ("'max_epochs'?",)),
        ("lr: {value: 1e-3}", ("'parameters.lr'?",)),
        ("scheduler: asha", ("{name: ...}",)),
        ("budget: {hours: 1:30}", ("budget.hours", "number")),
        ("resources: {gpus_per_trial: -1}", ("resources.gpus_per_trial", "greater than")),
        ("objective: {specificity: .8}", ("removed", "0.9")),
        ("scheduler: {loss: bce}", ("unknown key 'loss'", "use one of")),
        ("prompts: {NORMAL: a chest}", ("removed", "folder_from_pipeline.py")),
        ("points_to_evaluate: {source: none}", ("list",)),
        ("points_to_evaluate: [{gan: {steps: x}}]", ("gan.steps", "integer")),
    ],
)
def test_a_wrong_setting_is_reported_at_its_line(
    write_space: WriteSpace, line: str, words: tuple[str, ...]
) -> None:
    path = write_space(after=f"{line}\n")

    require_problem(path, [], f"{path}:4", words)


@pytest.mark.parametrize(
    ("parameter", "setting", "place", "words"),
    [
        (
            "lr: {values: [1e-3, 1e-2]}",
            "points_to_evaluate: [{lr: .1}, {lr: 1e-3}]",
            5,
            ("0.1", "widen"),
        ),
        (
            "source: {value: none}",
            "points_to_evaluate: [{gan.steps: 5}]",
            5,
            ("gan.steps is never active",),
        ),
        ("lr: {min: 1e-5, max: 1e-3}", "sampler: {name: grid}", 4, ("lr", "grid")),
        ("backbone: {value: swin_t}", "task: segmentation", 4, ("U-Net",)),
        ("loss: {value: bce}", "task: segmentation", 4, ("loss",)),
    ],
)
def test_a_parameter_that_does_not_fit_a_setting_is_reported(
    write_space: WriteSpace, parameter: str, setting: str, place: int, words: tuple[str, ...]
) -> None:
    path = write_space(parameter, after=f"{setting}\n")

    require_problem(path, [], f"{path}:{place}", words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lr", ("key=value",)),
        ("lrr=1", ("'lr'?",)),
        ("gan=3", ("unknown key 'gan'",)),
        ("views=[1", ("YAML",)),
        ("backbone=resnet5O", ("'resnet50'?",)),
        ("parameters.gan.parameters.steps.value=5", ("'gan.steps'?",)),
        ("source=off", ("none", "duplicate", "folder", "gan")),
        ("source=diffusion", ("source: folder",)),
        ("gan.conditional=false", ("removed",)),
    ],
)
def test_a_wrong_override_is_reported(
    write_space: WriteSpace, override: str, words: tuple[str, ...]
) -> None:
    require_problem(write_space(), [override], f"--set {override}", words)


def test_each_row_of_points_to_evaluate_is_checked(
    write_space: WriteSpace, complaints: Complaints
) -> None:
    rows = "points_to_evaluate: [3, {lrr: 1}, {lr: 5}, {lr: 1e-3}]\n"

    message = complaints(write_space("lr: {values: [1e-3, 1e-2]}", after=rows))

    assert [word in message for word in ("3 is not a mapping", "unknown key 'lrr'", "lr: 5")] == [
        True
    ] * 3


def test_a_parameter_in_its_block_and_by_its_dotted_name_is_declared_twice(
    write_space: WriteSpace, complaints: Complaints
) -> None:
    message = complaints(
        write_space("gan.steps: {value: 1}", "gan: {parameters: {steps: {value: 2}}}", "lrr: 1")
    )

    assert message.startswith("space.yaml:5: gan.steps: is declared twice, first at space.yaml:4")
    assert "space.yaml:6: lrr: 1 is not a mapping" in message


@pytest.mark.parametrize(
    ("name", "declared", "domain"),
    [
        ("lr", "{value: 1e-3}", Choices((1e-3,))),
        ("lr", "{values: [1e-3, 1]}", Choices((1e-3, 1.0))),
        ("lr", "{min: 1e-3, max: 1}", Range(low=1e-3, high=1.0)),
        (
            "lr",
            "{min: 0.5, max: 2, distribution: log_uniform_values}",
            Range(low=0.5, high=2.0, is_log=True),
        ),
        ("lr", "{min: 2, max: 2}", Choices((2.0,))),
        ("batch_size", "{min: 8, max: 32}", integers(low=8, high=32)),
        (
            "views",
            "{min: 1, max: 8, distribution: log_uniform_values}",
            integers(low=1, high=8, is_log=True),
        ),
        ("early_stop_epochs", "{min: 1, max: 1000000000000001}", integers(low=1, high=10**15 + 1)),
    ],
)
def test_a_declaration_is_read_as_its_domain(
    write_space: WriteSpace, name: str, declared: str, domain: Domain
) -> None:
    specs = load_space(write_space(f"{name}: {declared}")).specs

    assert [spec.domain for spec in specs if spec.name == name] == [domain]


def test_missing_settings_are_named_with_what_to_write(
    tmp_path: Path, complaints: Complaints
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("seed: 3\n", encoding="utf-8")

    message = complaints(path)

    assert "name: is missing\n  fix: write name: my-study" in message
    assert "data: is missing\n  fix: write data: {path: FOLDER}, or give --data FOLDER" in message


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
            "[{source: gan, lr: 1e-3, classical: 1}]",
            ["classical=0"],
            [{"source": "gan", "lr": 1e-3}],
        ),
        (
            "[{source: gan, lr: 1e-3, classical: 1}]",
            ["source=none", "source=gan"],
            [{"lr": 1e-3, "classical": 1}],
        ),
        ("[{lr: 1e-3, classical: 0}, {lr: 1e-3, classical: 1}]", ["classical=1"], [{"lr": 1e-3}]),
        ("[{source: none, lr: 1e-3}, {source: gan, lr: 1e-4}]", ["source=gan"], [{"lr": 1e-4}]),
        ("[{lr: 1e-3}, {classical: 1}]", ["lr=1e-4"], [{"classical": 1}]),
        (
            "[{source: gan, synthetic_ratio: 2}]",
            ["lr=1e-4"],
            [{"source": "gan", "synthetic_ratio": 2.0}],
        ),
    ],
    ids=[
        "another value",
        "the last one counts",
        "equal points",
        "excluded source",
        "all values fixed",
        "unrelated",
    ],
)
def test_an_override_changes_initial_points_or_leaves_them_out(
    write_space: WriteSpace, rows: str, overrides: list[str], points: list[dict[str, Any]]
) -> None:
    path = write_space(
        "source: {values: [none, gan]}",
        "synthetic_ratio: {values: [1, 2], when: {source: gan}}",
        "lr: {min: 1e-5, max: 1e-2}",
        "classical: {values: [0, 1]}",
        after=f"points_to_evaluate: {rows}\n",
    )

    assert [*load_space(path, overrides).points_to_evaluate] == points


def test_a_complete_first_initial_point_is_an_experiment(write_space: WriteSpace) -> None:
    lines = (
        "source: {values: [none, gan]}",
        "lr: {min: 1e-5, max: 1e-3}",
        "synthetic_ratio: {values: [1, 2]}",
    )

    whole = load_space(
        write_space(*lines, after="points_to_evaluate: [{source: none, lr: 1e-4}, {source: gan}]\n")
    )
    partial = load_space(
        write_space(*lines, after="points_to_evaluate: [{source: gan, lr: 1e-4}]\n")
    )
    none = load_space(write_space(*lines))

    assert (whole.experiment().parameters.source, whole.experiment().parameters.lr) == (
        "none",
        1e-4,
    )
    with pytest.raises(ConfigError, match="still open: synthetic_ratio"):
        partial.experiment()
    with pytest.raises(
        ConfigError, match=r"still open: source, lr\n  fix: .* xraytune export STUDY -o best.yaml"
    ):
        none.experiment()


def test_an_override_fixes_a_parameter_replaces_a_domain_and_changes_settings(
    write_space: WriteSpace, tmp_path: Path
) -> None:
    path = write_space(
        "source: {values: [none, gan]}",
        "gan: {when: {source: gan}, parameters: {steps: {values: [100, 200]}}}",
        "lr: {value: 1e-3}",
    )
    without_parameters = tmp_path / "without.yaml"
    without_parameters.write_text("name: small\ndata: {path: images}\n", encoding="utf-8")

    space = load_space(
        path,
        [
            "gan.steps=500",
            "lr={min: 1e-5, max: 1e-3}",
            "budget.trials=20",
            "views={values: [1, 2]}",
        ],
    )
    parameters = (
        load_space(path, ["gan.steps=500", "lr=1e-4", "source=gan"]).experiment().parameters
    )

    assert (space.searched, space.settings.budget.trials) == (("source", "views", "lr"), 20)
    assert parameters.gan is not None
    assert (parameters.lr, parameters.gan.steps) == (1e-4, 500)
    assert load_space(without_parameters, ["lr=0.5"]).experiment().parameters.lr == 0.5
    patients = ["data.train_patients=5", "data.train_patients=null"]
    found = [load_space(path, patients[:count]).settings.data.train_patients for count in (1, 2)]
    assert found == [5, None], "all patients again"


def test_an_override_keeps_the_condition_of_the_file_unless_it_has_one(
    write_space: WriteSpace,
) -> None:
    path = write_space(
        "views: {values: [1, 2], when: {classical: 1}}", "classical: {values: [0, 1]}"
    )

    kept = load_space(path, ["views=4"]).to_yaml(path.parent)
    replaced = load_space(path, ["views={value: 4, when: {classical: 0}}"]).to_yaml(path.parent)

    assert "views: {value: 4, when: {classical: 1}}" in kept
    assert "views: {value: 4, when: {classical: 0}}" in replaced
    path = write_space(
        "source: {values: [none, gan]}", "synthetic_ratio: {values: [1, 2], when: {source: gan}}"
    )
    assert load_space(path, ["source=none"]).searched == (), (
        "a ratio that only a GAN uses is dropped"
    )


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
    by_option = load_space(
        path, ["folder.path=more"], data=Path("set"), weights_dir=Path("w")
    ).experiment()

    assert in_file.settings.data.path == tmp_path / "images"
    assert in_file.settings.weights_dir == tmp_path / "official"
    assert in_file.parameters.folder is not None
    assert in_file.parameters.folder.path == tmp_path / "extra"
    assert in_file.parameters.weights == str(tmp_path / "own" / "net.pth")
    assert by_option.settings.data.path == elsewhere / "set"
    assert by_option.settings.weights_dir == elsewhere / "w"
    assert by_option.parameters.folder is not None
    assert by_option.parameters.folder.path == elsewhere / "more"


@pytest.mark.parametrize(
    "content",
    [None, [], {}, {"settings": 1}, {"settings": {"data": []}, "parameters": {}}],
    ids=str,
)
def test_a_damaged_experiment_is_a_value_error(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (pydantic's message)
        experiment_from_json(content, tmp_path)


def test_a_trial_keeps_the_block_of_its_own_source_alone(write_space: WriteSpace) -> None:
    path = write_space("source: {value: gan}", "gan: {parameters: {steps: {value: 7}}}")

    parameters = load_space(path).experiment().parameters
    unused = Parameters.model_validate(
        {"source": "gan", "gan": {"steps": 7}, "folder": {"path": "images"}}
    )

    assert parameters == unused
    assert (parameters.folder, parameters.gan) == (None, GanSettings(steps=7))
    assert parameters.arm == "gan"
