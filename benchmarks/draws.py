"""Whether intervals over disjoint draws of real patients cover what other draws gain, on real X-rays.

At `_PATIENTS` patients, real images of other patients at ratio 1 are a perfect generator of unknown
gain. Twenty disjoint draws are divided into four groups of five, as many as `confirm` has
replicates; each group's 95 % interval should cover the mean gain of the other fifteen draws, on the
same scored patients. Five orders of the patients make twenty intervals.

    make bench ONLY=draws DATA=chest_xray WEIGHTS=weights
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, figure
from xraytune.base.records import Compute, ignore_progress
from xraytune.confirm.arms import replicate
from xraytune.confirm.curve import real_extra, train_once
from xraytune.confirm.division import Division, patients_in_order
from xraytune.confirm.sealed import TEST
from xraytune.data.prepare import RunContext
from xraytune.nets.compute import pin
from xraytune.space.fields import parameters_from
from xraytune.space.settings import Settings
from xraytune.stats.placements import StructuralComponents, structural_components
from xraytune.stats.verdict import compare
from xraytune.trial.prepare import open_space, prepare_space

NEEDS = ("DATA", "WEIGHTS")
_SPACE = Path("search_spaces/gan_ratio_cpu.yaml")
_PATIENTS, _RATIO, _SPARE = 50, 1.0, 10
_GROUPS, _REPLICATES, _ORDERS = 4, 5, 5
_BASELINE = parameters_from({"backbone": "mobilenet_v2", "trainable": "head", "lr": 3e-3})


def measure() -> Iterator[Figure]:
    """Count the intervals that cover, and those that show the gain."""
    data, weights = (Path(os.environ[name]) for name in NEEDS)
    compute = Compute(device="cpu", threads=1, precision="float32")
    pin(compute)
    covered, shown, gains, widths = 0, 0, list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        space = open_space(_SPACE, ["data.train_patients=null"], data=data, weights_dir=weights)
        prepared, _ = prepare_space(
            space, Path(folder), skip_broken=False, note=print, on_progress=ignore_progress
        )
        context = RunContext(prepared=prepared, cache=Path(folder), compute=compute)
        for order in range(_ORDERS):
            pairs = _draws(space.settings, context, order)
            by_draw = pairs.scores[0] - pairs.scores[1]
            for group in range(_GROUPS):
                inside = [*range(group * _REPLICATES, (group + 1) * _REPLICATES)]
                outside = np.delete(by_draw, inside).mean()
                chosen = replace(
                    pairs, scores=pairs.scores[:, inside], components=pairs.components[:, inside]
                )
                interval = compare(chosen)
                covered += bool(interval.low <= outside <= interval.high)
                shown += bool(interval.low > 0)
                widths.append((interval.high - interval.low) / 2)
            gains.append(float(by_draw.mean()))
    count = _GROUPS * _ORDERS
    yield figure(
        f"draws: intervals of five draws that cover the other fifteen, of {count}",
        covered,
        "intervals",
        ">= 18",
    )
    yield figure(f"draws: intervals above 0, of {count}", shown, "intervals")
    yield figure("draws: mean gain", float(np.mean(gains)), "AUROC")
    yield figure("draws: mean half-width of the intervals", float(np.mean(widths)), "AUROC")


def _draws(settings: Settings, context: RunContext, seed: int) -> StructuralComponents:
    """Return the scores [2, K] and components of networks with and without other patients, on the patients left over."""
    prepared = context.prepared
    patients = patients_in_order(prepared.side("train"), seed)
    size, count = 2 * _PATIENTS + _SPARE, _GROUPS * _REPLICATES
    starts = range(0, count * size, size)
    division = Division(
        numbers=(_PATIENTS,),
        blocks=tuple(tuple(patients[start : start + size]) for start in starts),
        scored=tuple(patients[count * size :]),
    )
    samples = division.samples(prepared)[_PATIENTS]
    perfect = real_extra(_BASELINE, _RATIO)
    results = []
    for arm in (perfect, perfect.model_copy(update={"role": "matched", "parameters": _BASELINE})):
        for draw, drawn in enumerate(samples):
            of_draw = replace(context, prepared=drawn)
            results.append(train_once(replicate(arm, settings, draw, "unused"), of_draw))
    scored = samples[0].side(TEST)
    components = structural_components(
        scored.labels, np.stack(results), scored.patients, prepared.positive
    )
    return components.by_arm(2)
