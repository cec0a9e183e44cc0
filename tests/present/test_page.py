"""The page about a study: what it shows, and that it works on studies of every kind."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from tests.confirm.labs import search_space
from tests.in_process import command
from tests.pair_files import draw_xrays
from tests.present.conftest import SPACE
from xraytune.base.errors import ConfigError, StudyError
from xraytune.base.files import read_json
from xraytune.confirm.arms import TestKind
from xraytune.confirm.record import read_verdict, write_verdict
from xraytune.data.phantom import paint_phantoms
from xraytune.present.forest import plot_forest
from xraytune.present.page import page_content, write_report
from xraytune.stats.verdict import Interval
from xraytune.study.folder import StudyFolder

SEGMENTATION = """\
name: pairs
task: segmentation
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {value: none}
  backbone: {value: mobilenet_v2}
  weights: {value: none}
  lr: {value: 1e-3}
  batch_size: {value: 4}
budget: {trials: 1, max_epochs: 1, steps_per_epoch: 2}
"""


def test_a_confirmed_study_shows_verdict_controls_and_trials(
    confirmed: Path, tmp_path: Path
) -> None:
    page = write_report(confirmed, out=tmp_path / "page.html").read_text("utf-8")

    (finalist,) = read_json(confirmed / "confirm/verdict.json")["finalists"]
    content = page_content(StudyFolder(confirmed), confirmed.parent.parent / "cache")
    drawn = {
        y.replace("<br>", " "): x
        for trace in content["verdict"]["differences"].data
        for x, y in zip(trace.x, trace.y, strict=True)
    }
    assert drawn == {
        comparison["control"]: comparison["difference"] for comparison in finalist["comparisons"]
    }
    view = content["view"]
    best = max(trial.value for trial in view.ranked)
    curves = content["curves"]
    assert curves.layout.xaxis.range[1] > view.max_epochs, "lines do not end at the axis"
    assert {trace.mode for trace in curves.data if len(trace.x) == 1} == {"markers"}
    assert curves.layout.yaxis.title.text.endswith("best so far")
    for figure in (curves, *content["slices"].values()):
        low, high = figure.layout.yaxis.range
        assert low < best < high
    headings = {"Verdict", "Best configuration", "Search", "Misclassified images", "Data"}
    assert headings <= {*re.findall(">([^<]*)</h2>", page)}
    # The sample grid, the nearest training images of both classes, and the mistakes.
    assert len(content["generators"]["pictures"]) == 3
    mistakes = content["mistakes"]
    assert len(mistakes["pictures"]) == min(len(mistakes["table"].rows), 9) > 0
    assert page.count('<img src="data:image/') == 3 + len(mistakes["pictures"])
    text = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!data:|#)', text), "something is loaded from elsewhere"


def test_secondary_outcomes_are_folded_and_compare_with_the_strongest_control(
    confirmed: Path, tmp_path: Path
) -> None:
    page = write_report(confirmed, out=tmp_path / "page.html").read_text("utf-8")

    record = read_verdict(confirmed / "confirm")
    assert record
    finalist = record.finalists[0]
    (strongest,) = (row for row in finalist.comparisons if row.control == finalist.strongest)
    (folded,) = re.findall("<details>(.*?)</details>", page, flags=re.DOTALL)
    assert f"{finalist.strongest}</th>" in folded
    assert len(strongest.secondary) == 4
    for outcome in strongest.secondary:
        assert f"{outcome.low:+.4f} to {outcome.high:+.4f}" in folded


def test_a_forest_plot_has_a_row_for_each_interval_with_the_first_on_top() -> None:
    intervals = [
        Interval(**dict.fromkeys(Interval.__dataclass_fields__, value)) for value in (0.01, 0.03)
    ]

    figure = plot_forest([("all", intervals[0]), ("sex: F", intervals[1])], "difference")

    assert [trace.y for trace in figure.data] == [("sex: F",), ("all",)], "from the bottom up"
    assert [trace.x for trace in figure.data] == [(0.03,), (0.01,)]
    assert [trace.marker.symbol for trace in figure.data] == ["circle", "diamond"]


def test_a_legend_explains_the_results_of_a_forest_plot_once() -> None:
    interval = Interval(**dict.fromkeys(Interval.__dataclass_fields__, 0.01))
    results = {"none": "better", "duplicate": "undecided", "tuned": "better"}

    figure = plot_forest([(control, interval) for control in results], results=results)

    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == ["better", "undecided"]
    assert len({trace.marker.symbol for trace in figure.data}) == 2


def test_without_a_verdict_or_images_the_page_shows_what_is_known(
    private: Path, tmp_path: Path
) -> None:
    study = private.rename(tmp_path / "alone")
    (study / "confirm/verdict.json").unlink()

    page = write_report(study).read_text("utf-8")

    assert "No verdict yet." in page
    assert "No pictures: " in page


@pytest.mark.parametrize(
    ("kind", "name", "ending"),
    [
        ("folder", "the test folder", ""),
        ("folder", "b", " --test FOLDER"),
        ("draws", "b", " --test FOLDER"),
        ("outside", "b", ""),
    ],
)
def test_the_confirmation_is_shown_with_the_test_images_that_its_verdict_needed(
    private: Path, kind: TestKind, name: str, ending: str
) -> None:
    verdict = read_verdict(private / "confirm")
    assert verdict
    test = replace(verdict.test, kind=kind, name=name)
    write_verdict(private / "confirm", replace(verdict, test=test))

    content = page_content(StudyFolder(private), private.parent.parent / "cache")

    assert content["confirm"] == f"confirm {content['study']}{ending}"


def test_a_study_of_segmentation_shows_the_worst_masks(tmp_path: Path) -> None:
    draw_xrays(tmp_path, patients=24, seed=4, pairs=True)
    for folder in ("images", "masks"):
        image = min((tmp_path / "xrays/train" / folder).iterdir())
        shutil.copy(image, image.with_name(f"copy_{image.name}"))

    page = write_report(search_space(tmp_path, SEGMENTATION)).read_text("utf-8")

    assert "Worst segmentations" in page
    assert "Duplicates: 1 image, identical to others." in page
    assert page.count("data:image/jpeg;base64,") == 9


HOSTILE = ['<script>alert("1")', "a'b\"c & d", "שלום עולם"]


def test_names_from_the_data_are_escaped(tmp_path: Path) -> None:
    paint_phantoms(tmp_path / "drawn", patients=30, seed=1, image_size_px=32)
    for number, (name, source) in enumerate(
        zip(HOSTILE, ["NORMAL", "PNEUMONIA", "NORMAL"], strict=True)
    ):
        images = sorted((tmp_path / "drawn/train" / source).glob("*"))[number::2]
        (tmp_path / "xrays/train" / name).mkdir(parents=True)
        for place, image in enumerate(images):
            (tmp_path / "xrays/train" / name / f"p{number}{place}_1{image.suffix}").write_bytes(
                image.read_bytes()
            )
    text = SPACE.replace("val_b: 0.25", r"val_b: 0.25, group_regex: '(p\d+)_'").replace(
        "xrays,", "xrays, classes: auto,"
    )
    study = search_space(tmp_path, text.replace("trials: 5", "trials: 1"))

    page = write_report(study).read_text("utf-8")

    assert "<script>alert" not in page
    commands = [unescape(line) for line in re.findall(r">xraytune ([^<]*)</code>", page)]
    (inspect,) = (line for line in commands if line.startswith("data inspect"))
    assert command(*shlex.split(inspect)).exit_code == 0, "with the classes and patients of a study"
    assert any(line.endswith("--test FOLDER") for line in commands), "the data have no test images"


def test_no_command_inspects_hospitals_that_only_a_setting_names(tmp_path: Path) -> None:
    """No option of it says that these folders are no classes, so it would refuse them."""
    paint_phantoms(tmp_path / "xrays", patients=40, seed=1, image_size_px=32, sites=2)
    for folder, name in (("NORMAL", "tb"), ("PNEUMONIA", "covid")):
        for images in (tmp_path / "xrays").glob(f"*/{folder}"):
            images.rename(images.with_name(name))
    (tmp_path / "xrays/patients.csv").unlink()
    data = "xrays, classes: auto, positive: tb,"
    text = SPACE.replace("xrays,", data).replace("val_b: 0.25", "val_b: 0.25, site: folder")

    page = write_report(search_space(tmp_path, text.replace("trials: 5", "trials: 1")))

    assert "xraytune data inspect" not in page.read_text("utf-8")


def test_a_study_without_a_trial_has_a_page(private: Path) -> None:
    (private / "confirm/verdict.json").unlink()
    journal = private / "optuna.journal"
    lines = journal.read_text("utf-8").splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if json.loads(line)["op_code"] == 4)
    journal.write_text("".join(lines[:first]), "utf-8")  # before the first CREATE_TRIAL
    (private / "trials.jsonl").unlink()

    page = write_report(private).read_text("utf-8")

    assert re.search(r"0 of \d+ trials ended", page)
    assert "xraytune confirm" not in page


def test_those_who_cannot_read_a_study_cannot_read_its_page(private: Path, tmp_path: Path) -> None:
    for of_folder, of_page in ((0o700, 0o600), (0o755, 0o644)):
        private.chmod(of_folder)

        written = write_report(private, out=tmp_path / "page.html")

        assert written.stat().st_mode & 0o777 == of_page


def test_bad_input(private: Path, tmp_path: Path) -> None:

    with pytest.raises(StudyError, match="no study here"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="this is a folder"):
        write_report(private, out=tmp_path)
    (private / "confirm/verdict.json").write_text("{", "utf-8")
    with pytest.raises(StudyError, match=r"verdict\.json"):
        write_report(private)
