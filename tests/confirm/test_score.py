"""The analysis of scores: verdicts, and the paragraphs for a paper."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.confirm.verdicts import CONFIRMATION, REPLICATES
from xraytune.base.files import read_json
from xraytune.base.seeding import numpy_generator
from xraytune.confirm.arms import Arm, Plan
from xraytune.confirm.compare import ArmScores, headroom_reached, judge_finalists
from xraytune.confirm.record import Confirmation, read_verdict, write_verdict
from xraytune.confirm.score import quality_caveat
from xraytune.present.verdict import verdict_frame, verdict_sentence
from xraytune.space.parameters import Parameters
from xraytune.stats.classification import Floats
from xraytune.stats.verdict import decisive_rope
from xraytune.synth.generator_quality import ClassQuality, PoolReport, Quality

IMAGES = 300
LABELS = np.arange(IMAGES) % 2
SEALED: dict[str, Any] = {
    "labels": LABELS,
    "patients": tuple(f"p{number}" for number in range(IMAGES)),
    "positive": 1,
}


def arm(name: str, role: Any, **parameters: Any) -> Arm:
    return Arm(
        name=name, role=role, trial_label="#1", parameters=Parameters.model_validate(parameters)
    )


ARMS = (
    arm("gan #1", "finalist", source="gan", synthetic_ratio=1.0),
    arm("none, matched to #1", "matched", source="none"),
    arm("duplicate, matched to #1", "matched", source="duplicate"),
    arm("tuned augmented #9", "tuned", augmentation="affine"),
)
DONOR = ARMS[1].model_copy(update={"name": "classifier of A", "role": "donor", "control": "donor"})
IMAGES_ALONE = DONOR.model_copy(update={"name": "images of #1 alone", "control": "synthetic_only"})
KINDS = {
    "none, matched to #1": "none",
    "duplicate, matched to #1": "duplicate",
    "tuned augmented #9": "tuned",
}


def scores(own_noise: float = 0.1, **separation: float) -> Any:
    """Scores of arms with this separation of the classes (default 1.5), with noise per run."""
    patients = numpy_generator(1, "patients").normal(size=IMAGES)

    def of_arm(arm: Arm) -> Floats:
        name = arm.name
        apart = separation.get(name.partition(" ")[0].partition(",")[0], 1.5)
        noise = numpy_generator(2, name).normal(size=(REPLICATES, IMAGES))
        logits = apart * LABELS + patients + own_noise * noise
        positive = 1 / (1 + np.exp(-logits))
        return np.stack([1 - positive, positive], axis=-1)

    return of_arm


def arm_scores(
    results: Any, images: dict[str, Any] = SEALED, arms: tuple[Arm, ...] = ARMS
) -> ArmScores:
    plan = Plan(test="folder", replicates=REPLICATES, arms=arms)
    first = {arm.training: results(arm) for arm in reversed(arms)}
    of_training = np.stack([first[training] for training in plan.trainings], axis=1)
    return ArmScores(plan=plan, results=of_training.reshape(-1, *of_training.shape[2:]), **images)


def confirmation(scores_of: Any, *exploratory: str, arms: tuple[Arm, ...] = ARMS) -> Confirmation:
    finalists = judge_finalists(arm_scores(scores_of, arms=arms), rope=0.01)
    return replace(CONFIRMATION, finalists=tuple(finalists), exploratory=exploratory)


def answer_of(confirmation: Confirmation) -> str:
    return str(confirmation.to_json()["answer"])


@cache
def helped() -> Confirmation:
    return confirmation(scores(gan=2.5))


def test_a_gain_that_a_donors_classifier_exceeds_is_not_called_no_gain() -> None:
    """It is better than each control of the study's own images, but not than the classifier."""
    record = confirmation(scores(gan=2.5, classifier=4.0), arms=(*ARMS, DONOR))

    assert record.verdict == "no_better"
    assert verdict_sentence(record) == (
        "For these 30 training patients, synthetic images improve AUROC, but less than what their "
        "hospital could send instead."
    )
    assert "improved AUROC over each control of the study's own images" in answer_of(record)
    worse = confirmation(scores(gan=0.8, duplicate=0.8, classifier=4.0), arms=(*ARMS, DONOR))
    assert "do not improve AUROC" in verdict_sentence(worse)
    assert "does not fit" not in answer_of(worse)


def test_a_donors_classifier_at_chance_is_what_the_answer_says_first() -> None:
    """To beat such a control shows nothing, so that the reader must know of it."""
    found = confirmation(scores(gan=2.5, classifier=0.0), arms=(*ARMS, DONOR))

    assert answer_of(found).startswith("What the other hospital sent does not fit")
    assert found.misfit in verdict_frame(found)


def test_an_undecided_answer_says_what_would_decide() -> None:
    """Patients and replicates or, beyond the replicates that anybody would run, a wider margin."""
    far_from_it = confirmation(scores(own_noise=1.0))
    undecided = replace(far_from_it, rope=0.05)

    assert undecided.verdict == "undecided"
    rope = decisive_rope(undecided.finalists[0].comparisons)
    match = re.search(r"about ([\d,]+) patients to score and about (\d+)", undecided.missing)
    assert match
    growth = (rope / undecided.rope) ** 2
    assert int(match[1].replace(",", "")) == pytest.approx(300 * growth, rel=0.05)
    assert int(match[2]) == pytest.approx(REPLICATES * growth, rel=0.05)
    assert undecided.missing in answer_of(undecided)
    assert undecided.missing in verdict_frame(undecided)
    assert f"margin of {rope:.2g}" in far_from_it.missing
    assert "More replicates will not decide" in far_from_it.missing
    assert helped().missing == ""
    noisy = scores(own_noise=1.0, images=-0.5)
    with_images_alone = confirmation(noisy, arms=(*ARMS[:3], IMAGES_ALONE))
    without = confirmation(noisy, arms=ARMS[:3])
    assert with_images_alone.missing == without.missing != "", "no verdict rests on them"


def test_what_would_decide_is_more_than_there_is() -> None:
    """Intervals as narrow as the ROPE do not decide among several controls (Holm's correction)."""
    results = scores(gan=1.535)
    test = arm_scores(lambda one: results(one if one.role == "finalist" else ARMS[1]))
    (found,) = judge_finalists(test, rope=0.01)
    rope = 1.02 * max(pair.high - pair.low for pair in found.comparisons)
    (undecided,) = judge_finalists(test, rope=rope)

    missing = replace(CONFIRMATION, finalists=(undecided,), rope=rope).missing

    match = re.search(r"about ([\d,]+) patients", missing)
    assert match, undecided.verdict
    assert int(match[1]) > IMAGES
    wide = 1.02 * decisive_rope(found.comparisons)
    assert judge_finalists(test, rope=wide)[0].verdict == "no_better"


def test_a_better_encoder_without_synthetic_images_explains_a_gain() -> None:
    """Unless it has the finalist's encoder, or is worse than the finalist."""
    tuned = arm("tuned augmented #9", "tuned", augmentation="affine", backbone="mobilenet_v2")
    arms = (*ARMS[:3], tuned)
    explained = confirmation(scores(gan=2.5, tuned=3.5), arms=arms)
    sentence = (
        "The encoder explains more than synthetic images: without them, tuned augmented #9 with "
        "mobilenet_v2 was as good as gan #1 with resnet50, or better."
    )

    assert sentence in answer_of(explained)
    assert sentence in verdict_frame(explained)
    for others in (
        confirmation(scores(gan=2.5, tuned=3.5)),
        confirmation(scores(gan=2.5), arms=arms),
    ):
        assert "The encoder explains" not in answer_of(others)


@pytest.mark.parametrize(
    ("separation", "word", "because_of"),
    [
        ({"gan": 2.5}, "helps", [*KINDS]),
        ({"gan": 0.8}, "hurts", ["none, matched to #1", "duplicate, matched to #1"]),
        ({"gan": 0.8, "duplicate": 0.8}, "no_better", [*KINDS]),
        ({"gan": 2.5, "duplicate": 3.5}, "no_better", ["duplicate, matched to #1"]),
    ],
)
def test_the_verdict_follows_from_every_control(
    separation: dict[str, float], word: str, because_of: list[str]
) -> None:
    found = confirmation(scores(**separation)).to_json()

    (finalist,) = found["finalists"]
    assert (found["verdict"], finalist["verdict"], finalist["because_of"]) == (
        word,
        word,
        because_of,
    )
    assert [(one["control"], one["kind"]) for one in finalist["comparisons"]] == [*KINDS.items()]


def test_the_answer_names_its_patients_and_says_whether_it_is_exploratory() -> None:
    accessed = "the test folder had been accessed"
    exploratory = confirmation(scores(gan=0.8), accessed).to_json()
    of_draws = replace(helped(), test=replace(helped().test, kind="unused")).to_json()
    answer = answer_of(helped())

    assert answer.startswith(
        "For these 30 training patients, synthetic images improved AUROC: gan #1 was better"
    )
    assert "these 40 images in this split" in answer
    assert exploratory["answer"].startswith("Exploratory, not a confirmation: ")
    assert all(accessed in exploratory[text] for text in ("answer", "methods"))
    assert "scored once" not in exploratory["methods"]
    assert of_draws["answer"].startswith("Synthetic images improved AUROC: gan #1")
    assert "30 patients of this data set, and for other patients of it" in of_draws["answer"]
    assert "5 disjoint training sets of 30 patients" in of_draws["methods"]


def test_the_methods_name_what_was_searched_and_pruned() -> None:
    assert CONFIRMATION.searched
    searched = replace(CONFIRMATION.searched, pruned=20)
    pruned = replace(helped(), searched=searched).to_json()["methods"]
    methods = helped().to_json()["methods"]

    for words in (
        "60 configurations, sampled by TPE, were searched",
        "128 px",
        "mobilenet_v2 (imagenet weights, trainable: head)",
        "with images of a DCGAN (64 px, trained for 4,000 steps)",
        "xraytune 0.1.0 and torch 2.15.0",
    ):
        assert words in methods
    assert "pruned" not in methods
    assert "ASHA pruned 20 of them" in pruned
    assert "pruned by the same ASHA" in pruned
    for text in (methods, pruned):
        assert not re.search(r"\.[A-Z]", text), "a space is missing between sentences"


def test_test_images_that_were_given_are_called_by_the_name_of_their_folder() -> None:
    given = replace(helped(), test=replace(helped().test, name="hospital_b")).to_json()

    assert "test folder" in answer_of(helped())
    assert "patients of hospital_b" in given["answer"]
    assert "test folder" not in given["answer"] + given["methods"]


def test_a_verdict_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = replace(helped(), study=Path("small"), notes=("a note",))
    write_verdict(tmp_path, record)

    assert read_json(tmp_path / "verdict.json") == record.to_json()
    assert read_verdict(tmp_path) == record


def test_worse_than_none_but_not_than_duplicate_is_attributed_to_the_mixing() -> None:
    both_worse = confirmation(scores(gan=0.8, duplicate=0.8)).to_json()

    assert (
        "It was worse than none, matched to #1 but not worse than duplicate, matched to #1: "
        "drawing more images per step reduced AUROC; an" in both_worse["answer"]
    )
    for words in ("no extra images or repeated real images", "(augmented)", "Holm's correction"):
        assert words in both_worse["methods"]


def test_finalists_are_tested_up_to_the_first_that_does_not_help() -> None:
    second = ARMS[0].model_copy(update={"name": "weak #2", "trial_label": "#2"})
    second = second.model_copy(update={"parameters": Parameters(source="gan", lr=7e-4)})
    third = second.model_copy(update={"name": "gan #3", "trial_label": "#3"})
    arms = (ARMS[0], ARMS[3], second, third)

    found = judge_finalists(arm_scores(scores(gan=2.5, weak=0.8), arms=arms), rope=0.01)

    assert [finalist.verdict for finalist in found][::2] == ["helps", "not_tested"]


PERFECT = arm(
    "real images of other patients, as #1", "perfect", source="duplicate", synthetic_ratio=1.0
)


@pytest.mark.parametrize(
    ("gan", "real", "is_clear"),
    [(2.0, 3.0, True), (1.0, 3.0, True), (3.5, 3.0, True), (2.0, 1.5, False)],
)
def test_the_share_of_the_headroom_is_of_a_gain_that_is_clear(
    gan: float, real: float, is_clear: bool
) -> None:
    """Over no extra images: (finalist - none) / (real images - none), clamped to 0 and 1."""
    arms = (*ARMS, PERFECT)
    test = arm_scores(scores(gan=gan, real=real), arms=arms)
    of_gan, of_none, of_real = test.measure(ARMS[0], ARMS[1], PERFECT).scores.mean(axis=1)

    found = headroom_reached(test, ARMS[0])

    assert found
    assert found.gain == pytest.approx(of_real - of_none)
    assert found.low < found.gain < found.high
    assert (found.low > 0) == is_clear
    share = np.clip((of_gan - of_none) / (of_real - of_none), 0, 1)
    assert found.share == (pytest.approx(share) if is_clear else None)
    if is_clear:
        assert found.share_low is not None
        assert found.share_high is not None
        assert 0 <= found.share_low <= share <= found.share_high <= 1
        assert (found.share_low < found.share_high) == (0 < share < 1)
    answer = answer_of(confirmation(scores(gan=gan, real=real), arms=arms))
    assert f"{found.gain:+.4f} AUROC" in answer
    assert ("the synthetic images reached" in answer) == is_clear
    assert ("reached all of that" in answer) == (is_clear and share == 1)
    assert "reached -" not in answer


DICE_SET: dict[str, Any] = {
    "labels": np.zeros(60, dtype=np.int64),
    "patients": tuple(f"p{number // 2:02d}" for number in range(60)),
    "positive": 0,
}


def dices(gain: float) -> Any:
    """Dice of each image [K, 60, 1]; errors of the GAN arms are smaller by `gain`."""
    hard = np.exp(numpy_generator(1, "hard").normal(-3, 0.4, 60))

    def of_arm(arm: Arm) -> Floats:
        own = np.exp(numpy_generator(2, arm.name).normal(0, 0.1, size=(REPLICATES, 60)))
        return np.asarray(1 - hard * own * (1 - gain * arm.name.startswith("gan")))[..., None]

    return of_arm


@pytest.mark.parametrize(("gain", "word"), [(0.5, "helps"), (0.0, "no_better"), (-0.5, "hurts")])
def test_a_verdict_on_dice_is_of_the_mean_over_images(gain: float, word: str) -> None:
    scores = arm_scores(dices(gain), DICE_SET)

    found = judge_finalists(scores, rope=0.01)
    whole = replace(
        helped(), finalists=tuple(found), metric="Dice", objective="Dice", network="segmenter"
    ).to_json()

    (finalist,) = whole["finalists"]
    assert (finalist["verdict"], whole["metric"]) == (word, "Dice")
    assert finalist["score"] == pytest.approx(dices(gain)(ARMS[0]).mean())
    assert "Dice" in whole["answer"]
    assert "segmenters trained on these" in whole["answer"]
    assert "covariances of means over images, clustered by patient" in whole["methods"]
    assert "AUROC" not in whole["answer"] + whole["methods"]


def test_the_caveat_names_the_class_that_fewest_images_agree_with_over_all_replicates() -> None:
    """The worst class of a replicate is not always that of the mean."""

    def report(**agreement: float) -> PoolReport:
        classes = {
            name: ClassQuality(images=50, kid=0.1, floor=0.0, coverage=0.5, agreement=share)
            for name, share in agreement.items()
        }
        quality = Quality(
            features="any", resolution_px=64, classes=classes, gan_train=None, real_train=None
        )
        return PoolReport(quality=quality, note="", copies="")

    reports = [report(NORMAL=0.5, PNEUMONIA=0.6), report(NORMAL=0.7, PNEUMONIA=0.1)]

    caveat = quality_caveat(reports, 0.005, Parameters())

    assert "calls only 35% of them PNEUMONIA" in caveat
