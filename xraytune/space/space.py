"""The search space of a study: the domain of each parameter, and where it is active.

`Space.suggest(trial)` is a define-by-run function in Optuna's sense. Parents come before the
parameters that depend on them; constants are not sampled; an inactive parameter is left out and
gets its default. Different points are different trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal

from xraytune.base.errors import ConfigError, MachineError, Problem
from xraytune.base.records import Json, frozen
from xraytune.space.document import write_yaml
from xraytune.space.domains import ParameterSpec, Point, with_parents
from xraytune.space.encoders import architecture_of
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.fields import PARAMETERS, parameters_from
from xraytune.space.parameters import CLASSICAL_METHODS, KINDS, Parameters
from xraytune.space.paths import relative_value
from xraytune.space.settings import Experiment, Settings
from xraytune.space.task_settings import PACKAGES


@frozen
class Space:
    """A search space with its settings; every point of a space from `load_space` can run.

    Attributes:
        settings: Everything except the parameters; paths are absolute.
        specs: All parameters that can be active, including those that the file leaves at their
            defaults; parents first.
        points_to_evaluate: The points to try first, all different, with values of searched
            parameters only.
    """

    settings: Settings
    specs: tuple[ParameterSpec, ...]
    points_to_evaluate: tuple[Point, ...] = ()

    @property
    def searched(self) -> tuple[str, ...]:
        """The names of the parameters that have more than one value."""
        return tuple(spec.name for spec in self.specs if spec.is_open)

    def suggest_point(self, trial: Any) -> Point:
        """Return the point that the sampler of an Optuna trial chooses."""
        point: Point = {}
        for spec in self.specs:
            if spec.is_active_at(point):
                point[spec.name] = spec.suggest(trial)
        return point

    def suggest(self, trial: Any) -> Parameters:
        """Return the parameters that the sampler of an Optuna trial chooses."""
        return parameters_from(self.suggest_point(trial))

    def first_point(self) -> Point:
        """Return the only point of the space, or the first of `points_to_evaluate`.

        Raises ConfigError if this point leaves parameters open.
        """
        listed_point: Point = next(iter(self.points_to_evaluate), {})
        point: Point = {}
        still_open = []
        for spec in self.specs:
            if not spec.is_active_at(point):
                continue
            if spec.is_open and spec.name not in listed_point:
                still_open.append(spec.name)
            else:
                point[spec.name] = listed_point.get(spec.name, spec.values[0])
        if still_open:
            raise ConfigError(
                f"still open: {', '.join(still_open)}",
                self.settings.name,
                "choose first: xraytune export STUDY -o best.yaml, "
                "or give values in the first points_to_evaluate",
            )
        return point

    def experiment(self) -> Experiment:
        """Return the experiment of `first_point`."""
        return Experiment(settings=self.settings, parameters=parameters_from(self.first_point()))

    def at(self, point: Point) -> Space:
        """Return the space of a single point, which has the values of all active parameters."""
        specs = tuple(
            ParameterSpec(name=spec.name, values=(point[spec.name],))
            for spec in self.specs
            if spec.name in point
        )
        return replace(self, specs=specs, points_to_evaluate=())

    def grid(self) -> list[Point]:
        """Return every point as `enqueue_trial` expects it; the first parameter changes slowest."""
        points = _list_points(self.specs, "points")
        return [{name: point[name] for name in self.searched if name in point} for point in points]

    def baseline(self) -> Point | None:
        """Return the values of searched parameters that train on plain real images.

        These are the defaults, or the first value of a parameter whose default is not among its
        values. Returns None if the space has no such point.
        """
        point: Point = {}
        for spec in self.specs:
            if spec.is_active_at(point):
                default = PARAMETERS[spec.name].default
                point[spec.name] = default if spec.contains(default) else spec.values[0]
        if parameters_from(point).arm != "real_only":
            return None
        return {name: point[name] for name in self.searched if name in point}

    def points(self) -> Sequence[Point]:
        """Return the points of the first trials.

        These are all points of a grid, or else the baseline and `points_to_evaluate`. The baseline
        is left out if it is among these points, or if all points train on plain real images.
        """
        if self.settings.sampler.name == "grid":
            return self.grid()
        listed_points = self.points_to_evaluate
        baseline = self.baseline() or {}
        plain = {
            name: baseline[name] for name in ("source", *CLASSICAL_METHODS) if name in baseline
        }
        if not plain or any(plain.items() <= point.items() for point in listed_points):
            return listed_points
        return (baseline, *listed_points)

    def trial_budget(self) -> int:
        """Return the number of trials of a search; a grid has no more trials than points."""
        trials = self.settings.budget.trials
        if self.settings.sampler.name == "grid":
            return min(trials, len(self.grid()))
        return trials

    def extreme_parameters(self, *names: str) -> list[Parameters]:
        """Return trials with all combinations of some parameters, of a range only both ends.

        Other parameters, and inactive ones, have their defaults.
        """
        points = corner_points(self.specs, names)
        values = ({name: point[name] for name in names if name in point} for point in points)
        return [*dict.fromkeys(map(parameters_from, values))]

    def networks(self) -> list[Parameters]:
        """Return trials with the possible backbones: their weights, input sizes and settings."""
        names = ("backbone", "weights", "input_size", *self.backbone_settings())
        return self.extreme_parameters(*names)

    def backbone_settings(self) -> list[str]:
        """Return the names of the settings of the user's backbones."""
        names = [spec.name for spec in self.specs]
        return [name for name in names if EXTENSIONS.kind_of(name.partition(".")[0]) == "backbone"]

    def extensions(self) -> list[str]:
        """Return the names of the extensions that trials use."""
        trials = self.extreme_parameters(*KINDS)
        return sorted({name for trial in trials for name in trial.extensions})

    def sizes_px(self) -> list[int]:
        """Return the sizes of images that trials use."""
        return sorted({trial.size_px(self.settings.data) for trial in self.networks()})

    def identity(self) -> dict[str, Json]:
        """Return everything that must not change when a study resumes, as plain JSON."""
        return {**self.settings.identity(), **self._parameters()}

    def _parameters(self) -> dict[str, Any]:
        return {
            "parameters": {spec.name: spec.to_json() for spec in self.specs},
            "points_to_evaluate": [{**point} for point in self.points_to_evaluate],
        }

    def relative_to(self, folder: Path) -> Space:
        """Return the space as the files of a folder write it: paths in parameters are relative.

        Only the journal and `to_yaml` use this, since they write these files. Paths in settings are
        not changed.
        """
        specs = []
        for spec in self.specs:
            values = (relative_value(spec.name, value, folder) for value in spec.values)
            specs.append(replace(spec, values=tuple(values)))
        points = (
            {name: relative_value(name, value, folder) for name, value in point.items()}
            for point in self.points_to_evaluate
        )
        return replace(self, specs=tuple(specs), points_to_evaluate=tuple(points))

    def to_yaml(self, folder: Path, header: str = "") -> str:
        """Return the text of a space file, with all defaults, that `load_space` reads as equal.

        `header` becomes comment lines.
        """
        # None is the default of a setting wherever it is valid.
        content = self.settings.model_dump(mode="json", exclude_none=True, context=folder)
        content |= self.relative_to(folder)._parameters()
        if not self.points_to_evaluate:
            del content["points_to_evaluate"]
        return write_yaml(content, header)


def _list_points(specs: Sequence[ParameterSpec], kind: Literal["points", "corners"]) -> list[Point]:
    """Return every point with one of these values of each active parameter, parents first."""
    points: list[Point] = [{}]
    for spec in specs:
        cuts = [value for child in specs for value in child.when.get(spec.name, ())]
        values = spec.points if kind == "points" else spec.corners(cuts)
        assert values is not None, "`load_space` has refused a grid with ranges of floats"
        longer: list[Point] = []
        for point in points:
            if spec.is_active_at(point):
                longer += ({**point, spec.name: value} for value in values)
            else:
                longer.append(point)
        points = longer
    return points


def corner_points(specs: Sequence[ParameterSpec], names: Iterable[str]) -> list[Point]:
    """Return points of some parameters and their parents.

    The points cover all choices, range ends and outcomes of conditions.
    """
    family = with_parents(names, {spec.name: spec.when for spec in specs})
    return _list_points([spec for spec in specs if spec.name in family], "corners")


def require_extensions(space: Space) -> None:
    """Import every extension that a trial can use, and check its packages.

    Raises:
        MachineError: Packages are missing; it lists all of them.
    """
    problems = missing_packages(space)
    for name in space.extensions():
        try:
            EXTENSIONS.load(name)
        except MachineError as error:
            problems += error.problems
    if problems:
        raise MachineError(*problems)


def missing_packages(space: Space) -> list[Problem]:
    """Return the packages that a space's task, trackers and backbones need and that are missing."""
    backbones = [architecture_of(trial.backbone) for trial in space.networks()]
    libraries = {f"backbone: {backbone.partition('/')[0]}" for backbone in backbones}
    trackers = [f"tracking: {name}" for name, tracker in space.settings.tracking if tracker]
    problems = []
    for setting in (f"task: {space.settings.task}", *trackers, *sorted(libraries)):
        extra = setting.partition(": ")[2]
        packages = PACKAGES.get(extra, ())
        missing = [package for package in packages if not any(distributions(name=package))]
        if missing:
            what = f"{setting} needs {' and '.join(missing)}, which this installation lacks"
            problems.append(Problem(what, fix=f"pip install 'xraytune[{extra}]'"))
    return problems
