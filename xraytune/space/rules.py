"""Check every point of a space against the rules of its components (contract.py)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from xraytune.base.errors import ConfigError, Place, Problem
from xraytune.space.contract import FACTS, Change, Rule
from xraytune.space.document import Document, KeyPath
from xraytune.space.domains import Point
from xraytune.space.fields import PARAMETERS
from xraytune.space.settings import RULES, FinalSettings, Settings
from xraytune.space.space import Space, corner_points
from xraytune.space.task_settings import CLASS_TASKS


class _Refusal(NamedTuple):
    """Values that a rule refuses, and what to write instead."""

    rule: Rule
    values: Point
    change: Change
    advice: str = ""


def check_space(space: Space, document: Document) -> Space:
    """Check every point of a space, and those of its final model, against all rules.

    Problems are collected in the document. Each is reported at the first of its names that the user
    has written. Returns the space without values that an option of the command line made useless.
    """
    facts = _known_facts(space.settings)
    for rule in RULES:
        for refusal in _find_refusals(rule, space, facts):
            if rule.is_useless and _is_excused(refusal, document):
                space = _with_change(space, refusal)
                continue
            place = _locate(document, [*refusal.change, *rule.names])
            document.problems.append(_explain(refusal, place))
    if space.settings.sampler.name == "grid":
        for spec in space.specs:
            if spec.points is None:
                what = f"{spec.name}: sampler: grid cannot list all numbers from {spec}"
                place = document.locate(("parameters", spec.name))
                fix = "give values, or write sampler.name: tpe"
                document.problems.append(Problem(what, place, fix))
    if space.settings.final and not document.problems:
        _check_final(space, space.settings.final, document)
    return space


def _with_change(space: Space, refusal: _Refusal) -> Space:
    """Return the space with the value to which a refusal changes a setting, or refused values."""
    ((name, value),) = refusal.change.items()
    if name not in PARAMETERS:
        return replace(space, settings=space.settings.with_values({name: value}))
    specs = []
    for spec in space.specs:
        if spec.name == name:
            points = [{**refusal.values, name: each} for each in spec.points or spec.values]
            kept = [point[name] for point in points if not refusal.rule.change(*point.values())]
            spec = replace(spec, values=tuple(dict.fromkeys([*kept, value])), distribution=None)
        specs.append(spec)
    return replace(space, specs=tuple(specs))


def _check_final(space: Space, final: FinalSettings, document: Document) -> None:
    final_values = final.values()
    specs = [
        replace(spec, values=(final_values[spec.name],), distribution=None)
        if spec.name in final_values
        else spec
        for spec in space.specs
    ]
    settings = final.settings_of(space.settings)
    trained = replace(space, specs=tuple(specs), settings=settings)
    names = {name: f"final.{name}" for name in final_values}
    if final.image_size:
        sizes = ("data.image_size", "gan.image_size", "input_size")
        names |= dict.fromkeys(sizes, "final.image_size")
    for rule in RULES:
        if rule.is_useless:
            continue
        for refusal in _find_refusals(rule, trained, {}):
            values = {names.get(name, name): value for name, value in refusal.values.items()}
            change = {names.get(name, name): value for name, value in refusal.change.items()}
            renamed = refusal._replace(values=values, change=change)
            place = _locate(document, [*change, "final"])
            document.problems.append(_explain(renamed, place))


def check_images(space: Space, **facts: int) -> None:
    """Check the rules about `FACTS` of the images; raise ConfigError with all that are broken."""
    problems = [
        _explain(refusal, "")
        for rule in RULES
        if not facts.keys().isdisjoint(rule.names)
        for refusal in _find_refusals(rule, space, facts)
    ]
    if problems:
        raise ConfigError(*problems)


def _known_facts(settings: Settings) -> dict[str, int]:
    """Return what settings say about the images before these are read."""
    facts = {}
    data = settings.data
    classes = {"binary": 2, "three": 3}
    if data.table and data.table.labels:
        facts["class_count"] = len({*data.table.labels.values()})
    elif data.classes in classes and settings.task in CLASS_TASKS and not data.table:
        facts["class_count"] = classes[data.classes]
    if settings.budget.steps_per_epoch:
        facts["total_steps"] = settings.budget.max_epochs * settings.budget.steps_per_epoch
    return facts


def _find_refusals(rule: Rule, space: Space, facts: Mapping[str, int]) -> Iterator[_Refusal]:
    """Yield the refusals of a rule at the corner points of a space, once for each change.

    A rule that reads facts that are not known refuses nothing.
    """
    if any(name in FACTS and name not in facts for name in rule.names):
        return
    searched = [name for name in rule.names if name in PARAMETERS]
    refused: dict[str, _Refusal] = {}
    accepts_some = False
    for point in corner_points(space.specs, searched):
        values = {name: _value(name, point, space.settings, facts) for name in rule.names}
        if change := rule.change(*values.values()):
            refused.setdefault(str(change), _Refusal(rule, values, change))
        else:
            accepts_some = True
    for refusal in refused.values():
        is_of_setting = next(iter(refusal.change)) not in PARAMETERS
        if rule.is_useless and is_of_setting and accepts_some:
            continue
        if accepts_some and len(searched) > 1:
            refusal = refusal._replace(advice=", or keep the values apart with when:")
        yield refusal


def _value(name: str, point: Point, settings: Settings, facts: Mapping[str, int]) -> Any:
    """Return a fact, the value of a parameter at a point, or the value of a setting.

    A parameter that is not active has its default or, in a block, None.
    """
    if name in FACTS:
        return facts[name]
    if name in PARAMETERS:
        return point.get(name, None if "." in name else PARAMETERS[name].default)
    value: Any = settings
    for key in name.split("."):
        value = getattr(value, key, None)
    return value


def _path(name: str) -> KeyPath:
    return ("parameters", name) if name in PARAMETERS else tuple(name.split("."))


def _locate(document: Document, names: Sequence[str]) -> Place:
    paths = [_path(name) for name in names]
    return document.locate(next(filter(document.has, paths), paths[0]))


def _is_excused(refusal: _Refusal, document: Document) -> bool:
    """Return whether an option of the command line makes a value of the file useless."""
    is_given = any(document.is_option(_path(name)) for name in refusal.change)
    return not is_given and any(document.is_option(_path(name)) for name in refusal.rule.names)


def _explain(refusal: _Refusal, place: Place) -> Problem:
    facts = ", ".join(
        FACTS[name].format(value) if name in FACTS else f"{name}: {_in_yaml(value)}"
        for name, value in refusal.values.items()
        if value is not None
    )
    why = refusal.rule.why
    reason = why[:1].lower() + why[1:].removesuffix(".")
    changes = " and ".join(f"{name}: {_in_yaml(value)}" for name, value in refusal.change.items())
    return Problem(f"{facts}: {reason}", place, f"write {changes}{refusal.advice}")


def _in_yaml(value: object) -> str:
    """Return a value as a space file has it, in one line."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    is_word = value is None or isinstance(value, bool)
    return json.dumps(value) if is_word else str(value)


def space_warnings(space: Space) -> Iterator[str]:
    """Yield a warning about each parameter whose small values are hardly ever suggested."""
    for spec in space.specs:
        low = spec.values[0]
        high = spec.values[-1]
        if spec.distribution == "uniform" and 0 < 1000 * low <= high:
            fix = "if small values matter, too, write distribution: log_uniform_values"
            yield (
                f"{spec.name}: {spec} is drawn uniformly: nine of ten values are above "
                f"{high / 10:g}; {fix}"
            )
