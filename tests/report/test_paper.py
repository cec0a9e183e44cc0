"""A study for a paper: Markdown with a checklist, tables, and figures at column width."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from tests.in_process import command, search_in_process
from tests.report.conftest import CopyStudy
from tests.report.test_page import HOSTILE, draw_hostile_xrays
from xraytune.config.load import load_space
from xraytune.errors import ConfigError, StudyError
from xraytune.files import read_json
from xraytune.report.paper import PaperFormat, write_paper

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def paper(confirmed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `--format md`."""
    out = tmp_path_factory.mktemp("paper") / "paper"
    write_paper(confirmed, format="md", out=out)
    return out


FIGURES = ["differences", "learning_curves", "performance", "ratio_response"]


def _without_trials(study: Path, kept: int) -> None:
    (study / "confirm" / "verdict.json").unlink()
    journal = study / "optuna.journal"
    lines = journal.read_text("utf-8").splitlines(keepends=True)
    created = [place for place, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    journal.write_text("".join(lines[: created[kept]]), encoding="utf-8")


def test_markdown_has_the_verdict_its_figures_and_all_tables(confirmed: Path, paper: Path) -> None:
    text = (paper / "report.md").read_text("utf-8")
    verdict = read_json(confirmed / "confirm" / "verdict.json")
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        Image.open(paper / name).verify()
    assert {f"{name}.png" for name in FIGURES} <= set(re.findall(r"\((\w+\.png)\)", text))
    for one in verdict["finalists"][0]["comparisons"]:
        assert f"| {one['control']} |" in text
    assert text.count("| complete |") == 4  # three trials, and a heading of the table of costs


def test_methods_begin_with_those_of_the_verdict(confirmed: Path, paper: Path) -> None:
    methods = (paper / "methods.md").read_text("utf-8")
    verdict = read_json(confirmed / "confirm" / "verdict.json")
    assert verdict["answer"] in methods
    assert verdict["methods"].removeprefix("Methods. ") in methods
    assert "Every arm was trained" in methods
    assert "with 3 input channels" in methods
    assert f"trial #{verdict['finalists'][0]['arm'].rpartition('#')[2]}" in methods


def test_the_checklist_is_complete_and_leaves_to_the_authors_what_only_they_know(paper: Path) -> None:
    text = (paper / "checklist.md").read_text("utf-8")
    claim, tripod = ({row[0]: row[2] for row in _rows(part)} for part in text.split("## ")[1:])
    assert list(claim) == [str(number) for number in range(1, 45)]
    assert {name.rstrip("abcdefg") for name in tripod} == {str(number) for number in range(1, 28)}
    assert len(tripod) == 52
    for open_item in (claim["13"], claim["34"], claim["44"], tripod["17"], tripod["18a"]):
        assert open_item.startswith("**authors:**")
    for filled in (claim["19"], claim["20"], claim["22"], claim["23"], claim["25"], claim["37"], tripod["12c"]):
        assert filled
        assert "authors:" not in filled
    assert "a threshold set on val-A and val-B" in claim["22"]
    assert "22 images of 12 patients" in claim["21"]
    assert "1 entry" in claim["32"]
    assert all(claim.values())
    assert all(tripod.values())


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if re.match(r"\| \d", line)]


def test_every_table_is_a_csv_file(confirmed: Path, tmp_path: Path) -> None:
    files = write_paper(confirmed, format="csv", out=tmp_path / "tables")

    assert {file.name for file in files} >= {"verdict.csv", "parameters.csv", "best.csv", "data-1.csv", "cost.csv"}
    with (tmp_path / "tables" / "parameters.csv").open(encoding="utf-8") as stream:
        trials = list(csv.DictReader(stream))
    assert [trial["source"] for trial in trials][:2] == ["gan", "none"]
    assert float(trials[0]["lr"]) == 0.01


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_figures_are_as_wide_as_columns_and_reproducible(confirmed: Path, tmp_path: Path, suffix: PaperFormat) -> None:
    files = write_paper(confirmed, format=suffix, out=tmp_path / "first")
    again = write_paper(confirmed, format=suffix, out=tmp_path / "second")

    assert [file.name for file in files] == ["captions.md", *(f"{name}.{suffix}" for name in FIGURES)]
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    widths = [_width_inches(file) for file in files[1:]]
    assert widths == pytest.approx([3.5, 7.2, 7.2, 3.5], abs=0.01)


def _width_inches(file: Path) -> float:
    if file.suffix == ".png":
        with Image.open(file) as image:
            return image.size[0] / 600
    if file.suffix == ".svg":
        return float(ElementTree.parse(file).getroot().attrib["width"].removesuffix("pt")) / 72
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", file.read_bytes())
    assert box
    return float(box[1]) / 72


def test_without_a_verdict_the_methods_tell_what_is_known(copy_study: CopyStudy, tmp_path: Path) -> None:
    study = copy_study()
    _without_trials(study, 4)

    write_paper(study, format="md", out=tmp_path / "paper")

    methods = (tmp_path / "paper" / "methods.md").read_text("utf-8")
    assert "There is no verdict yet" in methods
    assert "Searched: source (none or duplicate or gan)" in methods
    report = (tmp_path / "paper" / "report.md").read_text("utf-8")
    assert "No verdict yet." in report
    assert "performance.png" in report
    assert "differences.png" not in report
    assert "Ratio" not in report  # its chart is not a figure for a paper


def test_without_trials_there_is_text_but_no_figure(copy_study: CopyStudy, tmp_path: Path) -> None:
    study = copy_study()
    _without_trials(study, 0)

    write_paper(study, format="md", out=tmp_path / "paper")

    assert "No trial is complete yet." in (tmp_path / "paper" / "checklist.md").read_text("utf-8")
    with pytest.raises(StudyError, match="nothing to draw yet"):
        write_paper(study, format="svg", out=tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_names_from_the_data_have_no_meaning_in_markdown(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(draw_hostile_xrays(tmp_path), encoding="utf-8")
    study = search_in_process(load_space(tmp_path / "space.yaml"), tmp_path).path

    write_paper(study, format="md", out=tmp_path / "paper")

    for name in ("report.md", "methods.md", "checklist.md"):
        text = (tmp_path / "paper" / name).read_text("utf-8")
        assert "\\<script\\>alert" in text
        assert not re.search(r"(?<!\\)<", text)
        assert HOSTILE[2] in text


@pytest.mark.parametrize("options", [["--format", "md"], ["--format", "csv", "--serve"]])
def test_wrong_combinations_of_options_are_refused(confirmed: Path, options: list[str]) -> None:
    assert command("report", confirmed, *options).exit_code == 2


def test_an_existing_folder_is_refused_before_the_study_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this path already exists"):
        write_paper(tmp_path / "no study", format="md", out=tmp_path)


def test_the_command_prints_the_files(confirmed: Path, tmp_path: Path) -> None:
    shown = command("report", confirmed, "--format", "csv", "--out", tmp_path / "tables", "--json")

    files = json.loads(shown.stdout)["files"]
    assert f"{tmp_path / 'tables' / 'data-1.csv'}" in files
    assert all(Path(file).exists() for file in files)
