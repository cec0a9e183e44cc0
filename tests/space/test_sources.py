"""Generators of users: their code is found whole, and their settings become parameters."""

from pathlib import Path

import pytest

from tests.extension_files import undeclared, write_blend
from xraytune.base.errors import ConfigError, DataError, MachineError
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.load import load_space
from xraytune.space.parameters import Parameters
from xraytune.space.recorded import declare_recorded, write_extensions

SPACE = """\
name: x
data: {path: xrays}
parameters:
  source: {values: [none, blend]}
  blend: {when: {source: blend}, parameters: {steps: {values: [10, 40]}}}
"""


def test_the_settings_of_an_extension_are_parameters_that_can_be_searched(tmp_path: Path) -> None:
    EXTENSIONS.register([write_blend(tmp_path)])
    (tmp_path / "space.yaml").write_text(SPACE)

    space = load_space(tmp_path / "space.yaml")

    assert space.searched == ("source", "blend.steps")
    parameters = parameters_from({"source": "blend", "blend.steps": 40})
    assert parameters.settings_of("blend") == {"steps": 40, "noise": 8.0}
    assert parameters_from(flat_values(parameters)) == parameters
    assert "blend.steps" not in flat_values(Parameters(source="none"))
    with pytest.raises(ConfigError, match=r"blend.steps: 'many' is not valid"):
        load_space(tmp_path / "space.yaml", ["blend.steps=many"])


def test_a_space_file_names_an_extension_and_runs_no_code(tmp_path: Path) -> None:
    write_blend(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)

    with pytest.raises(ConfigError, match="--extension"):
        load_space(tmp_path / "space.yaml")
    assert not EXTENSIONS.code


def test_an_extension_is_another_one_if_any_file_of_its_code_changes(tmp_path: Path) -> None:
    """The second file is imported in the body of `fit`."""
    place = write_blend(tmp_path)
    EXTENSIONS.register([place])
    before = EXTENSIONS.declared["blend"]
    (tmp_path / "unrelated.py").write_text("")
    EXTENSIONS.register([place])
    assert EXTENSIONS.declared["blend"].identity == before.identity

    (tmp_path / "blend_steps.py").write_text("def finished(folder): return 0\n")
    EXTENSIONS.register([place])

    assert EXTENSIONS.declared["blend"].changes(before) == ["blend_steps.py"]
    assert EXTENSIONS.declared["blend"].identity != before.identity
    assert "numpy" in before.releases


def test_a_class_in_a_package_has_all_files_of_the_package(tmp_path: Path) -> None:
    package = tmp_path / "my_models"
    (package / "nets").mkdir(parents=True)
    for file in ("__init__.py", "nets/__init__.py", "nets/unet.py"):
        (package / file).write_text("")
    write_blend(package, "from blend_steps", "from .blend_steps")

    EXTENSIONS.register([f"{package / 'blend.py'}:Blend"])

    extension = EXTENSIONS.declared["blend"]
    assert extension.place == "my_models/blend.py:Blend"
    assert "my_models/nets/unet.py" in extension.files
    assert len(extension.files) == 5


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("steps: int = 4", "steps: int", "steps: a setting of Blend without"),
        ('longer_by = "steps"', 'longer_by = "epochs"', "longer_by: 'epochs'"),
        ("pretrained_on = ()", "pretrained_on = ['A1']", "no SHA-256"),
        ("pretrained_on = ()", "pretrained_on = 'gone.txt'", "gone.txt"),
        ("def sample", "def draw", "methods of an extension"),
        ("import numpy", "import numpi", "No module named 'numpi'"),
        ("class Blend", "class Other", "no class or function 'Blend'"),
        ("class Blend", "1 / 0\nclass Blend", "division by zero"),
    ],
)
def test_a_class_that_is_no_extension_is_refused(
    tmp_path: Path, old: str, new: str, what: str
) -> None:
    place = write_blend(tmp_path, old, new)

    with pytest.raises((ConfigError, DataError, MachineError)) as caught:
        EXTENSIONS.register([place])

    assert what in str(caught.value)
    assert "blend.py" in str(caught.value) or "gone.txt" in str(caught.value)


@pytest.mark.parametrize("place", ["blend.py", ":Blend"])
def test_a_place_without_a_file_or_a_class_is_shown(place: str) -> None:
    with pytest.raises(ConfigError, match=rf"{place}: .*\n.*write --extension FILE\.py:NAME"):
        EXTENSIONS.register([place])


def test_an_extension_may_say_that_it_has_no_settings(tmp_path: Path) -> None:
    with_none = 'Settings = None\n    longer_by = ""'
    EXTENSIONS.register(
        [write_blend(tmp_path, 'Settings = Settings\n    longer_by = "steps"', with_none)]
    )

    assert EXTENSIONS.build("blend", {}).Settings is None


def test_seen_images_may_be_listed_in_capitals_and_in_a_file(tmp_path: Path) -> None:
    place = write_blend(tmp_path, "pretrained_on = ()", "pretrained_on = 'seen.txt'")
    (tmp_path / "seen.txt").write_text(f"{'A' * 64}\n{'b' * 64}\n")

    EXTENSIONS.register([place])

    assert EXTENSIONS.declared["blend"].seen == ("a" * 64, "b" * 64)


def test_the_recorded_code_has_the_list_of_seen_images(tmp_path: Path) -> None:
    """Trials run in processes of their own, from the study's copy."""
    study = tmp_path / "study"
    place = write_blend(tmp_path, "pretrained_on = ()", "pretrained_on = 'seen.txt'")
    (tmp_path / "seen.txt").write_text("a" * 64)
    with undeclared():
        EXTENSIONS.register([place])
        write_extensions(study, ["blend"], study)
    (tmp_path / "seen.txt").unlink()

    with undeclared():
        declare_recorded(study, runs_code=True)
        EXTENSIONS.load("blend")

        assert EXTENSIONS.declared["blend"].seen == ("a" * 64,)


def test_a_list_of_seen_images_that_trials_would_lack_is_refused(tmp_path: Path) -> None:
    (tmp_path / "seen.txt").write_text("a" * 64)
    (tmp_path / "code").mkdir()
    place = write_blend(tmp_path / "code", "pretrained_on = ()", "pretrained_on = '../seen.txt'")

    with pytest.raises(ConfigError, match="not beside the code"):
        EXTENSIONS.register([place])


@pytest.mark.parametrize("name", ["gan", "mixup", "My-Gan"])
def test_a_name_of_xraytune_is_no_name_for_an_extension(tmp_path: Path, name: str) -> None:
    write_blend(tmp_path)
    (tmp_path / "blend.py").rename(tmp_path / f"{name}.py")

    with pytest.raises(ConfigError, match=f"{name!r} cannot be the name"):
        EXTENSIONS.register([f"{tmp_path / name}.py:Blend"])
