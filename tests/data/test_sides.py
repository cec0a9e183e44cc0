"""How much the sides of a split can tell."""

from dataclasses import replace

import pytest

from tests.study.studies import two_images
from xraytune.data.images import ImageFile, SideName
from xraytune.data.sides import SideSize, chance_warning, side_size, side_sizes, too_few_tested


def sizes(train: int, val_a: int, val_b: int) -> tuple[SideSize, ...]:
    """Sides with this many patients of each of two classes, each with two images."""
    counts: dict[SideName, int] = {"train": train, "val_a": val_a, "val_b": val_b}
    images = [
        ImageFile(file="", patient=f"{side} {label} {number // 2}", label=label, side=side)
        for side, count in counts.items()
        for label in (0, 1)
        for number in range(2 * count)
    ]
    return side_sizes(replace(two_images(), images=tuple(images)))


def test_sides_are_counted_in_images_and_patients_of_each_class() -> None:
    train, val_a, val_b = sizes(50, 20, 6)

    assert (train.image_count, train.patient_count, train.low) == (200, 100, None)
    assert val_a.images == {"NORMAL": 40, "PNEUMONIA": 40}
    assert val_b.patients == {"NORMAL": 6, "PNEUMONIA": 6}
    assert (val_b.low, val_b.high) == pytest.approx((0.56, 0.98), abs=0.005)


def test_sides_on_which_chance_ranks_the_trials_are_named_with_what_to_do() -> None:
    assert chance_warning(sizes(5, 40, 40)) == ""
    assert chance_warning(sizes(50, 40, 6)) == (
        "val-B (12 patients) is too small to rank trials: two equally good trials can differ by "
        "0.12 in AUROC by chance alone (95 %); use larger validation sides (data.split), or more "
        "patients"
    )
    assert "val-A (8 patients) and val-B (12 patients) are too small" in chance_warning(
        sizes(50, 4, 6)
    )
    assert "val-B (0 patients) cannot score a trial" in chance_warning(sizes(50, 40, 0))


@pytest.mark.parametrize("absent", [5, 10])
def test_findings_need_patients_who_have_one_and_patients_who_do_not(absent: int) -> None:
    """In most rows of CheXpert, a finding is neither present nor absent."""
    states = "1" * 20 + "0" * absent + "?" * 35
    findings = [f"1{state}" for state in states]
    images = [
        ImageFile(file="", patient=str(number), label=0, findings=text)
        for number, text in enumerate(findings)
    ]
    names = ("Edema", "Mass")

    lacking = side_size("val-A", images, names, 0).lacking()
    problem = too_few_tested(images, names)

    few = f"Edema {len(images)} with and 0 without, Mass 20 with and 5 without"
    assert lacking == (few if absent == 5 else "")
    assert (few in problem) == (absent == 5)
