"""Read a space file, with command-line options applied to it, and write experiments.

`load_space` reports all problems of a file together, before anything starts. What it returns can run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xraytune.config.checks import check_space, complete_specs
from xraytune.config.document import Document, KeyPath, Place, Problems, parse_yaml, read_document, write_yaml
from xraytune.config.fields import BLOCKS, flat_values, parameter_fields
from xraytune.config.grammar import ROOT, SPEC_KEYS, path_of, read_parameters
from xraytune.config.initial_points import read_initial_points
from xraytune.config.messages import nearest
from xraytune.config.read_settings import NON_SETTING_KEYS, dotted_settings, read_settings
from xraytune.config.settings import Experiment, Settings
from xraytune.config.space import Space, settings_content
from xraytune.errors import ConfigError, Problem
from xraytune.records import Json


def load_space(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    data: Path | None = None,
    weights_dir: Path | None = None,
) -> Space:
    """Read and check a space file.

    Args:
        path: The YAML file; paths in it are relative to its folder.
        overrides: The `key=value` of each `--set`: a parameter or a setting by its dotted name, and a value in YAML.
        data: Replaces `data.path`; relative to the current folder, like paths in `overrides`.
        weights_dir: Replaces `weights_dir`.

    Raises:
        ConfigError: With all problems, in file order.
    """
    document = _with_overrides(read_document(path), overrides)
    for key, option, folder in ((("data", "path"), "--data", data), (("weights_dir",), "--weights-dir", weights_dir)):
        if folder is not None:
            place = Place(where=f"{option} {folder}", order=(len(overrides) + 1, 0, 0))
            document = document.grafted(key, Document(content=str(folder), places={(): place}))
    problems = Problems(document)
    settings = read_settings(problems)
    declared = read_parameters(problems)
    specs = complete_specs(declared, problems)
    if not all(declaration.spec for declaration in declared.values()):
        specs = ()
    points_to_evaluate, notes = read_initial_points(specs, problems)
    if specs:
        check_space(specs, settings, declared, problems)
    problems.raise_all()
    assert settings is not None
    return Space(settings=settings, specs=specs, points_to_evaluate=points_to_evaluate, notes=notes)


def _with_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """Apply each `--set`; the last one for a key wins."""
    problems: list[Problem] = []
    for rank, override in enumerate(overrides, 1):
        place = Place(where=f"--set {override}", order=(rank, 0, 0))
        try:
            document = _with_override(document, override, place)
        except ConfigError as error:
            problems += [replace(problem, where=place.where) for problem in error.problems]
    if problems:
        raise ConfigError(*problems)
    return document


def _with_override(document: Document, override: str, place: Place) -> Document:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals:
        raise ConfigError(Problem("not key=value", fix=f"write --set {key or 'lr'}=VALUE"))
    parsed = parse_yaml(text, lambda _: "")
    value = replace(parsed, places=dict.fromkeys(parsed.places, place))
    path = _path(document, key)
    if path[:1] != ROOT:
        return document.grafted(path, value)
    if not isinstance(value.content, dict) or value.content.keys().isdisjoint(SPEC_KEYS):
        value = Document(content={}, places={(): place}).grafted(("value",), value)
    when = document.branch((*path, "when"))
    if when is not None and ("when",) not in value.places:
        value = value.grafted(("when",), when)
    return document.grafted(path, value)


def _path(document: Document, key: str) -> KeyPath:
    if key in parameter_fields():
        return path_of(document, key)
    if key.partition(".")[0] in {*Settings.model_fields, *NON_SETTING_KEYS} - {"parameters"}:
        return tuple(key.split("."))
    if key in BLOCKS:
        names = [name for name in parameter_fields() if name.startswith(f"{key}.")]
        raise ConfigError(Problem(f"{key} is a block of parameters", fix=f"set one of: {', '.join(names)}"))
    bare = key.replace("parameters.", "").removesuffix(".value")  # as the file nests it
    known = [*parameter_fields(), *dotted_settings()]
    inner = [name for name in known if name.endswith(f".{bare}")]
    fix = f"did you mean '{inner[0]}'?" if inner else nearest(bare, known, "give a parameter or a setting")
    raise ConfigError(Problem(f"unknown key '{key}'", fix=fix))


def experiment_to_yaml(experiment: Experiment, relative_to: Path, header: str = "") -> str:
    """Return a space file in which everything is fixed.

    Args:
        experiment: Its paths are absolute.
        relative_to: The folder of the file; paths are written relative to it.
        header: Comment lines at the top.
    """
    values = flat_values(experiment.parameters, relative_to)
    parameters: Json = {name: {"value": value} for name, value in values.items()}
    return write_yaml({**settings_content(experiment.settings, relative_to), "parameters": parameters}, header)


def experiment_to_json(experiment: Experiment, relative_to: Path) -> dict[str, Json]:
    """Return the content of a trial's `config.json`; paths are relative to the folder of the file."""
    content: dict[str, Json] = experiment.model_dump(mode="json", context=relative_to)
    return content


def experiment_from_json(content: Any, relative_to: Path) -> Experiment:
    """Return the experiment of `experiment_to_json`.

    Raises:
        ValueError: The content is damaged.
    """
    return Experiment.model_validate_json(json.dumps(content), context=relative_to)
