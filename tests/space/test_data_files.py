"""Data files: YAML files with a `data:` block, in place of an image folder."""

from pathlib import Path

import pytest

from xraytune.base.errors import ConfigError
from xraytune.space.data_settings import DataSettings, SplitSettings
from xraytune.space.load import data_settings, load_space

SPACE = """\
name: fixed
data: {path: xrays, image_size: 32, split: {val_a: 0.2, val_b: 0.2, group_regex: (p)}}
"""
TABLE = """\
data:
  classes: auto
  table:
    file: labels.csv
    image: name
    patient: who
    label: finding
    labels: {Mass: ill, None: well}
    side: fold
  split: {seed: 3}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "set/data.yaml"
    path.parent.mkdir()
    path.write_text(TABLE)
    return path


def test_folder_replaces_only_the_path(tmp_path: Path) -> None:
    base = DataSettings(path=Path("x"), classes="three", split=SplitSettings(group_regex="(p)"))

    assert data_settings(tmp_path, base) == base.model_copy(update={"path": tmp_path})


def test_data_file_replaces_keys_of_a_space(tmp_path: Path, file: Path) -> None:
    """Its path is its folder by default; a column of patients replaces the expression."""
    space = tmp_path / "fixed.yaml"
    space.write_text(SPACE)

    data = load_space(space, data=file).settings.data

    assert (data.path, data.classes, data.image_size) == (file.parent, "auto", 32)
    assert (data.split.val_a, data.split.seed, data.split.group_regex) == (0.2, 3, None)
    assert data.table is not None
    assert (data.table.file, data.table.side) == (("labels.csv",), "fold")
    assert list(data.table.labels.items()) == [("Mass", "ill"), ("None", "well")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path: x\n", "data.yaml:1: unknown key 'path'"),
        ("data:\n  image_size: 32\n", "data.yaml:2: data.image_size belongs"),
        ("data:\n  tabel: {}\n", "data.yaml:2: unknown key 'data.tabel'"),
        ("data:\n  table:\n    image: x\n", "data.yaml:2: data.table.file: is missing"),
        ("data: {table: {file: a, image: x, labels: {a: b/c}}}\n", "labels.a: 'b/c' is not valid"),
        ("data: {table: {file: a, image: x, side: {}}}\n", "fix: give lists, {train: LIST"),
        (
            "data: {table: {file: a, image: x, side: {column: fold, test: t.txt}}}\n",
            "or the name of a column alone",
        ),
        ("data: {path: ~}\n", "data.path: None is not valid"),
        ("data: {path: ~}\n", "an unquoted ~ is null"),
        ("data: {path: other.yml}\n", "other.yml is a data file"),
        ("data: {}\nname: a\nparameters: {}", "data.yaml: this is a search space, not a data file"),
        ("task: findings\ndata: {}", "fix: give the folder of the images"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(text)

    with pytest.raises(ConfigError) as refused:
        data_settings(file, DataSettings(path=file))

    assert message in str(refused.value)
