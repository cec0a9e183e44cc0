"""The race: a search's last rung, which trains its leaders again with new seeds instead of trusting the best of many scores.

The leaders are the best complete trials on val-B. In each round, every leader in the race is trained once, with the seeds of
that round, so all of them draw the same stream of real images and are compared by paired differences. After each round from
the third on, leaders that are significantly worse than the best mean are eliminated. The state follows from the journal and
`race/runs.jsonl` alone, so an interrupted race resumes and ends as if it had not been interrupted.

Source: Maron & Moore 1997, "The Racing Algorithm: Model Selection for Lazy Learners"; Birattari et al. 2002, "A Racing
Algorithm for Configuring Metaheuristics" (F-Race, with t-tests as in irace).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

from xraytune.config.fields import parameters_from
from xraytune.config.settings import Experiment, Parameters, Settings, without_gates
from xraytune.errors import Problem, StudyError
from xraytune.pipeline.prepare import Prepared
from xraytune.search.controller import SearchController
from xraytune.search.run_list import Run, RunList, complete_folder, ended_rows
from xraytune.search.study import StudyFolder, damage_explained, environment, other_releases
from xraytune.seeding import derive_seed

RACE_FOLDER = "race"
COLUMNS = ("leader", "repeats", "mean", "SD", "winner's lead (95 % interval)", "state")
"""Of `Race.table`. Mean and standard deviation are over repeats, on val-B."""
FIRST_TEST = 3
"""The first round after which leaders are compared: two differences say almost nothing about their spread."""
LEVEL = 0.05
_PLACES = 100
"""A repeat has the number 100 * trial + round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """A trial in the race.

    Attributes:
        scores: The val-B score of its repeat in each round that it ran, up to the last round that counts.
        is_racing: Whether it is in the race, or was at the end.
        failure: Why a repeat failed, which removes the leader from the race; else "".
    """

    number: int
    scores: tuple[float, ...] = ()
    is_racing: bool = True
    failure: str = ""

    @property
    def mean(self) -> float:
        """The mean over its repeats; NaN without any."""
        return fmean(self.scores) if self.scores else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """The state of a race.

    Attributes:
        leaders: Those still in the race by their mean, then those eliminated, the latest first.
        rounds: Rounds that all leaders still in the race have completed.
        repeats: `budget.repeats`, the most rounds.
        missing: The repeats to train next: trial and round.
        ended: Number of repeats that have ended, including those that failed.
        seconds: Their total wall time.
    """

    leaders: tuple[Leader, ...]
    rounds: int
    repeats: int
    missing: tuple[tuple[int, int], ...] = ()
    ended: int = 0
    seconds: float = 0.0

    @property
    def racing(self) -> tuple[Leader, ...]:
        """The leaders that are still in the race, or were at the end."""
        return tuple(one for one in self.leaders if one.is_racing)

    @property
    def left(self) -> int:
        """The maximum number of repeats still to be trained."""
        return max(len(self.racing) * (self.repeats - self.rounds), len(self.missing)) if self.missing else 0

    @property
    def order(self) -> tuple[int, ...]:
        """The leaders' trials, the winner first; empty before the third round, when val-B still decides."""
        return tuple(one.number for one in self.leaders) if self.racing and self.rounds >= FIRST_TEST else ()

    def table(self) -> Iterator[tuple[str, ...]]:
        """Yield a row of `COLUMNS` for each leader."""
        winner = self.leaders[0]
        for one in self.leaders:
            mean = f"{one.mean:.4f}" if one.scores else ""
            spread = f"{stdev(one.scores):.4f}" if len(one.scores) > 1 else ""
            lead = _lead_text(winner, one) if one is not winner and min(len(one.scores), len(winner.scores)) > 1 else ""
            yield f"#{one.number}", f"{len(one.scores)}", mean, spread, lead, self._state(one)

    def _state(self, one: Leader) -> str:
        if one.failure:
            return f"a repeat failed: {one.failure.splitlines()[0]}"
        if not one.is_racing:
            return f"eliminated after round {len(one.scores)}"
        if self.missing:
            return "racing"
        return "winner" if one is self.leaders[0] else "not significantly worse"

    @property
    def summary(self) -> str:
        """The state of the race in one line."""
        first, *others = self.leaders
        if not self.order:
            state = f"{len(self.racing)} leaders, {self.rounds} of {self.repeats} rounds"
            return f"race: {state}; val-B decides until the first {FIRST_TEST} are complete"
        state = f"{'after' if self.missing else 'ended after'} {self.rounds} of {self.repeats} rounds"
        lead = f"race {state}: #{first.number} has the best mean of {len(first.scores)} repeats, {first.mean:.4f}"
        second = next((one for one in others if len(one.scores) > 1), None)
        return f"{lead}, {_lead_text(first, second, '95 % interval ')} over #{second.number}" if second else lead


def _difference(one: Leader, other: Leader) -> tuple[float, float, int]:
    """Return mean, standard error and degrees of freedom of the paired difference; both have two repeats or more."""
    differences = [mine - theirs for mine, theirs in zip(one.scores, other.scores, strict=False)]
    return fmean(differences), stdev(differences) / len(differences) ** 0.5, len(differences) - 1


def _lead_text(winner: Leader, other: Leader, what: str = "") -> str:
    """Return the paired difference with its 95 % t-interval over seeds."""
    mean, error, degrees = _difference(winner, other)
    half = float(stdtrit(degrees, 0.975)) * error
    return f"{mean:+.4f} ({what}{mean - half:+.4f} to {mean + half:+.4f})"


def _p_equal(best: Leader, other: Leader) -> float:
    """Return the one-sided p-value of the null hypothesis that the other leader is as good as the best."""
    mean, error, degrees = _difference(best, other)
    if error == 0.0:  # trials that do not depend on their seed
        return 0.0 if mean > 0.0 else 1.0
    return float(stdtr(degrees, -mean / error))


def _significantly_worse(best: Leader, others: Sequence[Leader]) -> set[int]:
    """Return the trials of the leaders to eliminate: Holm's step-down test at 5 % overall."""
    ranked = sorted((_p_equal(best, one), one.number) for one in others)
    worse = set[int]()
    for place, (p_value, number) in enumerate(ranked):
        if p_value >= LEVEL / (len(ranked) - place):
            break
        worse.add(number)
    return worse


def race_of(trials: Sequence[int], repeats: int, rows: Mapping[int, Mapping[str, Any]]) -> Race:
    """Return the state of a race of these trials, the best on val-B first, from the rows of the repeats that have ended."""
    racing, out = [Leader(number=number) for number in trials], list[Leader]()
    missing, done = list[tuple[int, int]](), 0
    while done < repeats and len(racing) > 1:
        found = {one.number: rows[run] for one in racing if (run := repeat_number(one.number, done)) in rows}
        failures = {number: str(row["reason"]) for number, row in found.items() if row["status"] == "failed"}
        out += [replace(one, is_racing=False, failure=failures[one.number]) for one in racing if one.number in failures]
        racing = [one for one in racing if one.number not in failures]
        if any(one.number not in found for one in racing):
            until = max(done + 1, min(FIRST_TEST, repeats))  # before the first test, no round depends on another
            wanted = [(one.number, each) for each in range(done, until) for one in racing]
            missing = [one for one in wanted if repeat_number(*one) not in rows]
            break
        done += 1
        scored = [replace(one, scores=(*one.scores, float(found[one.number]["val_b_score"]))) for one in racing]
        racing = sorted(scored, key=lambda one: -one.mean)
        if done >= FIRST_TEST:
            worse = _significantly_worse(racing[0], racing[1:])
            out += [replace(one, is_racing=False) for one in racing[::-1] if one.number in worse]
            racing = [one for one in racing if one.number not in worse]
    own = [row for number, row in rows.items() if number // _PLACES in trials]
    return Race(
        leaders=(*racing, *out[::-1]),
        rounds=done,
        repeats=repeats,
        missing=tuple(missing),
        ended=len(own),
        seconds=sum(float(row["seconds"]) for row in own),
    )


def read_race(
    folder: StudyFolder, settings: Settings, rows: Iterable[Mapping[str, Any]], *, without: Container[int] = ()
) -> Race | None:
    """Return the race of a study's leaders; None without `budget.repeats`, or with fewer than two leaders.

    `rows` are those of its ended trials, read only if there is a race; repeats in `without` count as not trained. Raises
    StudyError if `race/runs.jsonl` is damaged.
    """
    leaders = _leaders(settings, rows)
    if len(leaders) < 2:
        return None
    runs = StudyFolder(folder.path / RACE_FOLDER)
    repeats = {number: row for number, row in ended_rows(runs).items() if number not in without}
    with damage_explained(runs.runs_path):
        return race_of(leaders, settings.budget.repeats, repeats)


def _leaders(settings: Settings, rows: Iterable[Mapping[str, Any]]) -> list[int]:
    """Return the best complete trials on val-B with different settings; ties go to the simplest."""
    if not settings.budget.repeats:
        return []
    complete = [(parameters_from(row["parameters"]), row) for row in rows if row["status"] == "complete"]
    complete.sort(key=lambda one: (-one[1]["val_b_score"], one[0].simplicity, one[1]["number"]))
    first = dict[Parameters, int]()
    for parameters, row in complete:
        first.setdefault(parameters, row["number"])
    return [*first.values()][: settings.budget.leaders]


def repeat_number(trial: int, round_: int) -> int:
    """Return the number of a repeat in `race/trials`; rounds are counted from 0."""
    return _PLACES * trial + round_


def repeat(settings: Settings, parameters: Parameters, round_: int) -> Experiment:
    """Return the settings that train a leader again, with the seeds of a round.

    The seeds differ from those of the search and of all replicates of `confirm`. No gate refuses its synthetic images, since
    that would bias the selection.
    """
    seed = derive_seed(settings.seed, "race", round_) % 2**31
    if parameters.generator is not None:
        own = derive_seed(parameters.generator.seed, "race", round_) % 2**31
        parameters = parameters.with_generator(seed=own)
    return Experiment(settings=without_gates(settings.model_copy(update={"seed": seed})), parameters=parameters)


def hold_race(search: SearchController, prepared: Prepared, *, run: Callable[[RunList], None]) -> None:
    """Train with `run` the repeats that a search's race still needs; those that failed at an earlier start, again.

    The trials of the search have ended. The repeats use its time budget and clock.

    Raises:
        StudyError: The earlier repeats were trained with other versions of torch or torchvision.
    """
    folder, settings = search.folder, search.space.settings
    runs_folder, rows = StudyFolder(folder.path / RACE_FOLDER), search.journal.rows()
    again = {number for number, row in ended_rows(runs_folder).items() if row["status"] == "failed"}
    while search.has_time() and (race := read_race(folder, settings, rows, without=again)):
        if race.ended:
            search.callbacks.note(race.summary)
        if not race.missing:
            return
        complete_folder(runs_folder, prepared, lambda: environment(folder.compute()))
        if other := other_releases(runs_folder):
            what = f"the repeats of this race were {other}, so they are not comparable with new ones"
            fix = f"install those versions, or move {RACE_FOLDER}/ away to train all repeats again"
            raise StudyError(Problem(what, runs_folder.path, fix))
        repeats = [
            Run(
                number=repeat_number(trial, round_),
                label=f"#{trial}, repeat {round_ + 1}",
                experiment=repeat(settings, search.journal.parameters(trial), round_),
            )
            for trial, round_ in race.missing
        ]
        run(
            RunList(
                runs_folder,
                repeats,
                what="repeats",
                generator_need=search.generator_need,
                retries=settings.resources.retries,
                search=search,
            )
        )
        again -= {one.number for one in repeats}
