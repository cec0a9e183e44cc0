"""How often the race of the leaders finds the best of a search's trials, in simulated studies.

Seven complete trials, as in the CPU search of docs/results.md; their true scores have a standard deviation of .002 or .004
between trials. A training varies by .006 with its seeds; in a round, leaders share half of this variance, or none. Four
leaders race for at most five rounds. Regret is the best true score of all trials minus that of the chosen one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.figures import Figure, figure
from xraytune.search.race import race_of, repeat_number
from xraytune.seeding import numpy_generator

_STUDIES, _TRIALS, _LEADERS, _REPEATS, _SEED_SD = 2000, 7, 4, 5, 0.006


def measure() -> Iterator[Figure]:
    """Yield the shares and regrets of each kind of study; print the table."""
    print(
        "| SD of trials | shared variance | best found: maximum, race | regret: maximum, race | repeats | best leader left |"
    )
    print("|---|---|---|---|---|---|")
    for spread in (0.0, 0.002, 0.004, 0.008):
        for shared in (0.0, 0.5):
            found = np.array([_study(seed, spread, shared) for seed in range(_STUDIES)])
            maximum, race, regret, raced_regret, repeats, lost = found.mean(axis=0)
            cells = (f"{maximum:.0%}, {race:.0%}", f"{regret:.4f}, {raced_regret:.4f}", f"{repeats:.1f}", f"{lost:.1%}")
            print(f"| {spread:g} | {shared:.0%} | {' | '.join(cells)} |")
            case = f"SD {spread:g} between trials, {shared:.0%} shared"
            yield figure(f"race: best trial found by the maximum, {case}", maximum, "share")
            yield figure(f"race: best trial found by the race, {case}", race, "share")
            yield figure(f"race: repeats, {case}", repeats, "repeats")
            yield figure(f"race: best leader left, {case}", lost, "share", "<= 0.1")


def _study(seed: int, spread: float, shared: float) -> tuple[float, ...]:
    random = numpy_generator(seed, "race")
    truth = random.normal(0.96, spread, _TRIALS)
    score = truth + random.normal(0.0, _SEED_SD, _TRIALS)
    leaders = np.argsort(-score)[:_LEADERS].tolist()
    stream = random.normal(0.0, _SEED_SD * shared**0.5, _REPEATS)
    own = random.normal(0.0, _SEED_SD * (1 - shared) ** 0.5, (_TRIALS, _REPEATS))
    rows = {
        repeat_number(trial, place): {
            "status": "complete",
            "val_b_score": truth[trial] + stream[place] + own[trial, place],
            "seconds": 0.0,
        }
        for trial in leaders
        for place in range(_REPEATS)
    }
    race = race_of(leaders, _REPEATS, rows)
    winner, best = race.order[0], int(truth.argmax())
    best_leader = max(leaders, key=lambda trial: truth[trial])
    lost = best_leader not in [one.number for one in race.racing]
    used = sum(len(one.scores) for one in race.leaders)
    return leaders[0] == best, winner == best, truth[best] - truth[leaders[0]], truth[best] - truth[winner], used, lost
