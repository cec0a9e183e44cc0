"""What a real second hospital should send, and how to tell beforehand (docs/studies/two_hospitals.md).

    make bench ONLY=two_hospitals DATA=chest_xray NIH=nih SAKHA=sakha_tb WEIGHTS=weights \
        WORK=two_hospitals PICTURES=docs/studies

`docs/data.md` says where the three sets are from. NIH's and Sakha's folders have two class folders
each. Gifts that `WORK` lacks are made there, and an arm whose scores are in `PICTURES` is not
trained again.

Plan, committed before the first run:

- Two real hospitals: A = Kermany's children (1,200 patients), B = NIH's adults; and A = NIH's adults
  (300 patients), B = Kermany's children. Beside them, within one hospital: A = 300 patients of NIH
  or 170 of Sakha-TB, B = the others of the same set. Classes: no finding against pneumonia;
  Sakha-TB: normal against tuberculosis.
- B has 25, 50, 100 or 200 patients (within one hospital, up to 100) in ten random draws with the
  shares of the classes. 24 patients of B choose the epoch in all draws, and all others are scored,
  but 150, who are the arm "150 other patients of B". Draws overlap, so the interval over
  draws is about these patients of B.
- Two networks: a linear head on a frozen MobileNetV2 at 128 px (lr .003), and a CNN of three layers
  at 32 px from random weights (lr .001; 25 and 100 patients, five draws, two hospitals only). 27
  epochs of 8 steps with 32 real images, in every arm.
- Extra images of a step: four per real one (CNN: two), from 500 of a GAN's (planned: 1,000), or from half as many of
  A's real images as A has, with weights of .5 and .1. (Half had too few of a class for B's shares of
  the classes: they are seven tenths of what these shares allow.)
- Arms: B alone; augmented (two affine views); repeated; 150 other patients of B; A's GAN of 64 px, and
  A's GAN with `features`, both with their classes and with soft labels of A's classifier; statistics
  of A's features; A's real images; A's classifier as it is and as a start; for the frozen network,
  A's fine-tuned network (all layers, 96 px, 8 epochs) as B's encoder.
- GANs: 4,000 steps at Kermany's, 2,500 at NIH's, 1,500 at Sakha's. (On a busy machine, 1,500 at
  Kermany's, too.)
- Read-out: mean gain over B alone with its standard error over draws. Nothing is chosen by a score. By hand, the same gains were measured before (`BY_HAND`): at least 20 of 24
  should be within two standard errors of both.
- How to tell beforehand: with B's training patients alone, the AUROC of A's classifier, the share of
  their images that it calls by their class, and the distance of A's class means from B's, in
  standard deviations of A's features. Each is a threshold between gain and harm, chosen on Kermany
  -> NIH and on halves of NIH, and tested on NIH -> Kermany and on halves of Sakha-TB; a rule holds if
  it predicts the sign of >= 80 % of the tested cells. A cell is a gift at a number of patients.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.figures import Figure, figure
from benchmarks.heads import train_heads
from benchmarks.networks import ALL_LAYERS, KINDS, plot_gains, with_model
from benchmarks.other_hospital import ALONE, copy_real_images, gain, score, test_score
from xraytune.base.files import read_json, write_json
from xraytune.base.records import Compute, ignore_progress
from xraytune.confirm.arms import Arm, replicate
from xraytune.confirm.unused import TEST, patients_in_order
from xraytune.data.images import ImageTable
from xraytune.data.prepare import RunContext, SplitData, patients_seen, side_image_set
from xraytune.model.generator_folder import generator_train
from xraytune.nets.compute import configure_torch
from xraytune.space.domains import Value
from xraytune.space.fields import parameters_from
from xraytune.space.load import load_space
from xraytune.space.settings import DonorControl
from xraytune.space.space import Space
from xraytune.stats.classification import auroc
from xraytune.synth.donor import donor_tensors, read_donor
from xraytune.trial.network import TrialNetwork
from xraytune.trial.preflight import prepare_space
from xraytune.trial.training import TrialTraining

CHOSEN_ON = ("Kermany -> NIH", "within NIH")
"""The pairs on which the thresholds of rules are chosen; others test them."""
NEEDS = ("DATA", "NIH", "SAKHA", "WEIGHTS", "WORK", "PICTURES")
FROZEN, CNN = "frozen MobileNetV2", "small CNN"
VALIDATION_PATIENTS = 24
OTHER_PATIENTS = 150
AUGMENTED = "B augmented"
REPEATED = "B repeated"
OTHERS = "150 other patients of B"
HEAD = "A's classifier"
START = "started at A's classifier"
ENCODER = "A's network as B's encoder"
LIGHT = ", weight .1"
POOL = 500
GANS = {"A's GAN with features": "features", "A's GAN": "plain"}
"""A hospital's GANs, and the ends of the names of their folders. `MAKE_NO_GAN` leaves out those
that are missing."""


@dataclass(frozen=True)
class Hospital:
    """A set of images of one hospital.

    Attributes:
        folder: The environment variable with its folder.
        patients: The number of patients that gifts are made from.
        steps: Steps of its GANs.
    """

    folder: str
    patients: int
    steps: int
    overrides: tuple[str, ...] = ()


KERMANY = Hospital("DATA", 1200, 1500)
NIH = Hospital("NIH", 300, 2500, ("data.split.group_regex=([0-9]+)_[0-9]+",))
SAKHA = Hospital("SAKHA", 170, 1500)


@dataclass(frozen=True)
class Pair:
    """A hospital that sends gifts, and the hospital that they are for."""

    a: Hospital
    b: Hospital
    patients: tuple[int, ...]


PAIRS = {
    "Kermany -> NIH": Pair(KERMANY, NIH, (25, 50, 100, 200)),
    "within NIH": Pair(NIH, NIH, (25, 50, 100)),
    "NIH -> Kermany": Pair(NIH, KERMANY, (25, 50, 100, 200)),
    "within Sakha-TB": Pair(SAKHA, SAKHA, (25, 50, 100)),
}


@dataclass(frozen=True)
class Trained:
    """A network of B's.

    Attributes:
        ratio: Extra images of a step per real one.
    """

    parameters: Mapping[str, Value]
    image_size_px: int
    ratio: float
    draws: int
    pairs: tuple[str, ...]
    patients: tuple[int, ...]


NETWORKS = {
    FROZEN: Trained(KINDS[FROZEN].parameters, 128, 4.0, 10, tuple(PAIRS), (25, 50, 100, 200)),
    CNN: Trained(
        KINDS[CNN].parameters, 32, 2.0, 5, ("Kermany -> NIH", "NIH -> Kermany"), (25, 100)
    ),
}
CLASSES_GAN = "A's GAN with features, its classes"
SOFT_GAN = "A's GAN with features, A's labels"
STATISTICS, REAL = "A's statistics", "A's real images"
SHOWN = (OTHERS, REAL, STATISTICS, CLASSES_GAN, SOFT_GAN, HEAD, START)
LOWEST = -0.08
"""Of the picture; gains below are written as numbers."""
BY_HAND: dict[tuple[str, str], tuple[tuple[float, ...], tuple[float, ...]]] = {
    ("Kermany -> NIH", START): ((-0.039, -0.040, -0.039, -0.042), (0.008,) * 4),
    ("Kermany -> NIH", STATISTICS): ((-0.015, -0.013, -0.008, -0.014), (0.003,) * 4),
    ("Kermany -> NIH", CLASSES_GAN): ((-0.012, -0.008, 0.002, -0.005), (0.008,) * 4),
    ("Kermany -> NIH", SOFT_GAN): ((0.002, -0.001, 0.004, -0.004), (0.008,) * 4),
    ("Kermany -> NIH", REAL): ((-0.003, -0.009, -0.006, -0.011), (0.008,) * 4),
    ("Kermany -> NIH", OTHERS): ((0.121, 0.065, 0.033, 0.012), (0.012,) * 4),
    ("within NIH", CLASSES_GAN): ((0.124, 0.045, 0.017), (0.015, 0.007, 0.003)),
    ("within NIH", SOFT_GAN): ((0.129, 0.052, 0.023), (0.015, 0.007, 0.003)),
    ("within NIH", STATISTICS): ((0.156, 0.069, 0.035), (0.020, 0.009, 0.004)),
    ("within NIH", HEAD): ((0.147, 0.057, 0.021), (0.020, 0.010, 0.004)),
    ("within NIH", START): ((0.125, 0.042, 0.005), (0.020, 0.010, 0.004)),
    ("within NIH", REAL): ((0.160, 0.073, 0.038), (0.020, 0.009, 0.004)),
}
"""Gains and their standard errors over draws, for each number of patients, of the frozen network.

Where only the range of the standard errors is known, .003 to .012, its middle is taken.
"""
Scores = dict[str, dict[str, dict[str, dict[str, list[float]]]]]
"""Scores of draws, by network, pair, number of patients and arm."""


def measure() -> Iterator[Figure]:
    """Train the arms, write the scores and the picture to `PICTURES`, and yield each gain.

    `PAIR`, `KIND`, `PATIENTS` and `ARMS` (a regular expression) limit what is trained.
    """
    kept = Path(os.environ["PICTURES"]) / "two_hospitals.json"
    record = read_json(kept) if kept.exists() else {"scores": {}, "before": {}}
    scores: Scores = record["scores"]
    for name, network in NETWORKS.items():
        for pair_name in network.pairs:
            if (
                os.environ.get("KIND", name) != name
                or os.environ.get("PAIR", pair_name) != pair_name
            ):
                continue
            study = PairStudy(PAIRS[pair_name], name)
            for count in PAIRS[pair_name].patients:
                asked = os.environ.get("PATIENTS", f"{count}").split(",")
                if count not in network.patients or f"{count}" not in asked:
                    continue
                by_count = scores.setdefault(name, {}).setdefault(pair_name, {})
                by_arm = by_count.setdefault(str(count), {})
                for arm in study.missing_arms(by_arm):
                    by_arm[arm.name] = study.score(arm, count)
                    mean, error = gain(by_arm, arm.name) if ALONE in by_arm else (0.0, 0.0)
                    level = np.mean(by_arm[arm.name])
                    print(
                        f"{name}, {pair_name}, {count}: {level:.4f} {mean:+.4f} ({error:.4f}) "
                        f"{arm.name}",
                        flush=True,
                    )
                    write_json(kept, record)
                if name == FROZEN:
                    before = record["before"].setdefault(pair_name, {})
                    if str(count) not in before:
                        before[str(count)] = study.look_before(count)
                        write_json(kept, record)
    panels = {
        f"{name}\n{pair_name}": dict(sorted(by_count.items(), key=lambda entry: int(entry[0])))
        for name, by_pair in scores.items()
        for pair_name, by_count in by_pair.items()
    }
    plot_gains(panels, SHOWN, kept.with_suffix(".svg"), LOWEST)
    for name, by_pair in scores.items():
        for pair_name, by_count in by_pair.items():
            for count_text, by_arm in by_count.items():
                for arm_name in by_arm.keys() - {ALONE}:
                    mean, error = gain(by_arm, arm_name)
                    bar = ""
                    if name == FROZEN and (hand := BY_HAND.get((pair_name, arm_name))):
                        place = PAIRS[pair_name].patients.index(int(count_text))
                        width = 2 * float(np.hypot(error, hand[1][place]))
                        bar = f"{hand[0][place] - width:.4f} to {hand[0][place] + width:.4f}"
                    where = f"two_hospitals: {name}, {pair_name}, {count_text} patients, {arm_name}"
                    yield figure(where, mean, "AUROC", bar)
    yield from judge_rules(record)


class PairStudy:
    """Two hospitals: what A sends, and the patients of B, for one network of B's."""

    def __init__(self, pair: Pair, network: str) -> None:
        self._network = NETWORKS[network]
        work = Path(os.environ["WORK"])
        self._cache = (work / "cache").resolve()
        self._sent = sent = _gift(pair.a, "head")
        self._gans = {
            name: _gift(pair.a, kind)
            for name, kind in GANS.items()
            if (work / f"{pair.a.folder}_{kind}").exists() or "MAKE_NO_GAN" not in os.environ
        }
        self._real = work / f"real_{pair.a.folder}"
        if not self._real.exists():
            copy_real_images(sent, _images(pair.a), self._real, _settings(pair.a))
        self._whole: Path | None = None
        if network == CNN:  # with the plain GAN, whose images its labels are for
            self._gans = {"A's GAN": _gift(pair.a, "plain")}
        if network == CNN or "ENCODER" in os.environ:
            kind = CNN if network == CNN else ALL_LAYERS
            folder = _gift(pair.a, "plain") if network == CNN else sent
            self._whole = with_model(kind, folder, self._real, work / f"networks_{pair.a.folder}")
            if network == CNN:
                self._gans = dict.fromkeys(self._gans, self._whole)
        self._space = self._load(pair)
        self._prepared, _ = prepare_space(
            self._space, self._cache, note=lambda _: None, on_progress=ignore_progress
        )
        self._compute = Compute(device="cpu", threads=1, precision="float32")
        configure_torch(self._compute)
        images = (*self._prepared.images, *self._prepared.unused)
        seen = patients_seen(images, read_donor(sent).train_images)
        self._images = ImageTable(image for image in images if image.patient not in seen)
        self._is_within = pair.a is pair.b

    def _load(self, pair: Pair) -> Space:
        overrides = [
            *_settings(pair.b),
            "data.train_patients=null",
            f"data.image_size={self._network.image_size_px}",
            "budget.steps_per_epoch=8",
            "final=null",
        ]
        return load_space(
            Path("gan_ratio_cpu"),
            overrides,
            data=_images(pair.b),
            weights_dir=Path(os.environ["WEIGHTS"]),
        )

    def missing_arms(self, known: Mapping[str, list[float]]) -> list[Arm]:
        """Return the arms that have no score yet."""
        wanted = os.environ.get("ARMS", ".*")
        return [
            arm
            for arm in self._arms()
            if arm.name not in known and (arm.name == ALONE or re.fullmatch(wanted, arm.name))
        ]

    def score(self, arm: Arm, count: int) -> list[float]:
        """Return the AUROC of an arm in each draw of B's patients, on the others."""
        contexts = [
            self._context(draw, count, with_others=arm.name == OTHERS)
            for draw in range(self._network.draws)
        ]
        settings = self._space.settings
        experiments = [replicate(arm, settings, draw, "unused") for draw in range(len(contexts))]
        runs = [*zip(experiments, contexts, strict=True)]
        is_plain = arm.parameters.augmentation == "none" and arm.control != "donor"
        if arm.parameters.trainable != "head" or not is_plain:
            return [score(experiment, context) for experiment, context in runs]
        trainings = [TrialTraining(experiment, context) for experiment, context in runs]
        train_heads(trainings)
        return [
            test_score(training, context)
            for training, context in zip(trainings, contexts, strict=True)
        ]

    def _context(self, draw: int, count: int, *, with_others: bool = False) -> RunContext:
        prepared = self._sample(draw, count, with_others=with_others)
        return RunContext(prepared=prepared, cache=self._cache, compute=self._compute)

    def _sample(self, draw: int, count: int, *, with_others: bool) -> SplitData:
        """Return B's images in a draw: those to train on, to choose the epoch by, and to score."""
        fixed = patients_in_order(self._images, seed=len(PAIRS))[:VALIDATION_PATIENTS]
        rest = ImageTable(image for image in self._images if image.patient not in {*fixed})
        order = patients_in_order(rest, seed=100 + draw)
        others = 0 if self._is_within else OTHER_PATIENTS
        train = order[: count + others] if with_others else order[:count]
        side_of = dict.fromkeys(order[count + others :], TEST)
        side_of |= dict.fromkeys(train, "train")
        side_of |= dict.fromkeys(fixed, "val_a")
        images = (
            replace(image, side=side_of[image.patient])
            for image in self._images
            if image.patient in side_of
        )
        return replace(self._prepared, images=tuple(images), unused=())

    def _arms(self) -> Iterator[Arm]:
        """Yield the arms, B alone first."""
        base = dict(self._network.parameters)
        yield _arm(ALONE, base)
        if not self._is_within:
            yield _arm(OTHERS, base)
        if base.get("trainable") == "head":
            statistics = {"source": "statistics", "statistics.path": str(self._sent)}
            yield from self._mixed("A's statistics", base | statistics)
        real = {"source": "folder", "folder.path": str(self._real.resolve())}
        yield from self._mixed("A's real images", base | real, pool=self._real_pool())
        yield from self._classifiers(base)
        affine: dict[str, Value] = {"augmentation": "affine", "degrees": 7, "views": 2}
        yield _arm(AUGMENTED, base | affine)
        yield next(self._mixed(REPEATED, base | {"source": "duplicate"}, pool=None))
        for name, folder in self._gans.items():
            images = base | {"source": "generator", "generator.path": str(folder)}
            yield from self._mixed(f"{name}, its classes", images)
            yield from self._mixed(f"{name}, A's labels", images | {"labels": "donor"})

    def _real_pool(self) -> int:
        """Return how many of A's real images suffice for the class shares of every draw."""
        counts = np.array([*read_donor(self._sent).class_counts.values()])
        shares = np.bincount(self._images.labels) / len(self._images)
        return min(POOL, int(0.7 * (counts / shares).min()))

    def _mixed(
        self, name: str, parameters: Mapping[str, Value], pool: int | None = POOL
    ) -> Iterator[Arm]:
        """Yield the arm of a source of extra images, with a weight of .5 and of .1."""
        mix: dict[str, Value] = {**parameters, "synthetic_ratio": self._network.ratio}
        if pool:
            mix["pool_size"] = pool
        for weight, suffix in ((0.5, ""), (0.1, LIGHT)):
            yield _arm(name + suffix, {**mix, "synthetic_weight": weight})

    def _classifiers(self, base: Mapping[str, Value]) -> Iterator[Arm]:
        """Yield A's classifier as it is, and a training that starts there; or A's encoder."""
        is_frozen = base.get("trainable") == "head"
        donor = self._sent if is_frozen else self._whole
        parameters = dict(base) if is_frozen else {**base, "weights": "none"}
        yield _arm(HEAD, parameters, control="donor", donor=donor)
        yield _arm(START, parameters, control="donor_start", donor=donor)
        if is_frozen and self._whole:
            weights = str(self._whole / "model")
            yield _arm(ENCODER, {**base, "weights": weights, "input_size": 96})

    def look_before(self, count: int) -> dict[str, list[float]]:
        """Return what B can tell beforehand from its training patients, in each draw.

        These are the AUROC of A's classifier on them, the share of their images that it calls by
        their class (the worse class), the distance between A's and B's class means, in standard
        deviations of A's features (root mean square over features and classes), and the AUROC of a
        linear classifier of B's own features, cross-validated over patients.
        """
        arm = next(arm for arm in self._arms() if arm.name == ALONE)
        found: dict[str, list[float]] = {"AUROC": [], "agreement": [], "distance": [], "own": []}
        for draw in range(self._network.draws):
            context = self._context(draw, count)
            experiment = replicate(arm, self._space.settings, draw, "unused")
            train = side_image_set("train", context.prepared, self._cache)
            features = TrialNetwork(experiment, context).plain_features(train).astype(np.float64)
            names = context.prepared.class_names
            tensors = donor_tensors(self._sent, names, arm.parameters, experiment.settings)
            of_a = {key: value.double().numpy() for key, value in tensors.items()}
            logits = features @ of_a["weight"].T + of_a["bias"]
            results = np.exp(logits - logits.max(axis=1, keepdims=True))
            results /= results.sum(axis=1, keepdims=True)
            found["AUROC"].append(auroc(train.labels, results, positive=context.prepared.positive))
            right = results.argmax(axis=1) == train.labels
            classes = range(len(names))
            found["agreement"].append(
                float(min(right[train.labels == label].mean() for label in classes))
            )
            deviations = [
                (features[train.labels == label].mean(axis=0) - of_a["means"][label]) ** 2
                / np.diagonal(of_a["covariances"][label]).clip(1e-6)
                for label in classes
            ]
            found["distance"].append(float(np.sqrt(np.mean(deviations))))
            patients = context.prepared.side("train").patients
            own = cross_val_predict(
                make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)),
                features,
                train.labels,
                groups=patients,
                cv=StratifiedGroupKFold(5, shuffle=True, random_state=draw),
                method="predict_proba",
            )
            found["own"].append(auroc(train.labels, own, positive=context.prepared.positive))
        return found


def judge_rules(record: dict[str, Any]) -> Iterator[Figure]:
    """Choose the threshold of each rule on some pairs, and yield how often it is right on others.

    A cell is a gift at a number of patients; it is predicted to gain if the figure that B can
    compute beforehand, its mean over draws, is on the better side of the threshold.
    """
    for rule, sign in (("AUROC", 1), ("agreement", 1), ("distance", -1), ("AUROC - own", 1)):
        cells: dict[bool, list[tuple[float, bool]]] = {True: [], False: []}
        for pair_name, by_count in record["before"].items():
            for count, figures in by_count.items():
                value = sign * _mean_before(figures, rule)
                by_arm = record["scores"][FROZEN][pair_name][count]
                for arm in by_arm:
                    if arm.startswith(("A's", START)) and not arm.endswith(LIGHT):
                        is_gain = gain(by_arm, arm)[0] > 0
                        cells[pair_name in CHOSEN_ON].append((value, is_gain))
        if not (cells[True] and cells[False]):
            continue
        values = sorted({value for value, _ in cells[True]})
        thresholds = [
            values[0] - 1e-9,
            *((low + high) / 2 for low, high in itertools.pairwise(values)),
        ]
        chosen = max(thresholds, key=lambda threshold: _share_right(cells[True], threshold))
        for where, is_chosen_on in (("on cells that chose it", True), ("on others", False)):
            share = _share_right(cells[is_chosen_on], chosen)
            name = f"two_hospitals: rule {rule} (threshold {sign * chosen:.3f}), right {where}"
            name += f", of {len(cells[is_chosen_on])}"
            yield figure(name, share, "share", "" if is_chosen_on else ">= 0.8")


def _mean_before(figures: Mapping[str, list[float]], rule: str) -> float:
    if rule == "AUROC - own":
        return float(np.subtract(figures["AUROC"], figures["own"]).mean())
    return float(np.mean(figures[rule]))


def _share_right(cells: Sequence[tuple[float, bool]], threshold: float) -> float:
    return float(np.mean([(value > threshold) == is_gain for value, is_gain in cells]))


def _arm(
    name: str,
    parameters: Mapping[str, Value],
    control: DonorControl | None = None,
    donor: Path | None = None,
) -> Arm:
    return Arm(
        name=name,
        role="donor" if control else "finalist",
        trial_label="#0",
        parameters=parameters_from(dict(parameters)),
        control=control,
        donor=donor,
    )


def _settings(hospital: Hospital) -> list[str]:
    """Return the settings of a hospital's images."""
    classes = ["data.classes=auto"] if hospital is SAKHA else []
    return [*hospital.overrides, *classes]


def _images(hospital: Hospital) -> Path:
    """Return the folder of a hospital's images; NIH's classes get the names of Kermany's."""
    given = Path(os.environ[hospital.folder])
    if hospital is not NIH:
        return given
    folder = Path(os.environ["WORK"]) / "xrays_NIH"
    if not folder.exists():
        classes = sorted(path for path in given.iterdir() if path.is_dir())
        for source, name in zip(classes, ("NORMAL", "PNEUMONIA"), strict=True):
            shutil.copytree(source, folder / name)
    return folder


def _gift(hospital: Hospital, kind: str) -> Path:
    """Return the folder with a kind of gift of a hospital, which is made if it is missing."""
    work = Path(os.environ["WORK"])
    folder = work / f"{hospital.folder}_{kind}"
    if not folder.exists():
        overrides = [
            *_settings(hospital),
            "source=gan",
            f"data.train_patients={hospital.patients}",
            f"gan.steps={hospital.steps}",
            "resources.cpus_per_trial=1",
        ]
        if kind == "features":
            overrides += ["gan.features=imagenet", "gan.z_dim=128"]
        generator_train(
            Path("gan_ratio_cpu"),
            out=folder,
            data=_images(hospital),
            overrides=overrides,
            weights_dir=Path(os.environ["WEIGHTS"]),
            cache=work / "cache",
            without_generator=kind == "head",
        )
    return folder.resolve()
