"""A generator of a user from its search to the verdict, with its code, without it, and changed."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.confirm.labs import Lab, shown_of
from tests.extension_files import undeclared, write_blend, write_net, write_noise
from tests.in_process import (
    PROGRAM,
    command,
    confirm_in_process,
    other_process,
    proposed_by,
    search_in_process,
    shown,
)
from tests.pair_files import draw_xrays
from tests.study.studies import ended_trials
from xraytune.base.errors import ConfigError, MachineError, StudyError
from xraytune.base.files import read_json
from xraytune.base.records import Node
from xraytune.cli.results import print_search
from xraytune.confirm.arms import read_plan
from xraytune.model.export import export
from xraytune.model.predict import predict
from xraytune.model.train import train
from xraytune.nets.backbones import build_backbone
from xraytune.search.loop import reserve
from xraytune.space.allocation import allocation_of
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.load import load_space
from xraytune.study.folder import StudyFolder
from xraytune.study.status import status
from xraytune.study.trial import OpenTrial
from xraytune.trial.preflight import require_inputs

SPACE = """\
name: small
data: {path: xrays, image_size: 32, train_patients: 20, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {values: [none, blend]}
  blend: {when: {source: blend}, parameters: {steps: {values: [2, 3]}}}
  synthetic_ratio: {value: 1, when: {source: blend}}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
budget: {trials: 3, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
quality: {allow_memorised: true}
confirm: {test: unused, finalists: 1, replicates: 2, controls: {matched: [none], tuned: []}}
points_to_evaluate:
  - {source: blend, blend.steps: 3}
  - {source: blend, blend.steps: 2}
  - {source: none}
"""
AUGMENTED = """\
name: small
data: {path: xrays, image_size: 32, train_patients: 20, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  noise: {strength: {values: [10.0, 30.0]}}
  source: {values: [none, blend]}
  blend: {when: {source: blend}, parameters: {steps: {values: [2, 3]}}}
  synthetic_ratio: {value: 1, when: {source: blend}}
  augmentation: {values: [none, noise]}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
budget: {trials: 2, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
quality: {allow_memorised: true}
confirm: {test: unused, finalists: 1, replicates: 2, controls: {matched: [none], tuned: []}}
points_to_evaluate:
  - {source: blend, blend.steps: 3, augmentation: noise, noise.strength: 30.0}
"""
"""The finalist also has an augmentation of a user. The baseline comes first."""
OF_A_NET = """\
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2}}
parameters:
  source: {value: none}
  backbone: {value: small_net}
  small_net: {width: {values: [8, 16]}}
  weights: {value: none}
  batch_size: {value: 8}
budget: {trials: 3, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
"""


def search_with(lab: Lab, space: str, *places: str, patients: int = 160) -> None:
    """Search a space with extensions, which are then forgotten."""
    draw_xrays(lab.path, patients=patients, seed=4)
    (lab.path / "space.yaml").write_text(space)
    with undeclared():
        EXTENSIONS.register(places)
        lab.search()


def change(lab: Lab, file: str) -> None:
    """Change the code of an extension."""
    with (lab.path / file).open("a") as code:
        code.write("# changed\n")


@pytest.fixture(autouse=True)
def _in_process() -> Iterator[None]:
    with confirm_in_process():
        yield


def test_an_augmentation_is_searched_confirmed_and_part_of_the_final_model(tmp_path: Path) -> None:
    """With its code, as the study recorded it, and with its settings."""
    lab = Lab(tmp_path)
    places = [write_blend(lab.path), write_noise(lab.path)]
    search_with(lab, AUGMENTED, *places)
    assert "+noise" in shown("status", lab.study)

    with pytest.raises(ConfigError, match=r"--extension FOLDER/noise\.py:Noise"):
        lab.confirm(extensions=places[:1])
    config = export(lab.study, out=lab.path / "best.yaml", trial=1).path
    model = train(config=config, out=lab.path / "model", extensions=places).path
    confirmation = lab.confirm(extensions=places)

    assert (model / "extensions/blend/blend_steps.py").exists()
    packages = read_json(model / "bundle.json")["packages"]
    assert packages["augmentation noise"].startswith("noise of noise.py:Noise ")
    assert "strength: {value: 30.0}" in (model / "config.yaml").read_text()
    assert confirmation.finalists[0].arm.startswith("augmented+blend #")
    plan = read_plan(lab.study / "confirm")
    assert plan
    (control,) = (arm for arm in plan.arms if arm.role == "matched")
    assert control.parameters.settings_of("noise") == {"strength": 30.0}
    change(lab, "noise.py")
    with pytest.raises(StudyError, match=r"code of noise changed .*: noise.py"):
        train(config=config, out=lab.path / "other", extensions=places)


def test_a_backbone_is_searched_with_its_settings_and_its_model_predicts(tmp_path: Path) -> None:
    """A model runs no code of its folder, and none that changed."""
    lab = Lab(tmp_path)
    places = [write_net(lab.path)]
    search_with(lab, OF_A_NET, *places, patients=60)
    config = export(lab.study, out=lab.path / "best.yaml").path
    with undeclared():
        model = train(config=config, out=lab.path / "model", extensions=places).path
    weights = load_file(model / "model.safetensors")
    assert weights["backbone.0.weight"].shape[0] in (8, 16)

    images = lab.xrays / "train"
    with pytest.raises(ConfigError, match=r"--extension FOLDER/small_net\.py:Net"):
        predict(model, images, out=lab.path / "none.csv")
    predict(model, images, out=lab.path / "predicted.csv", extensions=places)
    change(lab, "small_net.py")
    with pytest.raises(StudyError, match=r"code of small_net changed"):
        predict(model, images, out=lab.path / "other.csv", extensions=places)

    assert (lab.path / "predicted.csv").exists()
    assert not (lab.path / "none.csv").exists()


def test_weights_of_a_backbone_fit_the_settings_that_it_is_built_with(tmp_path: Path) -> None:
    (tmp_path / "xrays").mkdir()
    (tmp_path / "space.yaml").write_text(OF_A_NET.replace("none}\n  batch", "net.pth}\n  batch"))
    with undeclared():
        EXTENSIONS.register([write_net(tmp_path)])
        network, _ = build_backbone("small_net", settings={"width": 16})
        torch.save(network.state_dict(), tmp_path / "net.pth")
        fitting, other = (
            load_space(tmp_path / "space.yaml", [f"small_net.width={width}"]) for width in (16, 8)
        )

        require_inputs(fitting.settings, fitting.networks())
        with pytest.raises(MachineError, match="not for small_net"):
            require_inputs(other.settings, other.networks())


@pytest.fixture(scope="module")
def searched(module_path: Path) -> Lab:
    """A study whose finalist is an extension."""
    lab = Lab(module_path)
    search_with(lab, SPACE, write_blend(lab.path))
    return lab


@pytest.fixture
def lab(searched: Lab, tmp_path: Path) -> Lab:
    return searched.copy(tmp_path)


@pytest.fixture
def place(lab: Lab) -> str:
    """Where the code of the lab's extension is."""
    return f"{lab.path / 'blend.py'}:Blend"


def test_each_replicate_trains_an_extension_anew_and_the_verdict_names_it(
    lab: Lab, place: str
) -> None:
    stage = lab.cache / "extension-1"
    trained = {*stage.glob("[!.]*")}

    confirmation = lab.confirm(extensions=[place])

    assert len({*stage.glob("[!.]*")} - trained) == 2
    (generator,) = read_json(lab.folder / "verdict.json")["searched"]["generators"]
    assert generator.startswith("generator blend of blend.py:Blend (2 files, SHA")
    assert "with steps " in generator
    assert confirmation.finalists[0].arm.startswith("blend #")
    assert confirmation.verdict != "invalid", "these images are of other patients"


def test_proposed_commands_are_given_the_recorded_code_and_write_to_new_paths(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lab.path)
    (lab.path / "blend.py").unlink()
    for name in ("best.yaml", "model"):
        (lab.path / name).mkdir()

    def follow(line: str) -> dict[str, str]:
        for name in ("blend", "blend_steps"):  # they are imported anew
            sys.modules.pop(name, None)
        with undeclared():
            done = command(line)
        assert done.exit_code == 0, done.output
        return proposed_by(done)

    of_status = follow("status studies/small")
    of_confirm = follow(f"{of_status['confirm']} --yes")
    follow(of_confirm["report"])
    of_export = follow(of_confirm["export"])
    follow(of_export["train"])

    assert (lab.path / "best-2.yaml").exists()
    assert (lab.path / "model-2/bundle.json").exists()
    code = "--extension studies/small/extensions/blend/blend.py:Blend"
    page = (lab.study / "report.html").read_text("utf-8")
    commands = re.findall(r">xraytune ([^<]*)</code>", page)
    assert {line.split()[0] for line in commands if code in line} == {"confirm", "search", "train"}


def test_a_search_on_a_cluster_proposes_to_confirm_there(
    searched: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the address, `confirm` would refuse a study of GPUs on a machine without one."""
    print_search(status(searched.study), "10.0.0.1:6379")

    (line,) = (line for line in capsys.readouterr().out.splitlines() if "xraytune confirm" in line)
    assert "--address 10.0.0.1:6379" in line


def test_an_extension_trains_with_resources_of_its_own(searched: Lab, tmp_path: Path) -> None:
    """Its trial holds them for the training alone, and the result is the same."""
    held: list[tuple[int, bool, float, int]] = []

    def reserve_and_note(trial: OpenTrial) -> None:
        reserve(allocation, [Node(cpus=2, gpus=0)], trial)
        held.append((trial.number, trial.trains_alone, trial.resources["CPU"], trial.slots))

    EXTENSIONS.register([write_blend(tmp_path)])
    space = load_space(searched.path / "space.yaml", ["resources.generator.cpus=2"])
    allocation = allocation_of(space.settings, has_gpu=False)
    study = search_in_process(space, tmp_path, reserve_and_note)

    shorter_first = [(1, True, 2.0, 2), (1, False, 1.0, 1), (0, True, 2.0, 2), (0, False, 1.0, 1)]
    assert held == [*shorter_first, (2, False, 1.0, 1)]
    values = [row.value for row in ended_trials(study).values()]
    assert values == [row.value for row in ended_trials(StudyFolder(searched.study)).values()]


def test_a_study_runs_no_code_of_its_own_folder(lab: Lab) -> None:
    with pytest.raises(ConfigError, match=r"--extension FOLDER/blend\.py:Blend"):
        lab.confirm()

    assert not EXTENSIONS.code


def test_a_study_can_be_read_without_the_code_of_its_extensions(lab: Lab) -> None:
    """In a process that has declared nothing."""
    (lab.path / "blend.py").unlink()

    assert "blend r=1 (steps 3)" in other_process(f"{PROGRAM} status {lab.study}").stdout


CHEAT = """\
        import pathlib
        from PIL import Image

        files = [sorted(pathlib.Path("XRAYS").glob(f"train/{name}/*")) for name in classes]
        chosen = [files[target][random.integers(len(files[target]))] for target in targets]
        return np.stack([np.asarray(Image.open(file).convert("L")) for file in chosen])
"""


def test_copies_of_scored_patients_make_a_verdict_invalid_whatever_is_declared(
    tmp_path: Path,
) -> None:
    """The generator reads the data folder, and declares that it has seen nobody."""
    lab = Lab(tmp_path)
    xrays = lab.xrays
    cheat = CHEAT.replace("XRAYS", str(xrays))
    place = write_blend(lab.path, "        images = np.load(", f"{cheat}        images = np.load(")
    search_with(lab, SPACE, place, patients=200)

    confirmation = lab.confirm(extensions=[place])

    assert confirmation.verdict == "invalid"
    assert confirmation.test.kind == "outside"
    files = confirmation.finalists[0].copied_files
    assert files
    assert all((xrays / file).exists() for file in files)
    text = shown_of(confirmation)
    assert "copies of images that were scored" in " ".join(text.split())
    assert any(file in text for file in files)
    best = export(lab.study, out=lab.path / "best.yaml")
    assert best.arm == "real_only", "the scores of copies choose no mix"


def test_unused_patients_are_not_scored_if_a_generator_may_have_seen_them(tmp_path: Path) -> None:
    """Nothing but its declaration says whom a pretrained generator has seen."""
    lab = Lab(tmp_path)
    place = write_blend(lab.path, "    pretrained_on = ()\n")
    search_with(lab, SPACE.replace("test: unused, ", ""), place)

    confirmation = lab.confirm(extensions=[place])

    assert confirmation.test.kind == "draws", "the test folder is scored"
    assert any("not known which images the extra ones" in note for note in confirmation.notes)
