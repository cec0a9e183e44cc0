"""Complete the parameters that a document declares to those of a `Space`, and check that every point of it can run.

Parameters that are not declared get their defaults, those that only some sources use get a condition on `source`, and those
that can never be active are dropped. So different points are different trials.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from pydantic import ValidationError

from xraytune.base.errors import join_names
from xraytune.space.backbones import ENCODER_STRIDE_PX, ENCODERS, WEIGHT_SETS, backbone_of
from xraytune.space.document import Problems, RejectedError
from xraytune.space.domains import Choices, Value
from xraytune.space.fields import parameter_fields, parameters_from
from xraytune.space.grammar import is_overridden, join_conditions, path_of, when_paths
from xraytune.space.messages import explain, group_regex_problem, nearest
from xraytune.space.settings import GENERATORS, RULES_READ, SOURCES, USED_ONLY_BY, Settings, is_of_generator
from xraytune.space.space import Condition, ParameterSpec, corner_points, family_of

ONLY_OF_CLASSIFICATION = ("head", "loss", "dropout", "balance")
"""Parameters that segmentation has no use for."""


def complete_specs(declared: Mapping[str, ParameterSpec | None], problems: Problems) -> tuple[ParameterSpec, ...]:
    """Return all parameters of the space, parents first; none if conditions form a cycle."""
    written = {name: spec for name, spec in declared.items() if spec}
    specs = {
        name: written.get(name) or ParameterSpec(name=name, domain=Choices((field.default,)))
        for name, field in parameter_fields().items()
        if name in written or not field.is_required
    }
    specs = {name: _with_source_condition(spec, specs["source"]) for name, spec in specs.items()}
    ordered = _parents_first(specs, problems)
    active = tuple(spec for spec in ordered if _can_be_active(spec, ordered))
    if ordered:
        for name in written.keys() - {spec.name for spec in active}:
            _reject_impossible(written[name], specs, declared, problems)
    return active


def _with_source_condition(spec: ParameterSpec, source: ParameterSpec) -> ParameterSpec:
    is_used_by = USED_ONLY_BY.get(spec.name.partition(".")[0])
    if is_used_by is None or not isinstance(source.domain, Choices):
        return spec
    accepted = tuple(value for value in source.domain.values if is_used_by(value))
    if accepted == source.domain.values and not source.when:
        return spec
    return replace(spec, when=join_conditions(*spec.when, Condition(parameter="source", one_of=accepted)))


def _parents_first(specs: Mapping[str, ParameterSpec], problems: Problems) -> tuple[ParameterSpec, ...]:
    ordered: dict[str, ParameterSpec] = {}

    def place(name: str, *children: str) -> None:
        if name in children:
            cycle = [name, *children[: children.index(name) + 1]]
            first = next(one for one in cycle if when_paths(problems.document, one))
            what = f"{first}: its condition depends on itself ({' <- '.join(cycle)})"
            problems.reject(when_paths(problems.document, first)[0], what, "remove one of these conditions")
        if name in specs and name not in ordered:
            for condition in specs[name].when:
                place(condition.parameter, name, *children)
            ordered[name] = specs[name]

    with suppress(RejectedError):
        for name in specs:
            place(name)
        return tuple(ordered.values())
    return ()


def _can_be_active(spec: ParameterSpec, ordered: Sequence[ParameterSpec]) -> bool:
    return not spec.when or any(spec.name in point for point in corner_points(ordered, [spec.name]))


def _reject_impossible(
    written: ParameterSpec,
    specs: Mapping[str, ParameterSpec],
    declared: Mapping[str, ParameterSpec | None],
    problems: Problems,
) -> None:
    """Reject a written condition that never holds, unless a parent is invalid or set on the command line."""
    parents = [condition.parameter for condition in written.when]
    known = [name for name in family_of(parents, specs) if name in declared]
    if not parents or not all(declared[name] for name in known) or is_overridden(problems.document, known):
        return
    domains = [f"{name} is {specs[name].domain if name in specs else 'not given'}" for name in parents]
    condition = " and ".join(map(str, written.when))
    what = f"when: {condition} is never true, for {' and '.join(domains)} in this space"
    path = when_paths(problems.document, written.name)[0]
    problems.add(path, what, f"change the condition, or the values of {' and '.join(parents)}")


def check_space(specs: Sequence[ParameterSpec], settings: Settings | None, problems: Problems) -> None:
    """Check that every point of a space can run."""
    _check_continuous(specs, problems)
    _check_rules(specs, problems)
    if settings is None:
        return
    data = settings.data
    if data.split.group_regex is not None and (refusal := group_regex_problem(data.split.group_regex)):
        what, fix = refusal
        problems.add(("data", "split", "group_regex"), f"data.split.group_regex: {what}", fix)
    if settings.task == "segmentation" and data.image_size % ENCODER_STRIDE_PX:
        size_px = -(-data.image_size // ENCODER_STRIDE_PX) * ENCODER_STRIDE_PX
        what = f"data.image_size: {data.image_size} is not a multiple of {ENCODER_STRIDE_PX}, which a U-Net needs"
        problems.add(("data", "image_size"), what, f"write {size_px}")
    if settings.objective.is_of_generator:
        _check_generator(specs, settings, problems)
    checked = ((name, _value_problem(name, value, settings)) for name, value in _values(specs, _CHECKED_VALUES))
    for name, refusal in dict.fromkeys(checked):
        if refusal:
            problems.add(path_of(problems.document, name), *refusal)


def _check_continuous(specs: Sequence[ParameterSpec], problems: Problems) -> None:
    """Reject continuous ranges in a grid, and conditions like `when: {lr: 1e-3}` on them, which practically never hold."""
    continuous = {spec.name: spec.domain for spec in specs if spec.domain.points() is None}
    for spec in specs:
        for condition in spec.when:
            if condition.parameter in continuous:
                domain = continuous[condition.parameter]
                what = f"when: {condition} is practically never true: {condition.parameter} is any number from {domain}"
                path = when_paths(problems.document, spec.name)[0]
                problems.add(path, what, f"give {condition.parameter} step: or values:")
    if problems.document.get(("sampler", "name")) == "grid":
        for name, domain in continuous.items():
            what = f"{name}: sampler: grid cannot list all numbers from {domain}"
            problems.add(path_of(problems.document, name), what, "give step: or values:, or choose another sampler")


def _check_rules(specs: Sequence[ParameterSpec], problems: Problems) -> None:
    """Validate every combination that the rules of `Parameters` depend on, as `corner_points` lists them."""
    for group in RULES_READ:
        failing: dict[str, str] = {}
        can_pass = False
        for point in corner_points(specs, group):
            try:
                parameters_from(point)
                can_pass = True
            except ValidationError as error:
                what, fix = explain("parameters", error.errors()[0])
                failing.setdefault(fix, what)
        for fix, what in failing.items():
            path = path_of(problems.document, what.partition(":")[0])
            problems.add(path, what, f"{fix}, or keep the values apart with when:" if can_pass else fix)


_CHECKED_VALUES = (
    *("source", "backbone", "weights", *ONLY_OF_CLASSIFICATION),
    *(f"{block}.image_size" for block in GENERATORS),
)


def _value_problem(name: str, value: Value, settings: Settings) -> tuple[str, str] | None:
    """Return why the task, the objective or the images rule out a value of a parameter, and the fix."""
    data, is_segmentation = settings.data, settings.task == "segmentation"
    match name.rpartition(".")[2], value:
        case "source", str() if is_segmentation and SOURCES.has(value):
            what = f"source: {value} provides no masks, which segmentation needs"
            return what, "use gan, diffusion, folder, duplicate or none"
        case "backbone", _ if is_segmentation and value not in ENCODERS:
            fix = nearest(value, ENCODERS, f"use one of: {', '.join(ENCODERS)}")
            return f"backbone: {value} cannot be the encoder of a U-Net", fix
        case key, _ if is_segmentation and key in ONLY_OF_CLASSIFICATION:
            is_default = value == parameter_fields()[name].default
            return None if is_default else (f"{name} applies only to classification", f"remove {name}")
        case "backbone", str() if not backbone_of(value).takes(data.image_size):
            takes = f"backbone: {value} takes images of {backbone_of(value).sizes}"
            what = f"{takes}, but data.image_size is {data.image_size}"
            return what, f"set data.image_size: {backbone_of(value).usual_px}"
        case "weights", str() if value.startswith("IMAGENET1K_") and value not in WEIGHT_SETS:
            return f"weights: torchvision has no set '{value}'", nearest(value, WEIGHT_SETS)
        case "loss", "bce" if data.classes == "three":
            return "loss: bce requires two classes, but data.classes is three", "use loss: cross_entropy"
        case "image_size", int() if value > data.image_size:
            what = f"{name}: {value} is more than data.image_size, {data.image_size}"
            return what, f"set data.image_size: {value} or more, or a smaller {name}"
    return None


def _values(specs: Sequence[ParameterSpec], names: Sequence[str]) -> Iterator[tuple[str, Value]]:
    """Yield each parameter's values in the space; the ends of a range."""
    values = ((name, point[name]) for name in names for point in corner_points(specs, [name]) if name in point)
    yield from dict.fromkeys(values)


def _check_generator(specs: Sequence[ParameterSpec], settings: Settings, problems: Problems) -> None:
    """Refuse sources without a generator, and parameters that have no effect as no classifier or segmenter is trained."""
    if others := [str(value) for _, value in _values(specs, ["source"]) if value not in GENERATORS]:
        what = f"objective.metric: gan_kid searches for a generator, but source can be {' or '.join(others)}"
        path = path_of(problems.document, "source")
        path = path if path in problems.document.places else ("objective", "metric")
        problems.add(path, what, "write source: {value: gan}")
    defaults = {name: field.default for name, field in parameter_fields().items()}
    names = [spec.name for spec in specs if not is_of_generator(spec.name)]
    unused = list(dict.fromkeys(name for name, value in _values(specs, names) if value != defaults[name]))
    if unused:
        network = "segmenter" if settings.task == "segmentation" else "classifier"
        what = f"objective.metric: gan_kid trains no {network}, so these have no effect: {join_names(unused)}"
        problems.add(path_of(problems.document, unused[0]), what, "remove them")
