"""What extra images are worth in real patients: the analysis of known curves, and a whole confirm in this process."""

from __future__ import annotations

import html
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from tests.in_process import InProcess, command, one_thread, search_in_process
from xraytune.cli.confirm import show_verdict
from xraytune.config.load import load_space
from xraytune.config.settings import Parameters
from xraytune.confirm import training
from xraytune.confirm.analysis import ArmScores, EvaluationSet, Worth, worth_of_images
from xraytune.confirm.plan import FinishedTrial, Plan, finalist_arm, worth_arms
from xraytune.confirm.record import Confirmation, methods_paragraph
from xraytune.confirm.run import confirm
from xraytune.data.phantom import draw_phantoms
from xraytune.errors import DataError
from xraytune.files import read_json
from xraytune.metrics.classification import Floats
from xraytune.pipeline.prepare import read_prepared
from xraytune.pipeline.task import CLASSIFICATION
from xraytune.report.charts import worth as worth_chart
from xraytune.report.page import write_report
from xraytune.search.study import StudyFolder
from xraytune.seeding import numpy_generator

OWN, CURVE = 200, (50, 100, 400, 800)
GAN_SEEDS, IMAGES = 5, 1000
LABELS = np.arange(IMAGES) % 2
TEST = EvaluationSet(
    labels=LABELS, patients=tuple(f"p{number}" for number in range(IMAGES)), positive=1, task=CLASSIFICATION
)


def placed(finalist: float, apart: dict[int, float], *, noise: float = 0.1, seed_noise: float = 0.0) -> Worth:
    """The worth, where arms separate the classes by so much: a finalist, and real images alone of so many patients."""
    parameters = Parameters.model_validate({"source": "folder", "folder": {"path": Path("extra")}})
    own_arm = finalist_arm(FinishedTrial(name="#1", parameters=parameters), None)
    plan = Plan().grown([own_arm, *worth_arms(own_arm, [one for one in apart if one != OWN])], GAN_SEEDS, 1)
    patients = numpy_generator(1, "patients").normal(size=IMAGES)

    def results(name: str) -> Floats:
        separation = finalist if name == plan.finalists[0].name else apart[plan.arm(name).train_patients or OWN]
        own = noise * numpy_generator(2, name).normal(size=(GAN_SEEDS, 1, IMAGES))
        of_seed = separation + seed_noise * numpy_generator(3, name).normal(size=(GAN_SEEDS, 1, 1))
        positive = 1 / (1 + np.exp(-(of_seed * LABELS + patients + own)))
        return np.stack([1 - positive, positive], axis=-1)

    found = worth_of_images(ArmScores(plan=plan, images=TEST, results=results), patients=OWN)
    assert found is not None
    return found


RISING = {50: 0.8, 100: 1.1, 200: 1.4, 400: 1.7, 800: 2.0}


@pytest.mark.parametrize(
    ("finalist", "patients"), [(1.1, 100), (1.25, 141), (1.4, 200), (1.55, 283), (1.7, 400), (1.85, 566)]
)
def test_images_are_worth_the_patients_by_which_the_curve_reaches_their_score(finalist: float, patients: int) -> None:
    """Half the way from 200 to 400 patients, over the logarithm, is 283."""
    found = placed(finalist, RISING)

    assert [one.patients for one in found.curve] == [50, 100, 200, 400, 800]
    assert found.worth is not None
    assert found.worth == pytest.approx(patients - OWN, abs=0.06 * patients)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.worth < found.high
    assert found.low <= patients - OWN <= found.high
    assert found.sentence == (
        f"Extra images at r = 1 with 200 patients were worth {found.worth} more real patients "
        f"(95 % CI {found.low:+} to {found.high:+})."
    )


@pytest.mark.parametrize(
    ("finalist", "words"),
    [
        (3.0, "over 600 more real patients (95 % CI over +600 to over +600)"),
        (0.2, "under -150 more real patients (95 % CI under -150"),
    ],
)
def test_nothing_is_extrapolated_beyond_the_ends_of_the_curve(finalist: float, words: str) -> None:
    found = placed(finalist, RISING)

    assert (found.worth, found.low, found.high) == (None, None, None)
    assert words in found.sentence


def test_an_interval_can_be_open_at_one_end() -> None:
    found = placed(1.97, RISING, seed_noise=0.1)

    assert found.low is not None
    assert found.high is None
    assert f"(95 % CI {found.low:+} to over +600)" in found.sentence


def test_the_study_can_be_the_first_point_of_the_curve() -> None:
    found = placed(1.4, {200: 1.4, 400: 1.7, 800: 2.0})

    assert found.low is None
    assert "(95 % CI under 0 to +" in found.sentence


def test_a_flat_curve_gives_no_estimate() -> None:
    found = placed(1.5, dict.fromkeys(RISING, 1.4))

    assert (found.rises, found.worth, found.low, found.high) == (False, None, None, None)
    assert found.sentence.startswith(
        "Cannot estimate how many real patients extra images at r = 1 with 200 patients were"
    )
    assert "real images of 800 instead of 50 patients did not measurably raise AUROC" in found.sentence


def test_a_dip_of_the_curve_is_levelled() -> None:
    """A second crossing would give two answers; the dip itself is in the record."""
    dipped = placed(1.85, {**RISING, 200: 1.75, 400: 1.65})
    level = placed(1.85, {**RISING, 200: 1.7, 400: 1.7})

    assert dipped.worth == pytest.approx(level.worth, abs=15)
    scores = [one.score for one in dipped.curve]
    assert scores[2] > scores[3], "as measured"


def test_the_interval_is_over_seeds_as_well_as_patients() -> None:
    calm, varied = placed(1.4, RISING), placed(1.4, RISING, seed_noise=0.15)

    assert calm.high is not None
    assert calm.low is not None
    width = (varied.high or 600) - (varied.low if varied.low is not None else -150)
    assert width > 2 * (calm.high - calm.low)


@pytest.mark.parametrize("source", ["duplicate", "none"])
def test_the_curve_draws_as_many_images_per_step_as_the_finalist(source: str) -> None:
    replaces = {"mixing": "replace", "synthetic_ratio": 0.5} if source == "none" else {"synthetic_ratio": 2.0}
    parameters = Parameters.model_validate({"source": "folder", "folder": {"path": Path("extra")}, **replaces})

    arms = worth_arms(finalist_arm(FinishedTrial(name="#1", parameters=parameters), 16), [400, 50, 50])

    assert [arm.train_patients for arm in arms] == [None, 50, 400]
    assert {arm.parameters.source for arm in arms} == {source}
    assert {arm.role for arm in arms} == {"worth"}
    assert {arm.resolution_px for arm in arms} == {16}
    if source == "duplicate":
        assert {arm.parameters.synthetic_ratio for arm in arms} == {2.0}


def test_the_chart_has_the_curve_and_the_finalist_with_its_interval() -> None:
    inside, beyond = (worth_chart(read_back(placed(one, RISING)), "test AUROC") for one in (1.7, 3.0))

    curve, finalist = inside.traces
    assert curve["x"] == [50, 100, 200, 400, 800]
    assert finalist["x"][0] == pytest.approx(400, abs=25)
    assert len(beyond.traces) == 1, "there is no place for it on the axis"
    assert "over +600" in beyond.alt
    for chart in (inside, beyond):
        go.Figure({"data": list(chart.traces), "layout": dict(chart.layout)})


def read_back(found: Worth) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Worth.__slots__} | {
        "curve": [{name: getattr(one, name) for name in ("patients", "score", "low", "high")} for one in found.curve]
    }


SPACE = """\
version: 1
name: small
data: {path: xrays, image_size: 32, train_patients: 12, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, gan]}
  synthetic_ratio: {value: 1.0, when: {source: gan}}
  gan:
    when: {source: gan}
    parameters: {image_size: {value: 32}, steps: {value: 4}, batch_size: {value: 8}, width: {value: 4}}
  backbone: {value: small_cnn}
  weights: {value: none}
  batch_size: {value: 8}
budget: {trials: 2, max_epochs: 1}
scheduler: {name: none}
quality: {allow_memorised: true}
confirm: {finalists: 1, gan_seeds: 2, classifier_seeds: 1, controls: {matched: [none], tuned: []}, worth: [6, 12, 24, 24]}
points_to_evaluate:
  - {source: gan}
  - {source: none}
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("worth")
    draw_phantoms(root / "xrays", patients=80, seed=4, image_size_px=32)
    shutil.move(root / "xrays" / "test", root / "test")
    (root / "space.yaml").write_text(SPACE, encoding="utf-8")
    search_in_process(load_space(root / "space.yaml"), root)
    return root


@pytest.fixture(scope="module")
def confirmed(ended: Path) -> tuple[Path, Confirmation]:
    """A study with its verdict."""
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(training, "Runner", InProcess)
        study = ended / "studies" / "small"
        return study, confirm(study, test=ended / "test")


@pytest.mark.slow
def test_a_confirm_scores_the_curve_on_the_test_folder_and_keeps_it_out_of_the_verdict(
    confirmed: tuple[Path, Confirmation], capsys: pytest.CaptureFixture[str]
) -> None:
    study, found = confirmed
    plan, written = (read_json(study / "confirm" / f"{name}.json") for name in ("plan", "verdict"))
    show_verdict(found)
    shown = " ".join(capsys.readouterr().out.split())

    assert found.worth is not None
    assert [one.patients for one in found.worth.curve] == [6, 12, 24]
    assert found.worth.sentence in shown
    assert "real images alone, with as many steps and images per step" in shown
    assert found.worth.sentence in found.to_json()["answer"]
    assert "of 6, 12, 24 patients (nested sets)" in methods_paragraph(found)
    assert written["worth"]["sentence"] == found.worth.sentence

    worth = {arm["name"] for arm in plan["arms"] if arm["role"] == "worth"}
    assert len(worth) == 3, "and the study's own patients, which no matched control here has"
    runs = {number: arm for number, (arm, *_) in enumerate(plan["runs"]) if arm in worth}
    assert Counter(runs.values()) == dict.fromkeys(worth, 2)
    assert all((study / "confirm" / "trials" / f"{number:04d}" / "test.npy").exists() for number in runs)
    ((compared,),) = ([one.control for one in finalist.comparisons] for finalist in found.finalists)
    assert compared.startswith("none, matched to")


@pytest.mark.slow
def test_the_report_shows_the_curve(confirmed: tuple[Path, Confirmation], tmp_path: Path) -> None:
    study, found = confirmed
    page = write_report(study, out=tmp_path / "page.html").read_text("utf-8")

    assert found.worth is not None
    assert ">Worth in real patients</h2>" in page
    assert html.escape(found.worth.sentence) in page
    assert "Real images alone" in page


@pytest.mark.slow
def test_the_sets_of_patients_are_nested_and_all_arms_take_as_many_steps(confirmed: tuple[Path, Confirmation]) -> None:
    folder = StudyFolder(confirmed[0] / "confirm")
    small, own, wide = (read_prepared(folder.split_path(count)) for count in (6, None, 24))
    patients = [{*one.side("train").patients} for one in (small, own, wide)]

    assert [len(one) for one in patients] == [6, 12, 24]
    assert patients[0] < patients[1] < patients[2]
    assert small.side("val_a").patients == own.side("val_a").patients == wide.side("val_a").patients
    plan = read_json(folder.path / "plan.json")
    on_24 = next(number for number, (arm, *_) in enumerate(plan["runs"]) if arm.startswith("24 patients"))
    many_images = replace(wide, images=wide.images * 20)
    assert many_images.steps_per_epoch(folder.experiment(on_24).settings) == 8, "the study's, however many images"


@pytest.mark.slow
def test_a_test_patient_in_the_curve_is_refused(confirmed: tuple[Path, Confirmation], tmp_path: Path) -> None:
    confirmed_study = StudyFolder(confirmed[0] / "confirm")
    own, wide = (read_prepared(confirmed_study.split_path(count)) for count in (None, 24))
    shutil.copytree(confirmed[0].parents[1], tmp_path / "lab")
    study, test = tmp_path / "lab" / "studies" / "small", tmp_path / "lab" / "test"
    shutil.rmtree(study / "confirm")
    known = {image.patient for image in own.images}
    extra = next(image for image in wide.images if image.side == "train" and image.patient not in known)
    shutil.copy(tmp_path / "lab" / "xrays" / extra.file, test / Path(extra.file).parent.name)

    with pytest.raises(DataError, match="belong to patients used for training or validation"):
        confirm(study, test=test)
    assert not (study / "confirm").exists()


@pytest.mark.parametrize(
    ("worth", "more", "what"),
    [
        ("[6, 400]", "12", "the train side has only 32 patients, fewer than 400"),
        ("[1, 24]", "12", "class"),
        ("[6, 12]", "12", "the study trains on 12 patients, and the curve has no more"),
        ("[6, 24]", "all", "the study trains on all patients of the train side"),
        ("[0]", "12", "confirm.worth"),
        ("[many]", "12", "confirm.worth"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_written(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worth: str, more: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [
        "--space",
        ended / "space.yaml",
        "--set",
        f"confirm.worth={worth}",
        "--set",
        f"data.train_patients={more}",
    ]

    refused = command("search", *options)

    assert refused.exit_code in (2, 3), refused.stderr
    assert what in " ".join(refused.stderr.split())
    assert "confirm.worth" in refused.stderr
    assert not [*tmp_path.iterdir()]
