"""Read a space file, with command-line options applied to it, and write experiments.

`load_space` reports all problems of a file together, before anything starts. What it returns can run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from xraytune.base.errors import ConfigError, Problem
from xraytune.base.records import Json
from xraytune.space.document import (
    Document,
    KeyPath,
    Problems,
    dotted,
    parse_yaml,
    read_document,
    with_value,
    write_yaml,
)
from xraytune.space.fields import flat_values, parameter_fields
from xraytune.space.grammar import ROOT, SPEC_KEYS, path_of, read_initial_points, read_parameters
from xraytune.space.messages import explain, format_value, nearest
from xraytune.space.paths import absolute_path, is_path
from xraytune.space.rules import check_space, complete_specs
from xraytune.space.settings import BLOCKS, DataSettings, Experiment, Settings, has_effect_in
from xraytune.space.shipped import find_space
from xraytune.space.space import ParameterSpec, Space, settings_content
from xraytune.space.strict_model import StrictModel

_FINDING_KEYS = ("findings", "uncertain", "empty")
DATA_FILE_KEYS = ("path", "classes", "positive", "table", "split", *_FINDING_KEYS)
"""The keys of `data` that a data file may have."""
_NON_SETTING_KEYS = ("parameters", "points_to_evaluate")
SEARCH_ONLY = dict.fromkeys(
    (
        *("budget.trials", "budget.hours", "budget.gpu_hours", "scheduler", "sampler", "confirm"),
        *("resources.concurrent", "resources.generator", "resources.hang_minutes", "resources.retries"),
    ),
    "omit it",
)
"""Settings that only `search` and `confirm` use; for `refuse_unused`."""
_PATHS: tuple[KeyPath, ...] = (("data", "path"), ("weights_dir",), ("exported_from", "study"))
_MISSING = {
    "name": "write name: my-study",
    "data": "write data: {path: FOLDER}, or give --data FOLDER",
    "data.path": "write path: FOLDER, or give --data FOLDER",
}


def load_space(
    path: Path, overrides: Sequence[str] = (), *, data: Path | None = None, weights_dir: Path | None = None
) -> Space:
    """Read and check a space file.

    Args:
        path: The YAML file, or the name of one that xraytune ships; paths in it are relative to its folder.
        overrides: The `key=value` of each `--set`: a parameter or a setting by its dotted name, and a value in YAML.
        data: Folder that replaces `data.path`, or YAML file that replaces keys of `data` (see `data_settings`); relative to
            the current folder, like paths in `overrides`.
        weights_dir: Replaces `weights_dir`.

    Raises:
        ConfigError: With all problems, in file order.
    """
    return space_of_document(read_document(find_space(path)), overrides, data=data, weights_dir=weights_dir)


def space_of_document(
    document: Document, overrides: Sequence[str] = (), *, data: Path | None = None, weights_dir: Path | None = None
) -> Space:
    """Like `load_space`, for a file that has been read, or a document that comes from none."""
    for override in overrides:  # the last one for a key wins
        document = _with_override(document, override)
    if data is not None and is_data_file(data):
        has_classes = document.get(("task",)) in (None, "classification")
        document = _with_data_file(document, data, without=_FINDING_KEYS if has_classes else ())
    elif data is not None:
        document = document.with_value(("data", "path"), str(data), f"--data {data}")
    if weights_dir is not None:
        document = document.with_value(("weights_dir",), str(weights_dir), f"--weights-dir {weights_dir}")
    problems = Problems(document)
    settings = read_settings(problems)
    declared = read_parameters(problems)
    specs = complete_specs(declared, problems)
    points_to_evaluate = read_initial_points(specs, problems)
    if specs:
        check_space(specs, settings, problems)
        _refuse_inactive(overrides, specs, problems)
    problems.raise_all()
    assert settings is not None
    return Space(settings=settings, specs=specs, points_to_evaluate=points_to_evaluate)


def data_settings(source: Path, base: DataSettings) -> DataSettings:
    """Return the settings of a data source: an image folder, or a YAML file with a `data:` block.

    A file may give `path` (default: its own folder), `classes`, `positive`, `table`, `findings`, `uncertain`, `empty` and
    `split`; all else is as in `base`.
    Raises ConfigError with all problems of the file, in file order.
    """
    if not is_data_file(source):
        return base.model_copy(update={"path": source})
    content: Json = {"name": "data", "data": base.model_dump(mode="json")}
    problems = Problems(_with_data_file(Document(content=content, places={(): str(source)}), source))
    settings = read_settings(problems)
    problems.raise_all()
    assert settings is not None
    return settings.data


def is_data_file(source: Path) -> bool:
    """Return whether a data source is a YAML file, by its suffix."""
    return source.suffix.lower() in {".yaml", ".yml"} and not source.is_dir()


def _with_data_file(document: Document, file: Path, *, without: Collection[str] = ()) -> Document:
    """Replace keys of `data`; their problems come after those of the document. A table and its patients come as a whole.

    A file may be for several tasks: `without` keys of other ones.
    """
    data_document = read_document(file, start="data:")
    problems = Problems(data_document)
    for key in data_document.mapping().keys() - {"data"}:
        problems.add((key,), f"'{key}' is outside of data:", "move all keys under data:; a data file has no others")
    data = data_document.mapping(("data",))
    for key in data.keys() & DataSettings.model_fields.keys() - {*DATA_FILE_KEYS}:
        problems.add(("data", key), f"data.{key} belongs to the space file", "write it there")
    if data_document.get(("data",)) not in (None, data):
        problems.add(("data",), "data: is not a mapping", "write data: {path: FOLDER}")
    problems.raise_all()
    group_regex = ("data", "split", "group_regex")
    if data_document.get(("data", "table", "patient")) and document.get(group_regex) is not None:
        document = document.with_value(group_regex, None, file)
    document = document.with_value(("data", "path"), str(file.parent.absolute()), file)
    document = document.with_value(("data", "table"), None, file)
    for key, value in data.items():
        if key in without:
            continue
        inner = [*value] if key == "split" and isinstance(value, dict) else None
        for path in [("data", key)] if inner is None else [("data", key, name) for name in inner]:
            document = document.grafted(path, data_document.branch(path))
    return document


def refuse_unused(overrides: Sequence[str], command: str, unused: Mapping[str, str]) -> None:
    """Refuse (ConfigError) overrides that would have no effect on a command.

    `unused` has what to do instead by the name of each setting, block or parameter that the command does not use.
    """
    problems = []
    for override in overrides:
        key, _, text = override.partition("=")
        for name in _names_below(key.strip(), parse_yaml(text, lambda _: "--set").content):
            fixes = [fix for start, fix in unused.items() if f"{name}.".startswith(f"{start}.")]
            if fixes:
                problems.append(Problem(f"{name}: `{command}` does not use it", f"--set {override}", fixes[0]))
    if problems:
        raise ConfigError(*problems)


def _names_below(name: str, content: Json) -> Iterator[str]:
    if isinstance(content, dict) and content:
        for key, inner in content.items():
            yield from _names_below(f"{name}.{key}", inner)
    else:
        yield name


def _refuse_inactive(overrides: Sequence[str], specs: Sequence[ParameterSpec], problems: Problems) -> None:
    active = {spec.name for spec in specs}
    for override in overrides:
        name = override.partition("=")[0].strip()
        if name in parameter_fields() and name not in active:
            block = name.partition(".")[0]
            fix = f"omit it, or add --set source={block}" if block in BLOCKS else "omit it"
            problems.add(path_of(problems.document, name), f"{name}: no trial of this space uses it", fix)


def _with_override(document: Document, override: str) -> Document:
    key, equals, text = override.partition("=")
    key, place = key.strip(), f"--set {override}"
    if not equals:
        raise ConfigError(Problem("not key=value", place, f"write --set {key or 'lr'}=VALUE"))
    value = parse_yaml(text, lambda _: place)
    path = _path(document, key, place)
    if path[:1] != ROOT:
        return document.grafted(path, value)
    if not isinstance(value.content, dict) or value.content.keys().isdisjoint(SPEC_KEYS):
        value = Document(content={}, places={(): place}).grafted(("value",), value)
    if (*path, "when") in document.places and ("when",) not in value.places:
        value = value.grafted(("when",), document.branch((*path, "when")))
    return document.grafted(path, value)


def _path(document: Document, key: str, place: str) -> KeyPath:
    if key in parameter_fields():
        return path_of(document, key)
    if key.partition(".")[0] in (*Settings.model_fields, "points_to_evaluate"):
        return tuple(key.split("."))
    bare = key.replace("parameters.", "").removesuffix(".value")  # as the file nests it
    fix = nearest(bare, [*parameter_fields(), *_dotted_settings()], "give a parameter or a setting")
    raise ConfigError(Problem(f"unknown key '{key}'", place, fix))


def read_settings(problems: Problems) -> Settings | None:
    """Return the settings, with absolute paths; None if there are problems with them."""
    document = problems.document
    content = document.content
    weights = [(block, "weights") for block in ("quality", "final")]
    for path in (*_PATHS, *(path for path in weights if is_path("weights", document.get(path)))):
        if isinstance(text := document.get(path), str):
            content = with_value(content, path, absolute_path(text, document.folder(path)))
    assert isinstance(content, dict)
    try:
        given = {key: value for key, value in content.items() if key not in _NON_SETTING_KEYS}
        return Settings.model_validate(given)
    except ValidationError as error:
        # `objective` has no default if another setting, on which its default depends, is invalid.
        details = [detail for detail in error.errors() if detail["type"] != "default_factory_not_called"]
        for path, errors in groupby(details, key=_path_of):
            problems.add(path, *_explained(path, list(errors)))
        return None


@cache
def setting_blocks() -> Mapping[KeyPath, type[StrictModel]]:
    """Return the model of each block of settings by its path; () is the whole file."""
    return dict(_blocks_of(Settings, ()))


def _blocks_of(model: type[StrictModel], path: KeyPath) -> Iterator[tuple[KeyPath, type[StrictModel]]]:
    yield path, model
    for name, info in model.model_fields.items():
        for member in (info.annotation, *get_args(info.annotation)):
            if isinstance(member, type) and issubclass(member, StrictModel):
                yield from _blocks_of(member, (*path, name))


def _dotted_settings() -> list[str]:
    return [dotted((*path, name)) for path, model in setting_blocks().items() for name in model.model_fields]


def _path_of(error: ErrorDetails) -> KeyPath:
    """Return the setting of an error, without what pydantic adds below it, such as the members of a union."""
    location: KeyPath = error["loc"]
    if error["type"] == "rule":
        location += tuple(error["ctx"]["name"].split("."))
    return tuple(key for index, key in enumerate(location) if location[:index] in setting_blocks())


def _explained(path: KeyPath, errors: Sequence[ErrorDetails]) -> tuple[str, str]:
    name, value, kind = dotted(path), errors[0]["input"], errors[0]["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return f"{name}: is missing", _MISSING.get(name, f"write {path[-1]}:")
    if kind == "model_type" and (model := setting_blocks().get(path)):
        fix = f"write {name}: {{{next(iter(model.model_fields))}: ...}}"
        return f"{name}: {format_value(value)} is not a mapping", fix
    if len(errors) > 1 and kind == "literal_error" and not isinstance(value, str):  # as of `auto` or a number
        return explain(name, errors[-1])
    return explain(name, errors[0])


def _unknown_key(path: KeyPath) -> tuple[str, str]:
    key, block = str(path[-1]), path[:-1]
    if block:
        return f"{dotted(block)}: unknown key '{key}'", nearest(key, setting_blocks()[block].model_fields)
    if key in (*BLOCKS, *parameter_fields()):
        return f"unknown key '{key}'", f"did you mean 'parameters.{key}'?"
    return f"unknown key '{key}'", nearest(key, [*_NON_SETTING_KEYS, *_dotted_settings()])


def experiment_to_yaml(experiment: Experiment, relative_to: Path, header: str = "") -> str:
    """Return a space file, in the folder `relative_to`, in which everything is fixed; `header` becomes comment lines."""
    settings, values = experiment.settings, flat_values(experiment.parameters, relative_to)
    parameters: Json = {name: {"value": value} for name, value in values.items() if has_effect_in(settings.task, name)}
    return write_yaml({**settings_content(settings, relative_to), "parameters": parameters}, header)


def experiment_to_json(experiment: Experiment, relative_to: Path) -> dict[str, Json]:
    """Return the content of a trial's `config.json`; paths are relative to the folder of the file."""
    return experiment.model_dump(mode="json", context=relative_to)


def experiment_from_json(content: Any, relative_to: Path) -> Experiment:
    """Return the experiment of `experiment_to_json`; ValueError if the content is damaged."""
    return Experiment.model_validate(content, context=relative_to)
