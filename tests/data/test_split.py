"""No patient ever stands on two sides."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraytune.base.errors import DataError
from xraytune.data.images import ImageFile
from xraytune.data.split import split_by_patient, split_into_folds
from xraytune.space.data_settings import SplitSettings

GroupSizes = list[list[int]]
group_sizes: st.SearchStrategy[GroupSizes] = st.lists(
    st.lists(st.integers(1, 12), min_size=3, max_size=40), min_size=1, max_size=3
)
"""For each class the number of images of each patient."""
split_settings = st.builds(
    SplitSettings, val_a=st.floats(0.05, 0.4), val_b=st.floats(0.05, 0.4), seed=st.integers(0, 1000)
)


def images_of(sizes: GroupSizes) -> list[ImageFile]:
    return [
        ImageFile(file=f"{label}/{patient}-{number}.png", label=label, patient=f"{label}:{patient}")
        for label, patients in enumerate(sizes)
        for patient, count in enumerate(patients)
        for number in range(count)
    ]


def on_side(images: Sequence[ImageFile], split: Sequence[str], side: str) -> list[ImageFile]:
    return [image for image, its_side in zip(images, split, strict=True) if its_side == side]


def patients_on(images: Sequence[ImageFile], split: Sequence[str], side: str) -> set[str]:
    return {image.patient for image in on_side(images, split, side)}


@pytest.mark.slow
@given(sizes=group_sizes, settings=split_settings, shuffling=st.randoms(use_true_random=False))
def test_each_side_has_its_share_of_each_class_and_its_own_patients(
    sizes: GroupSizes, settings: SplitSettings, shuffling: random.Random
) -> None:
    """The order of the images does not matter."""
    images = images_of(sizes)
    order = shuffling.sample(range(len(images)), len(images))

    split = split_by_patient(images, settings)

    shuffled = split_by_patient([images[place] for place in order], settings)
    assert [*shuffled] == [split[place] for place in order]
    sides = [patients_on(images, split, side) for side in ("train", "val_a", "val_b")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == sum(map(len, sizes))
    for label, patients in enumerate(sizes):
        assert any(image.label == label for image in on_side(images, split, "train"))
        for side, fraction in (("val_a", settings.val_a), ("val_b", settings.val_b)):
            count = sum(image.label == label for image in on_side(images, split, side))
            assert count > 0
            assert abs(count - fraction * sum(patients)) <= max(patients)


@pytest.mark.slow
@given(sizes=group_sizes, settings=split_settings)
def test_fewer_train_patients_are_a_subset(sizes: GroupSizes, settings: SplitSettings) -> None:
    images = images_of(sizes)
    whole = split_by_patient(images, settings)
    everyone = patients_on(images, whole, "train")

    previous: set[str] = set()
    for count in range(1, len(everyone) + 1):
        try:
            part = split_by_patient(images, settings, count)
        except DataError:
            assert not previous, "once every class is there, more patients are never refused"
            continue
        patients = patients_on(images, part, "train")
        assert len(patients) == count
        assert previous <= patients
        for side in ("val_a", "val_b"):
            assert on_side(images, part, side) == on_side(images, whole, side)
        previous = patients
    assert previous == everyone


@pytest.mark.slow
@given(sizes=group_sizes, settings=split_settings, every=st.integers(1, 3))
def test_patients_that_a_generator_has_seen_are_on_no_validation_side(
    sizes: GroupSizes, settings: SplitSettings, every: int
) -> None:
    images = images_of(sizes)
    seen = {
        f"{label}:{patient}"
        for label, owners in enumerate(sizes)
        for patient in range(3, len(owners), every)
    }

    split = split_by_patient(images, settings, seen_patients=seen)

    train = patients_on(images, split, "train")
    assert seen <= train
    assert {*split} <= {"train", "val_a", "val_b"}
    part = split_by_patient(images, settings, len(train - seen), seen_patients=seen)
    assert patients_on(images, part, "train") == train - seen


@pytest.mark.slow
@given(sizes=group_sizes, folds=st.integers(2, 5), seed=st.integers(0, 1000))
def test_each_patient_is_validated_in_one_fold_unless_a_generator_has_seen_them(
    sizes: GroupSizes, folds: int, seed: int
) -> None:
    """The patients of a class are divided evenly."""
    images = images_of(sizes)
    seen = {f"{label}:0" for label in range(len(sizes))}

    splits = split_into_folds(images, folds, seed, seen_patients=seen)

    sides = [patients_on(images, split, name) for split in splits for name in ("val_a", "val_b")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == sum(map(len, sizes)) - len(sizes)
    assert all(seen.isdisjoint(side) for side in sides)
    for label in range(len(sizes)):
        counts = [sum(name.startswith(f"{label}:") for name in side) for side in sides]
        assert max(counts) - min(counts) <= 1
    for split in splits:
        every = [patients_on(images, split, name) for name in ("train", "val_a", "val_b")]
        assert sum(map(len, every)) == sum(map(len, sizes))


def test_the_first_train_patients_have_the_classes_shares() -> None:
    images = images_of([[1] * 250, [1] * 750])

    split = split_by_patient(images, SplitSettings(), 100)

    assert Counter(image.label for image in on_side(images, split, "train")) == {0: 25, 1: 75}


@pytest.mark.parametrize(
    ("sizes", "train_patients", "message"),
    [
        ([[1] * 10, [1] * 10], 17, "only 16 patients, fewer than 17"),
        ([[1] * 10, [1] * 100], 1, r"do not cover every class\n  fix: set at least [56]"),
        ([[5, 5], [1] * 10], None, r"0/0-0\.png has 2 patients: none for val-A and val-B"),
    ],
)
def test_too_few_patients_are_refused(
    sizes: GroupSizes, train_patients: int | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        split_by_patient(images_of(sizes), SplitSettings(), train_patients)


def test_patients_with_both_classes_are_not_split() -> None:
    """Healthy and ill images of one person, as follow-up sets have them."""
    images = [
        ImageFile(file=f"{i}-{label}.png", label=label, patient=f"p{i}")
        for i in range(20)
        for label in (0, 1)
    ]

    split = split_by_patient(images, SplitSettings())

    assert Counter(split) == {"train": 32, "val_a": 4, "val_b": 4}
    for side in ("train", "val_a", "val_b"):
        assert {image.label for image in on_side(images, split, side)} == {0, 1}
