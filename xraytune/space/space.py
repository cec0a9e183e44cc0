"""The search space of a study: the domain of each parameter, and the condition under which it is active.

`Space.suggest(trial)` is a define-by-run function in Optuna's sense. Parents come before the
parameters that depend on them; constants are not sampled; an inactive parameter is left out and
gets its default. Different points are different trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TypeAlias, get_args

from xraytune.base.errors import ConfigError, MachineError, Problem
from xraytune.base.records import Json
from xraytune.space.backbones import BACKBONES
from xraytune.space.document import write_yaml
from xraytune.space.domains import Choices, Domain, Suggester, Value
from xraytune.space.fields import parameters_from
from xraytune.space.paths import relative_value
from xraytune.space.settings import PACKAGES, SOURCES, Experiment, Parameters, Settings, TaskName

Point: TypeAlias = dict[str, Value]
"""Values of the active parameters by dotted name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """`when: {source: [duplicate, gan]}`.

    Attributes:
        parameter: Dotted name; the condition does not hold where this parameter is inactive.
        one_of: The accepted values.
    """

    parameter: str
    one_of: tuple[Value, ...]

    def holds(self, point: Point) -> bool:
        """Return whether it holds at a point that has the values of all parents."""
        return self.parameter in point and point[self.parameter] in self.one_of

    def joined(self, other: Condition) -> Condition:
        """Return the conjunction with another condition on the same parameter."""
        return replace(self, one_of=tuple(value for value in self.one_of if value in other.one_of))

    def spec(self) -> Json:
        """Return the condition as a space file writes it."""
        return self.one_of[0] if len(self.one_of) == 1 else list(self.one_of)

    def __str__(self) -> str:
        return f"{self.parameter} is {Choices(self.one_of)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSpec:
    """One parameter of a space, with at most one condition on each other parameter."""

    name: str
    domain: Domain
    when: tuple[Condition, ...] = ()

    def is_active_at(self, point: Point) -> bool:
        """Return whether it is active at a point that has the values of all parents."""
        return all(condition.holds(point) for condition in self.when)

    def spec(self) -> dict[str, Json]:
        """Return the parameter as a space file writes it."""
        when: Json = {condition.parameter: condition.spec() for condition in self.when}
        return {**self.domain.spec(), **({"when": when} if when else {})}

    def relative_to(self, folder: Path) -> ParameterSpec:
        """Return the parameter with paths relative to a folder."""

        def relative(name: str, values: tuple[Value, ...]) -> tuple[Value, ...]:
            return tuple(relative_value(name, value, folder) for value in values)

        domain = self.domain
        if isinstance(domain, Choices):
            domain = Choices(relative(self.name, domain.values))
        when = (
            replace(condition, one_of=relative(condition.parameter, condition.one_of))
            for condition in self.when
        )
        return replace(self, domain=domain, when=tuple(when))


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A search space with its settings. `load_space` returns it checked: every point can run.

    Attributes:
        settings: Everything except the parameters; paths are absolute.
        specs: All parameters that can be active, including those that the file leaves at their
            defaults; parents first.
        points_to_evaluate: The points to try first, different ones, with values of searched
            parameters only.
    """

    settings: Settings
    specs: tuple[ParameterSpec, ...]
    points_to_evaluate: tuple[Point, ...] = ()

    @property
    def searched(self) -> tuple[str, ...]:
        """The names of the parameters that have more than one value."""
        return tuple(spec.name for spec in self.specs if spec.domain.is_open)

    def suggest(self, trial: Suggester) -> Parameters:
        """Return the parameters that the trial's sampler chooses."""
        point: Point = {}
        for spec in self.specs:
            if spec.is_active_at(point):
                point[spec.name] = spec.domain.suggest(trial, spec.name)
        return parameters_from(point)

    def first_point(self) -> Point:
        """Return the only point of the space, or the first of `points_to_evaluate`; ConfigError if parameters are open."""
        first = self.points_to_evaluate[0] if self.points_to_evaluate else {}
        point: Point = {}
        still_open = []
        for spec in self.specs:
            if not spec.is_active_at(point):
                continue
            if not spec.domain.is_open:
                (point[spec.name],) = spec.domain.corners(())
            elif spec.name in first:
                point[spec.name] = first[spec.name]
            else:
                still_open.append(spec.name)
        if still_open:
            what = f"still open: {', '.join(still_open)}"
            fix = "choose first: xraytune export STUDY -o best.yaml, or give values in the first points_to_evaluate"
            raise ConfigError(Problem(what, self.settings.name, fix))
        return point

    def experiment(self) -> Experiment:
        """Return the experiment of `first_point`."""
        return Experiment(settings=self.settings, parameters=parameters_from(self.first_point()))

    def at(self, point: Point) -> Space:
        """Return the space of a single point, which has the values of all active parameters."""
        active = [spec for spec in self.specs if spec.name in point]
        specs = tuple(
            replace(spec, domain=Choices((point[spec.name],)), when=()) for spec in active
        )
        return replace(self, specs=specs, points_to_evaluate=())

    def grid(self) -> Iterator[Point]:
        """Yield every point, as `enqueue_trial` expects it; the first parameter changes slowest."""
        searched = set(self.searched)
        points = walk(self.specs, lambda spec: spec.domain.points() or ())
        return (
            {name: value for name, value in point.items() if name in searched} for point in points
        )

    def points(self) -> tuple[Point, ...]:
        """Return the points of the first trials: `points_to_evaluate`, followed by the other points of a grid."""
        starts = self.points_to_evaluate
        if self.settings.sampler.name != "grid":
            return starts
        grid = list(self.grid())
        first: list[Point] = []
        for start in starts:
            rest = (
                point for point in grid if start.items() <= point.items() and point not in first
            )
            first.append(next(rest, start))
        return (*first, *(point for point in grid if point not in first))

    def trial_budget(self) -> int:
        """Return the number of trials of a search; a grid has no more trials than points."""
        trials = self.settings.budget.trials
        return min(trials, len(self.points())) if self.settings.sampler.name == "grid" else trials

    def combinations(self, *names: str) -> tuple[tuple[Value, ...], ...]:
        """Return the possible combinations of values of some parameters; ranges contribute their bounds."""
        points = corner_points(self.specs, names)
        return tuple(dict.fromkeys(tuple(point.get(name) for name in names) for point in points))

    def networks(self) -> tuple[tuple[str, str], ...]:
        """Return the possible pairs of backbone and weights, with defaults where one is inactive, and `quality`'s pair."""
        quality, default = self.settings.quality, Parameters()
        pairs = self.combinations("backbone", "weights")
        networks = [
            (str(backbone or default.backbone), str(weights or default.weights))
            for backbone, weights in pairs
        ]
        if quality.backbone:
            networks.append((quality.backbone, quality.weights))
        return tuple(dict.fromkeys(networks))

    def identity(self) -> dict[str, Json]:
        """Return what must not change when a study resumes, as plain JSON."""
        parameters: dict[str, Json] = {spec.name: spec.spec() for spec in self.specs}
        points = [dict[str, Json](point) for point in self.points_to_evaluate]
        return {
            **self.settings.identity(),
            "parameters": parameters,
            "points_to_evaluate": [*points],
        }

    def relative_to(self, folder: Path) -> Space:
        """Return the space with the paths in parameters, but not those in settings, relative to a folder."""
        points = (
            {name: relative_value(name, value, folder) for name, value in point.items()}
            for point in self.points_to_evaluate
        )
        specs = tuple(spec.relative_to(folder) for spec in self.specs)
        return replace(self, specs=specs, points_to_evaluate=tuple(points))

    def to_yaml(self, relative_to: Path) -> str:
        """Return a file in the folder `relative_to`, with all defaults, which `load_space` reads back as an equal space."""
        stored, content = (
            self.relative_to(relative_to),
            settings_content(self.settings, relative_to),
        )
        content["parameters"] = {spec.name: spec.spec() for spec in stored.specs}
        if stored.points_to_evaluate:
            content["points_to_evaluate"] = [*stored.points_to_evaluate]
        return write_yaml(content)


def require_extensions(space: Space) -> None:
    """Import every extension that a trial can use, and check its packages; MachineError lists all that are missing."""
    problems = package_problems(*needed_extras(space))
    for kind in (BACKBONES, SOURCES):
        for (name,) in space.combinations(kind.kind):
            try:
                if isinstance(name, str) and kind.has(name):
                    kind.load(name)
            except MachineError as error:
                problems += error.problems
    if problems:
        raise MachineError(*problems)


def needed_extras(space: Space) -> tuple[str, ...]:
    """Return the names of the task and of the library of each backbone: those of extras, if they have one."""
    libraries = (backbone.partition("/")[0] for backbone, _ in space.networks())
    return (space.settings.task, *libraries)


def package_problems(*names: str) -> list[Problem]:
    """Return the packages that these tasks and libraries need and this installation lacks, each with the fix."""
    missing = {
        name: " and ".join(packages) for name in names if (packages := missing_packages(name))
    }
    return [
        Problem(
            f"{needed_by(name)} needs {lack}, which this installation lacks",
            fix=f"pip install 'xraytune[{name}]'",
        )
        for name, lack in missing.items()
    ]


def needed_by(name: str) -> str:
    """Return the setting that needs an extra: `task: segmentation` or `backbone: timm`."""
    return f"task: {name}" if name in get_args(TaskName) else f"backbone: {name}"


def missing_packages(name: str) -> list[str]:
    """Return the packages of an extra that are not installed."""
    return [package for package in PACKAGES.get(name, ()) if not any(distributions(name=package))]


def settings_content(settings: Settings, relative_to: Path) -> dict[str, Any]:
    """Return the settings as a space file writes them. None is the default wherever it is valid, and left out."""
    return settings.model_dump(mode="json", exclude_none=True, context=relative_to)


def walk(
    specs: Iterable[ParameterSpec], values: Callable[[ParameterSpec], Iterable[Value]]
) -> Iterator[Point]:
    """Yield every point with one of `values(spec)` for each active parameter. Parents come first in `specs`."""

    def extended(points: Iterator[Point], spec: ParameterSpec) -> Iterator[Point]:
        for point in points:
            if spec.is_active_at(point):
                yield from ({**point, spec.name: value} for value in values(spec))
            else:
                yield point

    points: Iterator[Point] = iter([{}])
    for spec in specs:
        points = extended(points, spec)
    return points


def family_of(names: Iterable[str], specs: Mapping[str, ParameterSpec]) -> set[str]:
    """Return the parameters and all that they depend on, even those that are not in `specs`."""
    family: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in family:
            family.add(name)
            waiting += (
                [condition.parameter for condition in specs[name].when] if name in specs else []
            )
    return family


def corner_points(specs: Sequence[ParameterSpec], names: Iterable[str]) -> Iterator[Point]:
    """Yield points of some parameters and their family that cover all choices, range ends and outcomes of conditions."""
    family = family_of(names, {spec.name: spec for spec in specs})
    cuts: dict[str, list[float]] = {}
    for condition in (condition for spec in specs for condition in spec.when):
        numbers = [value for value in condition.one_of if isinstance(value, int | float)]
        cuts.setdefault(condition.parameter, []).extend(numbers)
    relevant = [spec for spec in specs if spec.name in family]
    return walk(relevant, lambda spec: spec.domain.corners(cuts.get(spec.name, ())))
