"""The memorisation gate: images that copy training images are refused with the reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.trial.conftest import Bench
from xraytune.base.errors import TrialError
from xraytune.base.files import read_json
from xraytune.data.prepare import side_image_set
from xraytune.space.extensions import EXTENSIONS
from xraytune.synth.memorisation import MEMORISATION_STAGE, find_copies
from xraytune.trial.training_set import build_training_set


@pytest.fixture(scope="module")
def copies(bench: Bench, module_path: Path) -> dict[str, Any]:
    """A folder of training images, as they were decoded."""
    train = side_image_set("train", bench.prepared, bench.cache)
    for number, (pixels, label) in enumerate(zip(train.read(), train.labels, strict=True)):
        file = module_path / bench.prepared.class_names[label] / f"new{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)
    return {"source": "folder", "folder": {"path": module_path}, "synthetic_ratio": 0.5}


def test_copies_fail_a_trial_with_a_fix_unless_they_are_allowed(
    bench: Bench, copies: dict[str, Any]
) -> None:
    before = sorted(bench.cache.glob(f"{MEMORISATION_STAGE}/*"))
    allowed = bench.ungated.experiment(**copies)
    assert len(build_training_set(allowed, bench.context).extra) > 0
    assert sorted(bench.cache.glob(f"{MEMORISATION_STAGE}/*")) == before

    with pytest.raises(TrialError) as refusal:
        build_training_set(bench.experiment(**copies), bench.context)

    (problem,) = refusal.value.problems
    count = bench.prepared.train_counts[1]
    assert f"{count} of {count} images of PNEUMONIA (chance of that" in problem.what
    assert problem.where == f"folder {copies['folder']['path'].name} r=0.5"
    assert "quality.allow_memorised: true" in problem.fix
    assert str(bench.cache) not in str(refusal.value), "nothing stored holds an absolute path"


def test_each_split_has_its_own_verdict_with_pictures_of_nearest_pairs(
    bench: Bench, copies: dict[str, Any]
) -> None:
    """The comparison depends on the patient and the side of each image."""
    prepared = bench.prepared
    experiment = bench.experiment(**copies)
    renamed = [replace(image, patient=f"{image.side} {image.patient}") for image in prepared.images]
    other = replace(bench.context, prepared=replace(prepared, images=tuple(renamed)))

    described, folder = find_copies(experiment, bench.context)

    assert folder != find_copies(experiment, other)[1]
    verdicts = read_json(folder / "memorisation.json")
    near = {name: verdict["near"] for name, verdict in verdicts.items()}
    assert near == dict(zip(prepared.class_names, prepared.train_counts, strict=True))
    assert all(f"{count} of {count} images of {name}" in described for name, count in near.items())
    sheet = np.asarray(Image.open(Path(folder) / "nearest_NORMAL.png"))
    drawn = sheet[2:34, 2:34]
    nearest = sheet[2:34, 36:68]
    assert np.array_equal(drawn, nearest), "a copy stands beside what it is a copy of"


LATE_COPIES = """\
import numpy as np


class Late:
    def fit(self, images, targets, *, folder, **_):
        np.savez(folder / "train.npz", images=images, targets=targets)

    def sample(self, targets, *, folder, seed, size, **_):
        made = folder.parent.parent / f"made-{targets[0]}"
        random = np.random.default_rng(seed)
        if not made.exists():
            made.touch()
            return random.integers(256, size=(len(targets), size, size), dtype=np.uint8)
        with np.load(folder / "train.npz") as train:
            of_class = train["images"][train["targets"] == targets[0]]
        return of_class[random.integers(len(of_class), size=len(targets))]
"""


def test_copies_after_the_first_block_of_a_class_are_found(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE_COPIES)
    ratio = 600 / min(bench.prepared.train_counts)  # three blocks of each class, or more
    EXTENSIONS.register([f"{tmp_path / 'late.py'}:Late"])
    experiment = bench.experiment(source="late", synthetic_ratio=ratio)

    with pytest.raises(TrialError, match="copies of training images"):
        build_training_set(experiment, bench.context)
