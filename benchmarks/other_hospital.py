"""How many of another hospital's images, and with which weight (docs/studies/other_hospital.md).

    make bench ONLY=other_hospital DATA=chest_xray WEIGHTS=weights HOSPITAL_A=hospital_a \
        HOSPITAL_A_FEATURES=hospital_a_features PICTURES=docs/studies

What hospital A could send is compared by `xraytune curve`. This compares what `curve` holds fixed.

`hospital_a` is a folder of `generator train --space gan_ratio_cpu --set data.train_patients=1200
--set gan.steps=4000`, and `hospital_a_features` the same with `--set gan.z_dim=128
--set gan.features=FILE`, the weights of MobileNetV2.

Plan, committed before the first run:

- Kermany's X-rays, NORMAL against PNEUMONIA. Hospital A: the 1,200 patients of that folder. Hospital
  B: eight disjoint draws of 25, 50 or 100 other patients, five of 200; scored on B's patients in no
  draw.
- A linear head on a frozen MobileNetV2 at 128 px, 216 steps with 32 real images, lr .003: the
  replicates of `confirm` in the space `other_hospital_cpu`, with the epoch that is best on val-A.
- B's images as they are; with another detector (blur .8 px, gamma .55, contrast .7, noise .02); from
  a portable unit (blur .4 px, contrast .6, noise .06); or inverted. What A sends is never shifted.
- Arms: B alone; extra images from A's statistics, its GAN and its real images: half as many as A has,
  with weights that give them half of the loss. The GAN comes plain and with `features`. The plain
  one's and the statistics' also with four fifths and two sevenths of the loss, and one per real image
  with weight 1, as a search would begin. To tell why a GAN helps with another detector: A's real
  images at the GAN's 64 px.
- Read-out: mean gain over B alone and its standard error over draws. Nothing is chosen by a score.

The first plan had one extra image per real one. Its first arms, with 25 patients, gained less than by
hand, where the extra images of a step came from all of A's: hence half as many as A has. Of three
quarters, a draw would need more pneumonias than there are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.figures import Figure, figure
from xraytune.base.files import read_json, write_json
from xraytune.base.records import ignore_progress
from xraytune.confirm.arms import Arm, replicate
from xraytune.confirm.unused import TEST, divide_unused
from xraytune.data.index import read_index
from xraytune.data.prepare import RunContext, side_image_set
from xraytune.nets.compute import choose_compute, configure_torch
from xraytune.space.domains import Value
from xraytune.space.fields import parameters_from
from xraytune.space.load import load_space
from xraytune.space.settings import Experiment
from xraytune.stats.classification import auroc
from xraytune.synth.donor import read_donor
from xraytune.trial.preflight import prepare_space
from xraytune.trial.training import TrialTraining

NEEDS = ("DATA", "WEIGHTS", "HOSPITAL_A", "HOSPITAL_A_FEATURES", "PICTURES")
# Disjoint draws of so many patients; B has too few for eight of 200.
DRAWS = {25: 8, 50: 8, 100: 8, 200: 5}
SHARE_OF_A = 0.5
HALF, FOUR_FIFTHS, TWO_SEVENTHS = 1.0, 4.0, 0.4
SHIFTS = {
    "as A's": "null",
    "another detector": "{blur_px: 0.8, gamma: 0.55, contrast: 0.7, noise: 0.02}",
    "a portable unit": "{blur_px: 0.4, contrast: 0.6, noise: 0.06}",
    "inverted": "{contrast: -1}",
}
ALONE = "B alone"
COARSE = "real_64_px"
WITH_FEATURES = "A's GAN with features"
LOWEST = -0.04
"""Of pictures; gains below are written as numbers."""


def measure() -> Iterator[Figure]:
    """Train the arms, write the scores to `PICTURES`, and yield each gain.

    An arm is not trained again if its scores are there.
    """
    kept = Path(os.environ["PICTURES"]) / "other_hospital.json"
    scores: dict[str, dict[str, dict[str, list[float]]]] = {}
    if kept.exists():
        scores = read_json(kept)["scores"]
    with TemporaryDirectory() as folder:
        sent = Path(os.environ["HOSPITAL_A"])
        real = copy_real_images(sent, Path(os.environ["DATA"]), Path(folder) / "real")
        for shift in SHIFTS:
            for count in DRAWS:
                of_shift = scores.setdefault(shift, {})
                known = of_shift.get(str(count), {})
                of_shift[str(count)] = _scores(shift, count, real, known)
                write_json(kept, {"scores": scores})
    for shift, by_patients in scores.items():
        for patients, by_arm in by_patients.items():
            for arm in by_arm.keys() - {ALONE}:
                mean, _ = gain(by_arm, arm)
                name = f"other_hospital: {shift}, {patients} patients, {arm}"
                yield figure(name, mean, "AUROC", "")


def gain(by_arm: dict[str, list[float]], arm: str) -> tuple[float, float]:
    """Return the mean gain of an arm over B alone, and its standard error over draws."""
    gains = np.subtract(by_arm[arm], by_arm[ALONE])
    return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))


def _arms(hospital: Path, real: Path, ratio: float) -> dict[str, Arm]:
    """Return all arms; those with most of A's images have `ratio` extra images per real one."""
    base: dict[str, Value] = {"backbone": "mobilenet_v2", "trainable": "head", "lr": 3e-3}
    generator: dict[str, Value] = {"source": "generator", "generator.path": str(hospital)}
    features = generator | {"generator.path": os.environ["HOSPITAL_A_FEATURES"]}
    statistics: dict[str, Value] = {"source": "statistics", "statistics.path": str(hospital)}
    real_images: dict[str, Value] = {"source": "folder", "folder.path": str(real)}
    coarse_images = real_images | {"folder.path": str(real.with_name(COARSE))}

    def extra(share: float) -> dict[str, Value]:
        """Give the extra images `share` times the weight of all real ones."""
        return {"synthetic_ratio": ratio, "synthetic_weight": share / ratio}

    one: dict[str, Value] = {"synthetic_ratio": 1.0}
    sources: dict[str, dict[str, Value]] = {
        ALONE: {},
        "A's real images": real_images | extra(HALF),
        "A's real images at 64 px": coarse_images | extra(HALF),
        "A's statistics": statistics | extra(HALF),
        "A's statistics, 4/5 of the loss": statistics | extra(FOUR_FIFTHS),
        "A's statistics, 2/7 of the loss": statistics | extra(TWO_SEVENTHS),
        "A's statistics, one per image": statistics | one,
        "A's GAN": generator | extra(HALF),
        "A's GAN, 4/5 of the loss": generator | extra(FOUR_FIFTHS),
        "A's GAN, 2/7 of the loss": generator | extra(TWO_SEVENTHS),
        "A's GAN, one per image": generator | one,
        WITH_FEATURES: features | extra(HALF),
        f"{WITH_FEATURES}, 2/7 of the loss": features | extra(TWO_SEVENTHS),
    }
    return {
        name: Arm(
            name=name,
            role="finalist",
            trial_label="#0",
            parameters=parameters_from({**base, **source}),
        )
        for name, source in sources.items()
    }


def _scores(
    shift: str, patients: int, real: Path, known: dict[str, list[float]]
) -> dict[str, list[float]]:
    """Return the AUROC of each arm on B's test patients, in each draw; add to those `known`."""
    hospital = Path(os.environ["HOSPITAL_A"]).resolve()
    draws = DRAWS[patients]

    def make_arms(train_images: int) -> dict[str, Arm]:
        ratio = round(SHARE_OF_A * len(read_donor(hospital).train_images) / train_images, 1)
        return _arms(hospital, real, ratio)

    return score_arms(shift, patients, draws, make_arms, known)


def score_arms(
    shift: str,
    patients: int,
    draws: int,
    make_arms: Callable[[int], dict[str, Arm]],
    known: dict[str, list[float]],
    overrides: Sequence[str] = (),
    *,
    with_patients_of_a: bool = False,
) -> dict[str, list[float]]:
    """Return the AUROC of each arm on B's test patients, in each draw; add to those `known`.

    `make_arms` gets the number of B's training images. `with_patients_of_a` makes A's patients B's,
    for arms that have nothing from A.
    """
    hospital = Path(os.environ["HOSPITAL_A"]).resolve()
    seen = () if with_patients_of_a else read_donor(hospital).train_images
    overrides = [
        f"generator.path={hospital}",
        f"data.train_patients={patients}",
        f"data.shift={SHIFTS[shift]}",
        *overrides,
    ]
    data = Path(os.environ["DATA"])
    space = load_space(
        Path("other_hospital_cpu"), overrides, data=data, weights_dir=Path(os.environ["WEIGHTS"])
    )
    settings = space.settings
    cache = Path("cache").resolve()
    prepared, _ = prepare_space(
        space,
        cache,
        skip_broken=True,
        note=lambda _: None,
        on_progress=ignore_progress,
    )
    index = read_index(settings.data)
    divided = divide_unused(
        prepared, settings, index, draws, "unused", seen_sha256=seen, fewest_tested=300
    )
    compute = choose_compute(gpus=0, threads=int(os.environ.get("THREADS", "2")))
    configure_torch(compute)
    scores = {**known}
    for name, arm in make_arms(sum(prepared.train_counts)).items():
        if name in known:
            continue
        for draw in range(draws):
            experiment = replicate(arm, settings, draw, "unused")
            context = RunContext(prepared=divided.of_draw(draw), cache=cache, compute=compute)
            scores.setdefault(name, []).append(score(experiment, context))
        mean, error = gain(scores, name)
        text = f"{np.mean(scores[name]):.4f} {mean:+.4f} ({error:.4f}) {name}"
        print(f"{shift}, {patients}: {text}", flush=True)
    return scores


def score(experiment: Experiment, context: RunContext) -> float:
    """Train a replicate, and return its AUROC on the test side."""
    training = TrialTraining(experiment, context)
    training.train_at_once()
    return test_score(training, context)


def test_score(training: TrialTraining, context: RunContext) -> float:
    """Return the AUROC of a trained network on the test side."""
    test = side_image_set(TEST, context.prepared, context.cache)
    results = training.results(test)
    positive = context.prepared.positive
    return auroc(test.targets, results, positive=positive)


def copy_real_images(
    hospital: Path, data: Path, folder: Path, overrides: Sequence[str] = ()
) -> Path:
    """Copy the images that a hospital's gifts were made from to class folders in `folder`.

    At 64 px, they are copied to other folders beside it.
    """
    sent = {*read_donor(hospital).train_images}
    space = load_space(Path("other_hospital_cpu"), overrides, data=data)
    index = read_index(space.settings.data)
    for image in index.images:
        if image.sha256 in sent:
            file = index.root / image.file
            target = folder / index.class_names[image.label] / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            _save_coarse(file, folder.with_name(COARSE) / target.relative_to(folder))
    return folder


def _save_coarse(file: Path, target: Path) -> None:
    """Save an image with no more detail than the GAN's, which has 64 x 64 pixels."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(file) as image:
        coarse = image.convert("L").resize((64, 64), Image.Resampling.BOX)
    coarse.save(target.with_suffix(".png"))
