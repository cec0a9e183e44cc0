"""Reads a space file, with the options of the command line on top, and writes experiments as such files.

`load_space` is the edge at which a person's file is checked: everything wrong is raised at once, in file order, before
anything starts. What it returns can run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xraytune.config.checks import (
    check_against_settings,
    check_grid,
    check_rules,
    complete_specs,
    refuse_equality_on_ranges,
)
from xraytune.config.document import Problems, read_document, write_yaml
from xraytune.config.domains import Choices, Value
from xraytune.config.fields import EARLIER_VALUES, flat_values, stored_parameters
from xraytune.config.grammar import read_parameters
from xraytune.config.initial_points import initial_point, read_initial_points
from xraytune.config.overrides import apply_overrides, apply_paths
from xraytune.config.read_settings import read_settings
from xraytune.config.resolved import absolute_path, is_path, parameters_content, relative_value, settings_content
from xraytune.config.settings import Experiment, Settings
from xraytune.config.space import Point, Space
from xraytune.records import Json


def load_space(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    data: Path | None = None,
    weights_dir: Path | None = None,
    unsaid: Mapping[str, Value] | None = None,
) -> Space:
    """Read and check a space file.

    Args:
        path: The YAML file; paths in it are relative to its folder.
        overrides: `key=value` of each `--set`: a parameter or a setting by its dotted name; the value is YAML.
        data: The image folder, instead of `data.path`; relative to the current folder, as paths in `overrides` are.
        weights_dir: The folder of official weights, instead of `weights_dir`.
        unsaid: Values of parameters that the file does not give; by default their defaults, or in a file that `export`
            wrote, `EARLIER_VALUES`.

    Raises:
        ConfigError: With every problem, in file order, then those of the command line.
    """
    document = apply_overrides(read_document(path), overrides)
    document = apply_paths(
        document, {("data", "path"): ("--data", data), ("weights_dir",): ("--weights-dir", weights_dir)}
    )
    problems = Problems(document)
    settings = read_settings(document, problems)
    declared = read_parameters(document, problems)
    if unsaid is None:
        unsaid = EARLIER_VALUES if ("exported_from",) in document.places else {}
    specs = complete_specs(declared, unsaid, document, problems)
    rows = read_initial_points(document, problems)
    points_to_evaluate: tuple[Point, ...] = ()
    if specs and all(declaration.spec for declaration in declared.values()):
        points_to_evaluate = tuple(initial_point(row, specs, document, problems) for row in rows)
        refuse_equality_on_ranges(specs, declared, problems)
        if document.get(("sampler", "name")) == "grid":
            check_grid(specs, declared, problems)
        check_rules(specs, declared, problems)
        if settings is not None:
            check_against_settings(specs, settings, declared, problems)
    problems.raise_all()
    assert settings is not None
    return Space(settings=settings, specs=specs, points_to_evaluate=points_to_evaluate)


def experiment_to_yaml(experiment: Experiment, relative_to: Path, header: str = "") -> str:
    """A space file in which everything is fixed, which `load_space` reads back as a space of this one experiment.

    Args:
        experiment: Its paths are absolute.
        relative_to: The folder that the file will lie in; paths are written relative to it.
        header: Comment lines at the top.
    """
    content = settings_content(experiment.settings, relative_to)
    specs = {name: Choices((value,)).spec() for name, value in flat_values(experiment.parameters).items()}
    content["parameters"] = parameters_content(specs, relative_to)
    return write_yaml(content, header)


def experiment_to_json(experiment: Experiment, relative_to: Path) -> dict[str, Json]:
    """An experiment as a trial's `config.json` holds it: settings, and parameters by dotted name.

    Args:
        experiment: Its paths are absolute.
        relative_to: The folder that the file will lie in; paths are written relative to it.
    """
    values = flat_values(experiment.parameters)
    parameters: dict[str, Json] = {name: relative_value(name, value, relative_to) for name, value in values.items()}
    resolution_px = experiment.inherited_resolution_px
    inherited: dict[str, Json] = {} if resolution_px is None else {"inherited_resolution_px": resolution_px}
    return {"settings": settings_content(experiment.settings, relative_to), "parameters": parameters, **inherited}


def experiment_from_json(content: dict[str, Any], relative_to: Path) -> Experiment:
    """The experiment of `experiment_to_json`, with absolute paths.

    Raises:
        ValueError: It was not written by `experiment_to_json`.
    """
    try:
        return _experiment(content, relative_to)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError("not the settings of a trial") from error


def _experiment(content: dict[str, Any], relative_to: Path) -> Experiment:
    settings = dict(content["settings"])
    settings["data"] = {**settings["data"], "path": absolute_path(settings["data"]["path"], relative_to)}
    if "weights_dir" in settings:
        settings["weights_dir"] = absolute_path(settings["weights_dir"], relative_to)
    if "exported_from" in settings:
        origin = settings["exported_from"]
        settings["exported_from"] = {**origin, "study": absolute_path(origin["study"], relative_to)}
    point = {
        name: absolute_path(value, relative_to) if is_path(name, value) else value
        for name, value in content["parameters"].items()
    }
    return Experiment(
        settings=Settings.model_validate_json(json.dumps(settings)),
        parameters=stored_parameters(point),
        inherited_resolution_px=content.get("inherited_resolution_px"),
    )
