"""Whether searches and verdicts answer rightly where it is known: donors, weights, labels, a rare class.

    make bench ONLY=known_donors WEIGHTS=weights

- *Donor*: phantoms of hospital B with 30 patients, and hospital A's folder (`generator train`) from
  400 others: its GAN, and its head on a frozen MobileNetV2. All of A's patients tell more than
  images drawn from a small GAN of them, so A's head must beat the GAN, and the GAN's verdict must
  not be `helps`. Ten studies by `search` and `confirm` as a user types them.
- *Weight*: 30 patients, with extra images of new patients whose labels are swapped, four per real
  image. Twenty searches over the weight, from .01 to 1 with equal probability on a log scale:
  the best trial on val-B must have a weight near 0, at most .1, or no extra images.
- *Labels*: 30 patients, with extra images of new patients in the folders of the other class, and
  the head that 400 other patients of their hospital train on the right ones. Twenty searches over
  `labels`: the best trial on val-B must have the donor's.
- *Rare*: a hospital where one patient in 21 has pneumonia. A network trains on 105 patients, and is
  tested on a balanced folder. A GAN of these patients that balances the classes has no information
  that class weights and oversampling lack. In twenty studies by `search` and `confirm`, the verdict
  on the GAN must not be `helps`.
- *Encoder*: a hospital with 30 patients, its own GAN, and the network of another hospital with
  2,000 others. In ten studies by `search` and `confirm`, the tuned control without extra images must
  choose that network as its encoder and beat the GAN, whose verdict must not be `helps`.

Seeds are fixed. About an hour and a half on one core. `PART=labels` runs one part alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure, figure
from xraytune import api
from xraytune.base.seeding import derive_seed
from xraytune.confirm.record import FinalistVerdict
from xraytune.data.file_names import patient_of

NEEDS = ("WEIGHTS",)
_STUDIES, _SEARCHES = 10, 20
_NEAR_ZERO = 0.1
_SIZE_PX = 64
_DIFFICULTY = 0.3

_SHARED = """
data: {{path: b, image_size: {size}, train_patients: 30, split: {{val_a: {val}, val_b: {val}, seed: {seed}}}}}
seed: {seed}
sampler: {{name: tpe, startup_trials: 6, seed: {seed}}}
scheduler: {{name: none}}
resources: {{gpus_per_trial: 0, cpus_per_trial: 1}}
"""
_DONOR_SPACE = """
name: donor
parameters:
  source: {{values: [none, duplicate, generator]}}
  synthetic_ratio: {{values: [1.0, 2.0, 4.0], when: {{source: [duplicate, generator]}}}}
  synthetic_weight: {{values: [0.1, 1.0], when: {{source: [duplicate, generator]}}}}
  generator: {{when: {{source: generator}}, parameters: {{path: {{value: donor}}}}}}
  backbone: {{value: mobilenet_v2}}
  trainable: {{value: head}}
  lr: {{value: 3e-3}}
budget: {{trials: 8, max_epochs: 9, steps_per_epoch: 10}}
confirm: {{finalists: 1, replicates: 5, controls: {{matched: [none, duplicate], tuned: []}}}}
points_to_evaluate:
  - {{source: none}}
  - {{source: generator, synthetic_ratio: 1.0, synthetic_weight: 1.0}}
  - {{source: duplicate, synthetic_ratio: 1.0, synthetic_weight: 1.0}}
"""
_HOSPITAL_SPACE = """
name: hospital-a
parameters:
  source: {{value: gan}}
  gan: {{parameters: {{image_size: {{value: 32}}, width: {{value: 16}}, steps: {{value: 1500}}}}}}
  backbone: {{value: mobilenet_v2}}
  trainable: {{value: head}}
"""
_WEIGHT_SPACE = """
name: weight
parameters:
  source: {{values: [none, folder]}}
  synthetic_ratio: {{value: 4.0, when: {{source: folder}}}}
  synthetic_weight: {{min: 0.01, max: 1.0, distribution: log_uniform_values, when: {{source: folder}}}}
  folder: {{when: {{source: folder}}, parameters: {{path: {{value: wrong}}}}}}
  backbone: {{value: mobilenet_v2}}
  trainable: {{value: head}}
  lr: {{value: 3e-3}}
budget: {{trials: 16, max_epochs: 9, steps_per_epoch: 10}}
"""
_LABELS_SPACE = """
name: labels
parameters:
  source: {{values: [none, folder]}}
  labels: {{values: [class, donor], when: {{source: folder}}}}
  synthetic_ratio: {{value: 4.0, when: {{source: folder}}}}
  synthetic_weight: {{values: [0.1, 1.0], when: {{source: folder}}}}
  folder:
    when: {{source: folder}}
    parameters: {{path: {{value: wrong}}, donor: {{value: donor}}}}
  backbone: {{value: mobilenet_v2}}
  trainable: {{value: head}}
  lr: {{value: 3e-3}}
budget: {{trials: 12, max_epochs: 9, steps_per_epoch: 10}}
"""
_RARE_SPACE = """
name: rare
parameters:
  source: {{values: [none, gan]}}
  synthetic_ratio: {{values: [0.5, 0.9], when: {{source: gan}}}}
  balance: {{value: equal, when: {{source: gan}}}}
  gan:
    when: {{source: gan}}
    parameters: {{image_size: {{value: 32}}, width: {{value: 16}}, steps: {{value: 500}}}}
  imbalance: {{values: [none, weighted, oversample], when: {{source: none}}}}
  backbone: {{value: mobilenet_v2}}
  trainable: {{value: head}}
  lr: {{values: [1e-3, 3e-3, 1e-2]}}
budget: {{trials: 15, max_epochs: 9, steps_per_epoch: 10}}
confirm:
  test: folder
  finalists: 1
  replicates: 5
  controls: {{matched: [none, duplicate], tuned: [real_only, augmented]}}
points_to_evaluate:
  - {{source: gan, synthetic_ratio: 0.9, lr: 3e-3}}
  - {{source: none, imbalance: weighted, lr: 3e-3}}
  - {{source: none, imbalance: oversample, lr: 3e-3}}
"""
_ENCODER_SPACE = """
name: encoder
parameters:
  source: {{values: [none, gan]}}
  synthetic_ratio: {{values: [0.5, 1.0], when: {{source: gan}}}}
  gan:
    when: {{source: gan}}
    parameters: {{image_size: {{value: 32}}, width: {{value: 16}}, steps: {{value: 500}}}}
  backbone: {{value: mobilenet_v2}}
  weights: {{values: [imagenet, others/model], when: {{source: none}}}}
  trainable: {{value: head}}
  lr: {{value: 3e-3}}
budget: {{trials: 8, max_epochs: 9, steps_per_epoch: 10}}
confirm: {{finalists: 1, replicates: 5, controls: {{matched: [none], tuned: [real_only]}}}}
points_to_evaluate:
  - {{source: none, weights: imagenet}}
  - {{source: none, weights: others/model}}
  - {{source: gan, synthetic_ratio: 1.0}}
"""
_OTHERS_SPACE = """
name: others
data: {{image_size: {size}, split: {{val_a: 0.1, val_b: 0.1, seed: {seed}}}}}
parameters:
  backbone: {{value: mobilenet_v2}}
  lr: {{value: 3e-4}}
budget: {{max_epochs: 2}}
resources: {{gpus_per_trial: 0, cpus_per_trial: 1}}
"""
_HEAD_SPACE = """
name: head
parameters:
  backbone: {{value: mobilenet_v2}}
  trainable: {{value: head}}
"""


def measure() -> Iterator[Figure]:
    """Yield how many studies and searches end as they must, by part."""
    parts = {
        "donor": _donors,
        "weight": _weights,
        "labels": _labels,
        "rare": _rare,
        "encoder": _encoders,
    }
    for name, part in parts.items():
        if os.environ.get("PART", name) == name:
            yield from part()


def _labels() -> Iterator[Figure]:
    chosen = 0
    for number in range(_SEARCHES):
        labels = _chosen_labels(derive_seed(11, "labels", number) % 2**31)
        chosen += labels == "donor"
        _tell(f"labels {number + 1}: {labels}")
    name = "known_donors: searches that choose the donor's labels for images in wrong folders"
    yield figure(name, chosen, f"of {_SEARCHES}", ">= 18")


def _rare() -> Iterator[Figure]:
    helps = 0
    for number in range(_SEARCHES):
        found = _rare_verdict(derive_seed(11, "rare", number) % 2**31)
        if found is None:
            _tell(f"rare {number + 1}: no trial with images of the GAN is complete")
            continue
        helps += found.verdict == "helps"
        differences = ", ".join(
            f"{result.control} {result.difference:+.3f} ({result.low:+.3f} to {result.high:+.3f})"
            for result in found.comparisons
        )
        _tell(f"rare {number + 1}: {found.verdict}, AUROC {found.score:.3f}; minus {differences}")
    name = "known_donors: verdict not `helps` for a balanced GAN of the same patients at 1 : 20"
    yield figure(name, _SEARCHES - helps, f"of {_SEARCHES}", ">= 18")


def _donors() -> Iterator[Figure]:
    beaten = 0
    helps = 0
    for number in range(_STUDIES):
        found = _donor_verdict(derive_seed(11, "donor", number) % 2**31)
        comparisons = {result.kind: result for result in found.comparisons}
        beaten += "worse" in comparisons["donor"].verdict
        helps += found.verdict == "helps"
        differences = ", ".join(
            f"{kind} {result.difference:+.3f} {' and '.join(result.verdict)}"
            for kind, result in comparisons.items()
        )
        _tell(f"donor {number + 1}: {found.verdict}; GAN less {differences}")
    name = "known_donors: studies in which the donor's head beats its GAN"
    yield figure(name, beaten, f"of {_STUDIES}", f">= {_STUDIES}")
    yield figure("known_donors: verdict `helps` for the GAN", helps, f"of {_STUDIES}", "<= 0")


def _encoders() -> Iterator[Figure]:
    beaten = 0
    helps = 0
    with TemporaryDirectory() as name:
        others = Path(name)
        weights = Path(os.environ["WEIGHTS"]).resolve()
        _paint(others / "images", 2000, derive_seed(11, "others") % 2**31)
        space = others / "space.yaml"
        space.write_text(_OTHERS_SPACE.format(size=_SIZE_PX, seed=11), encoding="utf-8")
        api.train(
            space,
            data=others / "images",
            weights_dir=weights,
            cache=others / "cache",
            out=others / "model",
        )
        for number in range(_STUDIES):
            found = _encoder_verdict(others / "model", derive_seed(11, "encoder", number) % 2**31)
            real = next(result for result in found.comparisons if result.kind == "tuned")
            beaten += "worse" in real.verdict
            helps += found.verdict == "helps"
            _tell(
                f"encoder {number + 1}: {found.verdict}; GAN less real_only {real.difference:+.3f}"
            )
    name = "known_donors: studies in which an encoder of 2,000 others beats the study's own GAN"
    yield figure(name, beaten, f"of {_STUDIES}", f">= {_STUDIES}")
    yield figure("known_donors: verdict `helps` beside that encoder", helps, "", "<= 0")


def _encoder_verdict(model: Path, seed: int) -> FinalistVerdict:
    """Return the verdict on a study's own GAN, beside the model of others as an encoder."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _paint(folder / "b", 1000, seed)
        shutil.copytree(model, folder / "others" / "model")
        space = _write_space(folder, _ENCODER_SPACE, seed, 0.05)
        study = _search(folder, space, Path(os.environ["WEIGHTS"]).resolve())
        found: FinalistVerdict = api.confirm(study).finalists[0]
        return found


def _weights() -> Iterator[Figure]:
    near_zero = 0
    for number in range(_SEARCHES):
        weight = _chosen_weight(derive_seed(11, "weight", number) % 2**31)
        near_zero += weight <= _NEAR_ZERO
        _tell(f"wrong labels {number + 1}: weight {weight:.3f}")
    name = "known_donors: searches that give wrong labels a weight of at most .1"
    yield figure(name, near_zero, f"of {_SEARCHES}", ">= 18")


def _donor_verdict(seed: int) -> FinalistVerdict:
    """Return the verdict of a study with another hospital's folder."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _paint(folder / "a", 500, derive_seed(seed, "a") % 2**31)
        _paint(folder / "b", 1000, seed)
        weights = Path(os.environ["WEIGHTS"]).resolve()
        hospital = _write_space(folder, _HOSPITAL_SPACE, seed, 0.05)
        api.generator_train(
            hospital,
            data=folder / "a",
            overrides=("data.train_patients=null",),
            weights_dir=weights,
            cache=folder / "cache",
            out=folder / "donor",
        )
        study = _search(folder, _write_space(folder, _DONOR_SPACE, seed, 0.05), weights)
        confirmation = api.confirm(study)
        found: FinalistVerdict = confirmation.finalists[0]
        return found


def _chosen_weight(seed: int) -> float:
    """Return the weight that a search gives images with wrong labels; 0 if it takes none."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _paint(folder / "b", 1000, seed)
        _swap_classes(folder, seed)
        space = _write_space(folder, _WEIGHT_SPACE, seed, 0.4)
        study = _search(folder, space, Path(os.environ["WEIGHTS"]).resolve())
        trials = api.trials_dataframe(study)
        best = trials.sort_values("val_b_score").iloc[-1]
        return 0.0 if best["source"] == "none" else float(best["synthetic_weight"])


def _chosen_labels(seed: int) -> str:
    """Return whose labels a search gives images in the folders of the other class."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        weights = Path(os.environ["WEIGHTS"]).resolve()
        _paint(folder / "b", 1000, seed)
        _paint(folder / "a", 400, derive_seed(seed, "a") % 2**31)
        _swap_classes(folder, seed)
        api.generator_train(
            _write_space(folder, _HEAD_SPACE, seed, 0.05),
            data=folder / "a",
            overrides=("data.train_patients=null",),
            weights_dir=weights,
            cache=folder / "cache",
            out=folder / "donor",
            without_generator=True,
        )
        study = _search(folder, _write_space(folder, _LABELS_SPACE, seed, 0.4), weights)
        best = api.trials_dataframe(study).sort_values("val_b_score").iloc[-1]
        return str(best["labels"]) if best["source"] == "folder" else "no extra images"


def _rare_verdict(seed: int) -> FinalistVerdict | None:
    """Return the verdict on a balanced GAN of a hospital with a rare class.

    None if the images of each GAN are copies, so that nothing is confirmed.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        _paint(folder / "b", 2200, seed)
        normal = {*(folder / "b" / "train" / "NORMAL").iterdir()}
        most = len({*map(_patient, normal)}) // 20
        with_pneumonia = sorted((folder / "b" / "train" / "PNEUMONIA").iterdir())
        kept = [*dict.fromkeys(map(_patient, with_pneumonia))][:most]
        for image in with_pneumonia:
            if _patient(image) not in kept:
                image.unlink()
        space = _write_space(folder, _RARE_SPACE, seed, 0.05)
        overrides = ("data.train_patients=105",)
        study = _search(folder, space, Path(os.environ["WEIGHTS"]).resolve(), overrides)
        trials = api.trials_dataframe(study)
        if not ((trials["source"] == "gan") & (trials["status"] == "complete")).any():
            return None
        found: FinalistVerdict = api.confirm(study).finalists[0]
        return found


def _patient(image: Path) -> str:
    patient = patient_of(image.name)
    assert patient, image
    return patient


def _swap_classes(folder: Path, seed: int) -> None:
    """Draw images of 300 new patients, and put them into the folders of the other class."""
    _paint(folder / "others", 300, derive_seed(seed, "others") % 2**31)
    swapped = {"NORMAL": "PNEUMONIA", "PNEUMONIA": "NORMAL"}
    for image in (folder / "others").glob("*/*/*"):
        target = folder / "wrong" / swapped[image.parent.name] / f"other-{image.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        image.rename(target)


def _paint(out: Path, patients: int, seed: int) -> None:
    api.data_phantom(
        out, patients=patients, seed=seed, image_size_px=_SIZE_PX, difficulty=_DIFFICULTY
    )


def _write_space(folder: Path, text: str, seed: int, val: float) -> Path:
    """Write a space, in which a side of validation has the share `val` of the patients."""
    space = folder / "space.yaml"
    space.write_text((text + _SHARED).format(size=_SIZE_PX, val=val, seed=seed), encoding="utf-8")
    return space


def _search(folder: Path, space: Path, weights: Path, overrides: Sequence[str] = ()) -> Path:
    """Search a space, and return the folder of its study."""
    study = api.search(
        space,
        overrides=overrides,
        weights_dir=weights,
        studies=folder / "studies",
        cache=folder / "cache",
    )
    return Path(study.path)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
