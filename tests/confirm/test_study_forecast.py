"""`xraytune forecast`: on phantom X-rays, and for designs whose verdicts docs/confirm.md lists."""

from pathlib import Path

import pytest

from tests.in_process import InProcess, command, one_thread, said
from xraytune.config.settings import Confirm
from xraytune.confirm.forecast import Design, verdict_chances
from xraytune.confirm.study_forecast import chances_and_remedies, usual_spread
from xraytune.confirm.verdict import ControlKind
from xraytune.data.phantom import draw_phantoms
from xraytune.pipeline.sides import SideSize
from xraytune.search import run as search_run
from xraytune.search.status import status

CONTROLS: tuple[ControlKind, ...] = ("none", "duplicate", "tuned", "tuned", "tuned")
SPACE = """
version: 1
name: small
data: {path: xrays, image_size: 32, train_patients: 12, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {values: [none, gan]}
  gan: {when: {source: gan}, parameters: {image_size: {value: 32}, width: {value: 4}, batch_size: {value: 4},
        z_dim: {value: 8}, steps: {values: [2, 4]}}}
  backbone: {value: small_cnn}
  weights: {value: none}
  lr: {min: 1e-4, max: 1e-2, distribution: log_uniform_values}
budget: {trials: 4, max_epochs: 3, steps_per_epoch: 2}
quality: {allow_memorised: true}
resources: {gpus_per_trial: 0, concurrent: 1}
"""


def test_probabilities_of_usual_studies_are_those_of_the_table() -> None:
    """docs/confirm.md, from simulated images; here from their variances."""
    table = {
        (144, 5): {"no_better": (0.39, 0.06, 0.0), "helps": (0.0, 0.02, 0.23)},
        (428, 10): {"no_better": (0.79, 0.05, 0.0), "helps": (0.0, 0.25, 0.97)},
    }
    spread = usual_spread(5, 2, 0.006)

    for (patients, gan_seeds), words in table.items():
        design = Design(effective_patients=0.99 * patients, gan_seeds=gan_seeds, score=0.955)
        found = [verdict_chances(spread, design, CONTROLS, rope=0.01, true_difference=one) for one in (0, 0.01, 0.02)]
        for word, chances in words.items():
            assert [getattr(one, word) for one in found] == pytest.approx(chances, abs=0.04)


def test_a_study_that_stays_undecided_is_told_what_would_decide_it() -> None:
    def remedies(patients: int) -> tuple[str, ...] | None:
        size = SideSize(
            name="test",
            images={},
            patients={},
            patient_count=patients,
            effective_patients=patients,
            low=None,
            high=None,
        )
        return chances_and_remedies(size, Confirm(), CONTROLS, 0.955, 0.006)[1]

    few = remedies(144)
    assert few is not None
    assert "290 test patients" in few[-1]
    assert remedies(428) is None


@pytest.mark.slow
def test_a_forecast_writes_only_to_the_cache_and_measures_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_phantoms(Path("xrays"), patients=80, seed=1, image_size_px=32)
    Path("space.yaml").write_text(SPACE, encoding="utf-8")

    first = said("forecast", "--space", "space.yaml")
    measured = {file: file.stat().st_mtime_ns for file in Path("cache").rglob("speed.json")}
    second = said("forecast", "--space", "space.yaml")

    assert {path.name for path in tmp_path.iterdir()} == {"cache", "space.yaml", "xrays"}
    assert len(measured) == 2
    assert {file: file.stat().st_mtime_ns for file in Path("cache").rglob("speed.json")} == measured
    assert second["search"]["seconds"] == first["search"]["seconds"]
    low, expected, high = first["search"]["seconds"]
    assert 0 < low < expected < high
    assert first["search"]["generators"] == pytest.approx(2, abs=0.8)
    assert first["replicates"] > 0
    assert [one["true_difference"] for one in first["chances"]] == [0.0, 0.01, 0.02]

    raced = said("forecast", "--space", "space.yaml", "--set", "budget.repeats=5", "--set", "scheduler.name=none")[
        "search"
    ]
    whole = said("forecast", "--space", "space.yaml", "--set", "scheduler.name=none")["search"]
    assert (raced["repeats"], whole["repeats"]) == (4 * 5, 0)
    assert raced["generators"] > whole["generators"] + 4, "each round trains generators of its own"
    assert raced["seconds"][1] > whole["seconds"][1]

    curve = said("forecast", "--space", "space.yaml", "--set", "confirm.worth=[6, 12, 24, 24]")
    assert curve["replicates"] - first["replicates"] == 2 * 5 * 2, "6 and 24 patients, GAN seeds, classifier seeds"

    text = command("forecast", "--space", "space.yaml").stdout
    assert "small: " in text
    assert "true effect" in text

    monkeypatch.setattr(search_run, "Runner", InProcess)
    with one_thread():
        searched = command("search", "--space", "space.yaml")
    assert "forecast: " in searched.stderr
    assert status(Path("studies/small")).seconds_forecast == pytest.approx((low, high))
    assert "used (forecast: " in command("status", "studies/small").stdout


@pytest.mark.slow
def test_a_search_without_a_measurement_has_no_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_phantoms(Path("xrays"), patients=80, seed=1, image_size_px=32)
    Path("space.yaml").write_text(SPACE, encoding="utf-8")
    monkeypatch.setattr(search_run, "Runner", InProcess)

    with one_thread():
        searched = command("search", "--space", "space.yaml", "--set", "budget.trials=1")

    assert "forecast" not in searched.stderr
    assert not Path("cache/speed-2").exists()
    assert status(Path("studies/small")).seconds_forecast is None


@pytest.mark.parametrize(
    ("arguments", "code", "said_about"),
    [
        (["--data", "nowhere"], 3, "nowhere"),
        (["--data", "few"], 3, "few"),
        (
            ["--set", "backbone=resnet18", "--set", "weights=imagenet", "--weights-dir", "weights"],
            4,
            "resnet18-f37072fd.pth",
        ),
        (["--cache", "space.yaml"], 2, "space.yaml"),
        (["--score", "1.5"], 2, "--score"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said_about: str
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_phantoms(Path("xrays"), patients=10, seed=1, image_size_px=32)
    for name in ("NORMAL", "PNEUMONIA"):  # one patient each: nothing to split
        (tmp_path / "few" / name).mkdir(parents=True)
        image = sorted(Path("xrays/train", name).iterdir())[0]
        (tmp_path / "few" / name / image.name).write_bytes(image.read_bytes())
    Path("weights").mkdir()
    Path("space.yaml").write_text(SPACE, encoding="utf-8")

    refused = command("forecast", "--space", "space.yaml", *arguments)

    assert (refused.exit_code, said_about in refused.stderr) == (code, True), refused.stderr
    assert not Path("cache").exists()
