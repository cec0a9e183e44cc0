"""The training of a plan's replicates, each to its last step."""

from __future__ import annotations

from dataclasses import asdict, replace

from xraytune.confirm.arms import Plan, replicate
from xraytune.confirm.run_list import Run, complete_folder, train_runs
from xraytune.confirm.study import OpenStudy


def train_replicates(study: OpenStudy, plan: Plan) -> None:
    """Train the runs of a plan that have not ended; raise TrialError if some failed."""
    trainings = plan.trainings.values()
    pairs = ((number, arm) for number in range(plan.replicates) for arm in trainings)
    runs = [
        Run(
            number=place,
            label=f"{arm.name}, replicate {number}",
            experiment=replicate(arm, study.settings, number, plan.test),
        )
        for place, (number, arm) in enumerate(pairs)
    ]
    # Generators of several replicates are trained faster side by side, on one core each, than one by one on more cores.
    compute = replace(study.compute, generator_threads=study.compute.threads)
    complete_folder(study.runs_folder, study.prepared, lambda: {**study.machine(), "compute": {**asdict(compute)}})
    train_runs(study, study.runs_folder, runs, "replicates")
