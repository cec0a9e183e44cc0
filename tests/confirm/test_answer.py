"""From scores to the answer: the verdicts, the response to the ratio, and the words for a paper."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xraytune.config.settings import Parameters
from xraytune.confirm.answer import (
    FinalistResult,
    Judged,
    forecast_verdict,
    judge_finalists,
    likeness,
    ratio_response,
)
from xraytune.confirm.forecast import Design, Forecast, VerdictChances
from xraytune.confirm.plan import EARLIER_TOP_UP, Arm, Candidate, Plan, matched_control, new_plan
from xraytune.confirm.record import Confirmation, methods_paragraph, write_verdict
from xraytune.metrics.classification import Floats
from xraytune.seeding import numpy_generator

GAN_SEEDS, SEEDS, IMAGES = 5, 2, 300
LABELS = np.arange(IMAGES) % 2
JUDGED = Judged(labels=LABELS, patients=tuple(f"p{number}" for number in range(IMAGES)), positive=1)


def arm(name: str, role: Any, **parameters: Any) -> Arm:
    return Arm(name=name, role=role, trial="#1", parameters=Parameters.model_validate(parameters))


ARMS = (
    arm("gan #1", "finalist", source="gan", synthetic_ratio=1.0),
    arm("none, matched to #1", "matched", source="none"),
    arm("duplicate, matched to #1", "matched", source="duplicate"),
    arm("r=4, as #1", "ratio", source="gan", synthetic_ratio=4.0),
    arm("r=0.25, as #1", "ratio", source="gan", synthetic_ratio=0.25),
    arm("duplicate r=0.25, as #1", "ratio", source="duplicate", synthetic_ratio=0.25),
    arm("tuned classical #9", "tuned", classical=2),
)


SOME_FORECAST = Forecast(
    gan_seeds=GAN_SEEDS,
    val_b_auroc=0.9,
    rope=0.01,
    chances=(
        VerdictChances(
            design=Design(effective_patients=300, gan_seeds=GAN_SEEDS, auroc=0.9),
            true_difference=0.0, helps=0.01, hurts=0.02, no_better=0.3, undecided=0.67,
        ),
    ),
)  # fmt: skip


def plan(*exploratory: str, arms: tuple[Arm, ...] = ARMS) -> Plan:
    grown = new_plan().grown(arms, GAN_SEEDS, SEEDS)
    return Plan(
        arms=grown.arms,
        gan_seeds=grown.gan_seeds,
        classifier_seeds=grown.classifier_seeds,
        runs=grown.runs,
        notes=("a note",),
        exploratory=exploratory,
    )


def scores(own_noise: float = 0.1, *, collapsed: float = 0.0, **separation: float) -> Any:
    """Arms whose classes lie so far apart (default 1.5), on the same patients, with some noise of each run's own.

    In an arm of GAN images the classes lie `collapsed` nearer with the last GAN seed.
    """
    patients = numpy_generator(1, "patients").normal(size=IMAGES)

    def of_arm(name: str) -> Floats:
        apart = separation.get(name.partition(" ")[0].partition(",")[0], 1.5)
        noise = numpy_generator(2, name).normal(size=(GAN_SEEDS, SEEDS, IMAGES))
        of_gan = np.full((GAN_SEEDS, 1, 1), float(apart))
        of_gan[-1] -= collapsed if name.startswith("gan") else 0
        logits = of_gan * LABELS + patients + own_noise * noise
        positive = 1 / (1 + np.exp(-logits))
        return np.stack([1 - positive, positive], axis=-1)

    return of_arm


def confirmation(scores_of: Any, *exploratory: str, arms: tuple[Arm, ...] = ARMS) -> Confirmation:
    decided = plan(*exploratory, arms=arms)
    return Confirmation(
        study=Path("studies") / "small",
        finalists=judge_finalists(decided, JUDGED, scores_of, rope=0.01, seed=3),
        ratios=ratio_response(decided, JUDGED, scores_of),
        forecast=SOME_FORECAST,
        exploratory=decided.exploratory,
        notes=decided.notes,
        gan_seeds=GAN_SEEDS,
        classifier_seeds=SEEDS,
        test_images=IMAGES,
        test_patients=IMAGES,
        test_fingerprint="f",
        train_images=40,
        rope=0.01,
    )


@cache
def helped() -> Confirmation:
    return confirmation(scores(gan=2.5))


@pytest.mark.parametrize(
    ("separation", "word", "because_of"),
    [
        ({"gan": 2.5}, "helps", ["none, matched to #1", "duplicate, matched to #1", "tuned classical #9"]),
        ({"gan": 0.8}, "hurts", ["none, matched to #1", "duplicate, matched to #1"]),
        ({"gan": 0.8, "duplicate": 0.8}, "no_better", [arm.name for arm in ARMS if arm.role in ("matched", "tuned")]),
        ({"gan": 2.5, "tuned": 2.5}, "no_better", ["tuned classical #9"]),
        ({"gan": 2.5, "duplicate": 3.5}, "no_better", ["duplicate, matched to #1"]),
    ],
)
@pytest.mark.slow
def test_the_verdict_follows_from_every_control(separation: dict[str, float], word: str, because_of: list[str]) -> None:
    found = confirmation(scores(**separation)).to_json()

    (finalist,) = found["finalists"]
    assert (found["verdict"], finalist["verdict"], finalist["because_of"]) == (word, word, because_of)
    assert [one["control"] for one in finalist["comparisons"]] == [
        "none, matched to #1",
        "duplicate, matched to #1",
        "tuned classical #9",
    ]


def test_the_response_to_the_ratio_is_in_order_and_starts_at_the_control_without_images() -> None:
    points = ratio_response(plan(), JUDGED, scores(gan=2.5, **{"r=0.25": 2.0, "r=4": 1.0}))

    assert [point.ratio for point in points] == [0, 0.25, 1, 4]
    assert [point.gain > 0 for point in points] == [False, True, True, False]
    assert points[0].gain == points[0].low == points[0].high == 0
    assert all(point.auroc == pytest.approx(points[0].auroc + point.gain) for point in points)
    assert all(point.low < point.gain < point.high for point in points[1:])


def test_the_response_to_the_ratio_has_the_duplicates_beside_it_as_far_as_they_were_trained() -> None:
    """At the finalist's own ratio, 1, they are its matched control; at 4 there are none, as with `mixing: replace`."""
    points = ratio_response(plan(), JUDGED, scores(gan=2.5, duplicate=2.0, **{"r=0.25": 1.0, "r=4": 1.0}))

    assert [point.ratio for point in points if point.duplicate and point.over_duplicate] == [0.25, 1]
    assert [point.ratio for point in points if not point.duplicate and not point.over_duplicate] == [0, 4]
    for point in (point for point in points if point.duplicate):
        assert point.duplicate is not None
        assert point.over_duplicate is not None
        assert point.duplicate.low < point.duplicate.gain < point.duplicate.high
        assert point.over_duplicate.low < point.over_duplicate.gain < point.over_duplicate.high
        assert point.duplicate.auroc == pytest.approx(points[0].auroc + point.duplicate.gain)
        assert point.over_duplicate.gain == pytest.approx(point.auroc - point.duplicate.auroc)
        assert (point.over_duplicate.gain > 0) == (point.ratio == 1)


@pytest.mark.slow
def test_the_words_name_the_controls_the_figures_and_the_limits() -> None:
    refuted = confirmation(scores(gan=0.8), "the test folder had been opened")
    words = helped().to_json()["answer"]

    assert words.startswith("Synthetic images helped: gan #1 is better than every control (none, matched to #1; ")
    assert "Against duplicate, matched to #1" in words
    assert "more images a step" not in words
    assert "A study with" not in words
    assert "300 test images of 300 patients" in words
    assert "trained on these 40 images" in words
    assert refuted.to_json()["answer"].startswith(
        "Exploratory, not a confirmation: Synthetic images hurt: gan #1 is worse than its matched controls (none, matched"
    )
    assert "because the test folder had been opened" in refuted.to_json()["answer"]


@pytest.mark.slow
def test_the_methods_tell_of_the_controls_that_there_were_and_of_what_was_seen_before() -> None:
    found = helped()
    (finalist,) = found.finalists
    only_duplicate = (replace(finalist, results=finalist.results[1:2]),)
    before = ("the test folder had been opened 3 times before",)
    whole = methods_paragraph(found)
    duplicate_alone = methods_paragraph(replace(found, finalists=only_duplicate, exploratory=before, notes=()))

    assert "no extra images or real images drawn again in place" in whole
    assert (
        "best configurations without synthetic images (classical), whose arms were given as many sampled trials"
        in whole
    )
    assert "pruned by the same ASHA" in whole
    of_earlier_version = methods_paragraph(replace(found, notes=(EARLIER_TOP_UP,)))
    assert "as many sampled trials as a finalist" not in of_earlier_version
    assert "many fully trained trials as a finalist" in of_earlier_version
    assert "The test images were opened once" in whole
    assert whole.endswith("Notes: a note.")
    assert "controls that keep all of its settings and have real images drawn again" in duplicate_alone
    assert "best configurations" not in duplicate_alone
    assert "opened once" not in duplicate_alone
    assert "exploratory: the test folder had been opened 3 times before." in duplicate_alone
    assert "Notes" not in duplicate_alone


@cache
def undecided_record() -> dict[str, Any]:
    return confirmation(scores(own_noise=1.0, gan=1.6)).to_json()


@pytest.mark.slow
def test_an_undecided_answer_says_what_would_decide() -> None:
    found = undecided_record()
    larger = found["finalists"][0]["larger_designs"]

    assert found["verdict"] == "undecided"
    assert found["answer"].startswith(
        "Inconclusive: with these seeds and test patients, gan #1 is not better than every"
    )
    assert re.search(
        r"A study with \d times the test patients and \d+ GAN seeds would be conclusive: no_better with a probability of "
        r"\d+% if the images make no difference, helps with \d+% if they add 0\.02\.",
        found["answer"],
    )
    assert {(one["effective_patients"], one["gan_seeds"]) for one in larger} == {
        (patients, gan_seeds) for patients in (300, 600, 1200, 2400) for gan_seeds in (5, 10, 20)
    }
    assert {one["true_difference"] for one in larger} == {0, 0.02}
    enough = larger[-2:]
    assert (enough[0]["no_better"] > 0.8, enough[1]["helps"] > 0.8) == (True, True)


@pytest.mark.slow
def test_where_no_design_would_decide_the_answer_says_so() -> None:
    undecided = confirmation(scores(own_noise=1.0, gan=1.6))
    (finalist,) = undecided.finalists
    hopeless = tuple(replace(one, no_better=0.4, helps=0.4) for one in finalist.larger_designs)

    words = replace(undecided, finalists=(replace(finalist, larger_designs=hopeless),)).to_json()["answer"]

    assert "A study with" not in words
    assert "Even the largest design considered would often be inconclusive (8 times the test patients, 20 GAN" in words


@pytest.mark.slow
def test_a_decided_finalist_needs_no_larger_design() -> None:
    assert helped().to_json()["finalists"][0]["larger_designs"] == []


@pytest.mark.slow
def test_where_every_arm_ranks_every_image_right_the_intervals_say_what_300_patients_can() -> None:
    found = confirmation(scores(gan=50, none=50, duplicate=50, tuned=50)).to_json()

    for one in found["finalists"][0]["comparisons"]:
        assert one["difference"] == 0
        assert one["low"] < 0 < one["high"]
        assert one["low"] == pytest.approx(-one["high"])


@pytest.mark.slow
def test_worse_than_none_but_not_than_duplicates_is_said_of_the_images_a_step() -> None:
    both_worse = confirmation(scores(gan=0.8, duplicate=0.8))

    words = both_worse.to_json()["answer"]

    assert words.startswith(
        "Synthetic images did not improve AUROC: an improvement of 0.01 or more is ruled out over none"
    )
    assert (
        "It is worse than none, matched to #1 but not than duplicate, matched to #1: drawing more images per step hurt"
        in words
    )


@pytest.mark.slow
def test_a_gan_seed_that_collapsed_is_shown_and_warned_of() -> None:
    record = confirmation(scores(gan=2.5, collapsed=2.0)).to_json()
    (finalist,), (usual,) = record["finalists"], helped().to_json()["finalists"]

    assert finalist["gan_aurocs"][-1] == finalist["worst_gan_auroc"] == min(finalist["gan_aurocs"])
    assert finalist["worst_gan_auroc"] < min(finalist["gan_aurocs"][:-1]) - 0.1
    assert np.mean(finalist["gan_aurocs"]) == pytest.approx(finalist["auroc"])
    assert f"worst {finalist['worst_gan_auroc']:.3f}; they are clearly not normal" in record["answer"]
    assert f"worst {usual['worst_gan_auroc']:.3f})" in helped().to_json()["answer"]


@pytest.mark.parametrize(
    ("gan_aurocs", "is_outlying"),
    [
        ((0.95, 0.951, 0.949, 0.952, 0.7), True),
        ((0.95, 0.955, 0.949, 0.952, 0.947), False),
        ((0.95, 0.95, 0.95, 0.95, 0.95), False),
        ((0.95, 0.7), False),
    ],
)
def test_gan_seeds_are_outlying_where_they_are_plainly_not_normal(
    gan_aurocs: tuple[float, ...], is_outlying: bool
) -> None:
    found = FinalistResult(arm=ARMS[0], auroc=0.9, gan_aurocs=gan_aurocs, results=(), verdict=None)

    assert found.has_outlying_gan == is_outlying


def test_a_matched_control_can_show_what_it_lacks_or_what_it_shares() -> None:
    shown = {one.name: set(likeness(one, ARMS[0])) for one in ARMS if one.role in ("matched", "tuned")}

    assert shown == {
        "none, matched to #1": {"no synthetic images"},
        "duplicate, matched to #1": {"as many images a step"},
        "tuned classical #9": set(),
    }


@pytest.mark.slow
def test_with_matching_total_none_alone_shows_that_the_images_hurt() -> None:
    """It draws as many images a step as the finalist, and there is no duplicate."""
    matched = matched_control(
        Candidate(
            name="#1",
            parameters=Parameters.model_validate({"source": "gan", "synthetic_ratio": 1.0, "mixing": "replace"}),
            val_b_auroc=0.9,
        ),
        "none",
        None,
    )
    assert matched is not None
    arms = (arm("gan #1", "finalist", source="gan", synthetic_ratio=1.0, mixing="replace"), matched)

    found = confirmation(scores(gan=0.8), arms=arms).to_json()

    assert found["verdict"] == "hurts"
    assert "more images a step" not in found["answer"]


@pytest.mark.slow
def test_without_duplicates_none_alone_does_not_show_it() -> None:
    found = confirmation(scores(gan=0.8), arms=ARMS[:2]).to_json()

    assert found["verdict"] == "no_better"
    assert "without a matched `duplicate`, the cause may be the synthetic images" in found["answer"]


@pytest.mark.slow
def test_the_forecast_is_of_the_test_folders_patients_and_never_asks_its_scores() -> None:
    small = np.arange(100) % 2
    test = Judged(labels=small, patients=tuple(f"t{number}" for number in range(100)), positive=1)

    found = forecast_verdict(plan(), JUDGED, test, scores(), rope=0.01)

    assert {one.design.effective_patients for one in found.chances} == {100}
    assert {one.design.gan_seeds for one in found.chances} == {5, 10, 20}
    assert {one.true_difference for one in found.chances} == {0, 0.01, 0.02}
    aurocs = {one.design.auroc for one in found.chances}
    assert aurocs == {found.val_b_auroc, found.val_b_auroc - 0.03}
    assert found.of_design(auroc=found.val_b_auroc, gan_seeds=5) == found.chances[:3]
    assert "If the synthetic images make no difference" in found.as_text


@pytest.mark.slow
def test_the_record_keeps_the_forecast_that_was_made_before() -> None:
    assert helped().to_json()["forecast"] == SOME_FORECAST.to_json()


@pytest.mark.slow
def test_no_answer_is_on_the_disk_before_its_verdict(tmp_path: Path) -> None:
    """GAN seeds that are added after a verdict make the next one exploratory, and its file is how one knows."""
    (tmp_path / "methods.md").mkdir()

    with pytest.raises(OSError, match=r"methods\.md"):
        write_verdict(tmp_path, helped())

    assert (tmp_path / "verdict.json").exists()


@pytest.mark.slow
def test_the_record_is_plain_json_with_the_paragraphs_beside_it(tmp_path: Path) -> None:
    found = helped()

    write_verdict(tmp_path, found)

    assert json.loads((tmp_path / "verdict.json").read_text(encoding="utf-8")) == found.to_json()
    assert found.to_json()["ratio_caveat"].startswith("val-B selected this finalist, so its AUROC there is optimistic")
    assert found.to_json()["methods"] in (tmp_path / "methods.md").read_text(encoding="utf-8")


def keys(content: Any) -> Iterator[str]:
    """Every key of a JSON value, at whatever depth."""
    if isinstance(content, dict):
        yield from content
    for inner in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from keys(inner)


@pytest.mark.slow
def test_the_page_names_every_key_of_the_record() -> None:
    page = (Path(__file__).parents[2] / "docs" / "confirm.md").read_text(encoding="utf-8")
    section = page.partition("## verdict.json")[2].partition("\n## ")[0]

    found = {*keys(undecided_record())}  # with all that would decide

    assert "larger_designs" in found
    assert sorted(found - {*re.findall(r"`(\w+)(?:\[\])?`", section)}) == []
