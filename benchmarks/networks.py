"""Whether a generator helps, by network, and with whose labels (docs/studies/networks.md).

    make bench ONLY=networks DATA=chest_xray WEIGHTS=weights HOSPITAL_A=hospital_a PICTURES=docs/studies

`hospital_a` is that of `benchmarks/other_hospital.py`, whose hospitals, draws of patients and
read-out these are.

Plan, committed before the first run:

- Three networks of B: a linear head on a frozen MobileNetV2 at 128 px (lr .003); a CNN of three
  layers (`small_cnn`) at 32 px, trained from random weights (lr .001); all layers of a MobileNetV2 at
  96 px, from ImageNet weights (lr .0003). 27 epochs of one pass at 32 real images, at least 8 steps;
  the epoch that is best on val-A.
- B has 25 or 100 patients, in eight draws (frozen) or five; its scanner is as A's, or another
  detector. With 400 patients, two draws are all that leave enough others to score. All layers of
  MobileNetV2 are trained in three draws, and of 25 and 100 patients only, since a training takes
  minutes on a CPU.
- Extra images of a step: four per real one with a weight of .5 (frozen), or two with .5, as by hand,
  from 2,000 of the GAN's images, or from half as many of A's real images as A has.
- Arms: B alone; with augmentation; its images repeated; A's GAN with its own classes, with soft
  labels of A's frozen classifier, and with those of A's network of the same kind; A's real images;
  A's classifier of the same kind as it is, and B's training started at it.
- A's network of the same kind is trained on its 1,200 patients with augmentation: `small_cnn` for
  30 epochs, all layers of MobileNetV2 for 8.
- The latter network is also B's encoder: B trains a linear head on its features at 96 px, in eight
  draws and with both scanners. Its gain is that over the frozen MobileNetV2 of B alone.
- Against the gains by hand, a gain holds if it differs by at most two standard errors of both.
  Those by hand of the small CNN are of another one of three layers.

The plan's augmentation was `classical: 2`: flips, rotations up to 7 degrees, shifts, scales and
contrast. That setting is gone; `affine` with 7 degrees is nearly the same, without the flips.

The first plan had no larger pool: four images of the GAN per image of B in all. With 25 patients, the
donor's labels then gained +.0012 (.0025) in the frozen network; by hand, steps drew from 2,000 images.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, figure
from benchmarks.other_hospital import ALONE, LOWEST, copy_real_images, gain, score_arms
from xraytune.base.figures import COLOURS, new_figure
from xraytune.base.files import read_json, write_json
from xraytune.base.records import Json
from xraytune.confirm.arms import Arm
from xraytune.model.train import train
from xraytune.space.document import write_yaml
from xraytune.space.domains import Value
from xraytune.space.fields import parameters_from
from xraytune.synth.donor import read_donor

NEEDS = ("DATA", "WEIGHTS", "HOSPITAL_A", "PICTURES")
AUGMENTED = "B alone, augmented"
OF_CLASS = "A's GAN, its classes"
OF_FROZEN = "A's GAN, labels of A's frozen classifier"
OF_KIND = "A's GAN, labels of A's same network"
REAL = "A's real images"
HEAD = "A's classifier"
START = "started at A's classifier"
ENCODER = "A's network as B's encoder"


@dataclass(frozen=True)
class Kind:
    """A network of B's, with what its training takes.

    Attributes:
        model_epochs: Epochs of A's whole network of this kind; 0 if A's frozen classifier is one.
        model_of: The kind whose network of A's is the encoder, if B trains a head on one.
        patients: Numbers of B's patients.
    """

    parameters: Mapping[str, Value]
    image_size_px: int
    ratio: float
    draws: int
    shifts: tuple[str, ...] = ("as A's", "another detector")
    model_epochs: int = 0
    model_of: str = ""
    patients: tuple[int, ...] = (25, 100, 400)


FROZEN = "frozen MobileNetV2"
ALL_LAYERS = "all layers of MobileNetV2"
KINDS = {
    FROZEN: Kind({"backbone": "mobilenet_v2", "trainable": "head", "lr": 3e-3}, 128, 4.0, draws=8),
    "small CNN": Kind(
        {"backbone": "small_cnn", "weights": "none", "lr": 1e-3},
        32,
        2.0,
        draws=5,
        model_epochs=30,
    ),
    ALL_LAYERS: Kind(
        {"backbone": "mobilenet_v2", "lr": 3e-4},
        96,
        2.0,
        draws=3,
        model_epochs=8,
        patients=(25, 100),
    ),
    ENCODER: Kind(
        {"backbone": "mobilenet_v2", "trainable": "head", "lr": 3e-3},
        96,
        4.0,
        draws=8,
        model_of=ALL_LAYERS,
    ),
}
MOST_DRAWS = {400: 2}
WEIGHT = 0.5
POOL = 2000
AFFINE: dict[str, Value] = {"augmentation": "affine", "degrees": 7}
# By hand: gain and its standard error over eight draws (frozen) or four.
BY_HAND = {
    (FROZEN, "as A's", 25, OF_CLASS): (0.0040, 0.003),
    (FROZEN, "as A's", 25, OF_FROZEN): (0.0178, 0.003),
    (FROZEN, "as A's", 25, REAL): (0.0329, 0.003),
    (FROZEN, "as A's", 25, HEAD): (0.0347, 0.003),
    (FROZEN, "as A's", 100, OF_CLASS): (-0.0005, 0.002),
    (FROZEN, "as A's", 100, OF_FROZEN): (0.0063, 0.002),
    (FROZEN, "as A's", 100, REAL): (0.0163, 0.002),
    (FROZEN, "as A's", 100, HEAD): (0.0179, 0.002),
    (FROZEN, "another detector", 25, OF_CLASS): (0.0216, 0.003),
    (FROZEN, "another detector", 25, OF_FROZEN): (0.0189, 0.003),
    (FROZEN, "another detector", 25, REAL): (0.0240, 0.003),
    (FROZEN, "another detector", 100, OF_CLASS): (0.0043, 0.002),
    (FROZEN, "another detector", 100, OF_FROZEN): (0.0042, 0.002),
    (FROZEN, "another detector", 100, REAL): (0.0069, 0.002),
    ("small CNN", "as A's", 25, OF_CLASS): (0.0323, 0.0073),
    ("small CNN", "as A's", 25, OF_FROZEN): (0.0045, 0.0046),
    ("small CNN", "as A's", 25, REAL): (0.0376, 0.0070),
    ("small CNN", "as A's", 100, OF_CLASS): (0.0029, 0.0011),
    ("small CNN", "as A's", 100, OF_FROZEN): (-0.0155, 0.0017),
    ("small CNN", "as A's", 100, REAL): (0.0075, 0.0009),
}
Scores = dict[str, dict[str, dict[str, dict[str, list[float]]]]]


def measure() -> Iterator[Figure]:
    """Train the arms, write the scores beside the picture, draw it, and yield each gain.

    An arm is not trained again if its scores are there. `KIND` limits it to a network.
    """
    pictures = Path(os.environ["PICTURES"])
    kept = pictures / "networks.json"
    work = Path(os.environ.get("WORK", "networks"))
    real = work / "real"
    if not real.exists():
        copy_real_images(Path(os.environ["HOSPITAL_A"]), Path(os.environ["DATA"]), real)
    scores: Scores = read_json(kept)["scores"] if kept.exists() else {}
    for name, kind in KINDS.items():
        if os.environ.get("KIND", name) != name:
            continue
        sent = Path(os.environ["HOSPITAL_A"]).resolve()
        hospital = with_model(kind.model_of or name, sent, work / "real", work)
        for shift in kind.shifts:
            for patients in kind.patients:
                of_shift = scores.setdefault(name, {}).setdefault(shift, {})
                if kind.model_of:
                    alone = scores[FROZEN][shift][str(patients)][ALONE]
                    of_shift.setdefault(str(patients), {ALONE: alone})
                overrides = [f"data.image_size={kind.image_size_px}", "final=null"]
                of_shift[str(patients)] = score_arms(
                    shift,
                    patients,
                    min(kind.draws, MOST_DRAWS.get(patients, kind.draws)),
                    lambda _, kind=kind, hospital=hospital: _arms(kind, hospital, real.resolve()),  # type: ignore[misc]
                    of_shift.get(str(patients), {}),
                    overrides,
                )
                write_json(kept, {"scores": scores})
    panels = {
        f"{name}\n{shift.replace('as', 'scanner as')}": by_patients
        for name, by_shift in scores.items()
        if not KINDS[name].model_of
        for shift, by_patients in by_shift.items()
    }
    shown = (OF_CLASS, OF_FROZEN, OF_KIND, REAL, HEAD, START, AUGMENTED)
    plot_gains(panels, shown, pictures / "networks.svg")
    for name, by_shift in scores.items():
        for shift, by_patients in by_shift.items():
            for patients_text, by_arm in by_patients.items():
                for arm in by_arm.keys() - {ALONE}:
                    mean, error = gain(by_arm, arm)
                    bar = ""
                    if by_hand := BY_HAND.get((name, shift, int(patients_text), arm)):
                        width = 2 * float(np.hypot(error, by_hand[1]))
                        bar = f"{by_hand[0] - width:.4f} to {by_hand[0] + width:.4f}"
                    where = f"networks: {name}, {shift}, {patients_text} patients, {arm}"
                    yield figure(where, mean, "AUROC", bar)


def with_model(name: str, sent: Path, real: Path, work: Path) -> Path:
    """Return a copy in `work` of the folder that A sent, with A's whole network of a kind.

    The network is trained on A's images, `real`, if it is not there yet.
    """
    kind = KINDS[name]
    if not kind.model_epochs:
        return sent
    hospital = work / name.replace(" ", "_")
    if not (hospital / "model").exists():
        shutil.copytree(sent, hospital, dirs_exist_ok=True)
        parameters = {**kind.parameters, **AFFINE, "schedule": "cosine"}
        space: Json = {
            "name": "hospital-a",
            "data": {"image_size": kind.image_size_px},
            "budget": {"max_epochs": kind.model_epochs},
            "resources": {"cpus_per_trial": int(os.environ.get("THREADS", "2"))},
            "parameters": {name: {"value": value} for name, value in parameters.items()},
        }
        file = work / f"{hospital.name}.yaml"
        file.write_text(write_yaml(space), encoding="utf-8")
        train(
            file,
            out=hospital / "model",
            data=real,
            weights_dir=Path(os.environ["WEIGHTS"]),
            cache=Path("cache").resolve(),
        )
    return hospital.resolve()


def _arms(kind: Kind, hospital: Path, real: Path) -> dict[str, Arm]:
    if kind.model_of:
        parameters = parameters_from({**kind.parameters, "weights": str(hospital / "model")})
        return {
            ENCODER: Arm(name=ENCODER, role="finalist", trial_label="#0", parameters=parameters)
        }
    extra: dict[str, Value] = {"synthetic_ratio": kind.ratio, "synthetic_weight": WEIGHT}
    extra["pool_size"] = POOL
    sent = Path(os.environ["HOSPITAL_A"]).resolve()
    half_of_a = len(read_donor(sent).train_images) // 2
    generator: dict[str, Value] = {"source": "generator", "generator.path": str(sent)}
    donors_labels: dict[str, Value] = {"labels": "donor"}
    sources: dict[str, dict[str, Value]] = {
        ALONE: {},
        AUGMENTED: AFFINE,
        "B's images repeated": {"source": "duplicate", **extra},
        OF_CLASS: generator | extra,
        OF_FROZEN: generator | extra | donors_labels,
        REAL: {**extra, "source": "folder", "folder.path": str(real), "pool_size": half_of_a},
    }
    if kind.model_epochs:
        own = {**generator, "generator.path": str(hospital)}
        sources[OF_KIND] = own | extra | donors_labels
    arms = {
        name: Arm(
            name=name,
            role="finalist",
            trial_label="#0",
            parameters=parameters_from({**kind.parameters, **source}),
        )
        for name, source in sources.items()
    }
    start = dict(kind.parameters)
    if kind.model_epochs:
        start["weights"] = "none"
    for name, control in ((HEAD, "donor"), (START, "donor_start")):
        arms[name] = Arm(
            name=name,
            role="donor",
            trial_label="#0",
            parameters=parameters_from(start),
            control=control,  # type: ignore[arg-type]
            donor=hospital,
        )
    return arms


def plot_gains(
    panels: Mapping[str, dict[str, dict[str, list[float]]]],
    shown: Sequence[str],
    picture: Path,
    lowest: float = LOWEST,
) -> None:
    """Draw the gain of each arm that is `shown`, by number of patients.

    `panels` has the scores by title, number of patients and arm. A gain below `lowest` is written
    as a number.
    """
    with new_figure((picture,), 4.2) as drawing:
        all_axes = np.atleast_1d(drawing.subplots(1, len(panels), sharey=True))
        for axes, (title, by_patients) in zip(all_axes, panels.items(), strict=True):
            axes.axhline(0, color="#444444", linewidth=0.6)
            for number, name in enumerate(shown):
                points = [
                    (place + 0.09 * (number - 3), *gain(by_arm, name))
                    for place, by_arm in enumerate(by_patients.values())
                    if name in by_arm
                ]
                if not points:
                    continue
                places, means, errors = np.array(points).T
                inside = means > lowest
                axes.errorbar(
                    places[inside],
                    means[inside],
                    2 * errors[inside],
                    label=name,
                    color=COLOURS[number % len(COLOURS)],
                    linestyle="none",
                    marker="o" if name != REAL else "s",
                    markersize=4,
                    capsize=2,
                )
                for place, mean in zip(places[~inside], means[~inside], strict=True):
                    text = f"{mean:.2f}".replace("-0", "\u2212")
                    colour = COLOURS[number % len(COLOURS)]
                    axes.text(place, lowest, text, color=colour, ha="center", size=8)
            axes.set_xticks(range(len(by_patients)), [*by_patients])
            axes.set_xlabel("patients of B")
            axes.set_title(title, size=7)
        all_axes[0].set_ylim(lowest - 0.003, None)
        all_axes[0].set_ylabel("gain in AUROC over B alone")
        found = [axes.get_legend_handles_labels() for axes in all_axes]
        by_label = {
            label: one
            for handles, labels in found
            for one, label in zip(handles, labels, strict=True)
        }
        drawing.legend(
            [*by_label.values()],
            [*by_label],
            frameon=False,
            loc="outside lower center",
            ncols=3,
            fontsize=8,
        )
