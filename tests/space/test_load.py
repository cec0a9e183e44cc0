"""Loading space files: error messages, command-line overrides and paths."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xraytune.base.errors import ConfigError
from xraytune.space.load import experiment_from_json, load_space
from xraytune.space.settings import DiffusionSettings, Parameters

WriteSpace = Callable[..., Path]
Complaints = Callable[..., str]


def test_all_problems_are_reported_at_once_in_file_order(write_space: WriteSpace, complaints: Complaints) -> None:
    path = write_space(
        "backbone: {values: [resnet5O, resnet18]}",
        "lr: {min: 1e-2, max: 1e-4, distribution: log_uniform_values}",
        "gan:",
        "  when: {sourc: gan}",
        "  parameters: {steps: {value: 1.5}, conditional: {value: no}}",
        after="budget: {trials: 0}\nsead: 3\n",
    )

    assert complaints(path, "data.train_patients=few") == "\n".join(
        [
            "space.yaml:4: backbone: unknown value 'resnet5O'",
            "  4 | backbone: {values: [resnet5O, resnet18]}",
            "  fix: did you mean 'resnet50'?",
            "space.yaml:5: lr: min 0.01 is above max 0.0001",
            "  5 | lr: {min: 1e-2, max: 1e-4, distribution: log_uniform_values}",
            "  fix: write min: 0.0001, max: 0.01",
            "space.yaml:7: when: unknown parameter 'sourc'",
            "  7 | when: {sourc: gan}",
            "  fix: did you mean 'source'?",
            "space.yaml:8: gan.steps: 1.5 is not a whole number",
            "  8 | parameters: {steps: {value: 1.5}, conditional: {value: no}}",
            "  fix: write a whole number",
            "space.yaml:8: gan.conditional: 'no' is neither true nor false",
            "  8 | parameters: {steps: {value: 1.5}, conditional: {value: no}}",
            "  fix: write true or false",
            "space.yaml:9: budget.trials: 0 is out of bounds",
            "  9 | budget: {trials: 0}",
            "  fix: write 1 or more",
            "space.yaml:10: unknown key 'sead'",
            "  10 | sead: 3",
            "  fix: did you mean 'seed'?",
            "--set data.train_patients=few: data.train_patients: 'few' is neither a number nor 'all'",
            "  fix: write a number or 'all'",
        ]
    )


REFUSED = """
lrr: {value: 1e-3} -> 4: unknown parameter 'lrr' -> did you mean 'lr'?
gan: {parameters: {step: {value: 1}}} -> 4: gan: unknown parameter 'step' -> did you mean 'steps'?
gan: {steps: {value: 1}} -> 4: gan: the parameters of a block belong under parameters: -> write gan: {when:
lr: 1e-3 -> 4: lr: 0.001 is not a mapping -> write lr: {value: 0.001}
lr: [1e-3, 1e-4] -> 4: lr: a list is not a mapping -> write lr: {values: [...]}
lr: -> 4: lr: is empty -> write lr: {value: ...}
lr: {value: } -> 4: lr: is empty
lr: {values: []} -> 4: lr: values is empty
lr: {value: 1e-4x} -> 4: lr: '1e-4x' is not a number -> write a number
lr: {value: 010} -> 4: lr: '010' is not a number
lr: {value: .nan} -> 4: lr: nan is not a finite number
lr: {value: -1} -> 4: lr: -1 is out of bounds -> write a number above 0
classical: {min: 0, max: 7} -> 4: classical: 7 is out of bounds -> write 3 or less
lr: {value: 1, values: [2, 3]} -> 4: lr: has both value and values
lr: {min: 1e-4} -> 4: lr: has no max
lr: {min: 1e-4, max: 1, stp: 3} -> 4: lr: unknown key 'stp' -> did you mean 'step'?
views: {value: 8.0} -> 4: views: 8.0 is not a whole number -> write 8
batch_size: {min: 4, max: 64, step: 7} -> 4: steps of 7 from 4 never reach max 64 -> write max: 60 or max: 67
lr: {min: 1e-300, max: 1, step: 1e-300} -> 4: lr: from 1e-300 to 1 there are too many values
gan: {parameters: {seed: {min: 0, max: 99999999999999999999}}} -> 4: gan.seed: from 0 to 1e+20 there are too many values
synthetic_ratio: {min: 0.5, max: 3, distribution: int_uniform} -> 4: draws whole numbers, but min is 0.5
backbone: {value: vgg} -> 4: backbone: unknown value 'vgg' -> did you mean 'vgg1
lr: {value: 1, when: {source: [gann]}} -> 4: when: source: unknown value 'gann' -> did you mean 'gan'?
lr: {value: 1, when: {steps: 500}} -> 4: when: unknown parameter 'steps' -> did you mean 'gan.steps'?
lr: {value: 1, when: {views: {gt: 1}}} -> 4: when: views: a mapping is not a whole number
lr: {value: 1, when: gan} -> 4: when: 'gan' is not a condition
lr: {value: 1, when: {}} -> 4: when: a mapping is not a condition
lr: {value: 1, when: {source: []}} -> 4: when: no value of source is listed
lr: {values: [1, 2], when: {sourc: gan, views: 3}} -> 4: when: unknown parameter 'sourc'
lr: {values: [1, 2], when: {source: [duplicate, gann]}} -> 4: when: source: unknown value 'gann'

source: {value: none} | lr: {values: [1, 2], when: {source: gan}} -> 5: when: source is gan is never true
classical: {min: 0, max: 2} | lr: {values: [1, 2], when: {classical: 3}} -> 5: when: classical is 3 is never true
lr: {values: [1, 2], when: {views: 4}} -> 4: when: views is 4 is never true, for views is 8 in this space
dropout: {min: 0, max: .5} | lr: {values: [1, 2], when: {dropout: .1}} -> 5: when: dropout is 0.1 is never true
dropout: {min: 0, max: .5} | lr: {values: [1, 2], when: {dropout: .5}} -> 5: any number from 0 to 0.5
source: {values: [none, gan]} | gan: {parameters: {steps: {values: [1, 2], when: {source: none}}}} -> 5: is never true
classical: {values: [0, 1]} | views: {values: [1, 2], when: {classical: 0}} | lr: {values: [1, 2], when: {views: 1, \
classical: 1}} -> 6: classical is 1 and views is 1 is never true
lr: {values: [1, 2], when: {views: 1}} | views: {values: [1, 2], when: {lr: 1}} -> 5: its condition depends on itself

backbone: {values: [small_cnn, resnet18]} -> 4: backbone: small_cnn has no ImageNet weights
weights: {values: [none, imagenet]} | trainable: {values: [head, all]} -> 5: trainable: head with weights: none leaves random
source: {values: [none, folder]} -> 4: source: folder needs a folder of extra images
source: {values: [none, gan]} | synthetic_ratio: {value: .01} | batch_size: {min: 8, max: 64} -> 5: synthetic_ratio: 0.01 \
of batch_size: 8 rounds to zero extra images
source: {values: [duplicate, gan]} | mixing: {values: [additive, replace]} -> 4: source: duplicate with mixing: replace
backbone: {values: [resnet18, vit_b_16]} -> 4: backbone: vit_b_16 takes images of 224 px only
source: {value: gan} | gan.image_size: {values: [64, 256]} -> 5: gan.image_size: 256 is more than data.image_size
source: {value: diffusion} | diffusion.image_size: {value: 256} -> 5: diffusion.image_size: unknown value 256
source: {value: diffusion} | diffusion: {parameters: {diffaugment: {value: true}}} -> 5: unknown parameter 'diffaugment'

|| objective: {metric: test_auroc} -> 4: would select the model on test images -> write val_auroc
|| method: bayes -> 4: unknown key 'method' -> did you mean 'sampler'?
|| n_trials: 50 -> 4: unknown key 'n_trials' -> did you mean 'budget.trials'?
|| budget: {epochs: 30} -> 4: budget: unknown key 'epochs' -> did you mean 'max_epochs'?
|| lr: {value: 1e-3} -> 4: unknown key 'lr' -> did you mean 'parameters.lr'?
|| gan: {value: 1e-3} -> 4: unknown key 'gan' -> did you mean 'parameters.gan'?
|| scheduler: asha -> 4: scheduler: 'asha' is not a mapping -> write scheduler: {name: ...}
|| budget: {hours: 1:30} -> 4: budget.hours: '1:30' is not a number
|| resources: {gpus_per_trial: two} -> 4: neither a number nor 'auto'
|| resources: {gpus_per_trial: -1} -> 4: resources.gpus_per_trial: -1 is out of bounds
|| sampler: {name: tp} -> 4: sampler.name: unknown value 'tp' -> did you mean 'tpe'?
|| objective: {specificity: .9} -> 4: objective.specificity is only for metric: val_sensitivity
|| version: 2 -> 4: version: unknown value 2 -> write 1
|| seed: true -> 4: seed: true is not a whole number
|| points_to_evaluate: {source: none} -> 4: points_to_evaluate: a mapping is not a list -> write points_to_evaluate: [{
lr: {min: 1e-5, max: 1e-3} || sampler: {name: grid} -> 4: lr: sampler: grid cannot list all numbers from 1e-05 to 0.001

|| task: segmentation | objective: {metric: val_auroc} -> val_auroc does not apply to segmentation -> write val_dice
backbone: {value: swin_t} || task: segmentation -> 4: backbone: swin_t cannot be the encoder of a U-Net
loss: {value: bce} || task: segmentation -> 4: task: segmentation has no use for loss
dropout: {values: [0, .5]} || task: segmentation -> 4: task: segmentation has no use for dropout
dropout: {min: 0, max: .3} || task: segmentation -> 4: task: segmentation has no use for dropout
|| task: segmentation ++ data.image_size=100 -> fix: write 128
|| objective: {metric: gan_kid} | quality: {backbone: mobilenet_v2} -> 4: gan_kid searches for a generator, but
source: {value: gan} || objective: {metric: gan_kid} -> needs quality.backbone -> mobilenet_v2
source: {value: gan} | lr: {values: [1e-3, 1e-2]} | classical: {value: 1} || objective: {metric: gan_kid} | \
quality: {backbone: mobilenet_v2} -> gan_kid has no use for classical, lr -> remove them
|| objective: {metric: val_sensitivity} ++ data.classes=three -> val_sensitivity requires two classes
backbone: {value: alexnet} ++ data.image_size=32 -> 4: backbone: alexnet takes images of 63 px or more
loss: {values: [bce, cross_entropy]} ++ data.classes=three -> 4: loss: bce requires two classes
source: {value: diffusion} | diffusion.image_size: {value: 128} ++ data.image_size=64 -> 5: 128 is more than data.image_size

++ lr -> --set lr: not key=value
++ lrr=1 -> --set lrr=1: unknown key 'lrr' -> did you mean 'lr'?
++ gan=3 -> --set gan=3: gan is a block of parameters
++ views=[1 -> --set views=[1: not valid YAML
++ views= -> --set views=: views: is empty
++ gan.conditional=no -> --set gan.conditional=no: gan.conditional: 'no' is neither true nor false
++ backbone=resnet5O -> --set backbone=resnet5O: backbone: unknown value 'resnet5O' -> did you mean 'resnet50'?
++ budget.trails=3 -> --set budget.trails=3: budget: unknown key 'trails' -> did you mean 'trials'?
"""
"""`parameters || settings ++ override -> line: words of the message -> more of them`, with | between lines."""


@pytest.mark.parametrize("case", [line for line in REFUSED.splitlines() if line])
def test_a_wrong_space_or_override_is_refused_with_one_fix(
    write_space: WriteSpace, complaints: Complaints, case: str
) -> None:
    given, *words = re.split(r" ?-> ?", case)
    given, *overrides = re.split(r" ?\+\+ ", given)
    parameters, settings = (part.strip().split(" | ") for part in (*given.split("||"), "")[:2])
    space = write_space(*filter(None, parameters), after="".join(f"{line}\n" for line in settings))

    message = complaints(space, *overrides)

    line, colon, what = words[0].partition(": ")
    if line.isdigit():
        assert message.startswith(f"space.yaml:{line}{colon}")
        words[0] = what
    assert all(word in message for word in words), message
    assert message.count("fix:") == 1


@pytest.mark.parametrize("word", ["all", "null"])
def test_all_train_patients_have_a_word(write_space: WriteSpace, word: str) -> None:
    path = write_space("lr: {value: 1e-3}")

    few, every = (
        load_space(path, ["data.train_patients=5", *further]) for further in ([], [f"data.train_patients={word}"])
    )

    assert few.settings.data.train_patients == 5
    assert every.identity() == load_space(path).identity()


def test_the_objective_follows_the_task(write_space: WriteSpace) -> None:
    found = {
        task: load_space(write_space(after=f"task: {task}\n")).settings.objective.metric
        for task in ("classification", "segmentation")
    }

    assert found == {"classification": "val_auroc", "segmentation": "val_dice"}


def test_missing_settings_are_named_with_what_to_write(tmp_path: Path, complaints: Complaints) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("seed: 3\n", encoding="utf-8")

    message = complaints(path)

    assert "name: is missing\n  fix: write name: my-study" in message
    assert "data: is missing\n  fix: write data: {path: FOLDER}, or give --data FOLDER" in message


def test_messages_contain_no_pydantic_jargon(write_space: WriteSpace, complaints: Complaints) -> None:
    path = write_space(
        "lr: {value: [1]}", "weights: {value: 3}", "views: {value: {a: 1}}", after="budget: [1]\nweights_dir: 3\n"
    )

    message = complaints(path)

    for word in ("pydantic", "Input should", "http", "type=", "Error"):
        assert word not in message


def test_conditions_can_exclude_incompatible_values(write_space: WriteSpace) -> None:
    path = write_space(
        "backbone: {values: [small_cnn, resnet18]}",
        "weights: {value: none, when: {backbone: small_cnn}}",
        "trainable: {values: [head, all], when: {backbone: resnet18}}",
    )

    assert load_space(path).searched == ("backbone", "trainable")


def test_an_override_replaces_the_value_in_points_to_evaluate(write_space: WriteSpace) -> None:
    path = write_space(
        "source: {values: [none, gan]}",
        "synthetic_ratio: {values: [1, 2], when: {source: gan}}",
        "backbone: {values: [resnet18, resnet50]}",
        after="points_to_evaluate:\n- {source: gan, synthetic_ratio: 2, backbone: resnet50}\n",
    )

    assert load_space(path, ["backbone=mobilenet_v2"]).points_to_evaluate == (
        {"source": "gan", "synthetic_ratio": 2.0},
    )
    assert load_space(path, ["source=none", "source=gan"]).notes == ()
    assert load_space(path, ["source=gan"]).points_to_evaluate == ({"synthetic_ratio": 2.0, "backbone": "resnet50"},)


def test_initial_points_that_an_override_makes_equal_are_one_point(write_space: WriteSpace) -> None:
    path = write_space(
        "lr: {min: 1e-5, max: 1e-2}",
        "classical: {values: [0, 1]}",
        after="points_to_evaluate:\n- {lr: 1e-3, classical: 0}\n- {lr: 1e-3, classical: 1}\n- {lr: 1e-4, classical: 0}\n",
    )

    space = load_space(path, ["classical=1"])

    assert space.points_to_evaluate == ({"lr": 1e-3}, {"lr": 1e-4})
    (note,) = space.notes
    assert note.endswith("space.yaml:8: points_to_evaluate[1] is left out: it equals points_to_evaluate[0]")


def test_an_initial_point_of_a_source_that_an_override_excludes_is_left_out(write_space: WriteSpace) -> None:
    path = write_space(
        "source: {values: [none, gan]}",
        "lr: {min: 1e-5, max: 1e-2}",
        after="points_to_evaluate:\n- {source: none, lr: 1e-3}\n- {source: gan, lr: 1e-3}\n",
    )

    space = load_space(path, ["source=gan"])

    assert space.points_to_evaluate == ({"lr": 1e-3},)
    (note,) = space.notes
    assert note.endswith("is left out: --set source=gan excludes its source, 'none'")


def test_an_initial_point_whose_values_are_all_fixed_by_overrides_is_left_out(write_space: WriteSpace) -> None:
    path = write_space(
        "lr: {min: 1e-5, max: 1e-2}",
        "classical: {values: [0, 1]}",
        after="points_to_evaluate: [{lr: 1e-3}, {classical: 1}]\n",
    )

    space = load_space(path, ["lr=1e-4"])

    assert space.points_to_evaluate == ({"classical": 1},)
    (note,) = space.notes
    assert note.endswith("is left out: --set lr=1e-4 fixes all its values")


def test_an_initial_point_must_give_what_decides_whether_its_values_are_active(
    write_space: WriteSpace, complaints: Complaints
) -> None:
    path = write_space(
        "classical: {values: [0, 1]}",
        "views: {values: [1, 2], when: {classical: 1}}",
        "lr: {values: [1e-3, 1e-4], when: {views: 2}}",
        after="points_to_evaluate: [{views: 2, lr: 1e-3}]\n",
    )

    message = complaints(path)

    for name in ("views", "lr"):
        assert f"points_to_evaluate: whether {name} is active depends on classical" in message


def test_a_complete_first_initial_point_is_an_experiment(write_space: WriteSpace) -> None:
    lines = ("source: {values: [none, gan]}", "lr: {min: 1e-5, max: 1e-3}", "synthetic_ratio: {values: [1, 2]}")

    whole = load_space(write_space(*lines, after="points_to_evaluate: [{source: none, lr: 1e-4}, {source: gan}]\n"))
    partial = load_space(write_space(*lines, after="points_to_evaluate: [{source: gan, lr: 1e-4}]\n"))
    none = load_space(write_space(*lines))

    assert (whole.experiment().parameters.source, whole.experiment().parameters.lr) == ("none", 1e-4)
    with pytest.raises(ConfigError, match="still open: synthetic_ratio"):
        partial.experiment()
    with pytest.raises(ConfigError, match=r"still open: source, lr\n.*xraytune export"):
        none.experiment()


def test_an_override_fixes_a_parameter_and_changes_settings(write_space: WriteSpace) -> None:
    path = write_space(
        "source: {values: [none, gan]}",
        "gan: {when: {source: gan}, parameters: {steps: {values: [100, 200]}}}",
        "lr: {min: 1e-5, max: 1e-3}",
    )

    space = load_space(path, ["gan.steps=500", "lr=1e-4", "budget.trials=20", "data.train_patients=50", "gan.width=8"])

    assert space.searched == ("source",)
    assert space.settings.budget.trials == 20
    assert space.settings.data.train_patients == 50
    experiment = load_space(path, ["gan.steps=500", "lr=1e-4", "source=gan"]).experiment()
    assert experiment.parameters.lr == 1e-4
    assert experiment.parameters.gan is not None
    assert experiment.parameters.gan.steps == 500


def test_an_override_applies_to_a_file_without_parameters(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("name: small\ndata: {path: images}\n", encoding="utf-8")

    assert load_space(path, ["lr=0.5"]).experiment().parameters.lr == 0.5


def test_an_override_can_replace_a_domain(write_space: WriteSpace) -> None:
    space = load_space(write_space("lr: {value: 1e-3}"), ["lr={min: 1e-5, max: 1e-3}", "views={values: [1, 2]}"])

    assert space.searched == ("views", "lr")


def test_an_override_keeps_the_condition_of_the_file_unless_it_has_one(write_space: WriteSpace) -> None:
    path = write_space("views: {values: [1, 2], when: {classical: 1}}", "classical: {values: [0, 1]}")

    kept = load_space(path, ["views=4"]).to_yaml(path.parent)
    replaced = load_space(path, ["views={value: 4, when: {classical: 0}}"]).to_yaml(path.parent)

    assert "views: {value: 4, when: {classical: 1}}" in kept
    assert "views: {value: 4, when: {classical: 0}}" in replaced


def test_an_override_can_make_a_condition_redundant(write_space: WriteSpace) -> None:
    """`--set source=none` drops the parameters that only a GAN uses."""
    path = write_space("source: {values: [none, gan]}", "synthetic_ratio: {values: [1, 2], when: {source: gan}}")

    assert load_space(path, ["source=none"]).searched == ()


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
    by_option = load_space(path, ["folder.path=more"], data=Path("set"), weights_dir=Path("w")).experiment()

    assert in_file.settings.data.path == tmp_path / "images"
    assert in_file.settings.weights_dir == tmp_path / "official"
    assert in_file.parameters.folder is not None
    assert in_file.parameters.folder.path == tmp_path / "extra"
    assert in_file.parameters.weights == str(tmp_path / "own" / "net.pth")
    assert by_option.settings.data.path == elsewhere / "set"
    assert by_option.settings.weights_dir == elsewhere / "w"
    assert by_option.parameters.folder is not None
    assert by_option.parameters.folder.path == elsewhere / "more"


def test_a_space_with_open_parameters_is_not_an_experiment(write_space: WriteSpace) -> None:
    space = load_space(write_space("lr: {values: [1e-3, 1e-4]}", "views: {min: 1, max: 8}"))

    with pytest.raises(ConfigError, match=r"still open: views, lr\n  fix: .* xraytune export STUDY -o best.yaml"):
        space.experiment()


@pytest.mark.slow
def test_loading_a_space_needs_neither_torch_nor_optuna(write_space: WriteSpace) -> None:
    program = (
        "import sys; from pathlib import Path; from xraytune.space.load import load_space\n"
        f"load_space(Path({str(write_space())!r}))\n"
        "print([name for name in ('torch', 'numpy', 'optuna', 'ray', 'wandb') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "content", [None, [], {}, {"settings": 1}, {"settings": {"data": []}, "parameters": {}}], ids=str
)
def test_a_damaged_experiment_is_a_value_error(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (pydantic's message)
        experiment_from_json(content, tmp_path)


def test_yaml_1_1_words_in_a_space_stay_text(write_space: WriteSpace) -> None:
    experiment = load_space(write_space("match_resolution: {value: off}")).experiment()

    assert experiment.parameters.match_resolution == "off"


def test_a_trial_keeps_the_block_of_its_own_generator_alone(write_space: WriteSpace) -> None:
    path = write_space("source: {value: diffusion}", "diffusion: {parameters: {steps: {value: 7}}}")

    parameters = load_space(path).experiment().parameters
    unused = Parameters.model_validate({"source": "diffusion", "diffusion": {"steps": 7}, "gan": {"steps": 3}})

    assert parameters == unused
    assert (parameters.gan, parameters.generator) == (None, DiffusionSettings(steps=7))
    assert parameters.arm == "diffusion"
    assert Parameters(source="gan").simplicity < parameters.simplicity


GENERATOR = "objective: {metric: gan_kid}\nquality: {backbone: mobilenet_v2}\n"


def test_the_search_of_a_generator_is_read_back_from_its_study(write_space: WriteSpace, tmp_path: Path) -> None:
    """`study.yaml` lists every parameter with its default, also those of a classifier."""
    space = load_space(write_space("source: {value: gan}", "gan.lr_g: {values: [1e-4, 1e-3]}", after=GENERATOR))
    (tmp_path / "study.yaml").write_text(space.to_yaml(tmp_path), encoding="utf-8")

    again = load_space(tmp_path / "study.yaml")

    assert again == space
    assert again.settings.objective.goal == "minimize"
    assert again.networks() == (("mobilenet_v2", "imagenet"),)


@pytest.mark.parametrize(("metric", "specificity"), [("val_auprc", None), ("val_sensitivity", 0.9)])
def test_the_default_specificity_is_of_sensitivity_alone(
    write_space: WriteSpace, metric: str, specificity: float | None
) -> None:
    objective = load_space(write_space(after=f"objective: {{metric: {metric}}}\n")).settings.objective

    assert (objective.specificity, objective.goal) == (specificity, "maximize")
