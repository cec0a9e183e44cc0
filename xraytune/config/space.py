"""The space of a study: what each parameter may be, and when it counts.

A `Space` is compiled to what Optuna calls a define-by-run function, `Space.suggest(trial)`: parents come before the
parameters that depend on them, constants are not asked for, and a parameter whose condition does not hold is left out,
so that its default applies. Each point of a space is a different trial: what a source does not use depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from xraytune.config.document import write_yaml
from xraytune.config.domains import Choices, Domain, Suggester, Value
from xraytune.config.fields import parameter_fields, parameters_from
from xraytune.config.resolved import parameters_content, relative_value, settings_content
from xraytune.config.settings import Experiment, Parameters, Settings
from xraytune.errors import ConfigError, Problem
from xraytune.records import Json

COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "gt": lambda value, limit: value > limit,
    "ge": lambda value, limit: value >= limit,
    "lt": lambda value, limit: value < limit,
    "le": lambda value, limit: value <= limit,
}

Point: TypeAlias = dict[str, Value]
"""Values by dotted name; a parameter that does not count at this point is not in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """`when: {source: [duplicate, gan]}` or `when: {classical: {ge: 1, lt: 3}}`.

    Attributes:
        parameter: Dotted name; where it is left out itself, the condition does not hold.
        one_of: The values it may have; None: what `limits` say.
        limits: Comparisons that all hold, by name; none where values are listed.
    """

    parameter: str
    one_of: tuple[Value, ...] | None = None
    limits: tuple[tuple[str, float], ...] = ()

    def holds(self, point: Point) -> bool:
        """Whether it holds at a point that has all parents' values."""
        if self.parameter not in point:
            return False
        value = point[self.parameter]
        if self.one_of is not None and value not in self.one_of:
            return False
        return not self.limits or (
            isinstance(value, int | float) and all(COMPARISONS[name](value, limit) for name, limit in self.limits)
        )

    def joined(self, other: Condition) -> Condition:
        """The condition, on the same parameter, that holds when both do."""
        limits = tuple(sorted({*self.limits, *other.limits}))
        listed = self.one_of if self.one_of is not None else other.one_of
        if listed is None:
            return Condition(parameter=self.parameter, limits=limits)
        accepted = tuple(value for value in listed if all(c.holds({self.parameter: value}) for c in (self, other)))
        return Condition(parameter=self.parameter, one_of=accepted)

    def spec(self) -> Json:
        """As the space file says it."""
        if self.one_of is None:
            return dict(self.limits)
        return self.one_of[0] if len(self.one_of) == 1 else list(self.one_of)

    def __str__(self) -> str:
        if self.one_of is not None:
            return f"{self.parameter} is {Choices(self.one_of)}"
        words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
        return f"{self.parameter} is " + " and ".join(f"{words[name]} {limit:g}" for name, limit in self.limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSpec:
    """One parameter of a space: its dotted name, its domain, and at most one condition on each other parameter."""

    name: str
    domain: Domain
    when: tuple[Condition, ...] = ()

    def counts_at(self, point: Point) -> bool:
        """Whether all conditions hold at a point that has all parents' values."""
        return all(condition.holds(point) for condition in self.when)

    def spec(self) -> dict[str, Json]:
        """As the space file says it."""
        when: dict[str, Json] = {condition.parameter: condition.spec() for condition in self.when}
        return {**self.domain.spec(), **({"when": when} if when else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What a search searches. Made by `load_space`, which checks it: any point of it can run.

    Attributes:
        settings: Everything but the parameters; paths are absolute.
        specs: All parameters that can count, those that the file leaves to their defaults included, parents first.
        points_to_evaluate: Points to try first; the values of open parameters alone.
    """

    settings: Settings
    specs: tuple[ParameterSpec, ...]
    points_to_evaluate: tuple[Point, ...] = ()

    @property
    def searched(self) -> tuple[str, ...]:
        """The names of the parameters that are open."""
        return tuple(spec.name for spec in self.specs if spec.domain.is_open)

    def suggest(self, trial: Suggester) -> Parameters:
        """The parameters of one trial, as its sampler chooses them."""
        point: Point = {}
        for spec in self.specs:
            if spec.counts_at(point):
                point[spec.name] = spec.domain.suggest(trial, spec.name)
        return parameters_from(point)

    def experiment(self) -> Experiment:
        """The experiment of a space in which nothing is open, or that of the first line of its `points_to_evaluate`.

        Raises:
            ConfigError: Something is open, and that line does not say what.
        """
        start = self.points_to_evaluate[0] if self.points_to_evaluate else {}
        point: Point = {}
        still_open = []
        for spec in self.specs:
            if not spec.counts_at(point):
                continue
            if spec.name in start or not spec.domain.is_open:
                point[spec.name] = start[spec.name] if spec.name in start else spec.domain.corners(())[0]
            else:
                still_open.append(spec.name)
        if still_open:
            what = f"still open: {', '.join(still_open)}"
            fix = "choose first: xraytune export STUDY -o best.yaml, or say it in the first line of points_to_evaluate"
            raise ConfigError(Problem(what, self.settings.name, fix))
        return Experiment(settings=self.settings, parameters=parameters_from(point))

    def initial_points(self) -> tuple[Point, ...]:
        """`points_to_evaluate` as Optuna's `enqueue_trial` takes it: flat names, open parameters alone, each point once.

        Lines that differ in a parameter which an override has fixed are one point.
        """
        points = [dict(point) for point in self.points_to_evaluate]
        return tuple(point for place, point in enumerate(points) if point not in points[:place])

    def nearest_initial_point(self, values: Point) -> Point:
        """What of a trial's settings, maybe of another space, this one can begin with: its open parameters."""
        known: Point = {}
        for spec in self.specs:
            if spec.counts_at(known):
                if not spec.domain.is_open:
                    (known[spec.name],) = spec.domain.corners(())
                elif spec.name in values and spec.domain.contains(values[spec.name]):
                    known[spec.name] = values[spec.name]
        return {name: value for name, value in known.items() if name in self.searched}

    def grid(self) -> Iterator[Point]:
        """Every distinct point, as `enqueue_trial` takes it; the first parameter changes slowest.

        Raises:
            ConfigError: An open parameter is a continuous range.
        """
        endless = [spec.name for spec in self.specs if spec.domain.points() is None]
        if endless:
            what = f"sampler: grid cannot list the values of {', '.join(endless)}"
            raise ConfigError(Problem(what, self.settings.name, "give step: or values:"))
        searched = set(self.searched)
        points = walk(self.specs, lambda spec: spec.domain.points() or ())
        return ({name: value for name, value in point.items() if name in searched} for point in points)

    def points(self) -> tuple[Point, ...]:
        """What the first trials are, by their numbers: `initial_points`; of a grid every point, those like them first."""
        starts = self.initial_points()
        if not self._is_grid:
            return starts
        grid = list(self.grid())
        first = [next((point for point in grid if start.items() <= point.items()), start) for start in starts]
        return (*first, *(point for point in grid if point not in first))

    def trial_budget(self) -> int:
        """How many trials a search of it asks for; of a grid no more than it has points."""
        trials = self.settings.budget.trials
        return min(trials, len(self.points())) if self._is_grid else trials

    @property
    def _is_grid(self) -> bool:
        return self.settings.sampler.name == "grid"

    def combinations(self, *names: str) -> tuple[tuple[Value, ...], ...]:
        """The combinations of values of some parameters that trials may have; of a range, its bounds."""
        return tuple(
            dict.fromkeys(tuple(point.get(name) for name in names) for point in corner_points(self.specs, names))
        )

    def networks(self) -> tuple[tuple[str, str], ...]:
        """Each backbone with the weights that trials may start it from; defaults, where a condition leaves one out."""
        names = ("backbone", "weights")
        defaults = [parameter_fields()[name].default for name in names]
        return tuple(
            dict.fromkeys(
                (str(backbone or defaults[0]), str(weights or defaults[1]))
                for backbone, weights in self.combinations(*names)
            )
        )

    def identity(self) -> dict[str, Json]:
        """All that makes this the space it is, as plain JSON: equal identities may share a study."""
        parameters: dict[str, Json] = {spec.name: spec.spec() for spec in self.specs}
        return {
            **self.settings.identity(),
            "parameters": parameters,
            "points_to_evaluate": [dict(point) for point in self.points_to_evaluate],
        }

    def to_yaml(self, relative_to: Path) -> str:
        """The resolved file, defaults included, which `load_space` reads back as an equal space.

        Args:
            relative_to: The folder that the file will lie in; paths are written relative to it.
        """
        content = settings_content(self.settings, relative_to)
        content["parameters"] = parameters_content({spec.name: spec.spec() for spec in self.specs}, relative_to)
        if self.points_to_evaluate:
            content["points_to_evaluate"] = [
                {name: relative_value(name, value, relative_to) for name, value in point.items()}
                for point in self.points_to_evaluate
            ]
        return write_yaml(content)


def walk(specs: Iterable[ParameterSpec], values: Callable[[ParameterSpec], Iterable[Value]]) -> Iterator[Point]:
    """Every point that takes one of `values(spec)` for each parameter that counts there. Parents come first."""
    remaining = tuple(specs)

    def extend(point: Point, index: int) -> Iterator[Point]:
        if index == len(remaining):
            yield dict(point)
            return
        spec = remaining[index]
        if not spec.counts_at(point):
            yield from extend(point, index + 1)
            return
        for value in values(spec):
            yield from extend({**point, spec.name: value}, index + 1)

    return extend({}, 0)


def family_of(names: Iterable[str], specs: Mapping[str, ParameterSpec]) -> set[str]:
    """The parameters and all that they depend on, those included that the specs do not know."""
    family: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in family:
            family.add(name)
            waiting += [condition.parameter for condition in specs[name].when] if name in specs else []
    return family


def corner_points(specs: Sequence[ParameterSpec], names: Iterable[str]) -> Iterator[Point]:
    """Points of some parameters and their family: all choices, the ends of ranges, and each condition met both ways."""
    family = family_of(names, {spec.name: spec for spec in specs})
    cuts: dict[str, list[float]] = {}
    for condition in (condition for spec in specs for condition in spec.when):
        numbers = [value for value in condition.one_of or () if isinstance(value, int | float)]
        cuts.setdefault(condition.parameter, []).extend([*numbers, *(limit for _, limit in condition.limits)])
    relevant = [spec for spec in specs if spec.name in family]
    return walk(relevant, lambda spec: spec.domain.corners(cuts.get(spec.name, ())))
